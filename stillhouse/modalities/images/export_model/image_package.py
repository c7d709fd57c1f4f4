"""A classifier of pictures as it is shipped: everything between a picture's file and its label lies in the package.

`config.json` says size, colour and scale, and names the labels in the order of the logits. What the card says to do with them
is `CODE`, word for word; the export executes it on the file of every test row, and the gate judges by it.

Shapes: N rows, C classes.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from transformers import AutoImageProcessor, PreTrainedModel

from stillhouse.core.artifacts import DATA, MANIFEST, digest_file, read_json, write_json
from stillhouse.core.errors import ArtifactError
from stillhouse.core.shipped import Shipped
from stillhouse.modalities.images.export_model.picture_check import as_png, hard_pictures, scaled
from stillhouse.modalities.images.ingest.pictures import decode, quiet, stream
from stillhouse.modalities.images.rows.image_task import ImageTask, read_task
from stillhouse.modalities.images.table.image_facts import ImageFacts
from stillhouse.modalities.images.table.images import ImageTable
from stillhouse.models.build import count_parameters
from stillhouse.models.saved import save_model
from stillhouse.packaging import package_check as check
from stillhouse.packaging.onnx import export_image_onnx, session_of
from stillhouse.packaging.package import CARD, MODEL, describe, execute, requirement, write_description
from stillhouse.preprocessing.labels import WITHHELD
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.predict import predict

BATCH = 64
CODE = """\
import io
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

config = json.loads(Path("config.json").read_text(encoding="utf-8"))
session = onnxruntime.InferenceSession("model.onnx")


