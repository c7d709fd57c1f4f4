"""What a failed command of git, DVC and others is reported with: the line that says what is wrong, never its advice."""

import os
import subprocess
from pathlib import Path

import pytest

from flows.repository.commands import CommandError, command, environment, missing_identity, reason_in
from flows.server.pools import said_in

FOOTER = "\n\nHaving any troubles? Hit us up at https://dvc.org/support, we are always happy to help!\n"
OUTPUTS = {
    "dvc": (f"ERROR: x is wrong{FOOTER}", "x is wrong"),
    "dvc, missing data": (
        "WARNING: No file hash info found\nERROR: failed to pull data from the cloud - Checkout failed for following targets:\n"
        f"data/a\ndata/b\nIs your cache up to date?\n<https://error.dvc.org/missing-files>{FOOTER}",
        "failed to pull data from the cloud - Checkout failed for following targets: data/a data/b",
    ),
    "git": ("hint: look here\nfatal: x is wrong\nhint: or there\n", "x is wrong"),
    "git, two lines": (
        "ERROR: Repository not found.\nfatal: Could not read from remote repository.\n\nPlease make sure you have the rights\n",
        "Repository not found. fatal: Could not read from remote repository.",
    ),
    "git, no identity": (
        "Committer identity unknown\n\n*** Please tell me who you are.\n\nRun\n\n  git config --global user.name\n\n"
        "fatal: unable to auto-detect email address\n",
        "unable to auto-detect email address",
    ),
    "gto": (
        "❌ Unexpected error: x is wrong\nPlease report it here running with '--traceback' flag: \n<https://github.com/x/y>\n",
        "❌ Unexpected error: x is wrong",
    ),
    "supervisord": ("Error: x is wrong\nFor help, use /x/supervisord -h\n", "x is wrong"),
    "a box": ("╭─ Error ────╮\n│ x is wrong │\n╰────────────╯\n", "x is wrong"),
    "an unknown footer": ("ERROR: x is wrong\n\nSee you soon\n", "x is wrong"),
    "marked otherwise": ("[ERROR] x is wrong\n\nbye\n", "x is wrong"),
    "a traceback": (
        "Traceback (most recent call last):\n  File 'a.py', line 1\nValueError: x is wrong\nsee https://a.b\n",
        "ValueError: x is wrong",
    ),
    "a file of that name": ("errors: 0\nerror.log is written\nx is wrong\n", "x is wrong"),
    "nothing but advice": (f"{FOOTER}hint: none\n", ""),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_the_line_that_says_what_is_wrong_is_found(case):
    said, reason = OUTPUTS[case]
    assert reason_in(said) == reason


@pytest.fixture
def false_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a program of any name before all others; it prints to stderr and fails."""

    def make(name: str, said: str, code: int = 1) -> None:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{said}\nEND\nexit {code}\n")
        path.chmod(0o755)

    # This interpreter's own programs stand first in a command's environment.
    own = environment(tmp_path)["PATH"]
    monkeypatch.setattr("flows.repository.commands.sys.executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", own)
    return make


@pytest.mark.parametrize("name", ["git", "dvc", "prefect"])
def test_a_failed_command_is_reported_with_its_reason(name, false_program, tmp_path):
    false_program(name, f"ERROR: the moon is full{FOOTER}")
    with pytest.raises(CommandError, match=rf"^'{name} status' in {tmp_path} failed: the moon is full$"):
        command(name, "status", cwd=tmp_path)


def test_the_end_of_a_log_says_what_is_wrong(tmp_path):
    log = tmp_path / "up.log"
    assert said_in(log) == "nothing"
    log.write_text("a line\n" * 100 + "Error: the port is taken\nFor help, use supervisord -h\n")
    assert said_in(log) == "the port is taken"


def test_a_command_that_is_not_installed_and_a_folder_that_is_gone_are_one_line(tmp_path):
    with pytest.raises(CommandError, match=r"^'no-such-git' cannot be started: No such file or directory; is it installed"):
        command("no-such-git", "status", cwd=tmp_path)
    with pytest.raises(CommandError, match=r"is not a folder that can be entered$"):
        command("git", "status", cwd=tmp_path / "gone")


def test_git_speaks_english_to_us_whatever_the_users_language_is(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANGUAGE", "de")
    with pytest.raises(CommandError, match="failed: not a git repository"):
        command("git", "status", cwd=tmp_path)


# ---- who commits ----


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository of a user who has told git nothing."""
    for name in [name for name in os.environ if name.startswith("GIT_") or name == "EMAIL"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "repository"
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    return folder


OURS = {
    "GIT_AUTHOR_NAME": "Stillhouse", "GIT_AUTHOR_EMAIL": "stillhouse@localhost",
    "GIT_COMMITTER_NAME": "Stillhouse", "GIT_COMMITTER_EMAIL": "stillhouse@localhost",
}  # fmt: skip
TOLD = [
    ({}, {}, OURS),
    ({"user.name": "Ann", "user.email": "a@x"}, {}, {}),
    # What they have told stays; what is missing is ours.
    ({"user.name": "Ann"}, {}, OURS | {"GIT_AUTHOR_NAME": "Ann", "GIT_COMMITTER_NAME": "Ann"}),
    ({"user.name": "", "user.email": "a@x"}, {}, OURS | {"GIT_AUTHOR_EMAIL": "a@x", "GIT_COMMITTER_EMAIL": "a@x"}),
    ({"user.name": "Ann"}, {"EMAIL": "e@x"}, {
        "GIT_AUTHOR_NAME": "Ann", "GIT_AUTHOR_EMAIL": "e@x", "GIT_COMMITTER_NAME": "Ann", "GIT_COMMITTER_EMAIL": "e@x",
    }),
    ({"author.name": "Ann", "author.email": "a@x"}, {"GIT_COMMITTER_NAME": "Bo"}, OURS | {
        "GIT_AUTHOR_NAME": "Ann", "GIT_AUTHOR_EMAIL": "a@x", "GIT_COMMITTER_NAME": "Bo",
    }),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "variables", "expected"), TOLD)
def test_a_users_own_identity_wins_and_ours_fills_what_is_missing(repository, monkeypatch, settings, variables, expected):
    for name, value in settings.items():
        subprocess.run(["git", "config", name, value], cwd=repository, check=True)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert missing_identity(repository) == expected


def test_a_user_without_a_name_on_this_host_gets_one_for_dvc(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.repository.commands.os.getuid", lambda: 987654)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert environment(tmp_path)["LOGNAME"] == "user-987654"
    monkeypatch.setenv("USER", "ann")
    assert "LOGNAME" not in environment(tmp_path)
