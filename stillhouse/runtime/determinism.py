"""Same seed, data, world size and threads: same bytes. What keeps that promise, and what breaks it on a GPU.

`docs/training.md` lists both.
"""

import os
import sys
import warnings

import torch

REPEATED = ".*does not have a deterministic implementation.*"
"""How torch's warning about such a kernel reads."""


def be_deterministic(device: torch.device, speak: bool = True) -> None:
    """Ask torch for deterministic kernels. Where one has no such form, a CPU raises and a GPU warns once a kernel.

    `speak`: say once that a GPU's results may differ in the last digits.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        # Without it cuBLAS picks its workspace, and with it the order of sums, as it likes.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        warnings.filterwarnings("once", message=REPEATED)
        if speak:
            print(
                "note: on a GPU the same seed gives the same bytes only on the same card, driver and world size, and not "
                "where a kernel without a deterministic form runs (torch names each once); see docs/training.md",
                file=sys.stderr,
            )
    torch.use_deterministic_algorithms(True, warn_only=on_gpu)
