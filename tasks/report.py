"""Stage `report`: one self-contained HTML page that a manager can read.

In: what `evaluate` wrote, manifests, learning curves and every stage's `timing.json`. Out: `index.html`.

    python -m tasks.report
"""

from pathlib import Path

from stillhouse.core.params import block
from stillhouse.core.stage import run_stage


@block
class Report:
    title: str
    """Heading of the report."""


@block
class Params:
    report: Report


def run(params: Params, out: Path) -> None:
    from stillhouse.evaluation.report import write_report

    write_report(params.report.title, out / "index.html")


def main() -> None:
    run_stage("report", Params, run)


if __name__ == "__main__":
    main()
