"""The gate of causal language models: both packages' safetensors read tonight's test text, and fewer bits are better.

With one tokenizer and one length of blocks both read the same blocks, and blocks are resampled. Otherwise the blocks mean
nothing to the promoted model: then both read the test documents out of `data/ingest`, each through its own tokenizer and cut
at its own length, and documents are resampled. Bits per byte compare whatever the tokenizers are.

Shapes: N blocks or documents, S resamples.
"""

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from stillhouse.comparison.intervals import percentile
from stillhouse.core.artifacts import MANIFEST, digest_file, digest_json, read_json
from stillhouse.core.errors import ArtifactError
from stillhouse.core.params import PARAMS_FILE, build, read_yaml
from stillhouse.core.shipped import Shipped
from stillhouse.data.blocks import BlockTable, read_blocks, write_blocks
from stillhouse.data.tokenizer import FILES, describe_tokenizer, encode_texts, load_tokenizer
from stillhouse.evaluation.speed import language_latency_ms
from stillhouse.gate.gate_parts import PACKAGE, Judgement, Rows, compare, draw, split_notes
from stillhouse.modalities.blocks.preprocess.documents import split_documents
from stillhouse.modalities.blocks.table.packing import cut
from stillhouse.models.saved import load_language_model
from stillhouse.packaging.onnx import session_of
from stillhouse.packaging.package import description_of
from stillhouse.preprocessing.splits import SplitParams
from stillhouse.preprocessing.tables import read_table
from stillhouse.runtime.distributed import Ranks, join
from stillhouse.runtime.model_types import on_device
from stillhouse.targets.next_token.evaluate.language_scores import language_scores, positions
from stillhouse.targets.next_token.predict.language_predict import block_nats

if TYPE_CHECKING:
    from stillhouse.gate.decision import Gate


@dataclass(frozen=True)
class BlockRules:
    """How a run cut documents into blocks, and which ones it held out."""

    block_tokens: int
    split: dict[str, Any]

    @classmethod
    def read(cls, path: Path, package: Path) -> "BlockRules":
        """From a run's `params.yaml`, which may be older than this code, and from its package as far as that says it."""
        try:
            settings = read_yaml(path)["preprocess"] | (description_of(package) or {})
            return cls(**{name: settings[name] for name in ("block_tokens", "split")})
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{path}: preprocess has no {error}; the gate cannot tell how that run cut its text") from None


def judge(gate: "Gate", threads: int, against: str | None, folder: Path | None) -> Judgement:
    """The candidate, and beside it the package in `folder`, if any. Raises ArtifactError if something is missing or damaged."""
    transformers.utils.logging.disable_progress_bar()
    shipped = Shipped.read()
    test, manifest = read_blocks(shipped.data / "test.arrow"), read_json(shipped.data / MANIFEST)
    facts, rules = describe_tokenizer(PACKAGE), BlockRules.read(PARAMS_FILE, PACKAGE)
    if digest_of_tokenizer(PACKAGE) != manifest["tokenizer"]["digest"]:
        raise ArtifactError(f"{PACKAGE} and {shipped.data} have different tokenizers; run 'dvc repro export_model'")
    num_bytes = manifest["bytes"]["test"]
    notes: list[str] = []
    with join(threads) as ranks:
        model = on_device(load_language_model(PACKAGE / "model"), ranks.device)
        scored = positions(model, model, test, facts.pad_id, ranks)
        if not np.isfinite(scored.nll).all():
            broken = np.unique(scored.block[~np.isfinite(scored.nll)])
            raise ArtifactError(
                f"{PACKAGE} gives no finite answer to {len(broken)} test blocks, the first is {test.ids[int(broken[0])]}"
            )
        scores = language_scores(scored, num_bytes, gate.calibration_bins)
        metrics = {"bits_per_byte": {"candidate": scores["bits_per_byte"]}}
        if against is not None and folder is not None:
            old = BlockRules.read(folder / PARAMS_FILE, folder / "package")
            notes = split_notes(rules.split, old.split, against)
            if rules.block_tokens == old.block_tokens and same_reading(PACKAGE, folder / "package"):
                rival = on_device(load_language_model(folder / "package" / "model"), ranks.device)
                nats = [scored.per_block(), block_nats(rival, test, facts.pad_id, ranks)]
                # Blocks know their tokens and not their bytes; over all of them a token has this many.
                sizes_N = test.lengths * (num_bytes / test.lengths.sum())
            else:
                texts = test_documents(shipped, rules)
                nats = [
                    document_nats(package, texts, cutting.block_tokens, ranks)
                    for package, cutting in ((PACKAGE, rules), (folder / "package", old))
                ]
                if not math.isclose(nats[0].sum(), scored.nll.sum(dtype=np.float64), rel_tol=1e-3):
                    raise ArtifactError(
                        f"the test blocks in {shipped.data} are not of the documents in {shipped.table}; run "
                        "'dvc repro preprocess'"
                    )
                sizes_N = np.array([len(text.encode()) for text in texts])
                notes.append(
                    f"tokenizer or block_tokens have changed since {against}: compared by {len(texts)} documents, read "
                    "in each model's own tokens"
                )
            ours, theirs = (bits_per_byte(nats_N, sizes_N) for nats_N in nats)
            draws_SN = draw(len(sizes_N), gate.bootstrap_samples)
            # Of one row every resample is the same, which says something only of the same model.
            known = len(sizes_N) > 1 or np.allclose(*nats, rtol=1e-6)
            metrics["bits_per_byte"] |= compare(
                ours, theirs, draws_SN, lambda resampled_S: percentile(resampled_S, gate.confidence) if known else None
            )
        return Judgement(
            rows=len(test),
            unit="test blocks",
            metrics=metrics,
            calibration_error=scores["ece"],
            latency_ms=latency_ms(PACKAGE, test, facts.pad_id, ranks, gate.speed_seconds),
            notes=notes,
        )


