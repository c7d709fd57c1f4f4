"""Stage `preprocess` from end to end on small tables: its files, its tokenizers, its bytes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from stillhouse.core.artifacts import digest_file, digest_folder, read_json
from stillhouse.core.errors import ArtifactError, DataError, HubError, ParamsError
from stillhouse.core.params import build
from stillhouse.data.normaliser import without_rules
from stillhouse.data.splits import SplitParams
from stillhouse.data.text import split_rows
from stillhouse.data.tokenizer import (
    LONGEST_WORD,
    TokenizerParams,
    cut_long_words,
    describe_tokenizer,
    load_tokenizer,
    save_trained,
    train_bpe,
)
from stillhouse.data.tokens import WITHHELD, TokenTable, read_tokens, write_tokens
from stillhouse.data.views import ViewParams, view_spans
from stillhouse.sources.files import FilesSource, read_files
from stillhouse.sources.tables import canonical, write_table
from tasks.preprocess import Params, run

SPLITS = ("train", "validation", "test")
WORDS = ["kettle", "barley", "copper", "mash", "cask", "Ärger", "東京", "peat", "still", "spirit"]


def texts(count: int, salt: int = 0) -> list[str]:
    """Distinct texts of one to seven words and a number."""
    generator = np.random.default_rng(salt)
    return [" ".join([*generator.choice(WORDS, generator.integers(1, 8)), str(i)]) for i in range(count)]


def ingested(source: list[str] | None = None, split: list[str] | str = "", reverse: bool = False) -> None:
    """Put two tables where the stage looks for them; three classes each."""
    source = source or texts(300)
    folder = Path("data/ingest")
    folder.mkdir(parents=True, exist_ok=True)
    for name, words in (("source", source), ("new", texts(200, salt=1))):
        labels = [f"class {i % 3}" for i in range(len(words))]
        table = pd.DataFrame({"text": words, "label": labels, "split": split if name == "source" else ""})
        write_table(canonical(table.iloc[:: -1 if reverse else 1], name, None, None), folder / f"{name}.parquet")


def settings(**keys) -> dict:
    split = {"validation_share": 0.2, "test_share": 0.2}
    defaults = {"lowercase": False, "split": split, "tokenizer": {"vocab_size": 300}, "max_tokens": 64, "withheld_labels": 0.0}
    return {**defaults, **keys}


def preprocess(**keys) -> Path:
    """The folder that the stage fills, run anew."""
    out = Path("data/preprocess")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    run(build(Params, {"kind": "text_classification", "preprocess": settings(**keys)}, "params.yaml"), out)
    return out


def read_task(out: Path, task: str = "source") -> dict[str, TokenTable]:
    return {split: read_tokens(out / task / f"{split}.arrow") for split in SPLITS}


# ---- the files ----


def test_every_row_comes_back_with_its_text_label_and_tokens(project):
    ingested()
    out = preprocess()
    given = pd.read_parquet("data/ingest/source.parquet").set_index("id")
    names = read_json(out / "source" / "labels.json")
    tokenizer = load_tokenizer(out / "tokenizer")
    tables = read_task(out)
    assert sum(len(table) for table in tables.values()) == 300
    for split, table in tables.items():
        for i, key in enumerate(table.ids.to_pylist()):
            assert table.texts[i].as_py() == given.loc[key, "text"]
            assert names[table.labels[i]] == given.loc[key, "label"]
            assert tokenizer.decode(table.row(i).tolist()) == given.loc[key, "text"]
            assert int(table.keys[i]) == int(key, 16)
        assert read_json(out / "source" / "manifest.json")["splits"][split] == digest_file(out / "source" / f"{split}.arrow")
    counts = pd.read_csv(out / "source" / "class_counts.csv", index_col="label")
    assert counts.sum().to_dict() == {split: len(table) for split, table in tables.items()}
    assert counts.index.tolist() == names


def test_neither_the_order_of_the_rows_nor_the_run_changes_a_byte(project):
    ingested()
    project.write_params(preprocess=settings(withheld_labels=0.3))
    digests = []
    for number, reverse in enumerate((False, True)):
        ingested(reverse=reverse)
        done = project.command("tasks.preprocess", PYTHONHASHSEED=str(number), RAYON_NUM_THREADS=str(1 + number))
        assert (done.returncode, done.stderr) == (0, "")
        Path("data/preprocess/timing.json").unlink()
        digests.append(digest_folder(Path("data/preprocess")))
    assert digests[0] == digests[1]


def test_which_of_two_spellings_stays_does_not_depend_on_their_order():
    spelled = ["Same text", "same text", "same  text", "SAME TEXT", "other"]
    table = canonical(pd.DataFrame({"text": spelled, "label": list("aaaab"), "split": "train"}), "test", None, None)
    params = SplitParams(validation_share=0.1, test_share=0.1)
    kept = [set(split_rows(t, params, False)[0]["id"]) for t in (table, table[::-1], table.sort_values("text"))]
    assert len(kept[0]) == 2
    assert kept[0] == kept[1] == kept[2]


def test_the_truncated_share_counts_the_rows_that_were_cut(project):
    ingested()
    whole = read_task(preprocess())
    lengths = np.concatenate([whole[split].lengths for split in SPLITS])
    limit = int(np.median(lengths))
    cut = read_task(preprocess(max_tokens=limit))
    statistics = read_json(Path("data/preprocess/statistics.json"))["source"]
    assert statistics["truncated_share"] == pytest.approx((lengths > limit).mean(), abs=1e-5)
    assert 0.2 < statistics["truncated_share"] < 0.8
    assert statistics["mean_tokens"] == pytest.approx(lengths.mean(), abs=0.01)
    for split in SPLITS:
        for i in range(len(cut[split])):
            assert cut[split].row(i).tolist() == whole[split].row(i).tolist()[:limit]


def test_special_tokens_count_towards_the_limit(project):
    ingested()
    out = preprocess(max_tokens=10, tokenizer={"vocab_size": 300, "wrap": True})
    assert max(table.lengths.max() for table in read_task(out).values()) == 8
    with pytest.raises(ParamsError, match=r"'preprocess\.max_tokens' is 2, which the tokenizer's 2 special tokens use up; .*"):
        preprocess(max_tokens=2, tokenizer={"vocab_size": 300, "wrap": True})


def test_labels_are_withheld_in_the_source_task_and_nowhere_else(project):
    ingested()
    before = read_task(preprocess())
    out = preprocess(withheld_labels=0.4)
    after, new = read_task(out), read_task(out, "new")
    hidden = after["train"].labels == WITHHELD
    assert hidden.mean() == pytest.approx(0.4, abs=0.1)
    assert read_json(out / "statistics.json")["source"]["withheld_labels"] == hidden.sum()
    assert (after["train"].labels[~hidden] == before["train"].labels[~hidden]).all()
    for split in ("validation", "test"):
        assert (after[split].labels == before[split].labels).all()
    assert all((table.labels >= 0).all() for table in new.values())
    more = read_task(preprocess(withheld_labels=0.6))["train"].labels == WITHHELD
    assert (more | ~hidden).all(), "a larger share keeps those that a smaller one took"


def test_lower_case_reaches_texts_and_tokens(project):
    ingested()
    out = preprocess(lowercase=True)
    read = {text for table in read_task(out).values() for text in table.texts.to_pylist()}
    assert read == {text.lower() for text in texts(300)}


def test_a_class_without_training_rows_is_one_line_and_leaves_nothing_behind(project):
    table = pd.DataFrame({"text": texts(6), "label": list("ababac"), "split": ["train", "train", *["validation", "test"] * 2]})
    Path("data/ingest").mkdir(parents=True)
    for name in ("source", "new"):
        write_table(canonical(table, name, None, None), Path(f"data/ingest/{name}.parquet"))
    project.write_params(preprocess=settings())
    done = project.command("tasks.preprocess")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: preprocess: the source task's test split has class 'c' (1 rows, first id ")
    assert [path.name for path in Path("data").iterdir() if "preprocess" in path.name] == []


def test_missing_and_damaged_tables_of_ingest_are_refused(project):
    with pytest.raises(DataError, match=r"^data/ingest/source\.parquet is missing; run 'dvc repro ingest'$"):
        preprocess()
    ingested()
    damaged = Path("data/ingest/new.parquet")
    kept = damaged.read_bytes()
    damaged.unlink()
    # Which is not the same as a run without a target task.
    with pytest.raises(DataError, match=r"^data/ingest/new\.parquet is missing; run 'dvc repro ingest'$"):
        preprocess()
    damaged.write_bytes(kept)
    damaged.write_bytes(damaged.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"^data/ingest/new\.parquet cannot be read \(.*run 'dvc repro --force ingest'$"):
        preprocess()


def test_goemotions_shares_thirty_nine_test_texts_that_leave_the_other_splits(test_data):
    folder = test_data / "text" / "goemotions"
    names = {"train": "train_single.parquet", "validation": "dev_single.parquet", "test": "test_single.parquet"}
    table, _ = read_files(FilesSource(kind="files", **names), folder)
    plain = table["text"].map(lambda text: " ".join(text.split()).casefold())
    held = {split: set(plain[table["split"] == split]) for split in SPLITS}
    assert plain[table["split"] == "test"].isin(held["train"]).sum() == 39

    cleaned, report = split_rows(table, SplitParams(validation_share=0.1, test_share=0.1), False)
    shared = (table["split"] == "train") & plain.isin(held["validation"] | held["test"])
    shared |= (table["split"] == "validation") & plain.isin(held["test"])
    assert report.shared_between_published_splits == shared.sum() > 39
    assert (cleaned.groupby("folded")["split"].nunique() == 1).all()
    assert report.rows_in == len(cleaned) + report.duplicates + shared.sum()
    labels = cleaned.groupby("folded")["label"].agg(["size", "nunique"])
    assert report.conflicting_labels == labels.loc[labels["nunique"] > 1, "size"].sum() > 0


# ---- tokenizers ----


@pytest.mark.parametrize("side", ["train", "test"])
def test_a_sequence_becomes_a_token_only_if_training_rows_hold_it(project, side):
    words = texts(300)
    split = [SPLITS[i // 3 % 3] for i in range(300)]
    words = [f"{text} zqxj" if part == side else text for text, part in zip(words, split, strict=True)]
    ingested(words, split)
    vocabulary = load_tokenizer(preprocess(tokenizer={"vocab_size": 400}) / "tokenizer").get_vocab()
    assert ("Ġzqxj" in vocabulary) == (side == "train")
    assert any("zq" in token for token in vocabulary) == (side == "train")


def test_a_word_without_end_is_learned_in_pieces():
    """The trainer takes the square of its length: whole, it would be minutes."""
    text = "ab" * 100_000
    vocabulary = train_bpe([text, "one two"], TokenizerParams(vocab_size=270)).get_vocab()
    assert {"ab", "abab"} < set(vocabulary)
    assert cut_long_words(f"one {'x' * LONGEST_WORD}") == [f"one {'x' * LONGEST_WORD}"]
    assert "".join(cut_long_words(text)) == text


def test_bytes_alone_are_a_vocabulary_and_no_text_is_unknown(tmp_path):
    save_trained(train_bpe(["a b"], TokenizerParams(vocab_size=261)), tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert describe_tokenizer(tmp_path).vocab_size == 261
    for text in ("naïve", "東京 😀", "\u200b", "a\tb"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert len(ids) == len(text.encode())
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("wrap", [False, True])
def test_transformers_reads_the_tokenizer_and_gives_our_ids(project, wrap):
    ingested()
    out = preprocess(tokenizer={"vocab_size": 300, "wrap": wrap})
    theirs, facts = AutoTokenizer.from_pretrained(out / "tokenizer"), describe_tokenizer(out / "tokenizer")
    assert (len(facts.prefix), len(facts.suffix)) == (wrap, wrap)
    assert (len(theirs), theirs.pad_token, theirs.pad_token_id) == (facts.vocab_size, "[PAD]", facts.pad_id)
    table = read_task(out)["test"]
    for i, text in enumerate(table.texts.to_pylist()):
        assert theirs(text)["input_ids"] == [*facts.prefix, *table.row(i).tolist(), *facts.suffix]
        assert theirs.decode(table.row(i).tolist()) == text


@pytest.fixture
def word_tokenizer(project) -> Path:
    """A tokenizer as a hub model brings it: words, [CLS] and [SEP], gaps in its ids, cutting and padding switched on."""
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3} | {word: 10 + 7 * i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16)
    folder = project.raw / "words"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "[PAD]"}}))
    (folder / "README.md").write_text("not of the tokenizer")
    return folder


def test_a_folder_with_a_tokenizer_takes_the_place_of_our_own(word_tokenizer):
    ingested()
    out = preprocess(tokenizer={"pretrained": "data/raw/words"})
    # It is the given one but for what the pipeline does to texts, and for its own cut and padding.
    given = read_json(word_tokenizer / "tokenizer.json") | {"truncation": None, "padding": None}
    assert without_rules(read_json(out / "tokenizer" / "tokenizer.json")) == given
    assert sorted(path.name for path in (out / "tokenizer").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    facts = describe_tokenizer(out / "tokenizer")
    assert (facts.prefix, facts.suffix, facts.pad_id) == ([1], [2], 0)
    assert facts.vocab_size == 10 + 7 * 9 + 1, "ids up to the largest one need a place, whatever gaps there are"
    # Its own limit of 4 tokens is not ours.
    assert read_json(out / "statistics.json")["source"]["truncated_share"] == 0.0
    for table in read_task(out).values():
        for i, text in enumerate(table.texts.to_pylist()):
            assert len(table.row(i)) == len(text.split())


def test_a_tokenizer_that_cannot_be_used_is_refused(word_tokenizer):
    ingested()
    (word_tokenizer / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))
    with pytest.raises(ArtifactError, match=r"^data/raw/words names no padding token that its vocabulary has; set 'pad_token'"):
        preprocess(tokenizer={"pretrained": "data/raw/words"})
    for entry in (5, {}):
        (word_tokenizer / "tokenizer_config.json").write_text(json.dumps({"pad_token": entry}))
        with pytest.raises(
            ArtifactError,
            match=r"^data/raw/words: tokenizer_config\.json \(or special_tokens_map\.json\) names (5|\{\}) as its 'pad_token'",
        ):
            preprocess(tokenizer={"pretrained": "data/raw/words"})
    (word_tokenizer / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"tokenizer_config\.json holds list, expected an object with the names of special"):
        preprocess(tokenizer={"pretrained": "data/raw/words"})
    (word_tokenizer / "tokenizer_config.json").write_text("{}")
    Tokenizer(models.WordLevel({"[PAD]": 0, "b": 1}, unk_token="[UNK]")).save(str(word_tokenizer / "tokenizer.json"))
    with pytest.raises(
        ArtifactError,
        match=r"data/raw/words cannot read a text \(WordLevel error: Missing \[UNK\] token from the vocabulary\); mend",
    ):
        preprocess(tokenizer={"pretrained": "data/raw/words"})
    (word_tokenizer / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"^data/raw/words: its tokenizer\.json is damaged \("):
        preprocess(tokenizer={"pretrained": "data/raw/words"})
    (word_tokenizer / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"^data/raw/words holds no tokenizer\.json; expected a folder written by"):
        preprocess(tokenizer={"pretrained": "data/raw/words"})
    with pytest.raises(ParamsError, match=r"^'data/raw/none' is no local folder, and a hub id needs its commit"):
        preprocess(tokenizer={"pretrained": "data/raw/none"})


def test_a_tokenizer_of_a_hub_that_cannot_be_reached_is_refused(project, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    ingested()
    with pytest.raises(HubError, match=rf"^'owner/words@{'c' * 40}' could not be fetched \("):
        preprocess(tokenizer={"pretrained": f"owner/words@{'c' * 40}"})


# ---- token tables and views ----


@pytest.mark.parametrize(("vocab_size", "kind"), [(65536, np.uint16), (65537, np.int32)])
def test_the_width_of_a_token_follows_the_vocabulary(tmp_path, vocab_size, kind):
    rows = [[0, vocab_size - 1], [5]]
    write_tokens(tmp_path / "t.arrow", ["1", "2"], ["x", "y"], rows, np.array([0, 1]), vocab_size)
    table = read_tokens(tmp_path / "t.arrow")
    assert table.tokens.dtype == kind
    assert [table.row(i).tolist() for i in range(2)] == rows


@pytest.mark.parametrize("size", [0, 8, 200])
def test_a_damaged_token_table_is_refused(tmp_path, size):
    path = tmp_path / "t.arrow"
    write_tokens(path, ["1", "2"], ["x", "y"], [[1], [2]], np.array([0, 1]), 300)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ArtifactError, match=r"t\.arrow is damaged \(.*run 'dvc checkout --force'$"):
        read_tokens(path)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"t\.arrow is missing; run 'dvc repro preprocess'$"):
        read_tokens(path)


@pytest.mark.parametrize(("min_share", "min_tokens"), [(0.05, 1), (0.5, 4), (0.7, 1), (1.0, 4)])
def test_a_view_is_a_span_inside_its_row_and_not_too_short(min_share, min_tokens):
    generator = np.random.default_rng(3)
    lengths = generator.integers(0, 40, 20000)
    keys = generator.integers(0, 2**63, 20000).astype(np.uint64)
    params = ViewParams(count=2, min_share=min_share, min_tokens=min_tokens)
    starts, spans = view_spans(keys, lengths, np.zeros(20000, dtype=np.int64), params, seed=1)
    assert ((starts >= 0) & (starts + spans <= lengths)).all()
    assert (spans >= min_share * lengths - 1e-9).all()
    assert (spans >= np.minimum(lengths, min_tokens)).all()
    long = lengths >= 20
    reached = spans[long] / lengths[long]
    assert reached.min() == pytest.approx(max(min_share, min_tokens / 39), abs=0.06)
    assert reached.mean() == pytest.approx((1 + min_share) / 2, abs=0.05)
    if min_share < 1:
        places = starts[long] / np.maximum(lengths[long] - spans[long], 1)
        assert places.min() == 0
        assert places.max() == 1
        assert (places.mean()) == pytest.approx(0.5, abs=0.1)
