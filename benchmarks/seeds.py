"""What distillation is worth, beside what chance is worth: the whole pipeline with several seeds.

    python -m benchmarks.seeds [--recipe NAME] [--seeds 1 2 3] [--quick]

Runs the checkout as it lies there in a git worktree of its own that shares the DVC cache, once per seed, and writes
`docs/results.md`. Figures are means over seeds of the accuracy on test data: `teacher`, `student`, `baseline` and `linear`
(character n-grams) on the source task; `new_student`, `new_scratch`, `new_teacher` and `new_linear` on the new one.
`gap_closed` is the student's mean lead over the baseline, over the teacher's (0 if the teacher has none). `spread`
is the larger of the student's and the baseline's range over seeds, highest less lowest, in points of accuracy: a lead
below it could be luck. `--quick` runs recipe `tiny` with two seeds and writes nothing.
"""

import datetime
import shutil
import statistics
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks.common import arguments, commit, finish, machine, say
from flows.repository.workspace import repository_root, workspace
from flows.run.recipes import recipe_file
from stillhouse.core.artifacts import DATA, TIMING, read_json
from stillhouse.core.command_errors import one_line_errors
from tests.helpers.clones import repro

RESULTS = Path("docs/results.md")
SOURCE = ("teacher", "student", "baseline", "linear")
NEW = ("teacher", "student", "scratch", "linear")
COLUMNS = (*SOURCE, *(f"new_{name}" for name in NEW))


def run_seed(folder: Path, seed: int) -> dict[str, float]:
    """Test accuracies, and minutes of the run, from `folder`'s pipeline with `seed`."""
    yaml = YAML()
    yaml.width = 4096
    tree = yaml.load(folder / "params.yaml")
    tree["seed"] = seed
    yaml.dump(tree, folder / "params.yaml")
    repro(folder)
    metrics = read_json(folder / DATA / "evaluate" / "metrics.json")
    row = {name: metrics["source"][name]["accuracy"] for name in SOURCE if name in metrics["source"]}
    row |= {f"new_{name}": metrics["new"][name]["accuracy"] for name in NEW if name in metrics["new"]}
    # The stages' own clocks: what the cache gave back took as long when it was made.
    timings = [read_json(path) for path in sorted((folder / DATA).glob(f"*/{TIMING}"))]
    row["minutes"] = sum(timing["seconds"] for timing in timings) / 60
    return row


def summarise(rows: list[dict[str, float]]) -> dict[str, float]:
    """The figures of the last line."""
    figures = {name: statistics.fmean(row[name] for row in rows) for name in COLUMNS if name in rows[0]}
    lead = figures["student"] - figures["baseline"]
    gap = figures["teacher"] - figures["baseline"]
    figures["gap_closed"] = lead / gap if gap > 0 else 0.0
    figures["spread"] = max(extent(rows, "student"), extent(rows, "baseline"))
    return figures


def extent(rows: list[dict[str, float]], name: str) -> float:
    """Highest less lowest, in points."""
    values = [row[name] for row in rows]
    return (max(values) - min(values)) * 100


def table(rows: list[dict[str, float]], seeds: list[int]) -> list[str]:
    """Markdown: a row per seed, then mean, standard deviation and range; accuracies and leads in per cent."""
    cells = []
    for row in rows:
        values = {name: row[name] * 100 for name in COLUMNS if name in row}
        values["lead"] = values["student"] - values["baseline"]
        values["new_lead"] = values["new_student"] - values["new_scratch"]
        cells.append(values)
    names = list(cells[0])
    lines = ["| | " + " | ".join(names) + " | gap closed | minutes |", "|---" * (len(names) + 3) + "|"]
    for seed, values, row in zip(seeds, cells, rows, strict=True):
        gap = values["teacher"] - values["baseline"]
        closed = f"{values['lead'] / gap:.0%}" if gap > 0 else "no gap"
        lines.append(
            f"| seed {seed} | " + " | ".join(f"{values[n]:.2f}" for n in names) + f" | {closed} | {row['minutes']:.1f} |"
        )
    closed = f"{summarise(rows)['gap_closed']:.0%}"
    minutes = f"{statistics.fmean(row['minutes'] for row in rows):.1f}"
    for title, of in (("mean", statistics.fmean), ("standard deviation", deviation), ("range", lambda v: max(v) - min(v))):
        ends = f" | {closed} | {minutes} |" if title == "mean" else " | | |"
        lines.append(f"| {title} | " + " | ".join(f"{of([values[n] for values in cells]):.2f}" for n in names) + ends)
    return lines


