"""Progress with rate and remaining time: a bar in a terminal, one plain line every few seconds elsewhere."""

import sys
import time

from tqdm import tqdm

from stillhouse.core.processes import write_progress

PLAIN_INTERVAL_SECONDS = 5.0


class Progress:
    """Counts from `initial` towards `total`; `update(n, loss="1.23")` moves on and shows the named figures."""

    def __init__(self, total: int, description: str, unit: str = "it", enabled: bool = True, initial: int = 0):
        self.total, self.description, self.unit, self.enabled = total, description, unit, enabled
        self.done = self.initial = initial
        self.start = self.last_line = time.monotonic()
        self.figures: dict[str, str] = {}
        terminal = enabled and sys.stderr.isatty()
        self.bar = tqdm(total=total, desc=description, unit=unit, dynamic_ncols=True, initial=initial) if terminal else None

    def update(self, count: int = 1, **figures: str) -> None:
        self.done += count
        if not self.enabled:
            return
        self.figures.update(figures)
        if self.bar is not None:
            if figures:
                self.bar.set_postfix(self.figures, refresh=False)
            self.bar.update(count)
        elif (now := time.monotonic()) - self.last_line >= PLAIN_INTERVAL_SECONDS:
            self.last_line = now
            self.print_line(now)

    def print_line(self, now: float) -> None:
        elapsed = max(now - self.start, 1e-9)
        rate = (self.done - self.initial) / elapsed
        left = tqdm.format_interval((self.total - self.done) / rate) if rate else "?"
        figures = "".join(f", {name} {value}" for name, value in self.figures.items())
        write_progress(self.description, self.done, self.total)
        print(
            f"{self.description}: {self.done}/{self.total} {self.unit}, {rate:,.1f} {self.unit}/s, "
            f"{tqdm.format_interval(elapsed)} elapsed, {left} left{figures}",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.enabled and time.monotonic() - self.start >= PLAIN_INTERVAL_SECONDS:
            self.print_line(time.monotonic())

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
