"""`make worker`: be a worker of a pool, of this machine's server or of another one's.

python -m flows.service worker --server http://host:4200/api --pool torchrun        # on a GPU host
"""

import os
import shutil
import socket
from pathlib import Path

from flows.remote.dvc_transfer import check_reachable, default_remote
from flows.repository.workspace import environment
from flows.server.pools import ServiceError, is_address, wait_for_server, worker_type
from stillhouse.core.errors import StillhouseError

HOME = ".prefect"
"""Folder of a clone in which its server and workers keep everything."""
# Runs of `distill` mostly wait, each in two interpreters of 130 MB; a training has the host for itself.
LIMITS = {"process": 8, "torchrun": 1}

WORKER_SETTINGS = {
    # Stock settings make a dispatched stage cost 10 to 12 seconds; with these, about 5.
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "5",
    # Off by default: a run could not be cancelled while Pending.
    "PREFECT_WORKER_ENABLE_CANCELLATION": "true",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}


def worker_words(pool: str, kind: str) -> list[str]:
    """The command of a worker of this host, after `prefect`."""
    # A worker that creates its own pool anew, after somebody deleted it, hides that the deployments have lost theirs.
    words = ["worker", "start", "--pool", pool, "--type", kind, "--no-create-pool-if-not-found"]
    return [*words, "--limit", str(LIMITS[kind]), "--name", worker_name(pool)]


def worker_name(pool: str) -> str:
    """The name under which this host's worker of a pool is known."""
    return f"{pool}-{socket.gethostname()}"


def run_worker(root: Path, server: str, pool: str) -> None:
    """Be a worker of a pool on another server; does not return."""
    url = server.strip().rstrip("/")
    if not is_address(url):
        raise ServiceError(f"SERVER is '{server}', expected an address such as http://host:4200/api")
    url = url if url.endswith("/api") else f"{url}/api"
    wait_for_server(url, 10, None)
    kind = worker_type(url, pool)
    print(remote_of(root), flush=True)
    own = {name: value for name, value in environment(root).items() if not name.startswith("PET_")}
    env = {**own, **WORKER_SETTINGS, "PREFECT_API_URL": url, "PREFECT_HOME": str(root / HOME)}
    prefect = shutil.which("prefect", path=env["PATH"]) or "prefect"
    words = worker_words(pool, kind)
    print(f"worker '{worker_name(pool)}' of pool '{pool}' at {url}; Ctrl-C stops it", flush=True)
    os.chdir(root)
    os.execve(prefect, [prefect, *words], env)


def remote_of(root: Path) -> str:
    """A line about the DVC remote. Raises StoreError if there is one and it does not answer."""
    try:
        name = default_remote(root)
    except StillhouseError:
        return "no DVC remote is configured: this worker runs only stages whose workspace it sees (a shared file system)"
    check_reachable(root, name)
    return f"DVC remote {name} answers"
