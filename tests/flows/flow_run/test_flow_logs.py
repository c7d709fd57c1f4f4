"""What a run's log says of a bad end: the reason, and nothing of the engine's own."""

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.exceptions import FailedRun

from flows.repository.commands import read_failure
from flows.stage import ProgressReport, says_more
from stillhouse.core.processes import PROGRESS_FILE


@pytest.fixture
def logged() -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    logger = logging.Logger("runs")
    logger.addHandler(logging.StreamHandler(stream))
    logger.addFilter(says_more)
    return logger, stream


def test_a_tasks_bad_state_is_one_line(logged):
    """Prefect's engine asks for the traceback of an exception where there is none."""
    logger, stream = logged
    logger.error("Task run failed with state: Failed('no')", exc_info=True)
    assert stream.getvalue() == "Task run failed with state: Failed('no')\n"


def test_tracebacks_of_real_errors_stay_and_those_of_states_go(logged):
    logger, stream = logged
    for error in (ValueError("a bug"), FailedRun("the state")):
        try:
            raise error
        except (ValueError, FailedRun):
            logger.exception("failed")
    assert "ValueError: a bug" in stream.getvalue()
    assert "the state" not in stream.getvalue()


def test_what_was_cancelled_and_what_was_never_begun_are_no_errors(logged):
    logger, stream = logged
    logger.handlers[0].setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.error("Finished in state NotReady(\"Upstream task run did not reach a 'COMPLETED' state.\")")
    logger.error("Finished in state Cancelled('train_teacher was stopped')")
    logger.error("Finished in state Failed('no')")
    logger.info("Finished in state Completed()")
    assert stream.getvalue().splitlines() == [
        "INFO Finished in state Cancelled('train_teacher was stopped')",
        "ERROR Finished in state Failed('no')",
        "INFO Finished in state Completed()",
    ]


def test_a_stage_that_was_killed_while_it_said_why_said_nothing(tmp_path):
    file = tmp_path / "failure.json"
    assert read_failure(file) is None
    file.write_text('{"kind": "lost", "mess')
    assert read_failure(file) is None
    file.write_text('{"kind": "lost", "message": "m"}')
    assert read_failure(file) == {"kind": "lost", "message": "m"}


def test_progress_is_read_as_data_whatever_the_lines_look_like(monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(ProgressReport, "show", lambda report, percent, what: shown.append((percent, what)))
    with ProgressReport("train_teacher") as report:
        report.look()
        code = (
            "from stillhouse.core.progress import Progress\n"
            "with Progress(8, 'teacher: 1/2', 'steps') as bar:\n    bar.update(2)\n    bar.print_line(0)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=Path(__file__).parents[3])
        report.look()
        report.look()
        place = report.file.parent
    assert shown == [(25.0, "teacher: 1/2")]
    assert not place.exists()
    assert PROGRESS_FILE not in os.environ
