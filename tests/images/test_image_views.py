"""Views of pictures are pure functions of row, view and seed: in any batch, any process, after any restart."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from stillhouse.core.errors import ParamsError
from stillhouse.core.params import build
from stillhouse.modalities.images.rows.image_batches import ImageCollator
from stillhouse.modalities.images.rows.image_views import Viewer, blend, cut_out, lit, patch, saturated, shifted
from stillhouse.modalities.images.table.image_config import WHOLE_IMAGES, ImageViews
from stillhouse.modalities.images.table.image_facts import ImageFacts
from stillhouse.modalities.images.table.images import ImageTable

EVERYTHING = ImageViews(
    count=4, shift=2, min_area=0.5, flip=True, brightness=0.3, contrast=0.3, saturation=0.3, erase=0.3, mixup=0.3, cutmix=0.3
)
GREY = ImageFacts(height=12, width=10, colour="grey", mean=[0.3], std=[0.2])
RGB = ImageFacts(height=12, width=10, colour="rgb", mean=[0.3, 0.4, 0.5], std=[0.2, 0.2, 0.3])


def table(rows: int = 40, facts: ImageFacts = RGB) -> ImageTable:
    generator = np.random.default_rng(3)
    pixels = generator.integers(0, 256, (rows, facts.height, facts.width, facts.channels), dtype=np.uint8)
    ids = [f"{int(number):016x}" for number in generator.integers(0, 2**63, rows)]
    keys = np.array([int(name, 16) for name in ids], dtype=np.uint64)
    labels = generator.integers(0, 3, rows).astype(np.int32)
    return ImageTable(pa.array(ids), keys, pixels, np.arange(rows), labels)


def viewer(views: ImageViews = EVERYTHING, facts: ImageFacts = RGB, seed: int = 5) -> Viewer:
    return Viewer(table(facts=facts), views, seed, np.zeros(facts.channels, dtype=np.uint8))


def drawn(rows: int = 6) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 2**63, rows).astype(np.uint64)


def thousand_views() -> str:
    """Digest of 1,000 views of every kind, in batches of 50."""
    made, found = viewer(), hashlib.sha256()
    generator = np.random.default_rng(0)
    rows, views = generator.integers(0, 40, 1000), generator.integers(0, 100, 1000)
    for begin in range(0, 1000, 50):
        pixels, mixture = made(rows[begin : begin + 50], views[begin : begin + 50])
        assert mixture is not None
        found.update(pixels.tobytes() + mixture.shares.numpy().tobytes() + mixture.labels.numpy().tobytes())
    return found.hexdigest()


def test_a_thousand_views_are_bit_for_bit_the_same_in_two_processes():
    code = "from tests.images.test_image_views import thousand_views; print(thousand_views())"
    root = Path(__file__).parents[2]
    others = [
        subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True).stdout.strip()
        for _ in range(2)
    ]
    assert others == [thousand_views()] * 2


@pytest.mark.parametrize("facts", [GREY, RGB], ids=["grey", "rgb"])
def test_a_view_does_not_depend_on_the_rows_beside_it(facts):
    made = viewer(facts=facts)
    rows, views = np.arange(40), np.arange(40) % 7
    together, mixture = made(rows, views)
    order = np.random.default_rng(2).permutation(40)
    shuffled, _ = made(rows[order], views[order])
    assert np.array_equal(shuffled, together[order])
    for row in (0, 17, 39):
        alone, own = made(rows[row : row + 1], views[row : row + 1])
        assert np.array_equal(alone[0], together[row])
        assert own.shares[0] == mixture.shares[row]


def test_other_views_seeds_and_rows_are_other_pixels():
    rows = np.arange(40)
    first, _ = viewer()(rows, np.zeros(40, dtype=np.int64))
    assert not np.array_equal(viewer()(rows, np.ones(40, dtype=np.int64))[0], first)
    assert not np.array_equal(viewer(seed=6)(rows, np.zeros(40, dtype=np.int64))[0], first)


def test_view_minus_one_is_the_picture_itself():
    made = viewer()
    rows = np.arange(40)
    pixels, mixture = made(rows, np.where(rows % 2, -1, 0))
    odd = rows % 2 == 1
    assert np.array_equal(pixels[odd], made.table.pixels[odd])
    assert (mixture.shares.numpy()[odd] == 0).all()
    assert not np.array_equal(pixels[~odd], made.table.pixels[~odd])


def test_views_that_change_nothing_are_the_pictures_and_mix_nothing():
    made = viewer(WHOLE_IMAGES)
    pixels, mixture = made(np.arange(40), np.zeros(40, dtype=np.int64))
    assert mixture is None
    assert np.array_equal(pixels, made.table.pixels)


def test_the_table_is_never_written_to():
    made = viewer()
    before = made.table.pixels.copy()
    made(np.arange(40), np.arange(40))
    assert np.array_equal(made.table.pixels, before)


def test_a_shift_moves_pixels_and_brings_black_in():
    pixels = np.full((6, 5, 5, 1), 9, dtype=np.uint8)
    pixels[:, 2, 2] = 200
    moved = shifted(pixels, 2, drawn())
    for picture in moved:
        inside = np.argwhere(picture[..., 0] == 200)
        assert len(inside) == 1
        down, right = inside[0] - 2
        wanted = np.zeros((5, 5))
        wanted[max(0, down) : 5 + min(0, down), max(0, right) : 5 + min(0, right)] = 9
        wanted[2 + down, 2 + right] = 200
        assert np.array_equal(picture[..., 0], wanted)


def test_a_cut_of_the_whole_area_is_the_picture():
    pixels = table().pixels[:6]
    assert np.array_equal(cut_out(pixels, ImageViews(count=1, min_area=1.0, max_aspect=1.0), drawn()), pixels)


def test_a_cut_of_a_gradient_spans_less_of_it():
    ramp = np.tile(np.linspace(0, 250, 50).astype(np.uint8), (6, 50, 1))[..., None]
    cut = cut_out(ramp, ImageViews(count=1, min_area=0.25, max_aspect=1.0), drawn())
    spans = [int(picture.max()) - int(picture.min()) for picture in cut]
    assert all(110 <= span <= 250 for span in spans)
    assert min(spans) < 240


def test_half_the_views_are_mirrored():
    made = viewer(ImageViews(count=1, flip=True))
    pixels, _ = made(np.repeat(np.arange(40), 25), np.tile(np.arange(25), 40))
    own = made.table.pixels[np.repeat(np.arange(40), 25)]
    mirrored = (pixels == own[:, :, ::-1]).all((1, 2, 3))
    assert ((pixels == own).all((1, 2, 3)) | mirrored).all()
    assert 0.45 < mirrored.mean() < 0.55


def test_brightness_and_contrast_by_hand():
    pixels = np.array([[[[100]], [[200]]]], dtype=np.uint8)
    # What the two draws are, is read off a picture whose mean stays where it is.
    only_bright = lit(pixels, ImageViews(count=1, brightness=0.5), drawn(1))
    factor = only_bright[0, 0, 0, 0] / 100
    assert only_bright[0, 1, 0, 0] == pytest.approx(min(255, 200 * factor), abs=1.5)
    steep = lit(pixels, ImageViews(count=1, contrast=0.5), drawn(1)).astype(int)
    assert steep[0, 0, 0, 0] + steep[0, 1, 0, 0] == pytest.approx(300, abs=1)
    assert steep[0, 0, 0, 0] != 100


def test_grey_pixels_have_no_saturation_to_change():
    pixels = np.repeat(np.arange(24, dtype=np.uint8).reshape(1, 4, 6, 1) * 10, 3, axis=-1)
    assert np.array_equal(saturated(pixels, 0.9, drawn(1)), pixels)


def test_a_blend_is_the_share_of_both_and_a_patch_its_area():
    mine, other = np.full((4, 4, 1), 200, dtype=np.uint8), np.full((4, 4, 1), 100, dtype=np.uint8)
    share = blend(mine, other, 0.25, drawn(1))
    assert share == 0.25
    assert (mine == 175).all()
    mine = np.full((8, 8, 1), 200, dtype=np.uint8)
    share = patch(mine, np.full((8, 8, 1), 100, dtype=np.uint8), 0.25, drawn(1))
    assert share == (mine == 100).mean() == 0.25


def test_an_erased_rectangle_is_the_mean_colour():
    made = Viewer(table(), ImageViews(count=1, erase=1.0, erase_area=0.5), 5, np.array([1, 2, 3], dtype=np.uint8))
    pixels, _ = made(np.arange(40), np.zeros(40, dtype=np.int64))
    changed = (pixels != made.table.pixels).any(-1)
    assert 0.05 < changed.mean() < 0.5
    assert (pixels[changed] == [1, 2, 3]).all()


def test_a_mixed_view_holds_the_other_rows_view():
    made = viewer(ImageViews(count=1, flip=True, mixup=1.0))
    pixels, mixture = made(np.arange(40), np.zeros(40, dtype=np.int64))
    base = viewer(ImageViews(count=1, flip=True)).alone(np.arange(40), np.zeros(40, dtype=np.int64)).astype(int)
    found = 0
    for row in range(40):
        share = float(mixture.shares[row])
        assert 0 <= share <= 0.5
        for other in range(40):
            wanted = (base[row] * (256 - share * 256) + base[other] * share * 256 + 128) // 256
            if share and np.array_equal(pixels[row], wanted):
                found += 1
                assert made.table.labels[other] == mixture.labels[row]
    assert found >= 38


def test_pixel_values_are_scaled_by_mean_and_deviation():
    collate = ImageCollator(table(), RGB, WHOLE_IMAGES, seed=0)
    batch = collate(np.array([3, 1]), np.array([-1, -1]))
    wanted = (collate.table.pixels[[3, 1]] / 255 - RGB.mean) / RGB.std
    assert batch.inputs["pixel_values"].shape == (2, 3, 12, 10)
    assert np.allclose(batch.inputs["pixel_values"].numpy(), wanted.transpose(0, 3, 1, 2), atol=1e-6)
    assert batch.size == (2, 1)


@pytest.mark.parametrize("changes", [{"shift": 3}, {"flip": False}, {"mixup": 0.1}, {"erase_area": 0.3}])
def test_another_augmentation_is_another_binding(changes):
    assert ImageViews(**{**vars(EVERYTHING), **changes}).words() != EVERYTHING.words()


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"count": 0}, "'count' is 0 .int., expected greater than or equal to 1"),
        ({"min_area": 0.0}, "greater than 0"),
        ({"mixup": 0.7, "cutmix": 0.7}, "mixup and cutmix are chances of one draw, and sum to 1.4"),
        ({"erase": 1.5}, "less than or equal to 1"),
        ({"flop": True}, "unknown parameter 'flop'; did you mean 'flip'"),
    ],
)
def test_views_that_cannot_be_are_refused(values, wanted):
    with pytest.raises(ParamsError, match=wanted):
        build(ImageViews, {"count": 1, **values}, "params.yaml")


@pytest.mark.parametrize(("least", "aspect"), [(0.9, 4 / 3), (0.8, 4 / 3), (0.95, 4.0), (0.25, 2.0)])
def test_no_cut_is_smaller_than_the_smallest(least, aspect):
    """Read off a ramp in each direction, whose span is the cut's."""
    ramp = np.zeros((400, 100, 100, 3), dtype=np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(100)[None, :, None], np.arange(100)[None, None, :]
    cut = cut_out(ramp, ImageViews(count=1, min_area=least, max_aspect=aspect), drawn(400)).astype(int)
    high, wide = (cut[..., channel].max((1, 2)) - cut[..., channel].min((1, 2)) + 2 for channel in (0, 1))
    assert (high * wide / 10_000).min() > least - 0.03


def test_a_shift_out_of_the_picture_is_refused():
    with pytest.raises(ParamsError, match=r"'views\.shift' is 10, and the pictures have 10 x 12 pixels"):
        viewer(ImageViews(count=1, shift=10))
