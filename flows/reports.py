"""Serves `reports/` to browsers of this machine, because a page of the Prefect UI may not open files: `make up` starts it.

python -m flows.reports             # on a free port of 127.0.0.1, the same as last time where that is free
"""

import contextlib
import signal
from types import FrameType

from flows.repository.workspace import repository_root
from flows.server.report_server import start
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.options import no_options


def main() -> None:
    no_options("flows.reports", "Serve the pages of reports/ to browsers of this machine, until it is stopped.")

    def end(*_: int | FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    # The order to end may come as soon as the address is printed.
    with one_line_errors("reports"), contextlib.suppress(KeyboardInterrupt), start(repository_root()) as server:
        print(f"reports: {server.url}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