def bits_per_byte(nats_N: np.ndarray, sizes_N: np.ndarray) -> Callable[[Rows], float]:
    """Over rows with repetitions; sizes in bytes."""
    return lambda rows: float(nats_N[rows].sum() / sizes_N[rows].sum() / math.log(2))


def digest_of_tokenizer(package: Path) -> str:
    """As `digest_folder` gives it for a folder with the tokenizer alone."""
    return digest_json({name: digest_file(package / name) for name in sorted(FILES) if (package / name).is_file()})


def same_reading(one: Path, other: Path) -> bool:
    """Whether both packages read a document as the same tokens, with the same before it."""
    same = digest_file(one / "tokenizer.json") == digest_file(other / "tokenizer.json")
    return same and begin_of(one) == begin_of(other)


def begin_of(package: Path) -> list[int]:
    """What stands before a document; packages of format 1 say it, in older ones that was always the end of the last."""
    facts = describe_tokenizer(package)
    if facts.eos_id is None:
        raise ArtifactError(f"{package}: its tokenizer names no eos_token; the gate cannot tell where a document begins")
    return (description_of(package) or {}).get("begin", [facts.eos_id])


def test_documents(shipped: Shipped, rules: BlockRules) -> list[str]:
    """The texts that `preprocess` held out of the shipped model's task for the test."""
    split = build(SplitParams, rules.split, f"{PARAMS_FILE}: preprocess.split")
    table, _ = split_documents(read_table(shipped.table), split, shipped.task)
    return table.loc[table["split"] == "test", "text"].tolist()


def document_nats(package: Path, texts: list[str], block_tokens: int, ranks: Ranks) -> np.ndarray:
    """Negative log-likelihood of each text in nats, float64 (N,), in the package's own tokens and cut at its own length."""
    tokenizer, facts, begin = load_tokenizer(package), describe_tokenizer(package), begin_of(package)
    assert facts.eos_id is not None
    encoded = encode_texts(tokenizer, facts, texts)
    pieces = [cut(np.array(ids, dtype=np.int64), begin, facts.eos_id, block_tokens) for ids in encoded]
    with tempfile.TemporaryDirectory(prefix="stillhouse-gate-") as scratch:
        path = Path(scratch) / "test.arrow"
        # A piece a block: nothing has to be told apart again.
        write_blocks(path, [[piece] for document in pieces for piece in document], block_tokens, facts.vocab_size)
        model = on_device(load_language_model(package / "model"), ranks.device)
        nats = block_nats(model, read_blocks(path), facts.pad_id, ranks)
    document = np.repeat(np.arange(len(texts)), [len(document) for document in pieces])
    return np.bincount(document, weights=nats, minlength=len(texts))


def latency_ms(package: Path, test: BlockTable, pad_id: int, ranks: Ranks, seconds: float) -> float:
    """Median milliseconds of one block alone through the ONNX file, on one thread."""

    class ServedLanguageModel(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, **unused: Any) -> SimpleNamespace:
            logits = session.run(["logits"], {"input_ids": input_ids.cpu().numpy()})[0]
            return SimpleNamespace(logits=torch.from_numpy(np.asarray(logits)))

    session = session_of(package / "model.onnx", threads=1)
    try:
        return language_latency_ms(ServedLanguageModel(), test, pad_id, ranks, seconds)
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise ArtifactError(f"{package / 'model.onnx'} does not run: {' '.join(str(error).split())[:200]}") from error
