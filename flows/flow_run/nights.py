"""One nightly run a night, whatever restarts, redeploys, doubled schedules and daylight saving do.

A redeploy deletes and recreates schedules, so that a tick can come twice, and a restarted server hands out what it missed.
The date of a run is that of its scheduled start, and the first run of a date that ends well takes it.

Where daylight saving skips the time of a schedule, Prefect 3.8 starts the run an hour early (3.9.1 an hour late): that of
midnight in Santiago, Cairo or Havana comes at 23:00, on a date that has had its run. The same happens where the schedule's
time zone is not that of the nights: 22:30 UTC is after midnight in Berlin in summer, and before in winter. So a run that
comes so long after the one that has its date is not that night's second, but the next night's.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TextIO
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect.runtime import flow_run

from flows.execution.repro import locked
from flows.repository.workspace import repository_root, shared_folder
from stillhouse.core.errors import ParamsError

# The shortest time between two nights is 22 hours, in Troll, Antarctica; a second run within one comes sooner.
APART = timedelta(hours=21)
GOING_ON = "another run, which is still going on"


@dataclass
class Night:
    """A date, and whether it has had its run."""

    date: str
    start: datetime | None = None
    """Scheduled start of the present run."""
    record: Path | None = None
    taken_by: str | None = None

    def done(self, name: str) -> None:
        """Write down that this date has had its run."""
        if self.record is None or self.start is None:
            return
        following = self.record.with_name(f"{date.fromisoformat(self.date) + timedelta(days=1)}.json")
        if self.record.exists() and not following.exists():
            # A later night's run came before this one, as after an outage.
            self.record.replace(following)
        partial = self.record.with_suffix(".partial")
        partial.write_text(json.dumps({"run": name, "start": self.start.isoformat()}), encoding="utf-8")
        partial.replace(self.record)


@contextmanager
def tonight(time_zone: str | None) -> Iterator[Night]:
    """Hold the night of the present flow run; without a time zone, nothing is held and every run counts.

    Raises ParamsError if there is no such time zone.
    """
    if time_zone is None:
        yield Night("any")
        return
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError):
        raise ParamsError(
            f"once_a_night is '{time_zone}', which is not a time zone; expected, for example, Europe/Berlin"
        ) from None
    start = (flow_run.get_scheduled_start_time() or datetime.now(UTC)).astimezone(UTC)
    folder = shared_folder(repository_root(Path(__file__).parent)) / "nights"
    folder.mkdir(exist_ok=True)
    with night_of(folder, start, start.astimezone(zone).date()) as night:
        yield night


@contextmanager
def night_of(folder: Path, start: datetime, day: date) -> Iterator[Night]:
    """Hold the first date from `day` on that a run with this scheduled start may be for."""
    while True:
        record = folder / f"{day}.json"
        with (folder / f"{day}.lock").open("a+") as file:
            free = locked(file)
            known = read_record(record) if free else {"run": GOING_ON, "start": started(file)}
            other = datetime.fromisoformat(known["start"]) if known and known.get("start") else None
            if other and start - other >= APART:
                day += timedelta(days=1)
                continue
            if known and not (free and other and other - start >= APART):
                yield Night(str(day), taken_by=known["run"])
                return
            file.truncate(0)
            file.write(start.isoformat())
            file.flush()
            yield Night(str(day), start, record)
            return


def started(file: TextIO) -> str:
    """What the run that holds a lock has written into it: its scheduled start."""
    file.seek(0)
    return file.read()


def read_record(path: Path) -> dict[str, str] | None:
    """Which run a date has had; None before the first one."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
