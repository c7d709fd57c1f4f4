"""`make data`: own data into `data/raw`, tracked by DVC, and their block into params.yaml; nothing is lost unasked."""

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from flows import data
from flows.data import title_of
from flows.own_params import plan, reads, round_trip, values_of, write
from stillhouse.core.artifacts import digest_folder
from stillhouse.core.params import read_yaml
from stillhouse.sources.files import FilesSource, read_files
from tests.conftest import ROOT
from tests.tiny_run import commit, shell

ROWS = "text,category\n" + "".join(f"a text of {c} number {i},{c}\n" for i in range(40) for c in ("red", "green"))
SOURCE = {"kind": "files", "train": "train.csv", "text": "text", "label": "category"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the parameters and recipes of this one, and a DVC that knows nothing yet."""
    root = tmp_path_factory.mktemp("made") / "root"
    (root / "data" / "raw").mkdir(parents=True)
    shell("git", "init", "--quiet", str(root), folder=root)
    shell("dvc", "init", "--quiet", folder=root)
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    autostage = false\n")
    shutil.copyfile(ROOT / "data" / ".gitignore", root / "data" / ".gitignore")
    (root / "data" / "raw" / ".gitkeep").touch()
    shutil.copyfile(ROOT / "params.yaml", root / "params.yaml")
    shutil.copytree(ROOT / "recipes", root / "recipes")
    commit(root, "the project")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository; the test's working directory is a folder beside it."""
    shutil.copytree(made, tmp_path / "root", symlinks=True)
    (tmp_path / "given").mkdir()
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def given(root: Path) -> Path:
    """Where own data lie before they are given."""
    return root.parent / "given"


@pytest.fixture
def make_data(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The command; returns what it prints, or its error line with what it printed before."""

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["data", *map(str, words)])
        code = None
        try:
            data.main()
        except SystemExit as ended:
            code = ended.code
        out, error = capsys.readouterr()
        assert (code or 0) == (1 if error else 0)
        assert error.count("\n") <= 1
        return out + error

    return run


def put(folder: Path, name: str, content: str = ROWS) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def source_of(root: Path) -> dict:
    """The block that was written; `ingest`'s reader takes it."""
    block = read_yaml(root / "params.yaml")["ingest"]
    assert block["new"] is None
    labelled = read_yaml(root / "params.yaml")["kind"] != "causal_lm"
    read_files(FilesSource(**block["source"]), root / "data" / "raw", labelled)
    return block["source"]


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
    # Once committed it is no edit any more.
    params.write_text(edited)
    commit(root, "edited")
    make_data(given / "train.csv", "--label", "category")
    assert source_of(root) == SOURCE


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


# ---- what may be given ----


def test_a_folder_with_splits_and_files_by_name(root, given, make_data):
    for name in ("train.csv", "test.csv"):
        put(given, f"banking/{name}", ROWS.replace("number", name))
    make_data(given / "banking")
    assert source_of(root) == {"kind": "files", "train": "banking/train.csv", "test": "banking/test.csv", **named()}
    assert read_yaml(root / "params.yaml")["report"]["title"] == "banking, distilled"
    put(given, "banking/.git/config", "of git")
    assert make_data(given / "banking") == "data/raw/banking: tracked by DVC; params.yaml stays as it is\n"
    assert sorted(path.name for path in (root / "data" / "raw" / "banking").iterdir()) == ["test.csv", "train.csv"]
    put(given, "a.csv")
    put(given, "b.csv", ROWS.replace("number", "held"))
    make_data(given / "a.csv", "--test", given / "b.csv", "--label", "category")
    assert source_of(root) == {"kind": "files", "train": "a.csv", "test": "b.csv", **named()}
    put(given, "more/a.csv")
    assert "more/a.csv has the name 'a.csv', as another file that was given" in make_data(
        given / "a.csv", "--test", given / "more" / "a.csv"
    )


def named() -> dict[str, str]:
    return {"text": "text", "label": "category"}


def test_a_pattern_and_data_that_lie_in_data_raw_already(root, given, make_data):
    for number in range(2):
        put(given, f"parts/{number}.csv", ROWS.replace("number", f"part {number}"))
    put(given, "parts/notes.md", "no data")
    make_data(f"{given}/parts/*.csv")
    assert source_of(root)["train"] == "parts"
    assert sorted(path.name for path in (root / "data" / "raw" / "parts").iterdir()) == ["0.csv", "1.csv"]
    put(root / "data" / "raw", "here.csv")
    make_data("data/raw/here.csv")
    assert source_of(root)["train"] == "here.csv"
    assert (root / "data" / "raw" / "here.csv.dvc").is_file()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_is_unpacked(root, given, make_data, kind):
    for label in ("neg", "pos"):
        for number in range(12):
            put(given, f"reviews/{label}/{number}.txt", f"a {label} text {number}")
    archive = given / f"data_v1.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for path in (given / "reviews").rglob("*.txt"):
                packed.write(path, path.relative_to(given))
            packed.writestr("__MACOSX/._x", "of a Mac")
    else:
        with tarfile.open(archive, "w:gz") as packed:
            packed.add(given / "reviews", "reviews")
    make_data(archive)
    assert source_of(root) == {"kind": "files", "train": "data_v1"}
    assert sorted(path.name for path in (root / "data" / "raw" / "data_v1").iterdir()) == ["neg", "pos"]
    archive.write_bytes(archive.read_bytes()[:100])
    assert "cannot be unpacked (" in make_data(archive)


def test_an_archive_cannot_write_elsewhere(root, given, make_data):
    with tarfile.open(given / "evil.tar", "w") as packed:
        packed.add(put(given, "a.csv"), "../../a.csv")
    assert "evil.tar cannot be unpacked (" in make_data(given / "evil.tar")
    assert not (root / ".dvc" / "a.csv").exists()


def test_texts_become_a_language_model_by_the_recipe_for_them(root, given, make_data):
    for number in range(3):
        put(given, f"novels/{number}.txt", "\n\n".join(f"paragraph {i} of {number}" for i in range(2000)))
    said = make_data(given / "novels")
    params, recipe = read_yaml(root / "params.yaml"), read_yaml(root / "recipes" / "lm.yaml")
    assert source_of(root) == {"kind": "files", "train": "novels", "document_characters": 2000}
    changed = {key for key in params if params[key] != recipe[key]}
    assert (changed, params["report"]) == ({"ingest", "report"}, {"title": "novels, distilled"})
    assert (
        "params.yaml takes the values of recipes/lm.yaml, which are for this kind of model; own data in it:\ningest:\n" in said
    )
    # And back, which nobody has to confirm: nothing but what make data wrote is lost.
    make_data(put(given, "train.csv"))
    params, recipe = read_yaml(root / "params.yaml"), read_yaml(root / "recipes" / "intents.yaml")
    assert {key for key in params if params[key] != recipe[key]} == {"ingest", "report"}
    with (root / "params.yaml").open("a") as file:
        file.write("# by hand\n")
    assert "params.yaml has edits that are not committed (params.yaml)" in make_data(given / "novels")
    assert "by hand" not in (make_data(given / "novels", "--yes") and (root / "params.yaml").read_text())


def test_a_model_is_tracked_and_no_data(root, given, make_data):
    put(given, "bert/config.json", "{}")
    put(given, "bert/tokenizer.json", "{}")
    before = (root / "params.yaml").read_bytes()
    assert make_data(given / "bert") == (
        "data/raw/bert: a model, tracked by DVC; name it where it is wanted, 'pretrained: data/raw/bert'\n"
    )
    assert (root / "data" / "raw" / "bert.dvc").is_file()
    assert (root / "params.yaml").read_bytes() == before


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


# ---- params.yaml ----


@pytest.mark.parametrize(
    "name", ["params.yaml", *(f"recipes/{path.name}" for path in sorted((ROOT / "recipes").glob("*.yaml")))]
)
def test_reading_and_writing_params_leaves_every_byte(name, tmp_path):
    text = (ROOT / name).read_text()
    with (tmp_path / "out").open("w") as file:
        round_trip().dump(round_trip().load(text), file)
    assert (tmp_path / "out").read_text() == text


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "files", "train": 'a b\'s "x".csv', "delimiter": ";"},
        {
            "kind": "files",
            "train": ["a.csv", "b.csv"],
            "delimiter": "\t",
            "columns": ["no", "text: x", "1", "#"],
            "label": "no",
        },
        {
            "kind": "files",
            "train": "x" * 90 + ".csv",
            "test": "y" * 90 + ".csv",
            "delimiter": "|",
            "unlabelled": True,
            "label": "null",
        },
    ],
)
def test_whatever_a_block_says_comes_back_from_the_file(root, source):
    what = plan(root, "text_classification", values_of("text_classification", source, 96, "A title: 'quoted' # and more"))
    write(root, what)
    params = read_yaml(root / "params.yaml")
    assert params["ingest"] == {"source": source, "new": None}
    assert params["report"]["title"] == "A title: 'quoted' # and more"
    assert params["preprocess"]["max_tokens"] == 96