def pixels_of(file):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
    if image.has_transparency_data:  # transparent pixels lie on white
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB").convert(config["mode"])
    image = image.resize((config["width"], config["height"]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.float64).reshape(config["height"], config["width"], -1)
    return ((pixels / 255 - config["mean"]) / config["std"]).astype(np.float32).transpose(2, 0, 1)


def logits_of(files):
    return session.run(["logits"], {"pixel_values": np.stack([pixels_of(file) for file in files])})[0]


logits = logits_of([Path("example.png").read_bytes()])
scores = np.exp((logits - logits.max(axis=1, keepdims=True)) / config["temperature"])
scores /= scores.sum(axis=1, keepdims=True)
labels = [config["labels"][number] for number in logits.argmax(axis=1)]
"""
"""What the card says to do."""

EXAMPLE = "example.png"
Answer = Callable[[Sequence[bytes]], np.ndarray]
"""Files of pictures to logits, float32 (N, C)."""


def open_package(package: Path, threads: int) -> Answer:
    """What a package answers to pictures, by the card's code. Raises ArtifactError if its model does not run."""
    session = session_of(package / MODEL, threads)
    names = execute(CODE, package)
    # As many threads as the user allowed.
    names["session"] = session

    def answer(files: Sequence[bytes]) -> np.ndarray:
        with quiet():
            parts = [names["logits_of"](list(files[start : start + BATCH])) for start in range(0, len(files), BATCH)]
        return np.concatenate(parts).astype(np.float32)

    return answer


def raw_images(table: Path, ids: Iterable[str]) -> list[bytes]:
    """The files of some rows as `ingest` read them, in the order of `ids`. Raises ArtifactError if they are not there."""
    wanted = list(ids)
    known = set(wanted)
    found = {}
    for batch in stream(table, ["id", "image"]):
        names = batch.column("id").to_pylist()
        chosen = [place for place, name in enumerate(names) if name in known]
        images = batch.column("image").take(pa.array(chosen, pa.int64())).to_pylist()
        found |= {names[place]: image for place, image in zip(chosen, images, strict=True)}
    if missing := [name for name in wanted if name not in found]:
        raise ArtifactError(
            f"{table} lacks {len(missing)} of {len(wanted)} test rows, the first is {missing[0]}; run 'dvc repro'"
        )
    return [found[name] for name in wanted]


def write_package(shipped: Shipped, package: Path, ranks: Ranks, *, opset: int, tolerance: float, threads: int) -> dict:
    """Fill `package`; returns its metrics. Raises ArtifactError if it answers a picture otherwise than the pipeline."""
    task = read_task(shipped.data)
    facts, test = task.facts, task.test()
    manifest = read_json(shipped.training / MANIFEST)
    model = task.load(shipped.training / "model")
    export_image_onnx(model, package / MODEL, opset, (facts.channels, *task.size))
    facts.write_beside(package)
    write_json(package / "labels.json", task.labels)
    raw = raw_images(shipped.table, test.ids.to_pylist())
    (package / EXAMPLE).write_bytes(as_png(raw[0]))
    scale = {"mode": facts.mode, "height": facts.height, "width": facts.width, "mean": facts.mean, "std": facts.std}
    settings = {"kind": "image_classification", "labels": task.labels, **scale}
    write_description(package, describe(opset, manifest, **settings, preprocessing=task.preprocessing))

    answer = open_package(package, threads)
    rows = [f"test row {number}" for number in test.ids.to_pylist()]
    expected = predict(model, test, task.collator(test, task.whole_rows, 0), ranks)
    found = answer(raw)
    check.require_equal(expected, found, rows, tolerance)
    hard = hard_pictures(raw[0])
    names = list(hard)
    with quiet():
        pixels = np.stack([scaled(file, f"the picture '{name}'", facts) for name, file in hard.items()])
    table = ImageTable(
        ids=pa.array([f"{number:016x}" for number in range(len(names))]),
        keys=np.arange(len(names), dtype=np.uint64),
        pixels=pixels,
        places=np.arange(len(names)),
        labels=np.full(len(names), WITHHELD, dtype=np.int32),
    )
    expected_hard = predict(model, table, task.collator(table, task.whole_rows, 0), ranks)
    # In one batch, and each alone.
    check.require_equal(expected_hard, answer(list(hard.values())), names, tolerance)
    check.require_equal(expected_hard, np.concatenate([answer([file]) for file in hard.values()]), names, tolerance)

    metrics = {
        "rows_compared": len(test),
        # A label may differ where two classes are as good as each other, within the tolerance.
        "rows_different": int((found.argmax(1) != expected.argmax(1)).sum()),
        "images_tried": len(hard),
        "largest_difference": float(f"{np.abs(found - expected).max():.3g}"),
        "same_answer": float((found.argmax(1) == expected.argmax(1)).mean()),
        "bytes": (package / MODEL).stat().st_size,
        "parameters": count_parameters(model),
    }
    write_card(package, task, metrics, shipped, write_weights(model, package, facts, raw[:8]))
    return metrics


def summary(metrics: dict) -> str:
    """What was compared, in a sentence."""
    return (
        f"{metrics['rows_compared']:,} test pictures and {metrics['images_tried']} odd ones: the package and the pipeline "
        f"differ by at most {metrics['largest_difference']:.1e}"
    )


def write_weights(model: PreTrainedModel, package: Path, facts: ImageFacts, files: list[bytes]) -> str:
    """`model/` for transformers, with its image processor, where it knows the architecture; returns what the card says."""
    kind = model.config.model_type
    if not type(model).__module__.startswith("transformers."):
        return (
            f"The architecture `{kind}` is Stillhouse's own, which transformers alone cannot load. With Stillhouse "
            f"installed it can, after `import {type(model).__module__}`, from the folder `model` of the training in the "
            "pipeline's `data`."
        )
    folder = package / "model"
    save_model(model, folder)
    facts.write_beside(folder)
    theirs = AutoImageProcessor.from_pretrained(folder)
    images = [decode(file, "a test row").convert(facts.mode) for file in files]
    ours = facts.inputs(np.stack([scaled(file, "a test row", facts) for file in files]))
    try:
        same = float(np.abs(theirs(images, return_tensors="np")["pixel_values"] - ours).max()) < 1e-4
    except (ValueError, TypeError, IndexError):
        # Some processors take no picture with one channel.
        same = False
    if same:
        return (
            "`model/` holds the same weights for transformers, and its image processor: "
            f'`AutoImageProcessor.from_pretrained("model")` makes of a picture of mode `{facts.mode}` '
            "what `pixels_of` makes of it."
        )
    return "`model/` holds the same weights for transformers; give it what `pixels_of` makes of a picture as `pixel_values`."


def write_card(package: Path, task: ImageTask, metrics: dict, shipped: Shipped, loads: str) -> None:
    """A model card: what it does, what it learned from, how good it is, how to run it."""
    origin = read_json(DATA / "ingest" / MANIFEST)[shipped.task]["origin"]
    manifest, training = read_json(shipped.training / MANIFEST), read_json(shipped.training / "metrics.json")
    shown = ", ".join(task.labels[:12]) + (" ..." if len(task.labels) > 12 else "")
    text = f"""---
library_name: onnx
pipeline_tag: image-classification
license: {origin["licence"]}
---

# Distilled image classifier

Sorts pictures into {len(task.labels)} classes ({shown}). {shipped.made} with Stillhouse.

| | |
|---|---|
| parameters | {metrics["parameters"]:,} |
| file | {metrics["bytes"]:,} bytes |
| validation accuracy | {training["validation_accuracy"]:.4f} |
| validation macro-F1 | {training["validation_macro_f1"]:.4f} |
| largest difference to torch | {metrics["largest_difference"]:.1e} on {metrics["rows_compared"]:,} test rows, from the files |

Scores on test data stand in the pipeline's report.

## Use

```sh
{requirement("numpy", "onnxruntime", "pillow")}
```

```python
{CODE}```

Give it the bytes of a PNG, JPEG, WebP, BMP or TIFF file of one picture with 8 bits a channel, in grey or RGB ({EXAMPLE} is a
test row). Pictures are read as in training: {task.preprocessing}. `config.json` has labels, sizes, versions and digests, as
has the model's own metadata.

{loads}

## Where it comes from

| | |
|---|---|
| data | {origin["kind"]}: {origin.get("package") or origin.get("dataset") or origin.get("files")} |
| weights (SHA-256) | `{manifest["weights"]}` |
{shipped.origin_row(manifest)}
| training rows | `{manifest["inputs"]["data"]}` |
| image processor | `{manifest["inputs"]["processor"]}` |
| ONNX file | `{digest_file(package / MODEL)}` |
"""
    (package / CARD).write_text(text, encoding="utf-8")
