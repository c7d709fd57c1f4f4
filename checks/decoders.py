"""Which of transformers' decoders are taken, and whether what is computed with those is what transformers computes.

    python -m checks.decoders [--quick] [--write] [--only NAME ...]

Every architecture that `AutoModelForCausalLM` knows, made small (`stillhouse.gate.small_models`), from a config and from a
saved folder, and some variants by option. What is taken is trained on random letters for a few steps and then held against
plain transformers, in ways that share no code with `modalities.blocks.rows.verification`: the loss of the saved model on every
document alone; gradients of our loss on packed blocks beside those of transformers' logits; later tokens changed; no loss
below the entropy of the letters. `right`, `refused` and `wrong` count types (of `types` that could be built) and `wrong`
variants too; it has to be 0. `--write` writes docs/decoders.md, which says it of each.
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
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from benchmarks.common import arguments, finish, say
from checks.architectures import Case, Verdict, counts, gradients, made, table, tried
from checks.decoder_cases import ALL, QUICK, VARIANTS
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.errors import ParamsError
from stillhouse.core.params import build
from stillhouse.data.block_batches import BlockCollator
from stillhouse.data.blocks import BlockTable, read_blocks, write_blocks
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.gate.small_models import VOCABULARY
from stillhouse.modalities.blocks.rows import block_task
from stillhouse.modalities.blocks.rows.ngram_model import sequences
from stillhouse.modalities.blocks.table.packing import cut, pack
from stillhouse.models.build import build_language_model
from stillhouse.models.config import ModelParams
from stillhouse.models.saved import require_same_when_loaded, save_model
from stillhouse.runtime.distributed import Ranks, join
from stillhouse.targets.next_token.predict.language_predict import next_token_scores
from stillhouse.targets.next_token.train import language_model
from stillhouse.training.config import TrainingParams

PAGE = Path(__file__).parent.parent / "docs" / "decoders.md"
PAD, END, FIRST, LETTERS, WIDTH, SEED = 0, 1, 3, 16, 48, 7
STEPS = 30
LOSS_TOLERANCE, GRADIENT_TOLERANCE, FUTURE_TOLERANCE, ENTROPY_SLACK = 5e-5, 2e-3, 1e-4, 0.03
FACTS = TokenizerFacts(vocab_size=VOCABULARY, pad_id=PAD, prefix=[], suffix=[], digest="letters", eos_id=END)


def random_letters(folder: Path) -> tuple[block_task.BlockTask, float]:
    """Documents of letters that nobody can know, and the least mean loss that is honest: ends may be known, letters not."""
    generator = np.random.default_rng(SEED)
    tables, bounds = {}, {}
    for split, count in (("train", 160), ("validation", 40)):
        texts = [FIRST + generator.integers(0, LETTERS, generator.choice([1, 2, 5, 9, 20, 33, 60])) for _ in range(count)]
        pieces = [piece for text in texts for piece in cut(text, [END], END, WIDTH)]
        packed = pack([len(piece) for piece in pieces], WIDTH)
        write_blocks(folder / f"{split}.arrow", [[pieces[i] for i in block] for block in packed], WIDTH, VOCABULARY)
        tables[split] = read_blocks(folder / f"{split}.arrow")
        bounds[split] = np.log(LETTERS) * sum(map(len, texts)) / tables[split].lengths.sum()
    task = block_task.BlockTask(
        tables["train"],
        tables["validation"],
        FACTS,
        "letters",
        {"block_tokens": WIDTH},
        dict.fromkeys(("train", "validation"), 1),
    )
    return task, float(bounds["validation"])


def judge(case: Case, task: block_task.BlockTask, bound: float, folder: Path, ranks: Ranks) -> Verdict:
    model = made(case, lambda params: block_task.build(params, task, SEED))
    if isinstance(model, Verdict):
        return model
    start = time.perf_counter()
    try:
        block_task.verify_model(model, task, ranks)
    except ParamsError as error:
        return Verdict(case, "refused", str(error).partition("): ")[2], 1000 * (time.perf_counter() - start))
    milliseconds = 1000 * (time.perf_counter() - start)
    reading = model.reading
    how = {"mask": "packed, our mask", "positions": "packed, its own mask", "rows": "one document a row"}
    how = [how[reading.attention]]
    how += ["states behind a transform"] if reading.states == "head" else []
    how += [f"logits times {reading.scale:.4g}"] if reading.scale != 1 else []
    how += [f"logits capped at {reading.cap:.4g}"] if reading.cap is not None else []
    faults = faults_in_gradients(model, task)
    try:
        faults += faults_after_training(model, task, bound, folder, ranks)
    except ParamsError as error:
        # What the stage that trains says when it writes.
        return Verdict(case, "refused", str(error).partition("): ")[2], milliseconds)
    return Verdict(case, "wrong" if faults else "right", "; ".join(faults or how), milliseconds)


def faults_in_gradients(model: PreTrainedModel, task: block_task.BlockTask) -> list[str]:
    """Our loss and its gradients on packed blocks, in training mode, beside those of transformers' logits of each document."""
    # The fullest blocks, some of the middle and the last ones, which have unused positions.
    rows = np.unique(np.linspace(0, len(task.train) - 1, 6).astype(int))
    model.train()
    model.zero_grad()
    ours = language_model.NextToken(task.train.lengths)(model, BlockCollator(task.train, PAD)(rows), 0.0)
    ours.backward()
    mine = gradients(model)
    model.zero_grad()
    theirs = torch.zeros(())
    for ids in sequences(task.train.select(rows)):
        tokens = torch.tensor([ids])
        try:
            logits = plain_logits(model, tokens[:, :-1])[0]
        except ValueError:
            # Reformer trains on lengths of its own alone; what follows a text does not change it.
            longer = F.pad(tokens[:, :-1], (0, WIDTH - len(ids) + 1), value=FIRST)
            logits = plain_logits(model, longer)[0, : len(ids) - 1]
        theirs = theirs + F.cross_entropy(logits, tokens[0, 1:], reduction="sum")
    theirs.backward()
    others = gradients(model)
    model.zero_grad(set_to_none=True)
    faults = []
    if not abs(float(ours.detach() - theirs.detach())) <= LOSS_TOLERANCE * abs(float(theirs.detach())):
        faults.append(f"training loss {float(ours):.5f}, transformers {float(theirs):.5f}")
    if mine.keys() != others.keys():
        faults.append(f"gradients of {len(mine)} weights, transformers of {len(others)}")
    else:
        gap = torch.cat([(mine[name] - others[name]).flatten() for name in mine]).norm()
        size = torch.cat([value.flatten() for value in others.values()]).norm()
        if not gap <= GRADIENT_TOLERANCE * size:
            faults.append(f"gradients differ by {float(gap / size):.1e}")
    return faults


