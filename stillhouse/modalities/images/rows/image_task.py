"""Pictures of one class each, and the models that read them."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from stillhouse.core.artifacts import MANIFEST, read_json
from stillhouse.core.errors import ParamsError
from stillhouse.data.label_scope import LabelScope
from stillhouse.modalities.images.rows.image_batches import ImageCollator
from stillhouse.modalities.images.rows.image_build import build_image_model, load_image_model, require_channels, require_size
from stillhouse.modalities.images.table.image_config import WHOLE_IMAGES, ImageViews
from stillhouse.modalities.images.table.image_facts import ImageFacts
from stillhouse.modalities.images.table.images import ImageTable, read_images
from stillhouse.models.config import ModelParams
from stillhouse.models.head import replace_head
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.probe import as_found, distance

SHOWN_PIXELS = 96
"""Longest side of the pictures in a table of examples."""
TOLERANCE = 1e-3
"""Of the difference of a picture's logits over their size, alone and beside others."""
TRIED = 3
"""Pictures that a model is asked about before it is trained."""


@dataclass(frozen=True)
class ImageTask:
    """A classification task of pictures, as `preprocess` wrote it."""

    train: ImageTable
    validation: ImageTable
    labels: list[str]
    facts: ImageFacts
    digest: str
    """SHA-256 of the training rows."""
    preprocessing: str = ""
    """What was done to pictures before models read them, in words."""
    folder: Path = Path()
    """Where the test rows are."""
    whole_rows: ClassVar[ImageViews] = WHOLE_IMAGES

    @property
    def label_scope(self) -> LabelScope:
        """Views are of pixels, which the image processor makes."""
        return LabelScope(data=self.digest, reader=self.facts.digest, preprocessing=self.preprocessing)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.facts.height, self.facts.width

    def test(self) -> ImageTable:
        return read_images(self.folder / "test.arrow")

    def labelled(self) -> ImageTable:
        """The training rows whose true label is known."""
        return self.train.select(np.flatnonzero(self.train.labels >= 0)) if (self.train.labels < 0).any() else self.train

    def inputs(self) -> dict[str, str]:
        """Digests of what a model learns from, for its manifest."""
        return {"data": self.digest, "processor": self.facts.digest}

    def load(self, folder: Path) -> PreTrainedModel:
        return load_image_model(folder)

    def verify(self, model: PreTrainedModel, ranks: Ranks) -> None:
        """Raises ParamsError if what the model says of a picture depends on the pictures beside it."""
        ranks.on_main(lambda: require_one_answer(model, self, ranks.device))

    def flops(self, model: nn.Module) -> int:
        """Of one picture, counted in a forward pass; the backward pass takes twice as many."""
        device, was_training = next(model.parameters()).device, model.training
        model.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counted:
            model(pixel_values=torch.zeros(1, self.facts.channels, *self.size, device=device))
        model.train(was_training)
        return 3 * counted.get_total_flops()

    def collator(self, rows: ImageTable, views: ImageViews, seed: int, imbalance: Any = None) -> ImageCollator:
        """Rows that `imbalance` shows more often come in another view each time: nothing more is done to them."""
        return ImageCollator(rows, self.facts, views, seed)

    def linear(self, rows: ImageTable, test: ImageTable) -> tuple[np.ndarray, int]:
        """Of pixels: see `modalities.images.rows.linear_pixels`."""
        from stillhouse.modalities.images.rows.linear_pixels import linear_predictions

        return linear_predictions(rows, test, self.facts, len(self.labels))

    def shown(self, rows: ImageTable, chosen: np.ndarray) -> dict[str, list[str]]:
        """Small PNG files as data URIs."""
        return {"image": [as_uri(picture) for picture in rows.at(chosen)]}


def as_uri(pixels: np.ndarray) -> str:
    """A picture, uint8 (H, W, C), for a page."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def read_task(folder: Path) -> ImageTask:
    manifest = read_json(folder / MANIFEST)
    return ImageTask(
        train=read_images(folder / "train.arrow"),
        validation=read_images(folder / "validation.arrow"),
        labels=read_json(folder / "labels.json"),
        facts=ImageFacts(**manifest["image"]),
        digest=manifest["splits"]["train"],
        preprocessing=manifest["preprocessing"],
        folder=folder,
    )


def build(params: ModelParams, task: ImageTask, seed: int) -> PreTrainedModel:
    """Raises ParamsError also for a model that does not take the task's pictures."""
    return build_image_model(params, task.size, task.facts.channels, task.labels, seed)


def load(folder: Path) -> PreTrainedModel:
    return load_image_model(folder)


def adapt(model: PreTrainedModel, task: ImageTask, seed: int) -> PreTrainedModel:
    """The same body with a new head over the target task's classes. Raises ParamsError if it does not take its pictures."""
    require_fit(model, task)
    return replace_head(model, task.labels, seed)


def verify_model(model: PreTrainedModel, task: ImageTask, ranks: Ranks) -> None:
    """Raises ParamsError if what the model says of a picture depends on the pictures beside it."""
    task.verify(model, ranks)


def require_own(folder: str, task: ImageTask, named: str) -> None:
    """Nothing: values of pixels mean the same to every model, up to their scale, which training finds."""


def require_fit(model: PreTrainedModel, task: ImageTask) -> None:
    """Raises ParamsError for a model of pictures of another size or colour."""
    require_channels(model.config, task.facts.channels, f"a {model.config.model_type}")
    require_size(model, task.size, task.facts.channels)


def require_one_answer(model: PreTrainedModel, task: ImageTask, device: torch.device) -> None:
    """Raises ParamsError unless some pictures get the same logits together as each alone."""
    rows = np.arange(min(TRIED, len(task.train)))
    pixels = torch.from_numpy(task.facts.inputs(task.train.at(rows)))
    with as_found(model, device), torch.no_grad():
        together = model(pixel_values=pixels.to(device)).logits.float().cpu()
        alone = torch.cat([model(pixel_values=each[None].to(device)).logits.float().cpu() for each in pixels])
    gap = float(distance(together, alone).max())
    if not gap <= TOLERANCE:
        raise ParamsError(
            f"model {model.config.model_type} ({type(model).__name__}): a picture gets other logits beside others than alone, "
            f"a difference of {gap:.1e} (allowed {TOLERANCE:.0e}); choose another architecture"
        )
