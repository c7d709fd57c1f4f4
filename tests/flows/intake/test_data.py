"""`make data`: own data into `data/raw`, tracked by DVC, and their block into params.yaml; nothing is lost unasked."""

import os
import shlex
import shutil
import subprocess

from stillhouse.core.artifacts import digest_folder
from stillhouse.core.params import read_yaml
from tests.conftest import ROOT
from tests.helpers.own_data import ROWS, SOURCE, put, source_of
from tests.helpers.tiny_run import commit, shell

# ---- one command ----


def test_one_file_becomes_tracked_data_and_a_block_of_params_yaml(root, given, make_data):
    said = make_data(put(given, "train.csv"), "--label", "category")
    assert source_of(root) == SOURCE
    params = read_yaml(root / "params.yaml")
    assert (params["preprocess"]["withheld_labels"], params["report"]["title"]) == (0.0, "given, distilled")
    # All other values, comments and their places are those of before.
    before, after = (root / "recipes").parent / "params.yaml", shell("git", "diff", "--unified=0", folder=root).stdout
    assert before.is_file()
    changed = [line for line in after.splitlines() if line.startswith(("-", "+")) and not line.startswith(("---", "+++"))]
    assert changed == [
        "-  source: {kind: sample, task: languages}",
        "-  new: {kind: sample, task: varieties}",
        "+  source: {kind: files, train: train.csv, text: text, label: category}",
        "+  new: null",
        "-  withheld_labels: 0.8        # four texts of five have no true label: the usual case, and where a teacher pays",
        "+  withheld_labels: 0.0",
        "-  title: A language identifier, distilled",
        "+  title: given, distilled",
    ]
    assert all(line in said.splitlines() for line in changed), "what was written is shown"
    assert "rows: 80 train; 2 classes of 40 (green) to 40 (red)\n" in said
    assert said.endswith("\nnext: make distill    (and to keep it: git add params.yaml data/raw/train.csv.dvc && git commit)\n")
    assert shell("dvc", "status", "--json", "data/raw/train.csv.dvc", folder=root).stdout.strip() == "{}"
    assert shell("git", "status", "--short", folder=root).stdout.split() == ["M", "params.yaml", "??", "data/raw/train.csv.dvc"]


def test_names_with_blanks_and_quotes_are_quoted_where_they_are_to_be_copied(root, given, make_data):
    said = make_data(put(given, "my rows'.csv"), "--label", "category")
    line = said.splitlines()[-1].partition("git add ")[2].partition(" && ")[0]
    assert shlex.split(line) == ["params.yaml", "data/raw/my rows'.csv.dvc"]


def test_the_second_time_nothing_changes(root, given, make_data):
    make_data(put(given, "train.csv"), "--label", "category")
    before = digest_folder(root / "data"), (root / "params.yaml").read_bytes()
    assert "params.yaml says so already" in make_data(given / "train.csv", "--label", "category")
    assert make_data(given / "train.csv") == "data/raw/train.csv: tracked by DVC; params.yaml stays as it is\n"
    assert make_data(root / "data" / "raw" / "train.csv") == "data/raw/train.csv: tracked by DVC; params.yaml stays as it is\n"
    assert (digest_folder(root / "data"), (root / "params.yaml").read_bytes()) == before


def test_what_make_data_wrote_itself_is_no_edit_of_a_user(root, given, make_data):
    make_data(
        put(
            given,
            "train.csv",
            ROWS.replace("category\n", "category,x\n").replace("red\n", "red,1\n").replace("een\n", "een,2\n"),
        )
    )
    assert source_of(root)["label"] == "category"
    assert "label: x" in make_data(given / "train.csv", "--label", "x")
    assert source_of(root)["label"] == "x"
    assert "train: other.csv" in make_data(put(given, "other.csv"))
    assert source_of(root)["train"] == "other.csv"


def test_edits_by_hand_are_shown_and_kept_unless_it_is_said(root, given, make_data):
    params = root / "params.yaml"
    edited = params.read_text().replace("task: languages", "task: varieties").replace("max_tokens: 64", "max_tokens: 32")
    params.write_text(edited)
    said = make_data(put(given, "train.csv"))
    assert {"-  source: {kind: sample, task: varieties}", "+  new: null"} < set(said.splitlines())
    assert said.splitlines()[-1] == (
        "error: data: params.yaml has edits that are not committed (ingest) and would be overwritten as shown; YES=1 does it, "
        "nothing was written yet"
    )
    assert params.read_text() == edited
    assert not (root / "data" / "raw" / "train.csv").exists()
    make_data(given / "train.csv", "--yes")
    assert source_of(root) == SOURCE
    assert read_yaml(params)["preprocess"]["max_tokens"] == 32, "other edits are nobody's business"
    # Once committed it is not an edit any more.
    params.write_text(edited)
    commit(root, "edited")
    make_data(given / "train.csv", "--label", "category")
    assert source_of(root) == SOURCE


