"""Two hosts in network namespaces of their own; needs root on Linux, and is skipped with the reason elsewhere."""

import getpass
import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from flows.repository.settings import write_settings
from tests.helpers.servers import SBIN, sshd_words, stop, wait_for
from tests.helpers.tiny_run import ROOT, shell
from tests.helpers.two_hosts import COMMITTER


class NetworkHosts:
    """Parent and worker in network namespaces of their own, one wire between them, each blind to the other's files."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.names = [f"stillhouse-{role}-{os.getpid()}" for role in ("parent", "worker")]
        self.places = [folder / "parent", folder / "worker"]

    def __enter__(self) -> Self:
        pytest.importorskip("dvc_ssh", reason="dvc-ssh is not installed; the extra 'remotes' brings it")
        if shutil.which("ip", path=SBIN) is None or os.geteuid() != 0:
            pytest.skip("network namespaces need root and iproute2")
        if shutil.which("ssh") is None:
            pytest.skip("no ssh client on this machine")
        self.clean_up = ExitStack()
        with ExitStack() as stack:
            for name in self.names:
                made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
                if made.returncode:
                    pytest.skip(f"this machine allows no network namespaces: {made.stderr.strip()}")
                stack.callback(subprocess.run, ["ip", "netns", "del", name])
            wires = [f"sh{role}{os.getpid()}" for role in "pw"]
            made = subprocess.run(
                ["ip", "link", "add", wires[0], "type", "veth", "peer", "name", wires[1]], capture_output=True
            )
            if made.returncode:
                pytest.skip(f"this machine allows no veth: {made.stderr.decode().strip()}")
            for number, (name, wire) in enumerate(zip(self.names, wires, strict=True), start=1):
                for words in (
                    ["ip", "link", "set", wire, "netns", name],
                    ["ip", "-n", name, "addr", "add", f"10.213.7.{number}/24", "dev", wire],
                    ["ip", "-n", name, "link", "set", wire, "up"],
                    ["ip", "-n", name, "link", "set", "lo", "up"],
                ):
                    subprocess.run(words, check=True)
            for place in self.places:
                place.mkdir()
            self.serve(stack)
            self.clean_up = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.clean_up.close()

    def serve(self, stack: ExitStack) -> None:
        """Make the parent's repository and start its SSH server; clone it on the worker."""
        keys = self.folder / "keys"
        words = sshd_words(keys, "10.213.7.1", 2222)
        log = stack.enter_context((self.folder / "sshd.log").open("w"))
        process = stack.enter_context(subprocess.Popen(["ip", "netns", "exec", self.names[0], *words], stderr=log))
        stack.callback(stop, process)
        server = f"ssh://{getpass.getuser()}@10.213.7.1:2222{self.places[0]}"
        options = f"-i {keys}/client -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        self.variables = {"GIT_SSH_COMMAND": f"ssh {options}", "STAGE_LOG": str(self.folder / "stages.log"), **COMMITTER}
        self.variables |= {"PYTHONPATH": str(ROOT), "DVC_SITE_CACHE_DIR": ""}
        place = f"{self.places[0]}/clone"
        code = f"from pathlib import Path; from tests.helpers.two_hosts import make_project; make_project(Path('{place}'))"
        shell("python", "-c", code, folder=ROOT, **self.variables)
        settings = {"url": f"{server}/store", "keyfile": str(keys / "client"), "timeout": "20"}
        wait_for(lambda: "Server listening" in (self.folder / "sshd.log").read_text(), process, "sshd")
        shell("git", "clone", "--quiet", "--bare", "clone", "origin.git", folder=self.places[0])
        self.run(0, ["git", "-C", "clone", "remote", "add", "--fetch", "origin", f"{server}/origin.git"])
        self.run(1, ["git", "clone", "--quiet", f"{server}/origin.git", "clone"])
        for place in self.places:
            write_settings(place / "clone", {"core": {"remote": "store"}, 'remote "store"': settings})

    def run(self, number: int, words: list[str], given: Any = None) -> str:
        """Run a command on one of the two: in its namespace, in its folder, an empty folder in place of the other's."""
        # `ip netns exec` gives the command mounts of its own.
        hide = ["sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(self.places[1 - number])]
        variables = {**self.variables, "DVC_SITE_CACHE_DIR": str(self.places[number] / "site")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["ip", "netns", "exec", self.names[number], *hide, *words], cwd=self.places[number], text=True,
            env={**os.environ, **variables, "PATH": path}, capture_output=True, input=json.dumps(given),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def python(self, number: int, code: str, given: Any) -> Any:
        start = (
            "import json, subprocess, sys\nfrom dataclasses import asdict\nfrom pathlib import Path\n"
            "from flows.repository.workspace import environment\n"
            f"given, clone, hidden = json.load(sys.stdin), Path('clone').resolve(), Path({str(self.places[1 - number])!r})\n"
        )
        out = self.run(number, [sys.executable, "-c", f"{start}{code}\nprint(json.dumps(answer))"], given)
        return json.loads(out.splitlines()[-1])

    def on_parent(self, code: str, given: Any = None) -> Any:
        return self.python(0, code, given)

    def on_worker(self, code: str, given: Any = None) -> Any:
        return self.python(1, code, given)
