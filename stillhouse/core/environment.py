"""The part of the environment that can change numbers: `env.lock` against what is installed.

DVC sees `env.lock` as a dependency of every stage; this check sees to it that the file tells the truth.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stillhouse.core.errors import EnvironmentMismatchError

ENV_LOCK = Path("env.lock")


def read_env_lock(path: Path = ENV_LOCK) -> dict[str, str]:
    """Package name to pinned version."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise EnvironmentMismatchError(f"{path} is missing; run the command in the root of the repository") from None
    pins = (line.partition("==") for line in lines if line.strip() and not line.startswith("#"))
    return {name.strip(): pinned.strip() for name, _, pinned in pins}


def check_environment(path: Path = ENV_LOCK) -> None:
    """Raises EnvironmentMismatchError if a package that `path` names is absent or has another version here.

    A local version label such as `+cpu` is ignored: the same release may be built for CPU or CUDA.
    """
    for name, pinned in read_env_lock(path).items():
        try:
            found = version(name).partition("+")[0]
        except PackageNotFoundError:
            raise EnvironmentMismatchError(
                f"{name} is not installed for {sys.executable}; run '. .venv/bin/activate' (or 'make venv' first)"
            ) from None
        if found != pinned:
            raise EnvironmentMismatchError(
                f"{name} {found} is installed but {path} says {pinned}; "
                "run 'make venv', or 'make lock' to accept what is installed (every stage then runs again)"
            )