def test_a_recipe_that_make_use_has_taken_is_no_edit_by_hand(root, given, make_data):
    """Its text stands in recipes/ still."""
    params = root / "params.yaml"
    shutil.copyfile(root / "recipes" / "pretrained.yaml", params)
    make_data(put(given, "train.csv"))
    assert source_of(root) == SOURCE
    assert read_yaml(params)["train_teacher"]["model"]["pretrained"] == "data/raw/models/minilm"
    assert read_yaml(params)["student"]["model"]["architecture"] == "cnn_encoder"


def test_params_yaml_may_be_left_as_it_is(root, given, make_data):
    before = (root / "params.yaml").read_bytes()
    assert make_data(put(given, "train.csv"), "--keep-params") == (
        "data/raw/train.csv: tracked by DVC; params.yaml stays as it is\n"
    )
    assert (root / "params.yaml").read_bytes() == before


def test_data_that_cannot_be_used_leave_nothing_behind(root, given, make_data):
    put(given, "bad.csv", "text,label\nx,a\ny\n")
    assert make_data(given / "bad.csv") == (
        "error: data: bad.csv, row 2 (line 3): 1 field(s), the header has 2; quote texts that hold ','\n"
    )
    assert make_data() == "error: data: FILE does not exist; usage: make data FILE=path/to/train.csv\n"
    assert make_data(given / "no.csv").endswith("no.csv does not exist; usage: make data FILE=path/to/train.csv\n")
    assert make_data(given / "*.tsv").endswith("*.tsv fits no file; usage: make data FILE='parts/*.csv'\n")
    assert "holds data/raw itself; name the file or folder with the data" in make_data(root)
    assert "holds data/raw itself; name the file or folder with the data" in make_data("data/raw")
    assert shell("git", "status", "--short", folder=root).stdout == ""
    assert [path.name for path in (root / "data" / "raw").iterdir()] == [".gitkeep"]
    assert [path.name for path in (root / ".dvc" / "tmp").glob("own-data-*")] == []


def test_the_makefile_hands_every_variable_on():
    words = ["make", "-n", "data", "FILE=a b.csv", "LABEL=x y", "TEXT=t", "TEST=u", "VALIDATION=v", "DOCUMENT=d",
             "ENCODING=cp1252", "KIND=causal_lm", "TITLE=A title", "YES=1", "PARAMS=keep",
             "--assume-old", ".venv/.ready"]  # fmt: skip
    # Under `make test`, make would tell the inner one to name the folders that it enters.
    alone = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(words, cwd=ROOT, env=alone, capture_output=True, text=True, check=True)
    command = " ".join(done.stdout.replace("\\\n", " ").split())
    assert command.endswith(
        'python -m flows.data "a b.csv" --label "x y" --text "t" --test "u" --validation "v" --document "d" '
        '--encoding "cp1252" --kind "causal_lm" --title "A title" --yes --keep-params'
    )


# ---- what lies there already ----


def test_data_of_the_same_name_are_replaced_as_a_whole_and_can_be_brought_back(root, given, make_data):
    for name in ("a.csv", "b.csv"):
        put(given, f"set/{name}", ROWS.replace("number", name))
    make_data(given / "set")
    commit(root, "the first set")
    first = digest_folder(root / "data" / "raw" / "set")
    (given / "set" / "b.csv").unlink()
    put(given, "set/c.csv", ROWS.replace("number", "third"))
    said = make_data(given / "set")
    assert said.startswith(
        "data/raw/set is replaced as a whole, and 1 files are not there any more (b.csv); 'git checkout data/raw/set.dvc && "
        "dvc checkout data/raw/set' brings it back\n"
    )
    assert sorted(path.name for path in (root / "data" / "raw" / "set").iterdir()) == ["a.csv", "c.csv"]
    shell("git", "checkout", "--quiet", "data/raw/set.dvc", folder=root)
    shell("dvc", "checkout", "--quiet", "data/raw/set", folder=root)
    assert digest_folder(root / "data" / "raw" / "set") == first


def test_data_that_dvc_does_not_have_are_not_replaced(root, given, make_data):
    put(given, "train.csv")
    lying = put(root / "data" / "raw", "train.csv", "mine\n")
    message = "error: data: data/raw/train.csv would be replaced, and {}: 'dvc add data/raw/train.csv' keeps it, or delete it"
    assert message.format("DVC does not track it") in make_data(given / "train.csv")
    assert lying.read_text() == "mine\n"
    lying.unlink()
    make_data(given / "train.csv")
    lying.unlink()
    lying.write_text("edited since\n")
    assert message.format("DVC does not have it as it is") in make_data(given / "train.csv")
    assert lying.read_text() == "edited since\n"
    assert [path.name for path in (root / "data" / "raw").glob(".*")] == [".gitkeep"]