def test_params_that_read_the_data_already_are_known(root):
    params = root / "params.yaml"
    text = params.read_text()
    for source, names, known in (
        ("{kind: files, train: a/train.csv, test: b.csv}", ["a", "b.csv"], True),
        ("{kind: files, train: [a.csv, data/raw/b.csv]}", ["b.csv"], True),
        ("{kind: files, train: a.csv}", ["a.csv", "b.csv"], False),
        ("{kind: hub, dataset: data/raw/a, train: b}", ["a"], True),
        ("{kind: hub, dataset: data/raw/a, train: b}", ["b"], False),
        ("{kind: cloze, files: [a.csv]}", ["a.csv"], True),
        ("{kind: sample, task: languages}", ["languages"], False),
    ):
        params.write_text(text.replace("{kind: sample, task: languages}", source))
        assert reads(root, names) is known, source


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ("snips.csv", "snips, distilled"),
        ("banking77/train.csv", "banking77, distilled"),
        ("my_reviews", "my reviews, distilled"),
        ("reviews/*.csv", "reviews, distilled"),
        ("train.csv", "train, distilled"),
        ("data/raw/train.csv", "train, distilled"),
        ("x/all.csv.gz", "x, distilled"),
    ],
)
def test_the_title_says_what_the_data_are(given, title):
    assert title_of(given) == title
    assert title_of("train.csv", "intent") == "intent, distilled"


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
