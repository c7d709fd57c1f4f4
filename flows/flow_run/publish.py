"""What a finished run shows in Prefect: metrics, plots, the way to the report, and where every artifact came from."""

import base64
import socket
from pathlib import Path

from prefect.artifacts import create_image_artifact, create_link_artifact, create_markdown_artifact
from ruamel.yaml import YAML

from flows.repository.workspace import CommandError, command
from flows.results.history import RunHistory
from flows.results.rows import rows_of
from flows.results.run_tables import markdown
from flows.results.summary_table import TITLES, whole_summary
from flows.run.pipeline_run import Run
from flows.server.report_server import address
from stillhouse.comparison.kinds import comparison_in
from stillhouse.core.artifacts import CHART_LIST, CHARTS, read_json
from stillhouse.core.params import PARAMS_FILE, read_yaml
from stillhouse.core.scores import METRICS, tasks_of
from stillhouse.kinds.registry import kind_of

MOST_RUNS = 30
"""In the artifact `runs`; the page has all."""


def publish(run: Run, report: Path | None) -> None:
    """Create the artifacts of a saved run."""
    create_markdown_artifact(
        f"```\n{whole_summary(run.folder, run.name)}\n```", key="summary", description=f"every model of {run.name} side by side"
    )
    create_markdown_artifact(metrics_page(run), key="metrics", description=f"all metrics of {run.name}")
    create_markdown_artifact(lineage_page(run.folder), key="lineage", description=f"lineage of {run.name}")
    create_markdown_artifact(runs_page(run.root), key="runs", description="the newest runs side by side")
    if report:
        publish_report(run, report)
        for chart in read_json(run.folder / CHARTS / CHART_LIST):
            drawing = base64.b64encode((run.folder / CHARTS / chart["file"]).read_bytes()).decode()
            uri = f"data:image/svg+xml;base64,{drawing}"
            create_image_artifact(uri, key=chart["key"], description=f"{chart['title']} ({run.name})")


def publish_report(run: Run, report: Path) -> None:
    """A link to the report; where nobody serves it, its place on this host."""
    url = address(run.root)
    if url:
        create_link_artifact(
            f"{url}/{report.name}", link_text=f"report of {run.name}", key="report", description=f"report of {run.name}"
        )
        return
    words = (
        f"The report of {run.name} lies in `{report}` on the host `{socket.gethostname()}`. `python -m flows.reports` there, "
        "which `make up` starts, lets this page link to it."
    )
    create_markdown_artifact(words, key="report", description=f"report of {run.name}")


def runs_page(root: Path) -> str:
    """Markdown: the newest runs side by side."""
    url = address(root)
    return markdown(rows_of(root)[:MOST_RUNS], lambda report: f"{url}/{Path(report).name}" if url else None)


def metrics_page(run: Run) -> str:
    """Markdown: every model on every task, that of the shipped one first; with a promoted model, what changed against it."""
    metrics = read_json(run.folder / METRICS)
    shown = comparison_in(metrics).SHOWN
    lines = [f"# {run.name}", ""]
    for task in tasks_of(metrics):
        columns = [name for name in shown if any(name in row for row in metrics[task].values())]
        lines += [f"## {TITLES[task]}", "", "| model | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
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
    from flows.model_registry.outputs import PromotionError
    from flows.model_registry.versions import promoted

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
        with RunHistory(run.root) as history:
            before = history.metrics(tag)
    except CommandError as error:
        return [f"Not compared with {tag}: {error}"]
    if before is None:
        return [f"Not compared with {tag}: its metrics are not in this clone's DVC cache; 'dvc fetch --all-tags' brings them."]
    return changes_table(tag, figures(before), figures(read_json(run.folder / METRICS)))


def figures(metrics: dict[str, dict[str, dict[str, float]]]) -> dict[str, float]:
    """Dotted name to figure of the students of both tasks."""
    shown = comparison_in(metrics).SHOWN
    return {
        f"{task}.student.{name}": models["student"][name]
        for task, models in metrics.items() if "student" in models
        for name in shown if name in models["student"]
    }  # fmt: skip


def changes_table(tag: str, old: dict[str, float], new: dict[str, float]) -> list[str]:
    """Lines with the students' figures that differ."""
    lines = [f"## Against {tag}, the last promoted version", "", "| metric | promoted | this run |", "|---|---|---|"]
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            lines.append(f"| {name} | {figure(old.get(name))} | {figure(new.get(name))} |")
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