def plain_logits(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    # Without a cache, which some architectures have only on paper.
    return model(input_ids=tokens, use_cache=False).logits.float()


def faults_after_training(
    model: PreTrainedModel, task: block_task.BlockTask, bound: float, folder: Path, ranks: Ranks
) -> list[str]:
    tree = {
        "steps": STEPS, "batch_size": 8, "optimizer": {"name": "adamw", "learning_rate": 5e-3},
        "schedule": {"name": "constant"}, "clip_norm": 1.0, "evaluate_every": STEPS, "log_every": STEPS,
    }  # fmt: skip
    history = language_model.fit(model, task, build(TrainingParams, tree, "decoders"), None, 0, SEED, ranks, "letters")
    said = next(point["loss"] for point in history.points if point["split"] == "validation")
    save_model(model, folder)
    require_same_when_loaded(model, folder)
    again = build_language_model(ModelParams(pretrained=str(folder)), VOCABULARY, PAD, END, WIDTH, SEED)
    loaded = next_token_scores(again, task.validation, PAD, ranks)["loss"]
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    alone = loss_of_documents_alone(plain, task.validation)
    faults = []
    for name, loss in (("the trained model", said), ("the saved one", loaded)):
        if not abs(loss - alone) <= LOSS_TOLERANCE * max(1.0, alone):
            faults.append(f"{name} scores {loss:.5f} nats a token, transformers {alone:.5f}")
    if not alone >= bound - ENTROPY_SLACK:
        faults.append(f"{alone:.4f} nats a token of random letters, whose entropy is {bound:.4f}")
    gap = change_by_the_future(plain)
    if not gap <= FUTURE_TOLERANCE:
        faults.append(f"log-probabilities change by {gap:.1e} with later tokens")
    return faults


@torch.no_grad()
def loss_of_documents_alone(model: PreTrainedModel, table: BlockTable) -> float:
    """Nats a token by plain transformers, each piece of a document by itself."""
    nats, count = 0.0, 0
    for ids in sequences(table):
        tokens = torch.tensor([ids])
        logits = plain_logits(model, tokens[:, :-1])[0]
        nats += float(F.cross_entropy(logits, tokens[0, 1:], reduction="sum"))
        count += len(ids) - 1
    return nats / count


@torch.no_grad()
def change_by_the_future(model: PreTrainedModel) -> float:
    """Largest change of a log-probability at the first positions of a text when the last one is another, and not there."""
    ids = FIRST + torch.randint(0, LETTERS, (1, 24), generator=torch.Generator().manual_seed(1))
    other = ids.clone()
    other[0, -1] = FIRST + (ids[0, -1] - FIRST + 5) % LETTERS
    said = [plain_logits(model, tokens)[:, :23].log_softmax(-1) for tokens in (ids, other, ids[:, :23])]
    return float(max((said[0] - said[1]).abs().max(), (said[0] - said[2]).abs().max()))


EXPLANATION = """
Nothing goes by this list. Each model is asked with its own weights before it is trained, exported or scored
(`stillhouse/modalities/blocks/rows/verification.py`), and refused in one line if what the pipeline computes with it is not
what transformers computes. How a model reads packed blocks:

* *packed, our mask*: the fastest. One mask of four dimensions tells the documents of a block apart.
* *packed, its own mask*: transformers makes the masks from positions, for sliding windows and attention of another form.
* *one document a row*: layers with a state or a convolution, positions that cannot be given. Right, and slower: rows are filled
  up to the next power of two. Neither `parallel.pipeline` nor `sharding: fsdp` goes with it.
* *states behind a transform*: the head is given something else than the body's last hidden states. No `parallel.pipeline`.
* *logits times ...*, *capped at ...*: part of the loss, of soft labels, metrics and package. Residual soft labels
  (`sampler.method: residual`) do not go with a student that caps.

Options can change the answer, see the second table: encoders want `is_decoder: true`; a loss of more terms than the
cross-entropy (`output_router_logits`) is refused; so is sparse attention that chooses among fewer tokens than a block has,
because its answers depend on the length of the text.
"""


def page(verdicts: list[Verdict]) -> str:
    counts = Counter(verdict.state for verdict in verdicts if not verdict.case.is_variant)
    lines = [
        "# Decoders: what is taken, what is refused, and why",
        "",
        f"Written by `python -m checks.decoders --write` with transformers {transformers.__version__}: every architecture",
        "that its `AutoModelForCausalLM` knows, small and with random weights. "
        f"{counts['right']} are taken, {counts['refused']} refused; {counts['not built']} could not be built.",
        EXPLANATION,
        *table([verdict for verdict in verdicts if not verdict.case.is_variant]),
        "",
        "## By option",
        "",
        *table([verdict for verdict in verdicts if verdict.case.is_variant]),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--write", action="store_true", help="write the table to docs/decoders.md")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these architectures alone")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    cases = QUICK if options.quick else ALL + VARIANTS
    if options.only:
        cases = [case for case in ALL + VARIANTS if case.architecture in options.only]
    with one_line_errors("decoders"), warnings.catch_warnings(), join(1) as ranks, tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")
        task, bound = random_letters(Path(scratch))
        say(f"{len(cases)} cases, seed {SEED}, {STEPS} steps; entropy of the letters {bound:.4f} nats a token")
        verdicts = list(tried(cases, lambda number, case: judge(case, task, bound, Path(scratch) / f"model-{number}", ranks)))
        if options.write:
            PAGE.write_text(page(verdicts), encoding="utf-8")
            say(f"written: {PAGE}")
        finish(**counts(verdicts), known=len(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))


if __name__ == "__main__":
    main()
