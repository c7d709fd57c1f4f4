"""One nightly run a night, whatever restarts, redeploys and doubled schedules do.

A redeploy deletes and recreates schedules, so that a tick can come twice, and a restarted server hands out what it missed.
The date of a run is that of its scheduled start, and the first run of a date that ends well takes it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect.runtime import flow_run

from flows.repro import locked
from flows.workspace import repository_root, shared_folder
from stillhouse.core.errors import ParamsError


@dataclass
class Night:
    """A date, and whether it has had its run."""

    date: str
    record: Path | None
    taken_by: str | None

    def done(self, name: str) -> None:
        """Write down that this date has had its run."""
        if self.record:
            partial = self.record.with_suffix(".partial")
            partial.write_text(json.dumps({"run": name}), encoding="utf-8")
            partial.replace(self.record)


@contextmanager
def tonight(time_zone: str | None) -> Iterator[Night]:
    """Hold the night of the present flow run; without a time zone, nothing is held and every run counts.

    Raises ParamsError if there is no such time zone.
    """
    if time_zone is None:
        yield Night("any", None, None)
        return
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError):
        raise ParamsError(
            f"once_a_night is '{time_zone}', which is no time zone; expected, for example, Europe/Berlin"
        ) from None
    start = flow_run.get_scheduled_start_time() or datetime.now(UTC)
    date = start.astimezone(zone).date().isoformat()
    folder = shared_folder(repository_root(Path(__file__).parent)) / "nights"
    folder.mkdir(exist_ok=True)
    record = folder / f"{date}.json"
    with (folder / f"{date}.lock").open("w") as file:
        if not locked(file):
            yield Night(date, None, "another run, which is still going on")
        elif record.exists():
            yield Night(date, None, json.loads(record.read_text(encoding="utf-8"))["run"])
        else:
            yield Night(date, record, None)
