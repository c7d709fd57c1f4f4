"""Stage `report`: one self-contained HTML page that a manager can read.

In: what `evaluate` wrote, manifests, learning curves and every stage's `timing.json`. Out: `index.html`, and its charts as
pictures in `charts`.

    python -m tasks.report
"""

from pathlib import Path

from stillhouse.core.params import block
from stillhouse.core.run_stage import run_stage


@block
class Report:
    title: str
    """Heading of the report."""


@block
class Params:
    report: Report


def run(params: Params, out: Path) -> None:
    from stillhouse.reporting.report_page import write_report

    write_report(params.report.title, out / "index.html")


def main() -> None:
    run_stage("report", Params, run)


if __name__ == "__main__":
    main()
