"""Shards: safetensors files that are written whole or not at all, and mapped rather than read.

The safetensors library copies what it reads and writes its metadata in an order of its own, so both directions are done
here; the files are ordinary ones that it opens too.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from stillhouse.core.artifacts import storage_errors
from stillhouse.core.errors import ArtifactError

DTYPES = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U8": np.dtype("u1")}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
RESTORE = "'dvc checkout --force' restores it"


def write_shard(path: Path, tensors: dict[str, np.ndarray], store: str) -> None:
    """Write a shard of the store with key `store` under a temporary name, flush it to the disk, and rename it.

    Tensors stand in the order given; those with wider elements should come first, so that all are aligned.
    """
    header, begin, digest = {}, 0, hashlib.sha256()
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    for name, array in arrays.items():
        end = begin + array.nbytes
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
        digest.update(_bytes(array))
        begin = end
    header = {"__metadata__": {"payload": digest.hexdigest(), "store": store}, **header}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f".{path.name}.partial")
    with storage_errors(path):
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in arrays.values():
                file.write(_bytes(array))
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
        sync_folder(path.parent)


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data.cast("B")


def sync_folder(folder: Path) -> None:
    """Flush a rename to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def map_shard(path: Path, store: str) -> dict[str, np.ndarray]:
    """The tensors of a shard, as read-only views of one memory map.

    Raises ArtifactError if the file is missing, shorter or longer than its header says, no safetensors file, or a shard of
    another store than the one with key `store`.
    """
    try:
        data = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        size = int.from_bytes(bytes(data[:8]), "little")
        header = json.loads(bytes(data[8 : 8 + size]))
        metadata = header.pop("__metadata__")
        arrays, payload, end = {}, data[8 + size :], 0
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            if end > len(payload):
                raise ValueError(f"cut off: {len(data)} bytes, {8 + size + end} expected")
            arrays[name] = payload[begin:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
        if end != len(payload):
            raise ValueError(f"{len(payload) - end} bytes too many")
    except FileNotFoundError:
        raise ArtifactError(f"{path} is damaged or missing (no such file); {RESTORE}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path} is damaged or missing ({error}); {RESTORE}") from None
    if metadata.get("store") != store:
        raise ArtifactError(
            f"{path} is a shard of an earlier run (store {str(metadata.get('store'))[:12]}, this one is {store[:12]}); "
            f"{RESTORE}, or run 'dvc repro export_soft_labels'"
        )
    return arrays


def is_whole(path: Path, store: str) -> bool:
    """Whether a shard of this store stands there with the very payload that it was written with."""
    try:
        map_shard(path, store)
    except ArtifactError:
        return False
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        wanted = json.loads(file.read(size))["__metadata__"].get("payload")
        return hashlib.file_digest(file, "sha256").hexdigest() == wanted
