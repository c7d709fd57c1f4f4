"""The page of parameters is what the blocks in the code say."""

import re

import pytest

from stillhouse.core.params import STAGES
from tasks import parameters
from tests.helpers.tiny_run import ROOT

PAGE = parameters.page()


def rows() -> list[list[str]]:
    """Cells of every row of every table, without the heads."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_page_is_current():
    assert (ROOT / parameters.PAGE).read_text() == PAGE, "run 'make docs'"


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_its_section(stage):
    assert f"\n## `{stage}`\n" in PAGE


def test_every_parameter_says_what_it_means():
    silent = [cells[0] for cells in rows() if not cells[4] and cells[0] != "`kind`"]
    assert silent == []


def test_every_link_leads_to_a_heading():
    headings = {parameters.anchor(line.removeprefix("## ")) for line in PAGE.splitlines() if line.startswith("## ")}
    assert set(re.findall(r"\]\((#[^)]+)\)", PAGE)) <= headings


def test_a_key_of_one_kind_names_it():
    kinds = {cells[0]: cells[3] for cells in rows()}
    assert kinds["`lowercase`"] == "`text_classification`, `multi_label`"
    assert kinds["`block_tokens`"] == "`causal_lm`"
    assert kinds["`seed`"] == ""


def test_defaults_are_written_as_yaml_writes_them():
    cells = {row[0]: row for row in rows()}
    assert cells["`ema_decay`"][2] == "null"
    assert cells["`activation_checkpointing`"][2] == "false"
    assert cells["`precision`"][2] == "`fp32`"
    assert cells["`steps`"][2] == ""
