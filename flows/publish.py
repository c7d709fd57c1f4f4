"""What a finished run shows in Prefect: metrics, plots, the way to the report, and where every artifact came from."""

import base64
import json
import re
from pathlib import Path

from prefect.artifacts import create_image_artifact, create_link_artifact, create_markdown_artifact
from ruamel.yaml import YAML

from flows.run import Run
from flows.workspace import CommandError, command
from stillhouse.core.artifacts import read_json
from stillhouse.core.params import PARAMS_FILE, kind_of, read_yaml

# Of each kind of model those that it has; `forgotten` is what fine-tuning lost of the old task, in nats per token.
SHOWN = (
    "nats_per_token",
    "bits_per_byte",
    "perplexity",
    "accuracy",
    "macro_f1",
    "ece",
    "old_nats_per_token",
    "forgotten",
    "parameters",
    "bytes",
)


def publish(run: Run, report: Path | None) -> None:
    """Create the artifacts of a saved run."""
    create_markdown_artifact(metrics_page(run), key="metrics", description=f"metrics of {run.name}")
    create_markdown_artifact(lineage_page(run.folder), key="lineage", description=f"lineage of {run.name}")
    if report:
        create_link_artifact(report.as_uri(), link_text=f"report of {run.name}", key="report")
        for number, (title, picture) in enumerate(plots(report.read_text(encoding="utf-8")), start=1):
            create_image_artifact(picture, key=f"plot-{number}", description=title)


def metrics_page(run: Run) -> str:
    """Markdown: every model on both tasks; with a promoted model, what changed against it."""
    metrics = read_json(run.folder / "data" / "evaluate" / "metrics.json")
    lines = [f"# {run.name}", ""]
    for task, title in (("source", "Source task"), ("new", "New task (fine-tuned)")):
        columns = [name for name in SHOWN if any(name in row for row in metrics[task].values())]
        lines += [f"## {title}", "", "| model | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for model, row in metrics[task].items():
            lines.append(f"| {model} | " + " | ".join(figure(row.get(name)) for name in columns) + " |")
        lines.append("")
    return "\n".join([*lines, *against_promoted(run)])


def figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def against_promoted(run: Run) -> list[str]:
    """Lines with the student's metrics beside those of the last promoted version."""
    if not command("git", "tag", "--list", "student@v*", cwd=run.root):
        return ["No model has been promoted yet."]
    # The registry's own modules take a second to import. It knows which versions were taken back.
    from flows.promote import PromotionError, promoted

    try:
        version = promoted(run.root)
    except PromotionError as error:
        # The run itself is done and saved.
        return [f"Not compared with the last promoted version: {error}"]
    if version is None:
        return ["No model is promoted: every version was taken back, or its tag is not annotated as the registry's are."]
    tag = version.tag
    try:
        params = YAML(typ="safe", pure=True).load(command("git", "show", f"{tag}:params.yaml", cwd=run.root))
        old, new = kind_of(params), kind_of(read_yaml(run.folder / PARAMS_FILE))
        if old != new:
            return [f"Not compared with {tag}, the last promoted version: it is of kind {old}, this run of {new}."]
        diff = json.loads(command("dvc", "metrics", "diff", "--json", "--all", tag, cwd=run.folder))
    except CommandError as error:
        return [f"Not compared with {tag}: {error}"]
    return changes_table(tag, diff.get("diff", {}).get("data/evaluate/metrics.json", {}))


def changes_table(tag: str, changes: dict[str, dict[str, float]]) -> list[str]:
    """Lines with the student's metrics out of `dvc metrics diff`."""
    wanted = {f"{task}.student.{name}" for task in ("source", "new") for name in SHOWN}
    lines = [f"## Against {tag}, the last promoted version", "", "| metric | promoted | this run |", "|---|---|---|"]
    for name in sorted(wanted & changes.keys()):
        lines.append(f"| {name} | {figure(changes[name].get('old'))} | {figure(changes[name].get('new'))} |")
    return lines


def lineage_page(folder: Path) -> str:
    """Markdown: every output with its hash and the stage, command and inputs that made it."""
    lines = ["# Lineage", "", f"Baseline: commit `{command('git', 'rev-parse', 'HEAD', cwd=folder)}`", ""]
    for stage, entry in read_yaml(folder / "dvc.lock")["stages"].items():
        inputs = ", ".join(f"`{dep['path']}` {dep['md5'][:8]}" for dep in entry.get("deps", []))
        lines += [f"## {stage}", "", f"`{entry['cmd']}` from {inputs}", "", "| output | md5 | bytes |", "|---|---|---|"]
        lines += [f"| `{out['path']}` | {out['md5']} | {out.get('size', 0):,} |" for out in entry.get("outs", [])]
        lines.append("")
    return "\n".join(lines)


def plots(page: str) -> list[tuple[str, str]]:
    """Title and data URI of the report's charts, each with the page's style sheet inside."""
    style = "".join(re.findall(r"<style>(.*?)</style>", page, flags=re.S))
    found = []
    for opening, body in re.findall(r"<svg([^>]*)>(.*?)</svg>", page, flags=re.S):
        title = re.search(r'aria-label="([^"]*)"', opening)
        if title:
            namespace = "" if "xmlns=" in opening else ' xmlns="http://www.w3.org/2000/svg"'
            drawing = f"<svg{opening}{namespace}><style>{style}</style>{body}</svg>"
            found.append((title[1], "data:image/svg+xml;base64," + base64.b64encode(drawing.encode()).decode()))
    return found
