"""A webhook on the Prefect server, and the two automations that belong to it: somebody is told that a run failed.

The first automation tells of runs of `distill/full` and `distill/nightly` that end Failed, TimedOut, Crashed or Silent, and
of nights whose model the gate refused. It sends `{"text": ..., "subject": ..., "body": ...}`; `text` is what Slack and
Mattermost show. The second one marks runs of `distill` and `stage` Crashed, under the name Silent, when their heartbeats
stop: their host is gone, and nobody else would say so.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.types import SecretDict

from flows.flow_run.watch import UNREACHABLE, settled
from flows.server.pools import is_address
from stillhouse.core.errors import StillhouseError

BLOCK = "stillhouse-notification"
BLOCK_TYPE = "custom-webhook"
FAILED = "stillhouse: a run failed"
LOST = "stillhouse: a run is silent"

SILENT = "Silent"
"""Name of the Crashed state of a run whose heartbeats stopped."""
BAD_ENDS = ("Failed", "TimedOut", "Crashed", SILENT, "Refused")
"""Names of states, each an event `prefect.flow-run.NAME`; `Refused` is a Completed one."""

HEARTBEAT = "prefect.flow-run.heartbeat"
SILENCE_SECONDS = 300.0
"""Ten heartbeats of `flows.server.join`."""

MESSAGE_LENGTH = 1500
"""A state's message may be a traceback, and hooks refuse long texts."""


class NotificationError(StillhouseError):
    """The webhook's address is none, or the server cannot be used."""


def ensure_notification(url_of_api: str, webhook_url: str, silence_seconds: float = SILENCE_SECONDS) -> list[str]:
    """Create or bring up to date the webhook and its automations; returns the names of those that were changed.

    Deployments are known by name: they may be created later, and anew. Raises NotificationError.
    """
    check_address("webhook", webhook_url)
    with server(url_of_api) as client:
        block = CustomWebhookNotificationBlock(
            name=BLOCK,
            # Whoever knows a hook's address can post there: as a secret, the server encrypts it and its pages hide it.
            url="{{address}}",
            secrets=SecretDict({"address": webhook_url}),
            json_data={"text": "{{subject}}\n{{body}}", "subject": "{{subject}}", "body": "{{body}}"},
            headers=None,
            cookies=None,
        )
        block_id = settled(block.save(BLOCK, overwrite=True))
        wanted = [failure_automation(block_id, url_of_api), silence_automation(silence_seconds)]
        return [automation.name for automation in wanted if ensure_automation(client, automation)]


def remove_notification(url_of_api: str) -> bool:
    """Delete webhook and automations; returns whether there were any."""
    with server(url_of_api) as client:
        found = [automation for name in (FAILED, LOST) for automation in client.read_automations_by_name(name)]
        for automation in found:
            client.delete_automation(automation.id)
        try:
            block = client.read_block_document_by_name(BLOCK, BLOCK_TYPE, include_secrets=False)
        except ObjectNotFound:
            return bool(found)
        assert block.id is not None
        client.delete_block_document(block.id)
        return True


def describe_notification(url_of_api: str) -> str:
    """A line about what is set. The webhook's address is a secret but for its host. Raises NotificationError."""
    with server(url_of_api) as client:
        found = [each for name in (FAILED, LOST) for each in client.read_automations_by_name(name)]
        try:
            block = client.read_block_document_by_name(BLOCK, BLOCK_TYPE, include_secrets=True)
        except ObjectNotFound:
            block = None
    if block is None and not found:
        return "notification is off: nobody is told of runs that fail; 'make notify WEBHOOK=https://...' turns it on"
    missing = sorted({FAILED, LOST} - {each.name for each in found})
    disabled = sorted(each.name for each in found if not each.enabled)
    if block is None or missing or disabled:
        what = "; ".join(
            (["the webhook is missing"] if block is None else [])
            + [f"the automation '{name}' is missing" for name in missing]
            + [f"the automation '{name}' is switched off" for name in disabled]
        )
        return f"notification is not whole: {what}; 'make notify WEBHOOK=https://...' mends it"
    address = urlsplit(str(block.data.get("secrets", {}).get("address", "")))
    return (
        f"failed, crashed and refused runs are told to the webhook at {address.hostname}; 'make notify TEST=1' posts a "
        "message, 'make notify OFF=1' turns it off"
    )


