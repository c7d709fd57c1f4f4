"""Checks every block of `params.yaml` against every stage and the gate, and what can be seen of data and models in a second.

Own data and the folders of models must be there, with the columns and files that are named; their contents are for the stages.
Nothing heavy is imported, unless a model's `config` is one of transformers' own: only transformers knows what that may say.

python -m tasks.check [FILE]
"""

import importlib
from pathlib import Path

from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.errors import StillhouseError
from stillhouse.core.options import Options
from stillhouse.core.params import PARAMS_FILE, STAGES, load, read_yaml
from stillhouse.gate.decision import GateParams
from tasks.checks.label_files import check_label_files, refuse_bare_date
from tasks.checks.model_blocks import check_folders, check_layers, check_model, check_together
from tasks.checks.raw_data import check_own_data
from tasks.checks.tokenizers import check_tokenizers, notes_on_rates


def main() -> None:
    parser = Options("tasks.check", __doc__)
    parser.add_argument(
        "file", nargs="?", type=Path, default=PARAMS_FILE, help="default: params.yaml; of other files, data need not be there"
    )
    path = parser.parse_args().file
    with one_line_errors("check"):
        blocks = {stage: load(importlib.import_module(f"tasks.{stage}").Params, path) for stage in STAGES}
        load(GateParams, path)
        tree = read_yaml(path)
        check_together(tree)
        refuse_bare_date(tree)
        try:
            notes = check_folders(tree)
            check_label_files(blocks["export_soft_labels"].export_soft_labels, blocks["export_soft_labels"].views)
            notes += [
                *check_tokenizers(tree),
                *notes_on_rates(blocks),
                *check_own_data(tree, blocks["ingest"].ingest),
            ]
        except StillhouseError as error:
            if path == PARAMS_FILE:
                raise
            notes = [str(error)]
        teacher, student = check_model("train_teacher", tree), check_model("student", tree)
        check_layers(tree, student, teacher)
        for note in notes:
            print(f"note: {note}")
        print(f"{path}: all blocks are valid")


if __name__ == "__main__":
    main()
