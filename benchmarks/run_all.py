"""Every benchmark and check, one after the other, into `docs/benchmarks.md`.

    python -m benchmarks.run_all [--quick]

Each prints one line of JSON at its end; the page holds those, with machine, commit and date. `--quick` writes no page.
"""

import datetime
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.common import arguments, commit, machine, say
from flows.repository.workspace import CommandError, repository_root
from stillhouse.core.command_errors import one_line_errors

PAGE = Path("docs/benchmarks.md")
NAMES = (
    "benchmarks.loop_overhead",
    "benchmarks.trajectories",
    "benchmarks.scaling",
    "benchmarks.checkpoint_cost",
    "benchmarks.precision",
    "benchmarks.label_bytes",
    "benchmarks.label_variance",
    "benchmarks.label_step",
    "benchmarks.export_rate",
    "checks.decoders",
    "checks.classifiers",
    "benchmarks.lm_quality",
    "benchmarks.transfer",
    "benchmarks.imbalance",
    "checks.kill_export",
    "checks.kill_training",
    "benchmarks.loss_memory",
    "checks.reproduce",
    "checks.package_truth",
    "benchmarks.seeds",
    "checks.fresh_clone",
    "benchmarks.stage_overhead",
    "checks.cancel",
    "checks.concurrent_runs",
    "checks.nights",
    "checks.gang",
    "checks.kill_flow",
)


def figures(name: str, quick: bool) -> dict[str, float]:
    """The last line of a benchmark. Raises CommandError if it fails."""
    words = [sys.executable, "-m", name, *(["--quick"] if quick else [])]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise CommandError(f"'{' '.join(words[1:])}' failed; the reason stands above")
    say(done.stdout)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    with one_line_errors("run_all"):
        root = repository_root()
        lines = [
            "# Benchmarks",
            "",
            "Written by `make bench`; each row is the last line of `python -m <name>`, whose docstring says what",
            "its figures mean.",
            "",
            f"* machine: {machine()}",
            f"* commit: {commit(root)}",
            f"* date: {datetime.date.today()}",
            "",
            "| benchmark | figures |",
            "|---|---|",
        ]
        for name in NAMES:
            shown = ", ".join(f"`{key}` {value}" for key, value in figures(name, options.quick).items())
            lines.append(f"| {name} | {shown} |")
        if not options.quick:
            (root / PAGE).write_text("\n".join(lines) + "\n", encoding="utf-8")
            say(f"written: {PAGE}")


if __name__ == "__main__":
    main()
