"""Checkpoints on the disk: written by torch.distributed.checkpoint, each rank its share, complete or not there at all.

    step-00000120/
      shard-*.safetensors     tensors, whole or in shards; another number of ranks or another sharding reads them too
      checkpoint.json         plain values, SHA-256 of every file, and of this one

A checkpoint is written under another name, brought to the disk, and renamed; the last two are kept. One that is damaged is
left aside with a warning. Nothing here is pickled.
"""

import hashlib
import json
import os
import shutil
import sys
import time
import uuid
import warnings
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future as TorchFuture

from stillhouse.core.artifacts import FORBIDDEN, REFUSALS, digest_file, digest_json, free_megabytes, remove
from stillhouse.core.errors import StorageError
from stillhouse.runtime.distributed import Ranks

MANIFEST = "checkpoint.json"
PARTIAL = ".partial"
FINISHED = "finished"
KEPT = 2


class Writer(HuggingFaceStorageWriter):
    """Writes safetensors with checksums under a partial name, and renames when all ranks are done."""

    def __init__(self, folder: Path, values: dict[str, Any]):
        self.folder, self.values = folder, values
        super().__init__(str(partial_of(folder)), save_distributed=True)

    def write_data(self, plan, planner) -> "TorchFuture[list[WriteResult]]":
        results = super().write_data(plan, planner).wait()
        names = sorted({result.storage_data.relative_path for result in results})
        digests = {name: digest_file(partial_of(self.folder) / name) for name in names}
        done: TorchFuture[list[WriteResult]] = TorchFuture()
        done.set_result([*results, *(WriteResult(MetadataIndex(name), 0, digest) for name, digest in digests.items())])
        return done

    def finish(self, metadata, results) -> None:
        """On rank 0, when every rank has written."""
        files = {r.index.fqn: r.storage_data for part in results for r in part if isinstance(r.storage_data, str)}
        content = {"values": self.values, "files": files}
        partial = partial_of(self.folder)
        with (partial / MANIFEST).open("w", encoding="utf-8") as file:
            json.dump(content | {"digest": digest_json(content)}, file)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(partial)
        remove(self.folder)
        partial.rename(self.folder)
        sync_folder(self.folder.parent)