def deviation(values: list[float]) -> float:
    """Of a sample; 0 for a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def verdict(rows: list[dict[str, float]]) -> str:
    """The lead beside the spread, in one sentence."""
    leads = [(row["student"] - row["baseline"]) * 100 for row in rows]
    spread = summarise(rows)["spread"]
    return (
        f"The distilled student leads its baseline by {statistics.fmean(leads):+.2f} points on average ({min(leads):+.2f} to "
        f"{max(leads):+.2f}); over seeds alone, student and baseline range over up to {spread:.2f} points."
    )


def page(rows: list[dict[str, float]], seeds: list[int], facts: list[str]) -> str:
    return "\n".join(
        [
            "# Results",
            "",
            "Written by `python -m benchmarks.seeds`: the whole pipeline, once per seed.",
            "",
            verdict(rows),
            "",
            *table(rows, seeds),
            "",
            "Accuracy on test data in per cent. `teacher`, `student` (distilled), `baseline` (the student's model without a",
            "teacher) and `linear` (character n-grams) are on the source task. `new_*` are on the target task: fine-tuned from",
            "the teacher, from the student, from random weights (`scratch`), and `linear` from the same rows. `lead` is",
            "student less baseline, `new_lead` is new_student less new_scratch, `gap closed` is the lead over the teacher's",
            "(in the row `mean`: of the means). The standard deviation is a sample's. Data splits do not depend on the seed.",
            "Minutes are the sum of the stages' own clocks, without starting them.",
            "",
            *(f"* {fact}" for fact in facts),
            "",
        ]
    )


def sizes(counts: dict[str, int]) -> str:
    """Rows of a task, from `preprocess`'s statistics."""
    withheld = f" ({counts['withheld_labels']:,} without label)" if counts["withheld_labels"] else ""
    return f"{counts['train_rows']:,} training{withheld}, {counts['test_rows']:,} test rows, {counts['classes']} classes"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--recipe", help="name of a file in recipes/; default: params.yaml, with --quick: tiny")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 1 2 3, with --quick: 1 2")
    options = parser.parse_args()
    recipe = options.recipe or ("tiny" if options.quick else None)
    seeds = options.seeds or ([1, 2] if options.quick else [1, 2, 3])
    with one_line_errors("seeds"):
        root = repository_root()
        facts = [f"machine: {machine()}", f"commit: {commit(root)}", f"recipe: {recipe or 'params.yaml'}"]
        facts.append(f"seeds: {', '.join(map(str, seeds))}")
        say("The whole pipeline with several seeds")
        say("\n".join(facts))
        source = recipe_file(root, recipe) if recipe else root / "params.yaml"
        rows = []
        with workspace(root, "seeds") as folder:
            if source != root / "params.yaml":
                shutil.copyfile(source, folder / "params.yaml")
            for number, seed in enumerate(seeds, 1):
                rows.append(run_seed(folder, seed))
                scores = ", ".join(f"{name} {value:.4f}" for name, value in rows[-1].items() if name != "minutes")
                say(f"seed {seed} ({number}/{len(seeds)}), {rows[-1]['minutes']:.1f} min: {scores}")
            counts = read_json(folder / DATA / "preprocess" / "statistics.json")
        for task, of in sorted(counts.items()):
            facts.append(f"{task} task: {sizes(of)}")
            say(facts[-1])
        facts.append(f"date: {datetime.datetime.now(datetime.UTC).date()}")
        say(verdict(rows))
        say("\n".join(table(rows, seeds)))
        if not options.quick:
            # What other benchmarks wrote stands below, in sections of their own.
            before = (root / RESULTS).read_text(encoding="utf-8") if (root / RESULTS).exists() else ""
            _, mark, others = before.partition("\n## ")
            (root / RESULTS).write_text(page(rows, seeds, facts) + mark + others, encoding="utf-8")
            say(f"written: {RESULTS}")
    finish(**summarise(rows))


if __name__ == "__main__":
    main()
