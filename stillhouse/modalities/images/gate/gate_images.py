"""How the gate asks packages of image classifiers: each gets the files of tonight's test rows, by its card's code."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stillhouse.core.errors import ArtifactError
from stillhouse.core.params import read_yaml
from stillhouse.core.shipped import Shipped
from stillhouse.evaluation.speed import measure_speed
from stillhouse.gate.gate_classes import judge_classes
from stillhouse.gate.gate_parts import Judgement
from stillhouse.modalities.images.export_model.image_package import open_package, raw_images
from stillhouse.modalities.images.export_model.picture_check import scaled
from stillhouse.modalities.images.rows.image_batches import ImageCollator
from stillhouse.modalities.images.table.image_config import WHOLE_IMAGES
from stillhouse.modalities.images.table.image_facts import read_facts
from stillhouse.modalities.images.table.images import ImageTable, read_images
from stillhouse.packaging.onnx import session_of
from stillhouse.packaging.package import MODEL

if TYPE_CHECKING:
    from stillhouse.gate.decision import Gate

TIMED = 64
"""Pictures that the latency is measured on."""


def judge(gate: "Gate", threads: int, against: str | None, folder: Path | None) -> Judgement:
    """The candidate, and beside it the package in `folder`, if any. Raises ArtifactError if something is missing or damaged."""
    return judge_classes(gate, threads, against, folder, Images(Shipped.read()))


@dataclass(frozen=True)
class Images:
    """Tonight's test rows (`gate_classes.Asked`)."""

    shipped: Shipped

    @cached_property
    def test(self) -> ImageTable:
        return read_images(self.shipped.data / "test.arrow")

    @cached_property
    def raw(self) -> list[bytes]:
        return raw_images(self.shipped.table, self.test.ids.to_pylist())

    def split(self, params: Path) -> dict[str, Any]:
        try:
            return read_yaml(params)["preprocess"]["split"]
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{params}: preprocess has no {error}; the gate cannot tell what that run held out") from None

    def answer(self, package: Path, params: Path, threads: int) -> np.ndarray:
        try:
            return open_package(package, threads)(self.raw)
        except ArtifactError:
            raise
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise ArtifactError(f"{package / MODEL} does not run: {' '.join(str(error).split())[:200]}") from error

    def latency_ms(self, package: Path, params: Path, seconds: float) -> float:
        """One thread: with more, other work on the host made it 200 times slower."""
        session, facts = session_of(package / MODEL, threads=1), read_facts(package)

        class Served(torch.nn.Module):
            def forward(self, pixel_values: torch.Tensor) -> list:
                return list(session.run(["logits"], {"pixel_values": pixel_values.numpy()}))

        pixels = np.stack([scaled(file, "a test row", facts) for file in self.raw[:TIMED]])
        rows = np.arange(len(pixels))
        table = ImageTable(self.test.ids[: len(rows)], self.test.keys[rows], pixels, rows, self.test.labels[rows])
        collate = ImageCollator(table, facts, WHOLE_IMAGES, seed=0)
        return measure_speed({"served": (Served(), collate)}, len(table), seconds, at_any_rate=True)["served_latency_ms"]