class Checkpoints:
    """The checkpoints of one training. All ranks call all methods in the same order."""

    def __init__(self, folder: Path, identity: str, ranks: Ranks):
        self.folder, self.identity, self.ranks = folder, identity, ranks
        self.last: int | None = None
        """Step of the newest one that is known to be good."""
        self.cost_seconds = 0.0
        """For how long the training stood still for the last one."""
        self.pending: Future | None = None
        self.group = cast(dist.ProcessGroup, dist.new_group(backend="gloo")) if ranks.world > 1 else None
        on_gpu = ranks.device.type == "cuda"
        self.stager = DefaultStager(StagingOptions(on_gpu, False, False, on_gpu))
        # Of one process there is nobody to coordinate with; torch says so each time.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        if ranks.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob(f"*{PARTIAL}"):
                shutil.rmtree(path, ignore_errors=True)

    def shared(self) -> bool:
        """Whether every rank sees the folder: without a common file system there are no checkpoints of several hosts."""
        if self.ranks.world == 1:
            return True
        sign = self.folder / f".{self.ranks.broadcast(uuid.uuid4().hex)}"
        if self.ranks.is_main:
            sign.touch()
        self.ranks.barrier()
        seen = all(self.ranks.gather(sign.exists()))
        if self.ranks.is_main:
            sign.unlink()
        return seen

    def newest(self) -> dict[str, Any] | None:
        """Values of the newest good checkpoint of this training, with its `folder`; None if there is none."""
        found = None
        if self.ranks.is_main:
            for folder in sorted(self.folder.iterdir(), key=order, reverse=True):
                if order(folder) < 0:
                    continue
                values, flaw = examine(folder, self.identity)
                if values is not None:
                    found = values | {"folder": str(folder)}
                    break
                warn(f"{folder} is left aside: {flaw}")
        found = self.ranks.broadcast(found)
        self.last = found and found["step"]
        return found

    def load(self, folder: str, targets: dict[str, Any]) -> None:
        """Fill tensors in place with what a checkpoint says of them."""
        load(
            targets, storage_reader=HuggingFaceStorageReader(folder), process_group=self.group, no_dist=self.group is None
        )  # fmt: skip

    def save(self, name: str, tensors: dict[str, Any], values: dict[str, Any], wait: bool = False) -> None:
        """Copy the tensors, and write them while the training goes on. Raises StorageError if the disk refuses.

        A refusal that comes later is raised by the next call, or by `wait`.
        """
        start = time.perf_counter()
        self.wait()
        self.writing = (name, values["step"])
        pending = async_save(
            tensors, storage_writer=Writer(self.folder / name, values | {"identity": self.identity}),
            async_stager=self.stager, process_group=self.group, no_dist=self.group is None,
        )  # fmt: skip
        assert isinstance(pending, Future)
        self.pending = pending
        if wait:
            self.wait()
        self.cost_seconds = time.perf_counter() - start

    def wait(self) -> None:
        """Until what is being written is written."""
        if self.pending is None:
            return
        name, step = self.writing
        pending, self.pending = self.pending, None
        try:
            pending.result()
        except CheckpointException as error:
            if self.ranks.is_main:
                shutil.rmtree(partial_of(self.folder / name), ignore_errors=True)
            raise self.refusal(error, step) from None
        self.last = step
        if self.ranks.is_main:
            self.remove_old(name, step)

    def remove_old(self, name: str, step: int) -> None:
        """All but the last two; when the training has finished, all others."""
        mine = [path for path in sorted(self.folder.iterdir(), key=order, reverse=True) if 0 <= order(path) <= step]
        for path in mine if name == FINISHED else mine[KEPT:]:
            shutil.rmtree(path, ignore_errors=True)

    def refusal(self, error: CheckpointException, step: int) -> Exception:
        """What the rank that could not write says, in one line."""
        rank, failure = min((rank, wrapped[0]) for rank, wrapped in error.failures.items())
        number = failure.errno if isinstance(failure, OSError) else None
        if number in FORBIDDEN:
            return StorageError(
                f"{FORBIDDEN[number]} while writing the checkpoint of step {step} in {self.folder}; give this user the right "
                "to write there, and start again"
            )
        if number not in REFUSALS:
            failure.add_note(f"while rank {rank} wrote the checkpoint of step {step} in {self.folder}")
            return failure if isinstance(failure, Exception) else RuntimeError(str(failure))
        last = "there is none before it" if self.last is None else f"that of step {self.last} is kept"
        return StorageError(
            f"{REFUSALS[number]} while writing the checkpoint of step {step} in {self.folder} "
            f"({free_megabytes(self.folder)} MB free); {last}: free space ('make prune' shows what can go) and start again"
        )

    def close(self) -> None:
        """Leave. What is being written is finished where no other rank is needed for it."""
        if self.ranks.world == 1:
            with suppress(CheckpointException, StorageError):
                self.wait()
        self.stager.close()


def partial_of(folder: Path) -> Path:
    return folder.with_name(folder.name + PARTIAL)


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def order(folder: Path) -> float:
    """The step of a checkpoint's folder, infinity for that of a finished training, -1 for anything else."""
    if folder.name == FINISHED:
        return float("inf")
    word, _, number = folder.name.partition("-")
    return int(number) if word == "step" and number.isdigit() else -1


def examine(folder: Path, identity: str) -> tuple[dict[str, Any] | None, str]:
    """The values of a checkpoint, or None and what is wrong with it."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        digest = content.pop("digest")
        if digest != digest_json(content):
            return None, f"{MANIFEST} is damaged"
        values = content["values"]
        if values["identity"] != identity:
            return None, "it belongs to another training: other parameters, data or starting weights"
        for name, wanted in content["files"].items():
            if not (folder / name).is_file():
                return None, f"{name} is missing"
            if digest_file(folder / name) != wanted:
                return None, f"{name} is damaged (its SHA-256 is not the one that was written)"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"{MANIFEST} cannot be read ({type(error).__name__})"
    return values, ""


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def digest_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """Digest of names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]
    return digest.hexdigest()
