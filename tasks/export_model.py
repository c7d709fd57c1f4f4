"""Stage `export_model`: the fine-tuned student as it is shipped.

In: `data/finetune/student`, `data/preprocess`. Out: `package/` with `model.onnx` (dynamic batch and length), the
tokenizer, `labels.json` and a model card `README.md`; `metrics.json` with the largest difference to torch over every test
row. A difference above `tolerance` fails the stage. A causal language model also lies there as safetensors.

    python -m tasks.export_model
"""

import shutil
from pathlib import Path

from stillhouse.core.artifacts import DATA, MANIFEST, digest_file, read_json, write_json
from stillhouse.core.errors import ArtifactError
from stillhouse.core.options import no_options
from stillhouse.core.params import Kind, Threads, block
from stillhouse.core.stage import run_stage


@block
class ExportModel:
    opset: int
    """ONNX operator set."""
    tolerance: float
    """Largest allowed difference of a logit to torch, over all test rows."""

    def __post_init__(self) -> None:
        if self.tolerance <= 0:
            raise ValueError(f"tolerance must be above 0, is {self.tolerance}")


@block
class Params:
    kind: Kind
    threads: Threads
    export_model: ExportModel


def run(params: Params, out: Path) -> None:
    package = out / "package"
    package.mkdir()
    shutil.copytree(DATA / "preprocess" / "tokenizer", package, dirs_exist_ok=True)
    if params.kind == "causal_lm":
        run_language_model(params, out, package)
    else:
        run_classifier(params, out, package)


def run_language_model(params: Params, out: Path, package: Path) -> None:
    from stillhouse.evaluation.language_package import write_package
    from stillhouse.training.distributed import join

    settings = params.export_model
    with join(params.threads):
        metrics = write_package(DATA / "finetune" / "student", package, settings.opset, settings.tolerance, params.threads)
    write_json(out / "metrics.json", metrics)
    compared, largest = metrics["positions_compared"], metrics["largest_difference"]
    print(f"{compared:,} test positions: ONNX and torch differ by at most {largest:.1e}")


def run_classifier(params: Params, out: Path, package: Path) -> None:
    # onnx and onnxruntime are imported here alone: no other stage pays for them.
    import numpy as np

    from stillhouse.data.tokens import read_tokens
    from stillhouse.evaluation.onnx import export_onnx, run_onnx
    from stillhouse.models.build import count_parameters, load_model
    from stillhouse.training.classifier import Task
    from stillhouse.training.distributed import join
    from stillhouse.training.predict import predict

    settings = params.export_model
    folder = DATA / "finetune" / "student"
    with join(params.threads) as ranks:
        task = Task.read(DATA / "preprocess" / "new")
        test = read_tokens(DATA / "preprocess" / "new" / "test.arrow")
        model = load_model(folder / "model")
        expected = predict(model, test, task.facts, ranks)
        export_onnx(model, package / "model.onnx", settings.opset)
        shipped = run_onnx(package / "model.onnx", test, task.facts, params.threads)
    difference = float(np.abs(shipped - expected).max())
    if not difference <= settings.tolerance:
        worst = test.ids[int(np.abs(shipped - expected).max(axis=1).argmax())]
        raise ArtifactError(
            f"the ONNX model differs from torch by {difference:.2e} on test row {worst}, more than export_model.tolerance "
            f"{settings.tolerance:.0e}; raise the tolerance or the opset"
        )
    write_json(package / "labels.json", task.labels)
    metrics = {
        "rows_compared": len(test),
        "largest_difference": float(f"{difference:.3g}"),
        "same_answer": float((shipped.argmax(1) == expected.argmax(1)).mean()),
        "bytes": (package / "model.onnx").stat().st_size,
        "parameters": count_parameters(model),
    }
    write_json(out / "metrics.json", metrics)
    write_card(package / "README.md", task, metrics, read_json(folder / MANIFEST), read_json(folder / "metrics.json"))
    print(f"{len(test):,} test rows: ONNX and torch differ by at most {difference:.1e}")


def write_card(path: Path, task, metrics: dict, manifest: dict, training: dict) -> None:
    """A model card: what it does, what it learned from, how good it is, how to run it."""
    origin = read_json(DATA / "ingest" / MANIFEST)["new"]["origin"]
    shown = ", ".join(task.labels[:12]) + (" ..." if len(task.labels) > 12 else "")
    text = f"""---
library_name: onnx
pipeline_tag: text-classification
license: {origin["licence"]}
---

# Distilled text classifier

Classifies a text into {len(task.labels)} classes ({shown}). Distilled from a larger teacher and fine-tuned with Stillhouse.

| | |
|---|---|
| parameters | {metrics["parameters"]:,} |
| file | {metrics["bytes"]:,} bytes |
| validation accuracy | {training["validation_accuracy"]:.4f} |
| validation macro-F1 | {training["validation_macro_f1"]:.4f} |
| largest difference to torch | {metrics["largest_difference"]:.1e} on {metrics["rows_compared"]:,} test rows |

Scores on test data stand in the pipeline's report.

## Use

```python
import numpy as np, onnxruntime, tokenizers

tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")
tokenizer.encode_special_tokens = True  # "[SEP]" in a text is text
session = onnxruntime.InferenceSession("model.onnx")
ids = np.array([tokenizer.encode("a text").ids])
logits = session.run(["logits"], {{"input_ids": ids, "attention_mask": np.ones_like(ids)}})[0]
```

`labels.json` names the classes in the order of the logits.

## Where it comes from

| | |
|---|---|
| data | {origin["kind"]}: {origin.get("package") or origin.get("dataset") or origin.get("files")} |
| weights (SHA-256) | `{manifest["weights"]}` |
| started from | `{manifest["inputs"]["start"]}` |
| training rows | `{manifest["inputs"]["data"]}` |
| tokenizer | `{manifest["inputs"]["tokenizer"]}` |
| ONNX file | `{digest_file(path.parent / "model.onnx")}` |
"""
    path.write_text(text, encoding="utf-8")


def main() -> None:
    no_options("tasks.export_model", __doc__)
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    run_stage("export_model", Params, run)


if __name__ == "__main__":
    main()
