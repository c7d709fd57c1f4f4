"""The table at the end of `make distill`: every model side by side, and where the report is.

python -m flows.summary
"""

from pathlib import Path

from stillhouse.core.artifacts import read_json
from stillhouse.core.stage import one_line_errors

COLUMNS = ("accuracy", "95 % interval", "macro-F1", "parameters", "bytes", "ms a text")


def summary_lines(root: Path) -> list[str]:
    """Lines of the table. Raises ArtifactError if the pipeline has not run."""
    metrics = read_json(root / "data" / "evaluate" / "metrics.json")
    speed = read_json(root / "data" / "evaluate" / "timing.json")
    lines = []
    for task, title in (("source", "Source task"), ("new", "New task (fine-tuned)")):
        lines.append(f"{title:<22}" + "".join(f"{name:>15}" for name in COLUMNS))
        for model, scores in metrics[task].items():
            interval = f"{scores['accuracy_low']:.3f}-{scores['accuracy_high']:.3f}"
            size = f"{scores['bytes']:,}" if "bytes" in scores else "-"
            latency = speed.get(f"{task}_{model}_latency_ms")
            cells = (
                f"{scores['accuracy']:.4f}",
                interval,
                f"{scores['macro_f1']:.4f}",
                f"{scores['parameters']:,}",
                size,
                f"{latency:.2f}" if latency is not None else "-",
            )
            lines.append(f"  {model:<20}" + "".join(f"{cell:>15}" for cell in cells))
        lines.append("")
    student = metrics["source"]["student"]
    closed = f", {student['gap_closed']:.0%} of the gap to the teacher" if "gap_closed" in student else ""
    lines.append(
        f"Distilled over baseline: {student['lead_over_baseline'] * 100:+.1f} points "
        f"({student['lead_over_baseline_low'] * 100:+.1f} to {student['lead_over_baseline_high'] * 100:+.1f}){closed}"
    )
    return lines


def print_summary(root: Path) -> None:
    print("\n" + "\n".join(summary_lines(root)))


def main() -> None:
    with one_line_errors("summary"):
        print_summary(Path())
        print("Report: data/report/index.html")


if __name__ == "__main__":
    main()
