"""One run for every night: over Prefect's own dates, in every time zone of the database."""

import asyncio
import json
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from zoneinfo import ZoneInfo, available_timezones

import pytest
from prefect.server.schemas.schedules import CronSchedule

from flows.flow_run.nights import tonight

YEAR = 2026
CRONS = ("0 0 * * *", "30 0 * * *", "0 1 * * *", "0 2 * * *", "30 2 * * *", "0 22 * * *", "0 23 * * *", "30 23 * * *")


@pytest.fixture
def run_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a night with that scheduled start, to a good end or not: its date, and who had had it."""
    monkeypatch.setattr("flows.flow_run.nights.repository_root", lambda start: tmp_path)
    folders = {}

    def run(start: datetime, zone: str, place: str = "one", good: bool = True) -> tuple[str, str | None]:
        folder = folders.setdefault(place, tmp_path / place.replace("/", "-"))
        folder.mkdir(exist_ok=True)
        monkeypatch.setattr("flows.flow_run.nights.shared_folder", lambda root: folder)
        monkeypatch.setattr("flows.flow_run.nights.flow_run", SimpleNamespace(get_scheduled_start_time=lambda: start))
        with tonight(zone) as night:
            if night.taken_by is None and good:
                night.done(f"run of {start}")
            return night.date, night.taken_by

    return run


def changes_of(zone: str) -> tuple[tuple[datetime, timedelta], ...]:
    """When the zone's clocks change in that year, to an hour, and by how much."""
    place = ZoneInfo(zone)
    found, hour = [], datetime(YEAR, 1, 1, tzinfo=UTC)
    before = hour.astimezone(place).utcoffset()
    for day in range(367):
        now = (hour + timedelta(days=day)).astimezone(place).utcoffset()
        if now != before:
            for back in range(24, -1, -1):
                at = hour + timedelta(days=day) - timedelta(hours=back)
                if at.astimezone(place).utcoffset() == now:
                    found.append((at, now, before))
                    break
            before = now
    return tuple(found)


def zones_by_changes() -> dict[tuple, str]:
    """One zone of each set of changes, over all of the database; those without a change are one."""
    return {changes_of(zone): zone for zone in sorted(available_timezones()) if zone not in ("Factory", "localtime")}


ZONES = zones_by_changes()


def dates_of(cron: str, zone: str, start: datetime, number: int) -> list[datetime]:
    return asyncio.run(CronSchedule(cron=cron, timezone=zone).get_dates(n=number, start=start))


def has_every_night_once(found: list[tuple[str, str | None]]) -> bool:
    """Whether the runs that were not skipped have consecutive dates, each once."""
    days = [date.fromisoformat(day) for day, taken in found if taken is None]
    return days == [days[0] + timedelta(days=number) for number in range(len(days))] and len(days) >= len(found) - 1


def test_zones_with_every_kind_of_change_are_looked_at():
    """A midnight that does not exist, changes of half an hour and of two, and those at the end of a day."""
    for zone in ("America/Santiago", "Africa/Cairo", "Australia/Lord_Howe", "Antarctica/Troll", "America/Nuuk", "UTC"):
        assert changes_of(zone) in ZONES


def test_every_night_has_one_run_around_every_change_of_clocks_in_every_zone(run_at):
    wrong = []
    for changes, zone in ZONES.items():
        for cron in CRONS:
            for number, (change, *_) in enumerate(changes):
                dates = dates_of(cron, zone, change - timedelta(days=4), 8)
                found = [run_at(start, zone, f"{zone}-{cron}-{number}".replace("*", "x")) for start in dates]
                # Whatever the clocks do, a run comes on the last of them too.
                if not has_every_night_once(found):
                    wrong.append((zone, cron, found))
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("cron", CRONS)
def test_every_night_of_a_year_has_one_run_in_every_zone(cron, run_at):
    wrong = []
    for zone in ZONES.values():
        found = [run_at(start, zone, zone) for start in dates_of(cron, zone, datetime(YEAR, 1, 1, tzinfo=UTC), 366)]
        if not has_every_night_once(found):
            wrong.append(zone)
    assert wrong == []


