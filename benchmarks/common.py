"""What every benchmark prints: the machine, the commit, its progress, and one line of JSON at the end. Torch-free."""

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from flows.repository.commands import command
from stillhouse.core.options import Options, say


def arguments(doc: str) -> Options:
    """A parser with the one option that all share; `doc` is the module's docstring."""
    place = Path(sys.argv[0])
    parser = Options(f"{place.parent.name}.{place.stem}", doc)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: shows that it runs, measures nothing")
    return parser


def finish(**figures: float) -> None:
    """The last line: flat JSON, six digits."""
    short = {name: value if isinstance(value, int) else float(f"{value:.6g}") for name, value in figures.items()}
    say(json.dumps(short))


def machine() -> str:
    """Processor, cores, memory and the versions that decide about speed; no host name."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores {model}, {gigabytes:.0f} GiB, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, torch {version('torch')}"
    )


def commit(root: Path) -> str:
    """HEAD's short hash, and whether files differ from it."""
    changed = " with uncommitted changes" if command("git", "status", "--porcelain", cwd=root) else ""
    return command("git", "rev-parse", "--short", "HEAD", cwd=root) + changed
