"""The worker type `torchrun`, and Prefect's own type `process`, both mended: no failure of a worker is silent.

    prefect worker start --pool torchrun --type torchrun --limit 1

A torchrun worker starts one flow process with torchrun's environment (`PET_*`); the stage's command reads it. Both types
repair what Prefect 3.8 gets wrong: a politely stopped worker leaves its runs Running for ever; the runs of a killed worker
have nobody to report their end; a run cannot be cancelled while Pending. Registered by the entry point
`prefect.collections` in pyproject.toml.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import anyio
import psutil
from prefect.client.orchestration import get_client
from prefect.exceptions import Abort, ObjectNotFound
from prefect.settings import PREFECT_HOME
from prefect.states import Crashed
from prefect.utilities.engine import propose_state
from prefect.workers.process import ProcessJobConfiguration, ProcessVariables, ProcessWorker
from pydantic import Field

from flows.execution.guard import MARKER, sweep
from stillhouse.core.errors import TopologyError

SWEEP_SECONDS = 5.0
# Below the guard's grace, which is below Prefect's 30 seconds: each layer has time to end the one beneath it.
SHUTDOWN_SECONDS = 4


class RunRecords:
    """What this host's workers have started: one small file a run, so that a successor finds what a killed worker left.

    A folder for each host: in a clone on a shared file system the process numbers of the others mean nothing here, and a worker
    would take every run of theirs for dead.
    """

    def __init__(self, folder: Path):
        self.folder = folder / socket.gethostname()

    def write(self, run_id: UUID, pid: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {"pid": pid, "created": psutil.Process(pid).create_time(), "worker": os.getpid()}
        path = self.folder / f"{run_id}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(record), encoding="utf-8")
        partial.replace(path)

    def forget(self, run_id: UUID) -> None:
        (self.folder / f"{run_id}.json").unlink(missing_ok=True)

    def dead(self) -> list[UUID]:
        """Runs whose process is gone, and whose worker is too: one that lives reports their end itself, and knows why."""
        found = []
        for path in self.folder.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                record = json.loads(path.read_text(encoding="utf-8"))
                if not is_alive(record["pid"], record["created"]) and not was_started_by(record["worker"], record["created"]):
                    found.append(UUID(path.stem))
        return found


def is_alive(pid: int, created: float) -> bool:
    """Whether the very process, not a later one with its number, still runs."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - created) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def was_started_by(worker: int, created: float) -> bool:
    """Whether the process `worker` lives, and is older than one of its runs: a later one with its number is not it."""
    try:
        process = psutil.Process(worker)
        return process.create_time() <= created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class CrashReportingConfiguration(ProcessJobConfiguration):
    """Marks every process of a run, so that all of them can be found."""

    # A worker that dies takes its end of the pipe along: a run that logs afterwards would die of it. Prefect's own log
    # handler, which sends lines to the server, does not need it.
    stream_output: bool = Field(default=False)

    def prepare_for_flow_run(self, flow_run: Any, *args: Any, **kwargs: Any) -> None:
        super().prepare_for_flow_run(flow_run, *args, **kwargs)
        self.env[MARKER] = str(flow_run.id)


class CrashReportingVariables(ProcessVariables):
    stream_output: bool = Field(
        default=False, description="Copy the output of flow run processes to the worker's own; a dead worker then kills them."
    )


if TYPE_CHECKING:
    # What `CrashReportingMixin` is mixed into. In truth it must not be one: Prefect would take it for a type of worker.
    Mixin = ProcessWorker
else:
    Mixin = object


