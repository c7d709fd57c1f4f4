"""Every model of a run side by side: the table at its end."""

from pathlib import Path

from flows.results.described import described
from stillhouse.comparison.kinds import comparison_in
from stillhouse.core.artifacts import read_json
from stillhouse.core.options import say
from stillhouse.core.params import PARAMS_FILE, read_yaml
from stillhouse.core.scores import AT_CHANCE, tasks_of

TITLES = {"source": "Source task", "new": "Target task (fine-tuned)"}
MODELS = {"scratch": "from scratch"}


def summary_lines(root: Path) -> list[str]:
    """Lines of the table. Raises ArtifactError if the pipeline has not run."""
    metrics = read_json(root / "data" / "evaluate" / "metrics.json")
    speed = read_json(root / "data" / "evaluate" / "timing.json")
    comparison = comparison_in(metrics)
    lines = []
    for task in tasks_of(metrics):
        lines.append(f"{TITLES[task]:<26}" + "".join(f"{name:>15}" for name in comparison.COLUMNS))
        for model, scores in metrics[task].items():
            cells = [written(scores, speed.get(f"{task}_{model}_latency_ms")) for written in comparison.COLUMNS.values()]
            lines.append(f"  {MODELS.get(model, model):<24}" + "".join(f"{cell:>15}" for cell in cells))
            if AT_CHANCE in scores:
                lines.append(f"    warning: {scores[AT_CHANCE]}")
        lines.append("")
    return [*lines, *comparison.last_lines(metrics), *lines_on_labels(root)]


def lines_on_labels(root: Path) -> list[str]:
    """Whose soft labels the student learned from, where they are not the teacher's of the table."""
    path = root / PARAMS_FILE
    source = (read_yaml(path).get("export_soft_labels") or {}).get("source") if path.is_file() else None
    return (
        [f"Soft labels: imported, of {source['model']}, made on {source['date']}; not of the teacher above"] if source else []
    )


def whole_summary(root: Path, name: str | None = None) -> str:
    """The table, and which run it is of. name: of the run; None for the checkout's own results."""
    return "\n".join([described(root, name), "", *summary_lines(root)])


def print_summary(root: Path, name: str | None = None) -> None:
    say(f"\n{whole_summary(root, name)}")
