"""The table at the end of `make distill`: every model side by side, and where the report is.

python -m flows.summary
"""

from pathlib import Path

from flows.results.summary_table import print_summary
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.options import no_options


def main() -> None:
    no_options("flows.summary", __doc__)
    with one_line_errors("summary"):
        print_summary(Path())
        print("Report: data/report/index.html")


if __name__ == "__main__":
    main()
