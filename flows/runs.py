"""`make runs`: every run of this clone beside the others, the newest first; the same as a page, `reports/runs.html`.

    python -m flows.runs                # a table that fits the terminal, and the page
    python -m flows.runs --json         # all figures, for a program

Runs are what `dvc exp list` knows, failed runs whose workspaces are kept, runs that go on, and the branches and promoted
versions that hold results. What was changed is told against the parameters that the run started from, or the recipe.
"""

import json
import shutil

from flows.repository.workspace import repository_root
from flows.results.rows import rows_of
from flows.results.run_tables import as_json, table_lines, write_page
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.options import Options


def main() -> None:
    parser = Options("flows.runs", "Every run of this clone, side by side.")
    parser.add_argument("--json", action="store_true", help="one JSON list instead of the table, with all figures")
    parser.add_argument("--last", type=int, metavar="N", help="only the N newest runs (default: all)")
    options = parser.parse_args()
    with one_line_errors("runs"):
        root = repository_root()
        rows = rows_of(root)
        if options.json:
            print(json.dumps([as_json(row) for row in rows[: options.last]], indent=1, ensure_ascii=False))
            return
        if not rows:
            print("no runs yet: 'make distill' makes one, and 'make distill RECIPE=tiny' another beside it")
            return
        page = write_page(rows, root)
        print("\n".join(table_lines(rows[: options.last], shutil.get_terminal_size((120, 24)).columns)))
        print(f"\nPage: {page.relative_to(root)}")


if __name__ == "__main__":
    main()
