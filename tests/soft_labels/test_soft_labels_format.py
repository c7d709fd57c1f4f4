"""A reader written from `docs/soft-labels.md` alone: it imports nothing of ours, and reads every form as the library does."""

import hashlib
import json
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from stillhouse.data.label_scope import LabelScope
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.data.views import ViewParams
from stillhouse.soft_labels.format.manifest import Layout
from stillhouse.soft_labels.format.sampler import Sampler
from stillhouse.soft_labels.format.store import SoftLabels, SparseRow
from stillhouse.soft_labels.format.writer import SoftLabelsWriter, bases_digest
from stillhouse.soft_labels.produce.bases import fit_bases
from stillhouse.targets.classes.soft_labels.class_binding import classifier_binding
from stillhouse.targets.next_token.soft_labels.token_binding import language_binding
from tests.helpers.label_stores import BINDING, SAMPLERS, VOCAB, draw_rows, teacher_logits, write_store

PAGE = Path(__file__).parents[2] / "docs" / "soft-labels.md"


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
    code_bits = bits_in_binary(sampler["bases"] - 1) if residual else 0
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


def json_digest(value) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(", ", ": "))
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(folder: Path) -> tuple[dict, list[str]]:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["ids"] == hashlib.sha256((folder / "ids.arrow").read_bytes()).hexdigest()
    ids = pa.ipc.open_file(folder / "ids.arrow").get_batch(0).column("id").to_pylist()
    layout = ["form", "rows", "views", "vocab", "part_rows"]
    layout += ["dtype"] if manifest["form"] == "full" else ["positions", "sampler", "bases", "value_bits"]
    parts = {
        "layout": {name: manifest[name] for name in layout},
        "binding": manifest["binding"],
        "ids": hashlib.sha256(b"\0".join(name.encode() for name in ids)).hexdigest(),
        "code": "stillhouse-soft-labels/2, draws 2",
    }
    assert manifest["store"] == json_digest(parts)
    if manifest.get("bases"):
        data = (folder / "bases.safetensors").read_bytes()
        assert manifest["bases"] == hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    return manifest, ids


def bits_in_binary(number: int) -> int:
    return len(f"{number:b}")


def read_store(folder: Path) -> list[list[dict]]:
    manifest, ids = read_manifest(folder)
    sampler, width = manifest["sampler"], {"threshold": 6, "residual": 6, "topk": 10, "topk_tail": 10}
    counts = 1 if sampler["samples"] <= 3 else bits_in_binary(sampler["samples"] - 2)
    assert manifest["value_bits"] == width.get(sampler["method"], counts)
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


def equal(found: list[list[dict]], labels: SoftLabels) -> None:
    """Every id and bit of the rows that the reader found is the library's."""
    assert len(found) == len(labels)
    for row, positions in enumerate(found):
        wanted = labels[row]
        assert isinstance(wanted, SparseRow)
        assert len(positions) == len(wanted)
        ids, values = ([entry[which] for position in positions for entry in position["entries"]] for which in (0, 1))
        assert np.cumsum([0, *(len(position["entries"]) for position in positions)]).tolist() == wanted.offsets.tolist()
        assert ids == wanted.ids.tolist()
        assert bits_of(values) == bits_of(wanted.values)
        assert (wanted.tail is None) == ("tail" not in positions[0])
        if wanted.tail is not None:
            assert bits_of([position["tail"] for position in positions]) == bits_of(wanted.tail)
        assert (wanted.codes is None) == ("base" not in positions[0])
        if wanted.codes is not None:
            assert [position["base"] for position in positions] == wanted.codes.tolist()


def bits_of(values) -> bytes:
    """Doubles are rounded to float32 here, as the page says."""
    return np.array(values, dtype=np.float32).tobytes()


@pytest.mark.parametrize("method", SAMPLERS)
def test_a_reader_written_from_the_page_reads_what_the_library_reads(tmp_path, method):
    write_store(tmp_path, SAMPLERS[method], rows=7, part_rows=3)
    labels = SoftLabels.open(tmp_path)
    rows = read_store(tmp_path)
    equal(rows, labels)
    # The last position of each row has no target.
    for positions in rows:
        last = positions[-1]
        assert (last["entries"], last.get("tail", 0), last.get("base", 0)) == ([], 0, 0)
    if method == "residual":
        assert labels.bases is not None
        bases = read_tensors(tmp_path / "bases.safetensors")[1]["bases"]
        assert bases == labels.bases.reshape(-1).tolist()
        assert len(bases) == SAMPLERS[method].bases * VOCAB, "K counts the empty row"
        assert not any(bases[:VOCAB])


