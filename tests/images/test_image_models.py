"""Models of pictures: those of transformers and our own are built, saved and loaded, and what does not fit is one line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from stillhouse.core.errors import ParamsError
from stillhouse.modalities.images.rows import image_task
from stillhouse.modalities.images.rows.image_build import build_image_model
from stillhouse.modalities.images.rows.linear_pixels import shrunk
from stillhouse.models import image_options, layers
from stillhouse.models.config import ModelParams

SMALL = {
    "vit": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 7},
    "deit": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 7},
    "resnet": {"depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8, "layer_type": "basic"},
    "convnext": {"depths": [1, 1], "hidden_sizes": [8, 16], "num_stages": 2, "patch_size": 2},
    "mobilenet_v2": {"depth_multiplier": 0.1, "finegrained_output": False},
}


@pytest.fixture(autouse=True)
def two_threads():
    """As many as the tiny recipe has. With one, a convolution rounds by where its weights lie, and a file's lie elsewhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("architecture", SMALL)
def test_transformers_image_classifiers_are_built_saved_and_loaded(architecture, tmp_path):
    params = ModelParams(architecture=architecture, config=SMALL[architecture])
    model = build_image_model(params, (28, 28), 1, ["a", "b", "c"], seed=0).eval()
    picture = torch.rand(2, 1, 28, 28)
    model.save_pretrained(tmp_path)
    again = image_task.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(pixel_values=picture).logits, model(pixel_values=picture).logits)
    other = build_image_model(ModelParams(pretrained=str(tmp_path)), (28, 28), 1, ["c", "a", "b"], seed=0).eval()
    with torch.no_grad():
        # The same classes in another order keep their head.
        assert torch.equal(other(pixel_values=picture).logits, model(pixel_values=picture).logits[:, [2, 0, 1]])


@pytest.mark.parametrize("config", [{}, {"channels": [8, 16], "blocks": [2, 0]}, {"channels": [8], "blocks": [1]}])
def test_layers_of_our_own_network_are_counted_without_making_it(config):
    model = build_image_model(ModelParams(architecture="residual_cnn", config=config), (28, 28), 1, ["a", "b"], seed=0)
    assert image_options.count_layers("residual_cnn", config) == layers.count_layers(model)


@pytest.mark.parametrize(
    ("architecture", "config", "wanted"),
    [
        ("bert", {}, "bert cannot classify images"),
        ("vit", {"num_channels": 3}, r"model\.config: 'num_channels' follows from the data"),
        ("vit", {"pach_size": 4}, "vit has no option 'pach_size'; did you mean 'patch_size'"),
        (
            "residual_cnn",
            {"channels": [6, 12]},
            "channels and blocks have one number for each stage",
        ),
        ("vit", {"patch_size": 64}, "vit does not take pictures of 28 x 28 pixels|vit cannot be made"),
    ],
)
def test_models_that_do_not_fit_are_one_line(architecture, config, wanted):
    with pytest.raises(ParamsError, match=wanted):
        build_image_model(ModelParams(architecture=architecture, config=config), (28, 28), 1, ["a", "b"], seed=0)


def test_a_folder_of_photographs_is_refused_for_grey_pictures(tmp_path):
    model = build_image_model(ModelParams(architecture="vit", config=SMALL["vit"]), (28, 28), 3, ["a", "b"], seed=0)
    model.save_pretrained(tmp_path)
    with pytest.raises(ParamsError, match=r"reads pictures of 3 channels, and the data have 1; set preprocess\.colour to rgb"):
        build_image_model(ModelParams(pretrained=str(tmp_path)), (28, 28), 1, ["a", "b"], seed=0)


def test_large_pictures_are_shrunk_for_the_linear_model():
    pixels = np.arange(2 * 70 * 40 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 70, 40, 3)
    small = shrunk(pixels, 3)
    assert small.shape == (2, 23, 13, 3)
    assert small[1, 2, 3, 0] == round(float(pixels[1, 6:9, 9:12, 0].mean()))


def test_the_models_of_the_documents_can_be_made():
    text = (Path(__file__).parents[2] / "docs" / "images.md").read_text()
    blocks = [YAML(typ="safe").load(line)["model"] for line in text.splitlines() if line.startswith("model: {")]
    assert len(blocks) == 3
    for block in blocks:
        build_image_model(ModelParams(**block), (28, 28), 1, ["a", "b"], seed=0)
