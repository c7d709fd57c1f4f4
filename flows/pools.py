"""The work pools, and what a server says of them; plain HTTP, because importing Prefect's client takes two seconds."""

import base64
import contextlib
import os
import time
from pathlib import Path

import httpx

from stillhouse.core.errors import StillhouseError

POOLS = {"cpu": "process", "torchrun": "torchrun"}
"""Name to type."""
AUTH = "PREFECT_API_AUTH_STRING"
"""Environment variable with `user:secret` of a server that asks for it."""
SERVER_AUTH = "PREFECT_SERVER_API_AUTH_STRING"


class ServiceError(StillhouseError):
    """The server or one of its workers did not start, or does not answer."""


def pool_exists(url: str, pool: str) -> bool:
    """Whether the server has the pool. Raises ServiceError if it is of the wrong type, or the server lets nobody in."""
    secret = os.environ.get(AUTH) or os.environ.get(SERVER_AUTH)
    headers = {"Authorization": "Basic " + base64.b64encode(secret.encode()).decode()} if secret else {}
    try:
        answer = httpx.get(f"{url}/work_pools/{pool}", headers=headers, timeout=30)
    except httpx.HTTPError as error:
        raise ServiceError(f"the server at {url} does not answer: {' '.join(str(error).split())}") from error
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise ServiceError(f"the server at {url} wants a secret; set {AUTH} to the server's own {SERVER_AUTH}")
    if answer.status_code == httpx.codes.NOT_FOUND:
        return False
    if answer.is_error or "type" not in answer.json():
        raise ServiceError(f"the server at {url} answers {answer.status_code} when asked for work pool '{pool}'")
    found = answer.json()["type"]
    if found != POOLS[pool]:
        raise ServiceError(
            f"work pool '{pool}' is of type '{found}', expected '{POOLS[pool]}'; "
            f"'prefect work-pool delete {pool}', then 'make up' again"
        )
    return True


def wait_for_server(url: str, seconds: float, log: Path | None) -> None:
    """Raises ServiceError if the server does not answer in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=5).status_code == httpx.codes.OK:
                return
        time.sleep(0.2)
    hint = f"; last line of {log}: {last_line(log)}" if log else "; check the address, and that 'make up' ran there"
    raise ServiceError(f"the server at {url} does not answer within {seconds:g} seconds{hint}")


def last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1].strip() if lines else "nothing"