def send_test(url_of_api: str) -> None:
    """Post a message to the webhook now, from this host. Raises NotificationError if there is none, or it does not take it."""
    with server(url_of_api):
        try:
            block = settled(CustomWebhookNotificationBlock.load(BLOCK))
        except ValueError:
            raise NotificationError("there is no webhook to test; 'make notify WEBHOOK=https://...' sets one") from None
        try:
            block.notify("this is what 'make notify TEST=1' sends; no run has failed", subject="stillhouse: a test")
        except httpx.HTTPStatusError as error:
            answer = error.response
            raise NotificationError(
                f"the webhook at {answer.url.host} answers {answer.status_code} {answer.reason_phrase}; check its address"
            ) from None
        except (httpx.HTTPError, OSError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise NotificationError(f"the webhook does not answer: {reason[:300]}; check its address") from None


def failure_automation(block_id: UUID, url_of_api: str) -> AutomationCore:
    """Every bad end of a run of the pipeline calls the webhook, with name, state, message and link."""
    pages = url_of_api.removesuffix("/api")
    message = f"{{{{ (event.resource['prefect.state-message'] or 'no message') | truncate({MESSAGE_LENGTH}, True, ' ...') }}}}"
    return AutomationCore(
        name=FAILED,
        description="Calls the webhook; made by 'python -m flows.notify'.",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{name}" for name in BAD_ENDS},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=[
                {"prefect.resource.role": "flow", "prefect.resource.name": "distill"},
                {"prefect.resource.role": "deployment", "prefect.resource.name": ["full", "nightly"]},
            ],
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=block_id,
                subject="{{ event.resource['prefect.resource.name'] }}: {{ event.resource['prefect.state-name'] }}",
                body=f"{message}\n{pages}/runs/flow-run/{{{{ event.resource['prefect.resource.id'].split('.')[-1] }}}}",
            )
        ],
    )


def silence_automation(silence_seconds: float) -> AutomationCore:
    """A run that has sent heartbeats and now sends nothing is marked Crashed.

    Any event of the run counts as life, whatever its last state is called. Where a short run's first heartbeat arrives
    after its end, the server refuses the change: a run that has ended is never marked. While the server is away nobody is
    heard; it forgets whom it waited for a minute after their time, and they send again within half a minute of its return.
    Only if it was away for just about `silence_seconds` may it mark a run that lives.
    """
    return AutomationCore(
        name=LOST,
        description="Marks runs whose host is gone; made by 'python -m flows.notify'.",
        trigger=EventTrigger(
            after={HEARTBEAT},
            expect={"prefect.flow-run.*"},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=[
                {"prefect.resource.role": "flow", "prefect.resource.name": ["distill", "stage"]},
                # A run without a deployment has a terminal, and somebody before it.
                {"prefect.resource.role": "deployment"},
            ],
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silence_seconds),
        ),
        actions=[
            ChangeFlowRunState(
                name=SILENT,
                state=StateType.CRASHED,
                message=f"no heartbeat for {silence_seconds:g} seconds: its host is gone, or cannot reach the server",
                force=False,
            )
        ],
    )


def ensure_automation(client: SyncPrefectClient, wanted: AutomationCore) -> bool:
    """Create or update the automation of that name; returns whether anything had to be done.

    One that is as wanted is left alone: an update would forget the runs that it waits for.
    """
    first, *doubles = client.read_automations_by_name(wanted.name) or [None]
    for double in doubles:
        assert double is not None
        client.delete_automation(double.id)
    if first is None:
        client.create_automation(wanted)
    elif comparable(first) != comparable(wanted):
        client.update_automation(first.id, wanted)
    else:
        return bool(doubles)
    return True


def comparable(automation: Automation | AutomationCore) -> dict:
    """What makes two automations the same: not their ids, nor in which order and form the server lists labels."""
    values = automation.model_dump(mode="json", include={"name", "description", "enabled", "trigger", "actions"})
    return plain(values)


def plain(value: Any) -> Any:
    """The value with sets, which come as lists, in order, and a single label as a list of one."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return sorted(value)
    return [plain(item) for item in value] if isinstance(value, list) else value


def check_address(what: str, url: str) -> None:
    """Raises NotificationError if `url` is not an address of a web server."""
    if not is_address(url):
        raise NotificationError(f"{what} is '{url}', expected an address such as https://hooks.example.org/T0/B0")


@contextmanager
def server(url_of_api: str) -> Iterator[SyncPrefectClient]:
    """A client of that server, also for blocks, which take it from the settings. Raises NotificationError."""
    check_address("the server's API", url_of_api)
    try:
        with temporary_settings({PREFECT_API_URL: url_of_api}), get_client(sync_client=True) as client:
            yield client
    except UNREACHABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise NotificationError(f"the server at {url_of_api} does not do it: {reason[:300]}; 'make up' starts one") from error


def known_api() -> str | None:
    """Address of the API in Prefect's settings, which `.env` of a checkout holds after `make up`."""
    return PREFECT_API_URL.value()
