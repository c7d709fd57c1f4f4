"""Stage `preprocess`: clean, split without leaks, train or fetch the tokenizer, tokenise.

In: `data/ingest`. Out: `tokenizer/`, and for the source and the target task a folder with `train.arrow`,
`validation.arrow`, `test.arrow` and `manifest.json` (classification: also `labels.json` and `class_counts.csv`);
`statistics.json` (metrics). Documents of a causal language model are packed into blocks.
Byte-level BPE: Sennrich et al. 2016, arXiv:1508.07909.

    python -m tasks.preprocess
"""

from pathlib import Path

from stillhouse.core.params import KindName, block
from stillhouse.core.run_stage import run_stage
from stillhouse.preprocessing.config import Preprocess
from stillhouse.preprocessing.kinds import preprocessing_of


@block
class Params:
    kind: KindName
    preprocess: Preprocess


def run(params: Params, out: Path) -> None:
    preprocessing_of(params.kind).preprocess(params.preprocess, out)


def main() -> None:
    run_stage("preprocess", Params, run)


if __name__ == "__main__":
    main()
