"""Which of transformers' classifiers are taken, and whether they say in padded batches what they say of each
text alone.

    python -m checks.classifiers [--quick] [--write] [--only NAME ...]

Every architecture that `AutoModelForSequenceClassification` knows, made small (`stillhouse.gate.small_models`). What is taken
is trained for a few steps on rows of unequal length and then held against plain transformers, in ways that share no code with
`modalities.text.rows.batch_invariance`: gradients of our loss on a padded batch beside those of each text alone, and with
dropout those of three rows at once beside one at a time; the logits of the saved model, loaded by transformers, for every row
alone; and through onnxruntime. `right`, `refused` and `wrong` count types (of `types` that could be built) and `wrong`
variants too; it has to be 0. `--write` writes docs/classifiers.md.
"""

import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import transformers
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from benchmarks.common import arguments, finish, say
from checks.architectures import Case, Verdict, counts, gradients, made, options_of, table, tried
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.core.params import build
from stillhouse.data.views import WHOLE_ROWS
from stillhouse.gate.onnx_trial import LENGTHS, model_as_onnx, require_same_answers
from stillhouse.modalities.text.gate.classifier_trial import CLASSIFIED, KNOWN, two_texts
from stillhouse.modalities.text.rows import text_task
from stillhouse.modalities.text.rows.text_batches import Collator
from stillhouse.modalities.text.table.tokens import TokenTable
from stillhouse.models.config import ModelParams
from stillhouse.models.own_options import DEFAULTS
from stillhouse.models.saved import save_model
from stillhouse.packaging.onnx import LogitsOnly, export_onnx
from stillhouse.runtime.distributed import Ranks, join
from stillhouse.runtime.predict import predict
from stillhouse.targets.classes.train import classifier
from stillhouse.targets.classes.train.classes_config import ClassesTraining
from stillhouse.targets.classes.train.imbalance import cross_entropy
from stillhouse.training.reproducible.dropout import key_dropout
from stillhouse.training.reproducible.own_draws import own_draws
from tests.helpers.letters import LABELS, SEED, STEPS, TRAINING, VIEWS, rows_of_letters

