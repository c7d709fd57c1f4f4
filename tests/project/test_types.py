"""What the type checker sees: no error in the code, and a member of a kind that is not written as its protocol has it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.tiny_run import ROOT

MISSPELT = """
from stillhouse.models.kinds import models_of
from stillhouse.training.kinds import trainer_of

models_of("text_classification").biuld
trainer_of("text_classification").fitt
"""


def errors(*paths: Path) -> list[str]:
    """Messages of pyright for files, or for what pyproject.toml names."""
    words = [sys.executable, "-m", "pyright", "--project", str(ROOT), "--outputjson", *map(str, paths)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    return [entry["message"] for entry in json.loads(done.stdout)["generalDiagnostics"] if entry["severity"] == "error"]


@pytest.mark.slow
def test_no_file_has_a_type_error():
    assert errors() == []


def test_a_misspelt_member_of_a_kind_is_a_type_error(tmp_path):
    """That their right names are none, the code shows, which uses them."""
    path = tmp_path / "misspelt.py"
    path.write_text(MISSPELT)
    found = errors(path)
    assert len(found) == 2, found
    assert 'attribute "biuld"' in found[0]
    assert 'attribute "fitt"' in found[1]


def test_no_rule_is_off_but_in_files_that_talk_to_pandas_and_say_so():
    settings = re.search(r"\[tool\.pyright\]\n(.*?)(?:\n\n|\Z)", (ROOT / "pyproject.toml").read_text(), flags=re.S)
    assert settings is not None
    assert 'typeCheckingMode = "standard"' in settings[1]
    assert "report" not in settings[1]
    for room in ("stillhouse", "tasks", "flows"):
        for path in (ROOT / room).rglob("*.py"):
            lines = path.read_text().splitlines()
            pandas = "import pandas as pd" in lines
            for before, line in zip(["", *lines], lines, strict=False):
                if line.startswith("# pyright:"):
                    assert before.startswith("# "), f"{path} does not say why a rule is off"
                    assert pandas, f"{path} has a rule off for the whole file, and does not talk to pandas: add types"
                assert "type: ignore" not in line, f"{path}: name the rule, as in '# pyright: ignore[reportReturnType]': {line}"
