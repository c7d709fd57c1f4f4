"""A polite client of an OpenAI-compatible server's `/completions`: retries, a budget, so many requests at a time.

A server that is busy (429, 5xx) or gone is asked again after a wait that doubles, or for as long as its `Retry-After` says;
then all requests wait. The key is a header of the client and stands in no message.
"""

import asyncio
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from stillhouse.core.errors import DataError, HubError, ParamsError, StillhouseError

TRIED_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
LONGEST_WAIT = 600.0
"""Seconds; a server that wants to be left alone for longer ends the collection, which resumes when it is started again."""


class BudgetError(StillhouseError):
    """The requests or tokens that were allowed are used up."""


@dataclass
class Budget:
    """Requests and tokens that may still be asked for; None: any number."""

    requests: int | None = None
    tokens: int | None = None
    used_requests: int = 0
    used_tokens: int = 0

    def take(self, tokens: int) -> None:
        """Count a request before it is sent, with an estimate of its tokens. Raises BudgetError where that is too much."""
        for name, used, most in (
            ("requests", self.used_requests + 1, self.requests),
            ("tokens", self.used_tokens + tokens, self.tokens),
        ):
            if most is not None and used > most:
                raise BudgetError(f"the budget of {most:,} {name} is used up")
        self.used_requests += 1
        self.used_tokens += tokens

    def correct(self, estimate: int, usage: Any) -> None:
        """Put what the server counted in the place of the estimate."""
        total = usage.get("total_tokens") if isinstance(usage, dict) else None
        if isinstance(total, int):
            self.used_tokens += total - estimate


class Completions:
    """Asks one model. Use as an async context."""

    def __init__(
        self,
        url: str,
        model: str,
        budget: Budget,
        *,
        key: str | None = None,
        concurrency: int = 4,
        tries: int = 6,
        first_wait: float = 1.0,
        timeout: float = 120.0,
    ):
        """url: with its `/v1`. first_wait, timeout: seconds. Raises ParamsError for what is not the address of a server."""
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ParamsError(f"--url is not an address ({error}); expected one such as http://127.0.0.1:8000/v1") from None
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
            raise ParamsError(
                "--url must be an address without a name or key in it, such as http://127.0.0.1:8000/v1; the key stands in an "
                "environment variable"
            )
        self.address = f"{str(parsed).rstrip('/')}/completions"
        self.model, self.budget, self.key, self.tries, self.first_wait = model, budget, key, tries, first_wait
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=concurrency)
        self.client = httpx.AsyncClient(headers=headers, timeout=timeout, limits=limits)
        self.quiet_until = 0.0
        """Nobody asks before, on the clock of `time.monotonic`."""

    async def __aenter__(self) -> "Completions":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    async def ask(self, body: dict[str, Any], estimate: int) -> list[dict[str, Any]]:
        """The choices, in the order of the prompts. estimate: of the tokens, for the budget.

        Raises BudgetError, HubError where the server refuses or stays away, DataError for an answer that is none.
        """
        problem, wait = "", self.first_wait
        for number in range(1, self.tries + 1):
            await self.wait_for_quiet()
            self.budget.take(estimate)
            pause: float | None = None
            try:
                answer = await self.client.post(self.address, json={"model": self.model, **body})
            except httpx.TransportError as error:
                problem = f"did not answer ({type(error).__name__})"
            else:
                if answer.status_code == 200:
                    return self.choices(answer, estimate)
                problem = f"answered {answer.status_code}: {self.reason(answer)}"
                if answer.status_code not in TRIED_AGAIN:
                    raise HubError(f"{self.address} {problem}{self.remedy(answer.status_code)}")
                pause = retry_after(answer.headers.get("Retry-After"))
            if number == self.tries:
                break
            if pause is not None and pause > LONGEST_WAIT:
                raise HubError(
                    f"{self.address} {problem}; it asks for {pause:.0f} seconds of quiet; the same command resumes then"
                )
            if pause is not None:
                self.quiet_until = max(self.quiet_until, time.monotonic() + pause)
            else:
                # Between half and all of it, so that requests that failed together do not come back together.
                await asyncio.sleep(wait * (0.5 + random.random() / 2))
                wait = min(2 * wait, 60.0)
        raise HubError(f"{self.address} {problem}, {self.tries} times; when it is back, the same command resumes")

    async def wait_for_quiet(self) -> None:
        while (left := self.quiet_until - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def choices(self, answer: httpx.Response, estimate: int) -> list[dict[str, Any]]:
        """What the server answered. Raises DataError."""
        try:
            tree = answer.json()
            found = sorted(tree["choices"], key=lambda choice: choice["index"])
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{self.address} answered no completions; is it the /v1 of an OpenAI-compatible server?") from None
        self.budget.correct(estimate, tree.get("usage"))
        return found

    def reason(self, answer: httpx.Response) -> str:
        """What the server says, without the key."""
        text = " ".join(answer.text.split())[:200] or answer.reason_phrase
        return text.replace(self.key, "***") if self.key else text

    def remedy(self, status: int) -> str:
        if status in (401, 403):
            return "; '--key-variable' names the environment variable with the key"
        if status == 404:
            return "; '--url' ends in /v1, and '--model' is a name that its /models lists"
        return "; the rows so far are kept, and the same command resumes"


def retry_after(header: str | None) -> float | None:
    """Seconds that a server wants to be left alone for: a number, or a date (RFC 9110, sec. 10.2.3)."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
