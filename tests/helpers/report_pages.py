"""What the tests of both reports share: outputs that every kind of model leaves, and how to read a page."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from stillhouse.core.artifacts import write_json
from stillhouse.core.params import STAGES, read_yaml
from stillhouse.core.shipped import Shipped
from stillhouse.reporting.report_page import write_report
from stillhouse.reporting.report_parts import MANIFESTS

ROOT = Path(__file__).parents[2]
SHIPPED = Shipped("new")
VOID_ELEMENTS = {"meta", "br", "wbr"}


def write_common(folder: Path, params: Path) -> Path:
    """Times, manifests, origins, learning curves and calibration in `folder`, which gets `params`; returns its `data`."""
    data = folder / "data"
    shutil.copyfile(params, folder / "params.yaml")
    shutil.copyfile(ROOT / "env.lock", folder / "env.lock")
    for stage in STAGES[:-1]:
        write_json(data / stage / "timing.json", {"seconds": 65.2})
    for name in MANIFESTS:
        write_json(data / name / "manifest.json", {"inputs": {"data": "a" * 64}, "weights": "b" * 64})
    origin = {"origin": {"kind": "sample", "licence": "BSD-3-Clause", "revision": None}}
    write_json(data / "ingest" / "manifest.json", {"source": origin, "new": origin})
    points = {"step": [50, 100, 100], "split": ["train", "train", "validation"]}
    values = {"loss": ["2.5", "inf", "1.5"], "accuracy": ["", "", "0.5"]}
    for name in ("train_teacher", "train_student", "train_baseline", *(n for n in MANIFESTS if n.startswith("finetune"))):
        write_json(data / name / "metrics.json", {"steps": 100, "best_step": 100})
        write_table(data / name / "learning_curve.csv", points | values)
    bins = {"confidence": [0.4, 0.9] * 3, "accuracy": [0.3, 0.95] * 3, "share": [0.2, 0.8] * 3}
    for task, rival in (("new", "scratch"), ("source", "baseline")):
        folder = data / "evaluate" / SHIPPED.details(task)
        folder.mkdir()
        write_table(folder / "calibration.csv", {"model": ["teacher"] * 2 + ["student"] * 2 + [rival] * 2} | bins)
    return data


def write_table(path: Path, columns: dict) -> None:
    pd.DataFrame(columns).to_csv(path, index=False)


def import_labels_in(folder: Path) -> None:
    """Make the parameters of a run such that its labels were imported."""
    path = folder / "params.yaml"
    tree = read_yaml(path)
    source = {"kind": "import", "files": "labels.csv", "model": "a <large> model", "date": "2026-11-30"}
    tree["export_soft_labels"]["source"] = source
    path.write_text(json.dumps(tree))


def page_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(folder)
    write_report("A title", folder / "index.html")
    return (folder / "index.html").read_text()


def words_of(page: str) -> str:
    """The page's text below its style sheet, on one line with plain blanks."""
    return " ".join(re.sub(r"<[^>]+>", " ", page.partition("<body>")[2]).split())


def headlines(page: str) -> str:
    return " ".join(re.findall(r'<p class="(?:verdict|lead)">(.*?)</p>', page)).replace("\u00a0", " ")


class Balance(HTMLParser):
    """Fails on an element that is not closed in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
