"""The work pools, and what a server says of them; plain HTTP, because importing Prefect's client takes two seconds."""

import base64
import contextlib
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from flows.repository.commands import reason_in
from stillhouse.core.errors import StillhouseError, nearest

POOLS = {"cpu": "process", "torchrun": "torchrun"}
"""Name to type."""
DEPLOYMENTS = ("distill/full", "distill/nightly", "stage/torchrun")
"""Those of `prefect.yaml`."""
AUTH = "PREFECT_API_AUTH_STRING"
"""Environment variable with `user:secret` of a server that asks for it."""
SERVER_AUTH = "PREFECT_SERVER_API_AUTH_STRING"
# SQLite takes one write at a time; the server says 503 meanwhile, and Prefect's own client asks again too.
BUSY_WAITS_SECONDS = (0.5, 1.0, 2.0, 4.0)

LOG_LINES = 40


class ServiceError(StillhouseError):
    """The server or one of its workers did not start, or does not answer."""


def is_address(url: str) -> bool:
    """Whether `url` can be that of a web server."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def ask(method: str, url: str, body: dict | None = None) -> Any:
    """The server's answer as JSON; None if it knows no such thing. One that is busy is asked again.

    Only for questions: what changes something must not be sent twice. Raises ServiceError if there is no answer.
    """
    secret = os.environ.get(AUTH) or os.environ.get(SERVER_AUTH)
    headers = {"Authorization": "Basic " + base64.b64encode(secret.encode()).decode()} if secret else {}
    waits_seconds = iter(BUSY_WAITS_SECONDS)
    while True:
        try:
            answer = httpx.request(method, url, json=body, headers=headers, timeout=30)
        except httpx.HTTPError as error:
            raise ServiceError(f"{url} does not answer: {' '.join(str(error).split())}") from error
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            break
        wait_seconds = next(waits_seconds, None)
        if wait_seconds is None:
            break
        time.sleep(wait_seconds)
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise ServiceError(f"{url} wants a secret; set {AUTH} to the server's own {SERVER_AUTH}")
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        raise ServiceError(f"{url} is busy (503) and was so {len(BUSY_WAITS_SECONDS) + 1} times in a row; try again later")
    if answer.is_error:
        raise ServiceError(f"{url} answers {answer.status_code} {answer.reason_phrase}")
    try:
        return answer.json()
    except ValueError:
        raise ServiceError(f"{url} is not a Prefect server") from None


def pool_exists(url: str, pool: str, kind: str) -> bool:
    """Whether the server has the pool. Raises ServiceError if it is of another type."""
    found = ask("GET", f"{url}/work_pools/{pool}")
    if found is not None and found["type"] != kind:
        raise ServiceError(
            f"work pool '{pool}' is of type '{found['type']}', expected '{kind}'; "
            f"'prefect work-pool delete {pool}', then 'make up' again"
        )
    return found is not None


def worker_type(url: str, pool: str) -> str:
    """The type of worker that the pool wants. Raises ServiceError if there is no such pool, or we have no such worker."""
    pools = {each["name"]: each["type"] for each in ask("POST", f"{url}/work_pools/filter", {}) or []}
    if pool not in pools:
        raise ServiceError(
            f"the server at {url} has no work pool '{pool}'{nearest(pool, pools)}; 'make up' there creates its pools"
        )
    if pools[pool] not in POOLS.values():
        raise ServiceError(
            f"work pool '{pool}' is of type '{pools[pool]}', expected one of {', '.join(sorted(POOLS.values()))}"
        )
    return pools[pool]


def heard(url: str, pool: str, since: datetime) -> bool:
    """Whether a worker of the pool has given a sign of life since then."""
    workers = ask("POST", f"{url}/work_pools/{pool}/workers/filter", {}) or []
    return any(datetime.fromisoformat(each["last_heartbeat_time"]) >= since for each in workers if each["last_heartbeat_time"])


def deployed(url: str) -> bool:
    """Whether the server has our deployments, each in a pool: without one, its runs would wait for ever."""
    found = [ask("GET", f"{url}/deployments/name/{name}") for name in DEPLOYMENTS]
    return all(each is not None and each.get("work_queue_id") for each in found)


def wait_for_server(url: str, seconds: float, log: Path | None) -> None:
    """Raises ServiceError if the server does not answer in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=5).status_code == httpx.codes.OK:
                return
        time.sleep(0.2)
    hint = f"; {log} says: {said_in(log)}" if log else "; check the address, and that 'make up' ran there"
    raise ServiceError(f"the server at {url} does not answer within {seconds:g} seconds{hint}")


def said_in(path: Path) -> str:
    """What the end of a log says is wrong."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:] if path.exists() else []
    return reason_in("\n".join(lines)) or "nothing"
