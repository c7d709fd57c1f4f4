"""Commands of git, DVC and others: in which environment they run, as whom they commit, and what their errors say.

command("git", "write-tree", cwd=folder)            # its standard output; CommandError with the line that matters
command("dvc", "exp", "save", cwd=folder, env=committing(folder))
"""

import json
import os
import pwd
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from stillhouse.core.errors import StillhouseError
from stillhouse.core.processes import FAILURE_FILE

IDENTITY = ("Stillhouse", "stillhouse@localhost")
"""Who commits experiments and tags versions where the user has told git no name."""
LOGIN_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Where Python's `getpass`, which DVC asks, looks for the user's name before it looks into the system's list."""
REASON_LINES = 6

ERROR = re.compile(r"^[^\w/.]*(?:error|fatal|critical)(?:[:\]]|\s+-|$)[\s:\-\]]*", re.IGNORECASE)
"""What begins a line that says what is wrong: `ERROR: `, `fatal: `, `[ERROR] `."""
EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Warning)(?::|$)")
TRACEBACK = "Traceback (most recent call last)"
# What git, DVC, gto and supervisor say besides.
NOISE = re.compile(
    r"^(?:hint:|Having any troubles\?|Is your cache up to date\?|<https?://|Please report it here|For help, use|"
    r"Use `dvc |To track the changes with git|To enable auto staging)"
)
FRAME = "╭╮╰╯│─ "
"""Of the boxes into which some commands draw their errors."""


class CommandError(StillhouseError):
    """A git or DVC command failed."""


def command(*words: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Standard output of a command. Raises CommandError with what it says is wrong."""
    done = run(*words, cwd=cwd, env=env)
    if done.returncode:
        raise CommandError(f"'{' '.join(words)}' in {cwd} failed: {reason_of(done)}")
    return done.stdout.strip()


def run(*words: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, its output as text. Raises CommandError if it cannot be started."""
    # Its errors are read here: in English, whatever the user's language is.
    env = {**(env or environment(cwd)), "LC_ALL": "C.UTF-8", "LANGUAGE": "C"}
    try:
        return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, encoding="utf-8", errors="replace")
    except OSError as error:
        if not Path(cwd).is_dir():
            raise CommandError(f"'{' '.join(words)}' cannot be run: {cwd} is not a folder that can be entered") from None
        raise CommandError(f"'{words[0]}' cannot be started: {error.strerror}; is it installed, and on PATH?") from None


def ask(*words: str, cwd: Path, packages: str | None = None) -> tuple[subprocess.CompletedProcess[str], dict[str, Any] | None]:
    """Run a command of ours to its end; how it ended, and what it wrote of its failure, if it came to that.

    packages: where it finds more than what is installed, as in PYTHONPATH.
    """
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as scratch:
        failure = Path(scratch) / "failure.json"
        env = {**environment(cwd), FAILURE_FILE: str(failure)}
        if packages:
            env["PYTHONPATH"] += os.pathsep + packages
        done = run(*words, cwd=cwd, env=env)
        return done, read_failure(failure)


def read_failure(path: Path) -> dict[str, Any] | None:
    """What a command wrote of its failure; None if it wrote nothing, or was killed while it did."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def reason_of(done: subprocess.CompletedProcess[str]) -> str:
    """What a failed command says is wrong, on one line."""
    return reason_in(done.stderr or "") or reason_in(done.stdout or "") or ended_with(done.returncode)


def ended_with(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def reason_in(text: str) -> str:
    """The first error of an output with what belongs to it, on one line, and without the advice that stands behind it.

    The last exception where there is a traceback; the last line where nothing is called an error; "" where there is none.
    """
    # A bar overwrites itself with carriage returns.
    lines = [line.rsplit("\r", 1)[-1].strip(FRAME + "\t") for line in text.replace("\r\n", "\n").split("\n")]
    for number, line in enumerate(lines):
        if ERROR.match(line) and not NOISE.match(line):
            found = [ERROR.sub("", line)]
            for more in lines[number + 1 :]:
                # A blank line ends what belongs together; further errors say what follows from the first.
                if not more or NOISE.match(more) or len(found) == REASON_LINES:
                    break
                found.append(more)
            return " ".join(part for part in found if part) or line
    said = [line for line in lines if line and not NOISE.match(line)]
    if TRACEBACK in text:
        said = [line for line in said if EXCEPTION.match(line)] or said
    return said[-1] if said else ""


# ---- environments ----


def environment(folder: Path) -> dict[str, str]:
    """The environment of a command in `folder`: this interpreter's programs first, and the code that lies there."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # Prefect's own (PREFECT__...) hold tokens that belong to the flow's process alone.
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT__")}
    return {**own, **login_name(), "PATH": paths, "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1"}


def login_name() -> dict[str, str]:
    """A variable with a name for a user who has none, as in a container that runs under any number; else nothing.

    Without one every command of DVC ends with "uid not found".
    """
    if any(os.environ.get(name) for name in LOGIN_NAMES):
        return {}
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return {LOGIN_NAMES[0]: f"user-{os.getuid()}"}
    return {}


def committing(folder: Path) -> dict[str, str]:
    """The environment of a command that commits or tags: with an identity of ours where the user has none."""
    return {**environment(folder), **missing_identity(folder)}


def missing_identity(folder: Path) -> dict[str, str]:
    """Variables that complete what the user has told git of name and address; none if that is complete.

    DVC commits through libraries that do not guess from login and host, as git itself does, and that know `user.name` and
    `user.email` alone, not those of author and committer, nor EMAIL.
    """
    listed = run("git", "config", "-z", "--get-regexp", r"^(user|author|committer)\.(name|email)$", cwd=folder).stdout
    # The last one counts.
    told = dict(entry.split("\n", 1) for entry in listed.split("\0") if "\n" in entry)
    if told.get("user.name", "").strip() and told.get("user.email", "").strip():
        return {}
    found = {}
    for role in ("author", "committer"):
        for what, ours in zip(("name", "email"), IDENTITY, strict=True):
            variable = f"GIT_{role.upper()}_{what.upper()}"
            known = [os.environ.get(variable), told.get(f"{role}.{what}"), told.get(f"user.{what}")]
            known += [os.environ.get("EMAIL")] if what == "email" else []
            found[variable] = next((value for value in known if value and value.strip()), ours)
    return found
