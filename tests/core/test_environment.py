"""`env.lock` tells the truth, or the stage does not start."""

from importlib.metadata import version

import pytest

from stillhouse.core.environment import check_environment
from stillhouse.core.errors import EnvironmentMismatchError


def test_another_version_than_the_locked_one_is_refused(tmp_path):
    lock = tmp_path / "env.lock"
    lock.write_text("# comment\nnumpy==0.0.1\n")
    with pytest.raises(
        EnvironmentMismatchError, match=rf"numpy {version('numpy')} is installed but .* says 0\.0\.1; run 'make"
    ):
        check_environment(lock)


def test_an_absent_package_names_the_interpreter(tmp_path):
    lock = tmp_path / "env.lock"
    lock.write_text("no-such-package==1.0\n")
    with pytest.raises(EnvironmentMismatchError, match=r"no-such-package is not installed for .*python.*; run '\. \.venv"):
        check_environment(lock)


def test_a_local_build_label_is_the_same_release(tmp_path):
    lock = tmp_path / "env.lock"
    lock.write_text(f"torch=={version('torch').partition('+')[0]}\n")
    check_environment(lock)
