"""A reader written from `docs/soft-labels.md` alone: it imports nothing of ours, and reads every form as the library does."""

import hashlib
import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from stillhouse.soft_labels.store import SoftLabels
from tests.label_stores import SAMPLERS, write_store

PAGE = Path(__file__).parent.parent / "docs" / "soft-labels.md"


# The reader: plain numbers, one bit after the other


def bit(data: bytes, index: int) -> int:
    return data[index // 8] >> index % 8 & 1


def fields(data: bytes, count: int, width: int) -> list[int]:
    return [sum(bit(data, i * width + j) << j for j in range(width)) for i in range(count)]


def read_record(data: bytes, manifest: dict) -> list[dict]:
    """Of each position: `entries`, pairs of id and value, and perhaps `tail` and `base`."""
    sampler, positions, vocab, width = (manifest[k] for k in ("sampler", "positions", "vocab", "value_bits"))
    method, samples = sampler["method"], sampler["samples"]
    top, residual = method.startswith("topk"), method == "residual"
    n, m, low_bits = struct.unpack_from("<3I", data)
    code_bits = (sampler["bases"] - 1).bit_length() if residual else 0
    sizes = [
        -(-n // 8) * low_bits,
        -(-(n + (positions * vocab - 1 >> low_bits)) // 8),
        0 if top else -(-n // 8),
        -(-m // 8) * width,
        2 * positions if method == "topk_tail" else 0,
        -(-n // 8) if residual else 0,
        -(-positions // 8) * code_bits,
    ]
    place, sections = 12, []
    for size in sizes:
        sections.append(data[place : place + size])
        place += size
    assert place == len(data)
    low, high, flags, codes, tails, signs, base = sections
    ones = [i for i in range(8 * len(high)) if bit(high, i)]
    keys = [(one - i << low_bits) | part for i, (one, part) in enumerate(zip(ones, fields(low, n, low_bits), strict=True))]
    left = iter(fields(codes, m, width))
    result = [{"entries": []} for _ in range(positions)]
    for i, key in enumerate(keys):
        if not top and bit(flags, i):
            value = 1 / samples
        else:
            code = next(left)
            if top:
                value = 2 ** (-20 * (1 - code / 1023)) if code else 0.0
            elif method in ("threshold", "residual"):
                value = samples ** ((code + 1) / 2**width - 1)
            else:
                value = (code + 2) / samples
        if residual and bit(signs, i):
            value = -value
        result[key // vocab]["entries"].append((key % vocab, value))
    for position, found in enumerate(result):
        if method == "topk_tail":
            found["tail"] = struct.unpack_from("<H", tails, 2 * position)[0] / 65535
        if residual:
            found["base"] = fields(base, positions, code_bits)[position]
    return result


def read_tensors(path: Path) -> tuple[dict, dict[str, list]]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, payload = json.loads(data[8 : 8 + size]), data[8 + size :]
    metadata, tensors = header.pop("__metadata__"), {}
    assert metadata["payload"] == hashlib.sha256(payload).hexdigest()
    for name, entry in header.items():
        part = payload[slice(*entry["data_offsets"])]
        letter = {"U64": "Q", "U32": "I", "F32": "f", "U8": "B", "F16": "e"}[entry["dtype"]]
        tensors[name] = list(struct.unpack(f"<{len(part) // struct.calcsize('<' + letter)}{letter}", part))
    return metadata, tensors


def checksum(row_id: str, hits: float, record: bytes) -> int:
    return zlib.crc32(hashlib.blake2b(row_id.encode(), digest_size=8).digest() + struct.pack("<f", hits) + record)


def read_store(folder: Path) -> list[list[dict]]:
    manifest = json.loads((folder / "manifest.json").read_text())
    ids = pa.ipc.open_file(folder / "ids.arrow").get_batch(0).column("id").to_pylist()
    rows = []
    for name, digest in sorted(manifest["shards"].items()):
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        metadata, tensors = read_tensors(folder / name)
        assert metadata["store"] == manifest["store"]
        for r, hits in enumerate(tensors["hits"]):
            record = bytes(tensors["records"][tensors["offsets"][r] : tensors["offsets"][r + 1]])
            assert checksum(ids[len(rows)], hits, record) == tensors["checksums"][r]
            rows.append(read_record(record, manifest))
    return rows


# What it is held against


@pytest.mark.parametrize("method", SAMPLERS)
def test_a_reader_written_from_the_page_reads_what_the_library_reads(tmp_path, method):
    write_store(tmp_path, SAMPLERS[method], rows=7, part_rows=3)
    labels = SoftLabels.open(tmp_path)
    rows = read_store(tmp_path)
    assert len(rows) == 7
    for row, positions in enumerate(rows):
        wanted = labels[row]
        for position, found in enumerate(positions):
            ids, values = wanted[position]
            assert [entry[0] for entry in found["entries"]] == ids.tolist()
            np.testing.assert_allclose([entry[1] for entry in found["entries"]], values, rtol=1e-6)
            if method == "topk_tail":
                assert found["tail"] == pytest.approx(wanted.tail[position], abs=1e-7)
            if method == "residual":
                assert found["base"] == wanted.codes[position]
    if method == "residual":
        assert read_tensors(tmp_path / "bases.safetensors")[1]["bases"] == labels.bases.reshape(-1).tolist()


def test_the_example_of_the_page_reads_as_it_says():
    record, said = re.findall(r"```text\n(.*?)\n```", PAGE.read_text(), flags=re.S)
    manifest = {"positions": 3, "vocab": 100, "value_bits": 6, "sampler": {"method": "threshold", "samples": 4}}
    data = bytes.fromhex(record)
    positions = read_record(data, manifest)
    lines = said.splitlines()
    for number, (line, position) in enumerate(zip(lines, positions, strict=False)):
        shown = ", ".join(f"{name} {float(np.float32(value)):.7}" for name, value in position["entries"])
        assert line == f"position {number}: {shown}"
    hits = float(re.search(r"hits ([\d.]+)", lines[3])[1])
    assert f"{checksum('row-a', hits, data):08x}" == re.search(r"checksum (\w+)", lines[3])[1]