class CrashReportingMixin(Mixin):
    """What is mixed into a process worker so that its runs always come to a true end."""

    async def setup(self) -> None:
        await super().setup()
        self._records = RunRecords(PREFECT_HOME.value() / "runs")
        await self._sweep()
        self._sweeping = asyncio.create_task(self._sweep_for_ever())

    async def teardown(self, *exc_info: Any) -> None:
        self._sweeping.cancel()
        await super().teardown(*exc_info)

    async def run(self, flow_run: Any, configuration: Any, task_status: Any = None) -> Any:
        forward = task_status or anyio.TASK_STATUS_IGNORED
        records = self._records

        class Recording:
            """Passes on the process id and writes it down."""

            _future = getattr(forward, "_future", None)

            def started(self, pid: int) -> None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    records.write(flow_run.id, pid)
                forward.started(pid)

        try:
            return await super().run(flow_run, configuration, Recording())  # pyright: ignore[reportArgumentType]
        except anyio.get_cancelled_exc_class():
            # The worker is being stopped; Prefect has killed the process and would say nothing.
            with anyio.CancelScope(shield=True):
                await self._report_crash(flow_run.id, f"worker '{self.name}' was stopped while it ran this")
            raise
        finally:
            with anyio.CancelScope(shield=True):
                # Whatever of the run is left has lost its master: an engine whose supervisor was killed, a rank.
                await anyio.to_thread.run_sync(sweep, MARKER, str(flow_run.id))
            records.forget(flow_run.id)

    async def kill_infrastructure(self, infrastructure_pid: str, configuration: Any, grace_seconds: int = 30) -> None:
        """End a run that was cancelled while Pending."""
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.killpg(int(infrastructure_pid), signal.SIGTERM)
        marker = configuration.env.get(MARKER)
        if marker:
            await anyio.to_thread.run_sync(sweep, MARKER, marker)

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            # A server that is away is asked again.
            with contextlib.suppress(Exception):
                await self._sweep()

    async def _sweep(self) -> None:
        """Report and clear away runs that a killed worker of this host left behind."""
        for run_id in self._records.dead():
            await anyio.to_thread.run_sync(sweep, MARKER, str(run_id))
            if await self._report_crash(run_id, "its process ended while its worker was gone"):
                self._records.forget(run_id)

    async def _report_crash(self, run_id: UUID, message: str) -> bool:
        """Propose Crashed unless the run has ended; returns whether the server has heard."""
        try:
            async with get_client() as client:
                run = await client.read_flow_run(run_id)
                if run.state and not run.state.is_final():
                    await propose_state(client, Crashed(message=message), flow_run_id=run_id)
            return True
        except (Abort, ObjectNotFound):
            return True
        except Exception as error:
            self._logger.warning(f"flow run {run_id} ended, and the server does not answer: {error}")
            return False


Backend = Literal["c10d", "static", "etcd", "etcd-v2"]


class TorchrunVariables(CrashReportingVariables):
    """What a torchrun pool, deployment or run can set; see `torchrun --help`. Unset means torchrun's own default."""

    # The server checks a value against these types before the worker sees it: a form sends text.
    nnodes: int | str = Field(default=1, description="Nodes: a number, or MIN:MAX for an elastic job.")
    nproc_per_node: int | str = Field(default=1, description="Ranks per node: a number, gpu, cpu or auto.")
    rdzv_backend: Backend | None = Field(default=None, description="Rendezvous backend; with one node, torchrun picks it.")
    rdzv_endpoint: str | None = Field(default=None, description="HOST:PORT of the rendezvous; a gang sets its own.")
    rdzv_id: str | None = Field(default=None, description="Id of the rendezvous, new for every attempt; a gang sets its own.")
    max_restarts: int | str = Field(default=0, description="Times that torchrun itself restarts a failed group of ranks.")
    monitor_interval: float | str | None = Field(default=None, description="Seconds between looks at the ranks.")
    log_dir: str | None = Field(default=None, description="Folder for a log file of every rank.")
    tee: int | str = Field(default=3, description="Show rank-prefixed output of: 0 none, 1 stdout, 2 stderr, 3 both.")
    omp_threads: int | str | None = Field(default=None, description="OMP_NUM_THREADS; stages set theirs from 'threads'.")


