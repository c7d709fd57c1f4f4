"""A classifier says the same of a text in a padded batch as alone, or it is refused before anything is trained."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from stillhouse.core.errors import ParamsError
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.gate import onnx_trial
from stillhouse.gate.small_models import VOCABULARY, small_options
from stillhouse.modalities.text.gate.classifier_trial import CLASSIFIED, small_model, try_onnx, two_texts
from stillhouse.modalities.text.rows.batch_invariance import require_batch_invariance
from stillhouse.models.build import build_model
from stillhouse.models.config import ModelParams
from stillhouse.runtime.distributed import join
from stillhouse.targets.classes.train import classifier
from tests.helpers.tiny_run import ROOT
from tests.training.test_language_model import ALONE

LONGEST = 24


@pytest.fixture(autouse=True)
def one_thread():
    with join(1):
        yield


def small(architecture: str, **options):
    params = ModelParams(architecture=architecture, config={**small_options(architecture), **options})
    return build_model(params, VOCABULARY, CLASSIFIED.pad_id, ["a", "b", "c"], seed=3)


def ask(model, facts: TokenizerFacts = CLASSIFIED, longest: int = LONGEST) -> None:
    require_batch_invariance(model, facts, longest, ALONE)


@pytest.mark.parametrize(
    "architecture", ["bert", "distilbert", "roberta", "modernbert", "gpt2", "llama", "bart", "ngram_encoder"]
)
def test_what_reads_the_mask_is_taken(architecture):
    options = {} if architecture == "ngram_encoder" else small_options(architecture)
    model = build_model(ModelParams(architecture=architecture, config=options), VOCABULARY, 0, ["a", "b"], seed=3).train()
    before, random = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    ask(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("architecture", ["fnet", "xlnet", "convbert", "nystromformer"])
def test_what_reads_the_padding_is_refused(architecture):
    said = rf"model {architecture} \(\w+\): a text of \d+ tokens gets other logits in a batch that is padded to 24 than alone"
    with pytest.raises(ParamsError, match=said):
        ask(small(architecture))


def test_the_end_token_that_an_architecture_counts_on_must_be_in_every_row():
    bart = small("bart", eos_token_id=2)
    ask(bart, replace(CLASSIFIED, prefix=[], suffix=[2]))
    with pytest.raises(ParamsError, match=r"model bart \(\w+\): its own forward pass of a text fails: "):
        ask(small("bart", eos_token_id=2), replace(CLASSIFIED, prefix=[], suffix=[]))


def test_lengths_that_an_architecture_does_not_train_on_are_refused():
    said = r"model reformer .*: its training pass of a text of 24 tokens fails: ValueError: If training, sequence length"
    with pytest.raises(ParamsError, match=said):
        ask(small("reformer"))


def test_a_model_that_draws_while_it_is_asked_is_refused():
    bert = small("bert")
    forward = type(bert).forward

    def noisy(*given, **named):
        answer = forward(bert, *given, **named)
        answer.logits = answer.logits + torch.randn_like(answer.logits)
        return answer

    bert.forward = noisy
    with pytest.raises(ParamsError, match="it says something else of the same text each time"):
        ask(bert)


def test_a_model_that_a_short_text_changes_for_good_is_refused():
    """BigBird turns to full attention at the first short batch, and stays so."""
    sparse = {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1}
    model = small("big_bird", **sparse)
    model.weights_are_new = True
    with pytest.raises(ParamsError, match="it says something else of a text once it has seen shorter ones"):
        ask(model, longest=96)


def test_new_weights_are_asked_larger_and_stay_as_they_are():
    model = small("convbert")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(0.125)
    ask(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.weights_are_new = True
    with pytest.raises(ParamsError, match="gets other logits"):
        ask(model, longest=LONGEST + 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_is_asked_once_for_rows_of_a_length(monkeypatch):
    bert, asked = small("bert"), []
    monkeypatch.setattr(
        "stillhouse.modalities.text.rows.batch_invariance.ask", lambda model, facts, longest, device: asked.append(longest)
    )
    for longest in (8, 8, 5, 12):
        ask(bert, longest=longest)
    assert asked == [8, 12]


def test_training_and_export_of_soft_labels_ask_first(tmp_path):
    from stillhouse.core.params import build
    from stillhouse.soft_labels.produce.export import Teachers
    from stillhouse.targets.classes.export_soft_labels.export_classifier import export_classifier
    from stillhouse.targets.classes.train.classes_config import ClassesTraining
    from tests.helpers.letters import TRAINING, VIEWS, rows_of_letters

    task, fnet = rows_of_letters(tmp_path), small("fnet")
    params = build(ClassesTraining, TRAINING, "test")
    with pytest.raises(ParamsError, match="model fnet"):
        classifier.fit(fnet, task, params, VIEWS, 0, 0, ALONE, "letters")
    with pytest.raises(ParamsError, match="model fnet"):
        export_classifier(Teachers([fnet], [1.0]), task, VIEWS, 0, None, tmp_path / "store", 8, 8, ALONE)  # type: ignore
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{architecture: fnet, config: {hidden_size: 64}}", r"'train_teacher\.model': model fnet .* gets other logits"),
        ("{architecture: electra, config: {hidden_size: 64, num_attention_heads: 4}}", None),
    ],
)
def test_the_check_refuses_what_a_small_model_shows(tmp_path, model, message, check_here):
    recipe = (ROOT / "recipes" / "tiny.yaml").read_text()
    begin = recipe.index("  model:\n", recipe.index("train_teacher:"))
    (tmp_path / "params.yaml").write_text(f"{recipe[:begin]}  model: {model}\n{recipe[recipe.index('  training:', begin) :]}")
    code, said = check_here(tmp_path / "params.yaml")
    assert (code, said.count("\n")) == (0, 0) if message is None else (1, 1), said
    assert re.search(message or "", said), said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("gpt2", None),
        ("longformer", r"longformer \(\w+\) cannot be written as ONNX \(.*choose a student such as ngram_encoder"),
    ],
)
def test_a_student_must_go_into_an_onnx_file(architecture, message, capfd):
    if message is None:
        return try_onnx(ModelParams(architecture=architecture), {}, 18)
    with pytest.raises(ParamsError, match=message):
        try_onnx(ModelParams(architecture=architecture), {}, 18)
    # Torch prints the whole graph of what it cannot write.
    assert "aten" not in capfd.readouterr().err
    return None


def test_a_file_that_says_something_else_is_refused():
    class Session:
        def run(self, _, given):
            return [np.zeros((2, 4), dtype=np.float32)]

    model = small_model(ModelParams(architecture="gpt2"))
    assert model is not None
    with pytest.raises(ParamsError, match="gpt2 as ONNX says something else than the model"):
        onnx_trial.require_same_answers(model.eval(), Session(), two_texts(5), 5, "none")  # type: ignore
