#!/usr/bin/env bash
# Prefect 3.8.8 and 3.9.1: a cron time that daylight saving skips is run an hour EARLY, on the date before.
#
# On 6 September 2026 Santiago's clocks go from 00:00 to 01:00. "0 0 * * *" in America/Santiago then gives 23:00 of 5 September:
# the 5th has two runs, at 00:00 and at 23:00, and the 6th has none. So it is in Cairo, Havana and Beirut on their days; a time in
# the night is merely early (02:00 in Berlin comes at 01:00). cron itself and systemd run such a job after the gap. Whoever keeps
# "one run a date" by the scheduled start skips a whole night.
#
# Seen:
#   prefect 3.8.8: 2026-09-05T00:00:00-04:00 2026-09-05T23:00:00-04:00 2026-09-07T00:00:00-03:00
#   prefect 3.9.1: 2026-09-05T00:00:00-04:00 2026-09-05T23:00:00-04:00 2026-09-07T00:00:00-03:00
# Exits with 1 if that changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export HOME="$place" PREFECT_HOME="$place/prefect"
expected="2026-09-05T00:00:00-04:00 2026-09-05T23:00:00-04:00 2026-09-07T00:00:00-03:00"
changed=0
for version in 3.8.8 3.9.1; do
  python3.11 -m venv "$place/$version"
  "$place/$version/bin/pip" install --quiet --disable-pip-version-check "prefect==$version" "fastapi<0.151" tzdata
  seen=$("$place/$version/bin/python" - <<'PYTHON'
import asyncio
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from prefect.server.schemas.schedules import CronSchedule

zone = "America/Santiago"
schedule = CronSchedule(cron="0 0 * * *", timezone=zone)
dates = asyncio.run(schedule.get_dates(n=3, start=datetime(2026, 9, 4, 12, tzinfo=UTC)))
print(*(date.astimezone(ZoneInfo(zone)).isoformat() for date in dates))
PYTHON
  )
  echo "prefect $version: $seen"
  [ "$seen" = "$expected" ] || changed=1
done
exit $changed