@pytest.mark.parametrize(("zone", "cron"), [("Europe/Berlin", "30 22 * * *"), ("America/New_York", "30 4 * * *")])
def test_a_schedule_in_another_zone_than_the_nights_has_every_night_too(zone, cron, run_at):
    found = [run_at(start, zone) for start in dates_of(cron, "UTC", datetime(YEAR, 1, 1, tzinfo=UTC), 400)]
    assert [taken for _, taken in found if taken] == []
    assert len({day for day, _ in found}) == 400


def test_the_night_whose_midnight_daylight_saving_skips_is_that_of_the_next_date(run_at):
    dates = dates_of("0 0 * * *", "America/Santiago", datetime(2026, 9, 4, 12, tzinfo=UTC), 4)
    at = [start.astimezone(ZoneInfo("America/Santiago")).isoformat() for start in dates]
    # Prefect 3.9.1 starts it at 01:00 of the 6th: with that the tests above pass too, and this line may go.
    assert at[1] == "2026-09-05T23:00:00-04:00"
    found = [run_at(start, "America/Santiago") for start in dates]
    assert found == [("2026-09-05", None), ("2026-09-06", None), ("2026-09-07", None), ("2026-09-08", None)]


def test_a_second_run_of_a_night_is_skipped_whenever_it_comes(run_at):
    first = datetime(2026, 5, 5, 2, tzinfo=UTC)
    assert run_at(first, "UTC") == ("2026-05-05", None)
    for hours in (0, 0.5, 5, 12, 20):
        assert run_at(first + timedelta(hours=hours), "UTC") == ("2026-05-05", f"run of {first}")
    assert run_at(first + timedelta(days=1), "UTC") == ("2026-05-06", None)


def test_a_time_that_occurs_twice_has_one_run(run_at):
    for start in (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC)):
        assert start.astimezone(ZoneInfo("Europe/Berlin")).strftime("%d %H:%M") == "25 02:30"
        day, taken = run_at(start, "Europe/Berlin")
    assert day == "2026-10-25"
    assert taken is not None


def test_a_failed_run_leaves_its_night_to_the_next_one(run_at):
    first = datetime(2026, 5, 5, 2, tzinfo=UTC)
    assert run_at(first, "UTC", good=False) == ("2026-05-05", None)
    assert run_at(first + timedelta(hours=1), "UTC") == ("2026-05-05", None)


def test_nights_that_come_late_and_in_the_wrong_order_have_a_run_each(run_at):
    """After an outage: the night of 6 September, which began on the 5th, comes before that of the 5th."""
    one, other = (datetime(2026, 9, 5, 4, tzinfo=UTC), datetime(2026, 9, 6, 3, tzinfo=UTC))
    assert run_at(other, "America/Santiago") == ("2026-09-05", None)
    assert run_at(one, "America/Santiago") == ("2026-09-05", None)
    assert run_at(one, "America/Santiago")[1] == f"run of {one}"
    assert run_at(other, "America/Santiago") == ("2026-09-06", f"run of {other}")


def test_a_night_that_goes_on_holds_its_own_date_and_not_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.flow_run.nights.repository_root", lambda start: tmp_path)
    monkeypatch.setattr("flows.flow_run.nights.shared_folder", lambda root: tmp_path)

    def begin(stack: ExitStack, start: datetime):
        monkeypatch.setattr("flows.flow_run.nights.flow_run", SimpleNamespace(get_scheduled_start_time=lambda: start))
        return stack.enter_context(tonight("America/Santiago"))

    with ExitStack() as stack:
        first = datetime(2026, 9, 5, 4, tzinfo=UTC)
        assert begin(stack, first).taken_by is None
        assert begin(stack, first).taken_by == "another run, which is still going on"
        early = begin(stack, datetime(2026, 9, 6, 3, tzinfo=UTC))
        assert (early.date, early.taken_by) == ("2026-09-06", None)


def test_what_an_older_version_wrote_down_still_counts(run_at, tmp_path):
    (tmp_path / "one" / "nights").mkdir(parents=True)
    (tmp_path / "one" / "nights" / "2026-05-05.json").write_text(json.dumps({"run": "old"}))
    assert run_at(datetime(2026, 5, 5, 2, tzinfo=UTC), "UTC") == ("2026-05-05", "old")
