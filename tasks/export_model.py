"""Stage `export_model`: the student as it is shipped, with everything between a raw text and its answer.

In: `data/finetune/student`, `data/preprocess`, the raw texts in `data/ingest`. Out: `package/` with `model.onnx` (dynamic
batch and length), `tokenizer.json` (normaliser, cut and padding in it), `config.json`, `labels.json` and a model card
`README.md`, and as safetensors, with the tokenizer beside them, what transformers can load; `metrics.json`. The card's code is
executed on the raw text of every test row: if it answers otherwise than the pipeline, by more than `tolerance`, nothing is
published.

    python -m tasks.export_model
"""

from pathlib import Path

from stillhouse.core.artifacts import write_json
from stillhouse.core.options import no_options
from stillhouse.core.params import KindName, Threads, block
from stillhouse.core.run_stage import run_stage
from stillhouse.core.shipped import Shipped
from stillhouse.packaging.kinds import packaging_of


@block
class ExportModel:
    opset: int
    """ONNX operator set, 18 to 25: a higher one needs a newer onnxruntime."""
    tolerance: float
    """Largest allowed difference of a logit to torch, over all test rows."""

    def __post_init__(self) -> None:
        if not 18 <= self.opset <= 25:
            raise ValueError(f"opset must lie between 18 and 25, which torch writes and onnxruntime runs, is {self.opset}")
        if self.tolerance <= 0:
            raise ValueError(f"tolerance must be above 0, is {self.tolerance}")


@block
class Params:
    kind: KindName
    threads: Threads
    export_model: ExportModel


def run(params: Params, out: Path) -> None:
    from stillhouse.runtime.distributed import join

    # onnx and onnxruntime are imported by what this loads alone: no other stage pays for them.
    package, settings, packaging = out / "package", params.export_model, packaging_of(params.kind)
    package.mkdir()
    with join(params.threads) as ranks:
        metrics = packaging.write_package(
            Shipped.read(), package, ranks, opset=settings.opset, tolerance=settings.tolerance, threads=params.threads
        )
    write_json(out / "metrics.json", metrics)
    print(packaging.summary(metrics))


def main() -> None:
    no_options("tasks.export_model", __doc__)
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    run_stage("export_model", Params, run)


if __name__ == "__main__":
    main()
