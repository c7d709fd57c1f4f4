"""Two clones of a small pipeline that stand for two hosts, and real servers to put between them."""

import getpass
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from flows.settings import share_settings, write_settings
from tests.tiny_run import shell

ROOT = Path(__file__).parent.parent
SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
# Nobody listens on port 1.
DEAD_END = "ssh://127.0.0.1:1/nowhere"

PIPELINE = """\
stages:
  ingest:
    cmd: python code/steps.py ingest
    params: [ingest]
    deps: [code, data/raw]
    outs: [data/ingest/rows]
  train:
    cmd: python code/steps.py train
    params: [train]
    deps: [code, data/raw, data/ingest/rows]
    outs: [data/train/model]
    metrics: [data/train/metrics.json]
  baseline:
    cmd: python code/steps.py baseline
    params: [baseline]
    deps: [code]
    outs: [data/baseline/model]
"""
PARAMS = """\
ingest: {letters: ab}
train: {rate: 0.001, weights: {1: 0.5, 2: 1}, note: 'yes'}
baseline: {rate: 1}
"""
STEPS = """\
import os, sys
from pathlib import Path
from ruamel.yaml import YAML
stage = sys.argv[1]
params = YAML(typ="safe").load(Path("params.yaml").read_text())[stage]
with open(os.environ["STAGE_LOG"], "a") as log:
    log.write(f"{Path.cwd()} {stage}\\n")
if os.environ.get("STAGE_FAILS") == stage:
    sys.exit("told to fail")
out = Path("data") / stage
out.mkdir(parents=True, exist_ok=True)
if stage == "ingest":
    (out / "rows").mkdir()
    for number, letter in enumerate(params["letters"]):
        (out / "rows" / str(number)).write_text(letter)
elif stage == "train":
    rows = "".join(path.read_text() for path in sorted(Path("data/ingest/rows").iterdir()))
    (out / "model").write_text(f"{params['rate']} {rows}, {Path('data/raw/own.txt').read_text()}")
    (out / "metrics.json").write_text('{"accuracy": 1}')
else:
    (out / "model").write_text(str(params["rate"]))
"""


