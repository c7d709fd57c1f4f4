"""Real servers for the tests of remote hosts: OpenSSH and S3, each on a free port of this machine."""

import getpass
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# A user's PATH often lacks them.
SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def wait_for(ready: Callable[[], bool], process: subprocess.Popen, what: str) -> None:
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
