"""`make lock`: write requirements.lock from what is installed, and cut env.lock out of it.

python -m flows.lock
"""

import subprocess
import sys
from pathlib import Path

from stillhouse.core.options import no_options

# Packages that can change numbers. Test and service packages never make a stage stale.
NUMERIC = [
    "Django",
    "datasets",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pandas",
    "peft",
    "polib",
    "pyarrow",
    "safetensors",
    "scikit-learn",
    "scipy",
    "tokenizers",
    "torch",
    "torchmetrics",
    "transformers",
]

LOCK_HEADER = """\
# Every package of the environment, pinned. Install: pip install -r requirements.lock (dependencies allowed, so that a CUDA
# build of torch brings its own libraries on a GPU host). Made by 'make lock' from what pyproject.toml installed.
"""
ENV_HEADER = """\
# Packages that can change numbers: a dependency of every stage, cut out of requirements.lock by 'make lock'.
# Stages refuse to start when what is installed differs.
"""


def main() -> None:
    no_options("flows.lock", __doc__)
    frozen = subprocess.run(
        [sys.executable, "-m", "pip", "freeze", "--exclude-editable"], check=True, capture_output=True, text=True
    ).stdout
    # The same release has a CPU and a CUDA build; the lock names the release.
    pins = [line.split("+")[0] for line in frozen.splitlines() if "==" in line]
    Path("requirements.lock").write_text(LOCK_HEADER + "\n".join(pins) + "\n", encoding="utf-8")
    version = {pin.split("==")[0].lower(): pin for pin in pins}
    Path("env.lock").write_text(ENV_HEADER + "\n".join(version[name.lower()] for name in NUMERIC) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