PAGE = Path(__file__).parent.parent / "docs" / "classifiers.md"
OPSET = 18
LOGIT_TOLERANCE, GRADIENT_TOLERANCE = 1e-3, 5e-3
ALL = [Case(name) for name in sorted(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)] + [Case(name) for name in DEFAULTS]
VARIANTS = [
    Case(name, options, is_variant=True)
    for name, options in (
        ("t5", {"decoder_start_token_id": 0}),
        ("deberta-v2", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
        ("gpt_neox", {"attention_bias": False}),
        ("big_bird", {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1}),
        ("xlm", {"causal": True}),
    )
]
QUICK = [Case(name) for name in ("bert", "gpt2", "fnet", "bart")]


def judge(case: Case, task: text_task.TextTask, folder: Path, ranks: Ranks) -> Verdict:
    model = made(case, lambda params: text_task.build(params, task, SEED))
    if isinstance(model, Verdict):
        return model
    start = time.perf_counter()
    try:
        text_task.verify_model(model, task, ranks)
    except ParamsError as error:
        reason = str(error).partition("): ")[2].partition("; choose another architecture")[0]
        return Verdict(case, "refused", reason, 1000 * (time.perf_counter() - start))
    milliseconds = 1000 * (time.perf_counter() - start)
    try:
        faults = faults_in_micro_batches(case, task) + faults_in_gradients(model, task)
    except ParamsError as error:
        return Verdict(case, "refused", str(error).partition("): ")[2], milliseconds)
    faults += faults_after_training(model, task, folder, ranks)
    as_onnx, is_fault = as_onnx_says(model, task)
    if is_fault or (as_onnx and case.architecture in KNOWN):
        faults.append(as_onnx)
    return Verdict(case, "wrong" if faults else "right", "; ".join(faults) or as_onnx, milliseconds)


def ids_alone(table: TokenTable, row: int) -> torch.Tensor:
    return torch.tensor([[*CLASSIFIED.prefix, *map(int, table.row(row)), *CLASSIFIED.suffix]])


def faults_in_gradients(model: PreTrainedModel, task: text_task.TextTask) -> list[str]:
    """Our loss on a padded batch and its gradients, beside the mean of those of each text alone."""
    rows = np.arange(12)
    model.eval()
    model.zero_grad()
    batch = Collator(task.train, CLASSIFIED, VIEWS, SEED)(rows, np.full(len(rows), -1))
    params = build(ClassesTraining, TRAINING, "classifiers")
    ours = classifier.Classification(cross_entropy(task.train.labels, len(LABELS), params))(model, batch, 0.0)
    ours.backward()
    mine = gradients(model)
    model.zero_grad()
    for row in rows:
        logits = model(input_ids=ids_alone(task.train, row)).logits
        F.cross_entropy(logits, torch.tensor([int(task.train.labels[row])])).backward()
    others = gradients(model)
    model.zero_grad(set_to_none=True)
    if mine.keys() != others.keys():
        return [f"gradients of {len(mine)} weights, transformers of {len(others)}"]
    ours_flat = torch.cat([mine[name].flatten() for name in mine])
    theirs_flat = torch.cat([others[name].flatten() for name in mine])
    # Whether the loss is a sum or a mean is not the question here.
    gap = float((ours_flat / ours_flat.norm() - theirs_flat / theirs_flat.norm()).norm())
    return [] if gap <= GRADIENT_TOLERANCE else [f"gradients differ by {gap:.1e}"]


def faults_in_micro_batches(case: Case, task: text_task.TextTask) -> list[str]:
    """Gradients of three rows at once, with dropout as the architecture has it, beside those of one row at a time."""
    params = ModelParams(architecture=case.architecture, config=options_of(case, quiet=False))
    model = text_task.build(params, task, SEED).train()
    keys = key_dropout(model, SEED)
    collate = Collator(task.train, CLASSIFIED, VIEWS, SEED)
    objective = classifier.Classification(
        cross_entropy(task.train.labels, len(LABELS), build(ClassesTraining, TRAINING, "classifiers"))
    )
    if said := own_draws(model, objective, keys, collate(np.arange(2), np.full(2, -1))):
        # Trained whole or not at all.
        raise ParamsError(said)
    found = []
    for parts in ([np.arange(3)], [np.array([row]) for row in range(3)]):
        model.zero_grad()
        for rows in parts:
            batch = collate(rows, np.full(len(rows), -1))
            keys.set(batch, 0)
            objective(model, batch, 0.0).backward()
        found.append(gradients(model))
    together, alone = (torch.cat([part[name].flatten() for name in found[0]]) for part in found)
    gap = float((together - alone).norm() / alone.norm())
    return [] if gap <= GRADIENT_TOLERANCE else [f"with dropout, gradients of one row at a time differ by {gap:.1e}"]


def faults_after_training(model: PreTrainedModel, task: text_task.TextTask, folder: Path, ranks: Ranks) -> list[str]:
    params = build(ClassesTraining, TRAINING, "classifiers")
    classifier.fit(model, task, params, VIEWS, 0, SEED, ranks, "letters")
    said = predict(model, task.validation, task.collator(task.validation, WHOLE_ROWS, 0), ranks)
    save_model(model, folder)
    again = predict(text_task.load(folder), task.validation, task.collator(task.validation, WHOLE_ROWS, 0), ranks)
    plain = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        alone = torch.cat([plain(input_ids=ids_alone(task.validation, row)).logits for row in range(len(said))]).numpy()
    scale, faults = float(np.abs(alone).max()), []
    for name, logits in (("the trained model", said), ("the saved one", again)):
        gap = float(np.abs(logits - alone).max()) / scale
        if not gap <= LOGIT_TOLERANCE:
            faults.append(f"{name} differs from transformers, row by row, by {gap:.1e} of the largest logit")
    return faults


@torch.no_grad()
def as_onnx_says(model: PreTrainedModel, task: text_task.TextTask) -> tuple[str, bool]:
    """Why it cannot be shipped as ONNX, "" if it can; whether the file that is written says something else than the model."""
    try:
        with model_as_onnx(model, export_onnx, OPSET, LogitsOnly.remedy) as session:
            for length in LENGTHS:
                require_same_answers(model, session, two_texts(length), length, LogitsOnly.remedy)
            batch = Collator(task.validation, CLASSIFIED, VIEWS, SEED)(np.arange(12), np.full(12, -1))
            given = {name: value.numpy() for name, value in batch.inputs.items()}
            logits = session.run(["logits"], given)[0]
            alone = torch.cat([model(input_ids=ids_alone(task.validation, row)).logits for row in range(12)]).numpy()
    except (ParamsError, ArtifactError) as error:
        return f"not as a student: {str(error).partition('; choose a student')[0]}", False
    gap = float(np.abs(logits - alone).max() / np.abs(alone).max())
    return (f"as ONNX it differs by {gap:.1e} of the largest logit", True) if not gap <= LOGIT_TOLERANCE else ("", False)


EXPLANATION = """
Nothing goes by this list. Each classifier is asked with its own weights before it is trained or exported
(`stillhouse/modalities/text/rows/batch_invariance.py`): what it says of a text must not depend on the texts beside it.
Architectures that read the padding are refused in one line: Fourier transforms, convolutions that see what is behind the text,
summaries of the last position. *Not as a student* are those that torch cannot write as ONNX; they may be teachers. `python -m
tasks.check` tries both with a small model before anything is trained.

Tokenizers here put a token before the text and one behind it. BART and its relatives classify by the last end token and want
one in every row.
"""


def page(verdicts: list[Verdict]) -> str:
    found = Counter(verdict.state for verdict in verdicts if not verdict.case.is_variant)
    return "\n".join(
        [
            "# Classifiers: what is taken, what is refused, and why",
            "",
            f"Written by `python -m checks.classifiers --write` with transformers {transformers.__version__}: every",
            "architecture that its `AutoModelForSequenceClassification` knows, small and with random weights, and our own. "
            f"{found['right']} are taken, {found['refused']} refused; {found['not built']} could not be built.",
            EXPLANATION,
            *table([verdict for verdict in verdicts if not verdict.case.is_variant]),
            "",
            "## By option",
            "",
            *table([verdict for verdict in verdicts if verdict.case.is_variant]),
            "",
        ]
    )


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--write", action="store_true", help="write the table to docs/classifiers.md")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these architectures alone")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    cases = QUICK if options.quick else ALL + VARIANTS
    if options.only:
        cases = [case for case in ALL + VARIANTS if case.architecture in options.only]
    with one_line_errors("classifiers"), warnings.catch_warnings(), join(1) as ranks, tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")
        task = rows_of_letters(Path(scratch))
        say(f"{len(cases)} cases, seed {SEED}, {STEPS} steps")
        verdicts = list(tried(cases, lambda number, case: judge(case, task, Path(scratch) / f"model-{number}", ranks)))
        if options.write:
            PAGE.write_text(page(verdicts), encoding="utf-8")
            say(f"written: {PAGE}")
        finish(**counts(verdicts), known=len(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES))


if __name__ == "__main__":
    main()