class TorchrunConfiguration(CrashReportingConfiguration):
    """The job of a torchrun worker; writes torchrun's environment."""

    nnodes: int | str = Field(default=1)
    nproc_per_node: int | str = Field(default=1)
    rdzv_backend: str | None = Field(default=None)
    rdzv_endpoint: str | None = Field(default=None)
    rdzv_id: str | None = Field(default=None)
    max_restarts: int | str = Field(default=0)
    monitor_interval: float | str | None = Field(default=None)
    log_dir: str | None = Field(default=None)
    tee: int | str = Field(default=3)
    omp_threads: int | str | None = Field(default=None)

    def prepare_for_flow_run(self, flow_run: Any, *args: Any, **kwargs: Any) -> None:
        own = dict(self.env)
        super().prepare_for_flow_run(flow_run, *args, **kwargs)
        settings = self.environment()
        refuse_contradictions(own, settings)
        # What a shell around the worker happens to export must not decide about topology.
        for name in [name for name in self.env if name.startswith("PET_") and name not in own]:
            del self.env[name]
        self.env.update(settings)

    def environment(self) -> dict[str, str]:
        """torchrun's variables; what is unset is left out, because torchrun does not read an empty string as unset."""
        check_topology(self.nnodes, self.nproc_per_node)
        values = {
            "PET_NNODES": self.nnodes,
            "PET_NPROC_PER_NODE": self.nproc_per_node,
            "PET_RDZV_BACKEND": self.rdzv_backend,
            "PET_RDZV_ENDPOINT": self.rdzv_endpoint,
            "PET_RDZV_ID": self.rdzv_id,
            "PET_MAX_RESTARTS": self.max_restarts,
            "PET_MONITOR_INTERVAL": self.monitor_interval,
            "PET_LOG_DIR": self.log_dir,
            "PET_TEE": self.tee,
            "PET_SHUTDOWN_TIMEOUT": SHUTDOWN_SECONDS,
            "OMP_NUM_THREADS": self.omp_threads,
        }
        return {name: str(value) for name, value in values.items() if value not in (None, "")}


def refuse_contradictions(own: dict[str, str | None], settings: dict[str, str]) -> None:
    """Raises TopologyError if `env` of the pool or run sets a variable of torchrun to another value than the pool's field."""
    for name, value in own.items():
        if name in settings and settings[name] != value:
            raise TopologyError(
                f"env sets {name}={value}, but the pool says {settings[name]}; set the pool's or the run's job variable "
                f"'{name.removeprefix('PET_').lower()}' instead"
            )
        if name in ("PET_STANDALONE", "PET_MASTER_PORT", "PET_MASTER_ADDR", "PET_NODE_RANK"):
            raise TopologyError(f"env sets {name}, which replaces the pool's rendezvous without a word; remove it")


def check_topology(nnodes: int | str, nproc_per_node: int | str) -> None:
    """Raises TopologyError for a number of nodes or ranks that torchrun would not understand."""
    parts = str(nnodes).split(":")
    if not (1 <= len(parts) <= 2 and all(part.isdigit() and int(part) > 0 for part in parts)):
        raise TopologyError(f"nnodes is '{nnodes}', expected a number of at least 1, or MIN:MAX such as 2:4")
    if len(parts) == 2 and int(parts[0]) > int(parts[1]):
        raise TopologyError(f"nnodes is '{nnodes}': the minimum is above the maximum")
    ranks = str(nproc_per_node)
    if ranks not in ("gpu", "cpu", "auto") and not (ranks.isdigit() and int(ranks) > 0):
        raise TopologyError(f"nproc_per_node is '{nproc_per_node}', expected a number of at least 1, gpu, cpu or auto")


class TorchrunWorker(CrashReportingMixin, ProcessWorker):
    """One flow process at a time with torchrun's environment."""

    type = "torchrun"
    job_configuration = TorchrunConfiguration
    job_configuration_variables = TorchrunVariables
    _description = "Run a stage of a DVC pipeline under torchrun on this host."
    _display_name = "torchrun"


with warnings.catch_warnings():
    # Prefect warns that its own type is replaced, which is the purpose.
    warnings.simplefilter("ignore", UserWarning)

    class CpuWorker(CrashReportingMixin, ProcessWorker):
        """Prefect's process worker, mended."""

        type = "process"
        job_configuration = CrashReportingConfiguration
        job_configuration_variables = CrashReportingVariables