class Hosts:
    """`here` orders, `there` fulfils; each is a clone of `origin.git`, and `store` is the DVC remote between them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = folder
        self.store = folder / "store"
        self.scratch = folder / "scratch"
        self.log = folder / "stages.log"
        monkeypatch.setenv("STAGE_LOG", str(self.log))
        for name in ("AUTHOR", "COMMITTER"):
            monkeypatch.setenv(f"GIT_{name}_NAME", "t")
            monkeypatch.setenv(f"GIT_{name}_EMAIL", "t@example.org")
        self.here = make_project(folder / "here")
        shell("git", "clone", "--quiet", "--bare", str(self.here), str(folder / "origin.git"), folder=folder)
        shell("git", "remote", "add", "origin", str(folder / "origin.git"), folder=self.here)
        shell("git", "fetch", "--quiet", "origin", folder=self.here)
        self.use_remote(self.here, str(self.store))
        self.there = self.clone("there")

    def clone(self, name: str) -> Path:
        shell("git", "clone", "--quiet", str(self.folder / "origin.git"), str(self.folder / name), folder=self.folder)
        self.use_remote(self.folder / name, str(self.store))
        return self.folder / name

    def use_remote(self, clone: Path, url: str, settings: dict[str, str] | None = None) -> None:
        write_settings(clone, {"core": {"remote": "store"}, 'remote "store"': {"url": url, **(settings or {})}})

    @contextmanager
    def run(self) -> Iterator[Path]:
        """The worktree of a run on `here`."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        shell("git", "worktree", "add", "--quiet", "--detach", str(folder), folder=self.here)
        share_settings(folder, self.here, self.here / ".dvc" / "cache")
        # As `flows.workspace` does.
        shell("dvc", "checkout", "--quiet", "data/raw/own.txt.dvc", folder=folder)
        yield folder

    def repro(self, folder: Path, *stages: str) -> None:
        shell("dvc", "--wait-for-lock", "repro", *stages, folder=folder)

    def ran(self) -> list[str]:
        """Which stages have been executed, on which host."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [f"{'there' if str(self.scratch) in line else 'here'} {line.split()[-1]}" for line in lines]

    def as_yaml(self, text: bytes) -> Path:
        path = self.folder / "expected.yaml"
        path.write_bytes(text)
        return path


def make_project(folder: Path) -> Path:
    """A repository with the pipeline and one file of own data."""
    (folder / "code").mkdir(parents=True)
    (folder / "data" / "raw").mkdir(parents=True)
    shell("git", "init", "--quiet", "--initial-branch", "main", ".", folder=folder)
    shell("dvc", "init", "--quiet", folder=folder)
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n    autostage = false\n    check_update = false\n")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "code" / "steps.py").write_text(STEPS)
    (folder / "data" / ".gitignore").write_text("*\n!.gitignore\n!raw/\n!raw/*.dvc\n")
    (folder / "data" / "raw" / "own.txt").write_text("raw")
    shell("dvc", "add", "--quiet", "data/raw/own.txt", folder=folder)
    shell("git", "add", "--all", folder=folder)
    shell("git", "commit", "--quiet", "-m", "pipeline", folder=folder)
    return folder


@pytest.fixture(name="hosts")
def make_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    """Two hosts with a folder as their DVC remote."""
    return Hosts(tmp_path, monkeypatch)


# ---- servers ----


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def wait_for(ready: Any, process: subprocess.Popen, what: str) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise AssertionError(f"{what} ended with {process.returncode}")
        if ready():
            return
        time.sleep(0.1)
    raise AssertionError(f"{what} does not answer after 30 seconds")


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def sshd_words(folder: Path, address: str, port: int) -> list[str]:
    """The command of an OpenSSH server of our own, with its own keys and settings in `folder`. Skips without one."""
    sshd, keygen = (shutil.which(name, path=SBIN) for name in ("sshd", "ssh-keygen"))
    if not sshd or not keygen:
        pytest.skip("no OpenSSH server on this machine; 'apt-get install openssh-server' brings one")
    folder.mkdir(mode=0o700)
    for name in ("host", "client"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copyfile(folder / "client.pub", folder / "authorized_keys")
    settings = {
        "Port": port, "ListenAddress": address, "HostKey": folder / "host", "PidFile": folder / "pid",
        "AuthorizedKeysFile": folder / "authorized_keys", "StrictModes": "no", "UsePAM": "no",
        "PasswordAuthentication": "no", "PermitRootLogin": "prohibit-password", "Subsystem": "sftp internal-sftp",
        "SetEnv": f"PATH={os.environ['PATH']}",
    }  # fmt: skip
    (folder / "settings").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    if os.geteuid() == 0:
        # Where sshd locks up what it does not trust; the Debian service makes it at boot.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    return [sshd, "-D", "-e", "-f", str(folder / "settings")]


@pytest.fixture
def ssh_server(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """URL and settings of a DVC remote behind a real OpenSSH server on a free port of this machine."""
    pytest.importorskip("dvc_ssh", reason="dvc-ssh is not installed; the extra 'remotes' brings it")
    port = free_port()
    words = sshd_words(tmp_path / "ssh", "127.0.0.1", port)
    with (tmp_path / "sshd.log").open("w") as log, subprocess.Popen(words, stderr=log) as process:
        try:
            wait_for(lambda: answers(port), process, "sshd")
            (tmp_path / "served").mkdir()
            url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{tmp_path}/served/store"
            yield url, {"keyfile": str(tmp_path / "ssh" / "client"), "timeout": "20"}
        finally:
            stop(process)
    assert "Accepted publickey" in (tmp_path / "sshd.log").read_text()


@pytest.fixture
def s3_server(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """URL and settings of a DVC remote in a bucket of moto's S3 server on a free port of this machine."""
    for module, package in (("dvc_s3", "dvc-s3"), ("moto", "moto[server]"), ("flask", "moto[server]")):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{package} is not installed; the extras 'remotes' and 'dev' bring it")
    port = free_port()
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (tmp_path / "s3.log").open("w") as log, subprocess.Popen(words, stdout=log, stderr=log) as process:
        try:
            wait_for(lambda: answers(port), process, "moto")
            with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")):
                pass
            endpoint = f"http://127.0.0.1:{port}"
            keys = {"access_key_id": "test", "secret_access_key": "test", "region": "us-east-1"}
            yield "s3://bucket/store", {"endpointurl": endpoint, **keys}
        finally:
            stop(process)
    assert "PUT /bucket/store/files" in (tmp_path / "s3.log").read_text()


# ---- two network namespaces ----


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
        who = {f"GIT_{role}_{what}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        self.variables = {"GIT_SSH_COMMAND": f"ssh {options}", "STAGE_LOG": str(self.folder / "stages.log"), **who}
        self.variables |= {"PYTHONPATH": str(ROOT), "DVC_SITE_CACHE_DIR": ""}
        code = (
            f"from pathlib import Path; from tests.two_hosts import make_project; make_project(Path('{self.places[0]}/clone'))"
        )
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
            "from flows.workspace import environment\n"
            f"given, clone, hidden = json.load(sys.stdin), Path('clone').resolve(), Path({str(self.places[1 - number])!r})\n"
        )
        out = self.run(number, [sys.executable, "-c", f"{start}{code}\nprint(json.dumps(answer))"], given)
        return json.loads(out.splitlines()[-1])

    def on_parent(self, code: str, given: Any = None) -> Any:
        return self.python(0, code, given)

    def on_worker(self, code: str, given: Any = None) -> Any:
        return self.python(1, code, given)


__all__ = ["DEAD_END", "Hosts", "NetworkHosts", "make_hosts", "s3_server", "shell", "ssh_server"]
