"""Work on items in threads, with the results in the order of the items; only so many of them are in memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
MOST_THREADS = 8
AHEAD = 1
"""Items that wait for each thread: results come in order, so one may be done before the one that is asked for."""


def in_order(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """What `work` makes of each item. For work that releases the GIL; the number of threads changes nothing but the time."""
    threads = min(MOST_THREADS, len(os.sched_getaffinity(0)))
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= threads * (1 + AHEAD):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # After an error nobody wants the rest.
            for future in waiting:
                future.cancel()
