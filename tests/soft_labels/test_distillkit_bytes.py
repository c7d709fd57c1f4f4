"""Bytes as DistillKit captures them are read as it reads them itself."""

from pathlib import Path

import numpy as np
import pytest

from stillhouse.core.artifacts import write_json
from stillhouse.core.errors import DataError
from stillhouse.targets.next_token.export_soft_labels.distillkit_bytes import Compression
from tests.soft_labels.test_import_tokens import imported, task, write  # noqa: F401

CURVE = {
    "d": 151, "k": 12, "exact_k": 4, "exact_dtype": "bfloat16", "polynomial_terms": [0, 1, 2, "sqrt"], "term_dtype": "float32",
    "residual_bins": [], "delta_encoding": False, "error_diffusion": False, "normalize_t": False,
}  # fmt: skip
BINS = CURVE | {
    "exact_k": 1, "exact_dtype": "float16", "polynomial_terms": [0, 1, "sqrt"],
    "residual_bins": [
        {"scale_dtype": "float16", "element_bits": 5, "num_elements": 4},
        {"scale_dtype": "float16", "element_bits": 1, "num_elements": 3},
    ],
}  # fmt: skip
IDS = [120, 44, 140, 55, 95, 32, 123, 125, 142, 13, 70, 46]
CAPTURED = {
    "curve": (
        CURVE,
        [156, 191, 233, 191, 0, 192, 54, 192, 83, 249, 58, 192, 2, 215, 7, 189, 146, 173, 199, 187, 20, 158, 130, 190],
        [-1.2188, -1.8203, -2.0, -2.8438, -2.9215, -3.2158, -3.373, -3.5177, -3.6618, -3.8101, -3.9647, -4.1272],
    ),
    "bins": (
        BINS,
        [221, 188, 80, 230, 220, 191, 60, 186, 110, 189, 204, 239, 20, 191, 198, 37, 103, 209, 0, 42, 48, 0],
        [-1.2158, -1.816, -2.0275, -2.8455, -2.9083, -3.2526, -3.4482, -3.6307, -3.673, -3.8376, -3.9957, -4.1484],
    ),
}
"""Settings, bytes and log-probabilities of one token, as DistillKit itself wrote and read them."""


@pytest.mark.parametrize("name", CAPTURED)
def test_what_distillkit_captured_is_read_as_it_reads_it(tmp_path, name):
    settings, captured, wanted = CAPTURED[name]
    write_json(tmp_path / "compression_config.yaml", settings)
    compression = Compression.read(tmp_path / "compression_config.yaml")
    assert compression.ids(np.array([IDS], dtype=np.uint8)).tolist() == [IDS], "ids below 256 take 8 bits of 151"
    np.testing.assert_allclose(compression.log_probs(np.array([captured], dtype=np.uint8))[0], wanted, atol=2e-4)


def test_bytes_of_other_settings_are_refused(task):  # noqa: F811
    row = {"input_ids": [1, 2], "bytepacked_indices": [IDS], "compressed_logprobs": [CAPTURED["bins"][1]]}
    write([row])
    with pytest.raises(DataError, match=r"row 1: DistillKit's bytes need 'export_soft_labels\.source\.compression'"):
        imported(task)
    write_json(Path("data/raw/settings.yaml"), CURVE)
    with pytest.raises(DataError, match=r"row 1: compressed_logprobs has 22 bytes a token, and its settings say 24"):
        imported(task, compression="settings.yaml")
    write_json(Path("data/raw/settings.yaml"), {"d": 3})
    with pytest.raises(DataError, match=r"settings\.yaml is not a compression_config\.yaml of DistillKit"):
        imported(task, compression="settings.yaml")
