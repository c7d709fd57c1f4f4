"""Tell somebody that a run failed: a webhook on the Prefect server, and the two automations that belong to it.

python -m flows.notify                                                # what is set; changes nothing
python -m flows.notify --webhook https://hooks.example.org/T0/B0      # again: another address
python -m flows.notify --test                                         # post a message now
python -m flows.notify --off
"""

import sys

from flows.flow_run.webhook import (
    NotificationError,
    describe_notification,
    ensure_notification,
    known_api,
    remove_notification,
    send_test,
)
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.options import Options


def main() -> None:
    parser = Options("flows.notify", "Tell a webhook of runs that fail; without an option: show what is set.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--webhook", metavar="URL", help="address that is told of runs that fail, from now on")
    what.add_argument("--test", action="store_true", help="post a message to the webhook now")
    what.add_argument("--off", action="store_true", help="remove webhook and automations")
    parser.add_argument("--server", metavar="URL", help="address of the API (default: PREFECT_API_URL, which .env holds)")
    options = parser.parse_args()
    with one_line_errors("notify"):
        url = options.server or known_api()
        if not url:
            raise NotificationError("no server is known: 'make up' in the repository writes .env, or give --server URL")
        if options.off:
            print("notification is off" if remove_notification(url) else "notification was not on")
        elif options.test:
            send_test(url)
            print("a message was posted, and the webhook has taken it")
        elif options.webhook is not None:
            changed = ensure_notification(url, options.webhook)
            print(f"failures are told to the webhook; {'changed' if changed else 'the automations were there already'}")
        else:
            print(describe_notification(url))
    sys.exit(0)


if __name__ == "__main__":
    main()