def write_odd_store(folder: Path, sampler: Sampler, vocab: int, positions: int, valid: bool = True) -> None:
    """Five rows in parts of two, with ids that are not ASCII; without `valid` no position has a target."""
    ids = [f"zeile {number} \u00e4\u6771\u4eac" for number in range(5)]
    logits = teacher_logits(5, 1, vocab, positions)
    bases = (
        fit_bases(teacher_logits(60, 2, vocab, positions).softmax(-1).reshape(-1, vocab), sampler) if sampler.bases else None
    )
    values_KV = None if bases is None else bases.values_KV
    digest = "" if values_KV is None else bases_digest(values_KV)
    layout = Layout(sampler.form, 5, 1, vocab, 2, positions, sampler, digest)
    writer = SoftLabelsWriter(folder, pa.array(ids), layout, BINDING, values_KV)
    mask = np.full((5, positions), valid)
    mask[3] = False
    tokens = np.where(mask, logits.argmax(-1).numpy(), -1)
    for part in range(layout.parts):
        rows = np.array(layout.rows_of_part(part))
        with writer.part(part) as shard:
            drawn = draw_rows(logits[rows], [ids[row] for row in rows], sampler, bases, mask[rows])
            shard.add(rows, drawn, tokens[rows])
    writer.finish()


UNBIASED = [
    Sampler(method, samples) for method in ("threshold", "systematic", "multinomial") for samples in (1, 2, 3, 4, 5, 300)
]
RESIDUAL = [Sampler("residual", samples, bases=bases) for samples, bases in ((1, 2), (7, 2), (7, 3), (7, 4), (7, 5), (50, 33))]
TOP = [Sampler(method, samples) for method in ("topk", "topk_tail") for samples in (1, 3, 9)]


@pytest.mark.parametrize("sampler", [*UNBIASED, *RESIDUAL, *TOP], ids=lambda sampler: f"{sampler.words()}")
@pytest.mark.parametrize(("vocab", "positions", "valid"), [(9, 1, True), (10, 11, True), (5003, 3, True), (10, 3, False)])
def test_it_reads_the_odd_stores_too(tmp_path, sampler, vocab, positions, valid):
    write_odd_store(tmp_path, sampler, vocab, positions, valid)
    labels = SoftLabels.open(tmp_path)
    rows = read_store(tmp_path)
    equal(rows, labels)
    assert any(position["entries"] for row in rows for position in row) == valid
    assert not any(position["entries"] for position in rows[3])


def test_it_reads_the_full_form(tmp_path):
    layout = Layout("full", rows=5, views=2, vocab=4, part_rows=2)
    values = np.random.default_rng(1).normal(-3, 2, (2, 5, 4)).astype(np.float16)
    writer = SoftLabelsWriter(tmp_path, pa.array(["a", "b", "\u00e9", "d", "e"]), layout, replace(BINDING, packing=""))
    for view in range(2):
        for part in range(layout.parts):
            writer.write(part, view, values[view, list(layout.rows_of_part(part))].astype(np.float32))
    writer.finish()
    labels = SoftLabels.open(tmp_path)
    manifest, ids = read_manifest(tmp_path)
    for view in range(2):
        found = [
            number
            for name in sorted(manifest["shards"])
            if name.startswith(f"view-{view:03d}-")
            for number in read_tensors(tmp_path / name)[1]["log_probs"]
        ]
        assert np.float32(found).reshape(5, 4).tobytes() == labels(np.arange(5), np.full(5, view)).tobytes()
    assert ids == labels.ids


def test_the_digests_of_the_binding_are_those_of_the_page():
    packing = {"block_tokens": 32, "boundaries": "segments do not see each other", "method": "best-fit decreasing"}
    task = SimpleNamespace(
        facts=TokenizerFacts(vocab_size=9, pad_id=0, prefix=[], suffix=[], digest="k", eos_id=1),
        label_scope=LabelScope("d", "", "NFC"), digest="d", preprocessing="as they are", packing=packing,
        labels=["s\u00fc\u00df", "b"],
    )  # fmt: skip
    assert language_binding(task, "t", Sampler()).packing == json_digest(packing)  # pyright: ignore[reportArgumentType]
    views = ViewParams(count=1, min_share=0.5, min_words=1)
    assert classifier_binding(task, views, 1, "t").classes == json_digest(task.labels)  # pyright: ignore[reportArgumentType]


def test_the_example_of_the_page_reads_as_it_says():
    record, said = re.findall(r"```text\n(.*?)\n```", PAGE.read_text(), flags=re.S)
    manifest = {"positions": 3, "vocab": 100, "value_bits": 6, "sampler": {"method": "threshold", "samples": 4}}
    data = bytes.fromhex(record)
    positions = read_record(data, manifest)
    lines = said.splitlines()
    for number, (line, position) in enumerate(zip(lines, positions, strict=False)):
        shown = ", ".join(f"{name} {float(np.float32(value)):.7}" for name, value in position["entries"])
        assert line == f"position {number}: {shown}"
    hits = float(re.findall(r"hits ([\d.]+)", lines[3])[0])
    assert f"{checksum('row-a', hits, data):08x}" == re.findall(r"checksum (\w+)", lines[3])[0]
