"""Token tables as they lie on disk, and the views of their rows."""

import numpy as np
import pytest

from stillhouse.core.errors import ArtifactError
from stillhouse.data.views import ViewParams, view_spans
from stillhouse.modalities.text.table.tokens import read_tokens, write_tokens

WORDS = [np.zeros(1), np.zeros(1)]


@pytest.mark.parametrize(("vocab_size", "kind"), [(65536, np.uint16), (65537, np.int32)])
def test_the_width_of_a_token_follows_the_vocabulary(tmp_path, vocab_size, kind):
    rows = [[0, vocab_size - 1], [5]]
    write_tokens(tmp_path / "t.arrow", ["1", "2"], ["x", "y"], rows, WORDS, np.array([0, 1]), vocab_size, 9)
    table = read_tokens(tmp_path / "t.arrow")
    assert table.tokens.dtype == kind
    assert [table.row(i).tolist() for i in range(2)] == rows


@pytest.mark.parametrize("size", [0, 8, 200])
def test_a_damaged_token_table_is_refused(tmp_path, size):
    path = tmp_path / "t.arrow"
    write_tokens(path, ["1", "2"], ["x", "y"], [[1], [2]], WORDS, np.array([0, 1]), 300, 9)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ArtifactError, match=r"t\.arrow is damaged \(.*run 'dvc checkout --force'$"):
        read_tokens(path)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"t\.arrow is missing; run 'dvc repro preprocess'$"):
        read_tokens(path)


@pytest.mark.parametrize(("min_share", "min_words"), [(0.05, 1), (0.5, 4), (0.7, 1), (1.0, 4)])
def test_a_view_is_a_span_inside_its_row_and_not_too_short(min_share, min_words):
    generator = np.random.default_rng(3)
    lengths = generator.integers(0, 40, 20000)
    keys = generator.integers(0, 2**63, 20000).astype(np.uint64)
    params = ViewParams(count=2, min_share=min_share, min_words=min_words)
    starts, spans = view_spans(keys, lengths, np.zeros(20000, dtype=np.int64), params, seed=1)
    assert ((starts >= 0) & (starts + spans <= lengths)).all()
    assert (spans >= min_share * lengths - 1e-9).all()
    assert (spans >= np.minimum(lengths, min_words)).all()
    long = lengths >= 20
    reached = spans[long] / lengths[long]
    assert reached.min() == pytest.approx(max(min_share, min_words / 39), abs=0.06)
    assert reached.mean() == pytest.approx((1 + min_share) / 2, abs=0.05)
    if min_share < 1:
        places = starts[long] / np.maximum(lengths[long] - spans[long], 1)
        assert places.min() == 0
        assert places.max() == 1
        assert (places.mean()) == pytest.approx(0.5, abs=0.1)
