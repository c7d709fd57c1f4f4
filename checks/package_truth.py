"""Does a package answer raw texts as the pipeline did? Its card's own code, where nothing else is installed.

    python -m checks.package_truth [--folder DIR] [--quick]

Each setting (see `checks.package_settings`: both kinds, lower case, tokenizers of every usual kind, BOS, fixed padding)
runs all stages up to `export_model` on rows of snips, test texts spoilt as users spoil them. Then a fresh environment is made
with what the card's `pip install` line names and nothing else; the code is cut out of README.md and executed there on the raw
test texts, each alone and in batches. `rows`: texts that were asked about; `different`: those whose label, alone or in a batch,
is another one than in `predictions_new.parquet`, or that failed; of language models, documents with another number of tokens,
or all of them if their nats per token are not those of evaluate's `metrics.json` within 1e-4. An empty text and one of
100,000 characters, which the data does not have, must be the same alone and in a batch. `--quick`: two settings, without
the environment. `--folder` keeps the runs there.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.common import arguments, finish, machine, say
from benchmarks.text_setting import place, recipe, run_stages
from checks.package_settings import SETTINGS, Setting, snips, spoilt
from flows.repository.workspace import CommandError
from stillhouse.core.artifacts import DATA, read_json
from stillhouse.core.command_errors import one_line_errors

PACKAGE, TOLERANCE, QUICK = DATA / "export_model" / "package", 1e-4, (1, 10)
STAGES = [
    "ingest", "preprocess", "launch train_teacher", "launch export_soft_labels", "launch train_student",
    "launch train_baseline", "launch finetune", "evaluate", "export_model",
]  # fmt: skip
ASK = """
import json, re, sys
code = re.findall(r"```python\\n(.*?)```", open("README.md", encoding="utf-8").read(), flags=re.S)[0]
texts = json.load(open(sys.argv[1], encoding="utf-8"))
names = {}
exec(code, names)
if "nats_of" in names:
    found = [[len(nats), float(nats.double().sum())] for nats in map(names["nats_of"], texts)]
else:
    def labels(batch):
        logits = names["logits_of"](batch)
        assert (logits == logits).all()
        return [names["config"]["labels"][number] for number in logits.argmax(axis=1)]
    alone = [labels([text])[0] for text in texts]
    together = [label for start in range(0, len(texts), 16) for label in labels(texts[start : start + 16])]
    found = [alone, together]
json.dump(found, open(sys.argv[2], "w", encoding="utf-8"))
"""


def params_of(setting: Setting) -> dict[str, Any]:
    """The tiny recipe with the setting's model and tokenizer, trained enough to tell classes apart."""
    documents = setting.kind == "causal_lm"
    params = recipe("tiny_lm" if documents else "tiny", 1)
    files = {"kind": "files", "train": "raw_train.csv", "test": "raw_test.csv"}
    params["ingest"] = {"source": files, "new": files}
    params["student"]["model"] = params["train_teacher"]["model"] = setting.model
    for training in (params["student"]["training"], params["train_teacher"]["training"], params["finetune"]["training"]):
        training |= {"steps": 40, "evaluate_every": 40, "batch_size": 16}
    if not documents:
        params["finetune"]["examples_per_class"] = None
    tokenizer = {"vocab_size": 600} if setting.tokenizer is None else {"pretrained": "data/raw/tokenizer"}
    limit = {"block_tokens": 64} if documents else {"max_tokens": 32, "lowercase": False}
    split = {"validation_share": 0.15, "test_share": 0.15}
    params["preprocess"] = {"split": split, "tokenizer": tokenizer, **limit, **setting.preprocess}
    params["evaluate"] |= {"bootstrap_samples": 20, "speed_seconds": 0.02}
    params["export_model"]["tolerance"] = TOLERANCE
    return params


def run(setting: Setting, folder: Path, rows_per_class: int) -> None:
    """All stages up to `export_model` in `folder`."""
    table = snips(rows_per_class)
    raw = folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    held_out = table.index % 4 == 0
    test = table[held_out]
    table[~held_out].to_csv(raw / "train.csv", index=False)
    test.assign(text=spoilt(test["text"].tolist())).to_csv(raw / "test.csv", index=False)
    if setting.tokenizer and not (tokenizer := folder / "data" / "raw" / "tokenizer").exists():
        tokenizer.mkdir(parents=True)
        setting.tokenizer(tokenizer, table["text"].tolist())
    run_stages(folder, params_of(setting), [raw / "train.csv", raw / "test.csv"], STAGES)


def interpreter(card: str, folder: Path, fresh: bool) -> str:
    """A Python that has what the card's line installs, and nothing else; ours if it need not be fresh."""
    if not fresh:
        return sys.executable
    (line,) = re.findall(r"```sh\npip install (.*?)\n```", card)
    place = folder / re.sub(r"\W+", "-", line)
    if not (place / "done").exists():
        say(f"  pip install {line}")
        for words in (
            [sys.executable, "-m", "venv", str(place)],
            [str(place / "bin" / "pip"), "install", "--quiet", *line.split()],
        ):
            if subprocess.run(words, stdout=sys.stderr).returncode:
                raise CommandError(f"'{' '.join(words)}' failed; the reason stands above")
        (place / "done").touch()
    return str(place / "bin" / "python")


def ask(package: Path, python: str, texts: list[str], folder: Path) -> Any:
    """What the card's code says of raw texts; None if it fails."""
    question, found = folder / "texts.json", folder / "answers.json"
    question.write_text(json.dumps(texts))
    found.unlink(missing_ok=True)
    words = [python, "-I", "-c", ASK, str(question.resolve()), str(found.resolve())]
    done = subprocess.run(words, cwd=package, stdout=sys.stderr)
    return read_json(found) if done.returncode == 0 else None


def judge(setting: Setting, folder: Path, environments: Path, fresh: bool) -> tuple[int, int]:
    """Texts that were asked about, and how many got another answer than in the pipeline."""
    package = folder / PACKAGE
    python = interpreter((package / "README.md").read_text(encoding="utf-8"), environments, fresh)
    table = pd.read_parquet(folder / DATA / "ingest" / "new.parquet").set_index("id")["text"]
    if setting.kind == "causal_lm":
        texts = table.loc[read_json(folder / DATA / "preprocess" / "new" / "test_documents.json")].tolist()
        expected = read_json(folder / DATA / "evaluate" / "metrics.json")["new"]["student"]["nats_per_token"]
        found = ask(package, python, texts, folder)
        if found is None:
            return len(texts), len(texts)
        tokens, nats = (sum(column) for column in zip(*found, strict=True))
        say(f"  {nats / tokens:.6f} nats per token of {len(texts)} documents, evaluate says {expected:.6f}")
        right = abs(nats / tokens - expected) <= TOLERANCE
        right &= tokens == read_json(folder / DATA / "preprocess" / "statistics.json")["new"]["test_tokens"]
        return len(texts), 0 if right else len(texts)
    answers = pd.read_parquet(folder / DATA / "evaluate" / "tables" / "predictions_new.parquet")
    texts = table.loc[answers["id"]].tolist()
    # No row of data is empty or so long.
    odd = ["", " \t\n", "word " * 20_000]
    found = ask(package, python, [*texts, *odd], folder)
    if found is None:
        return len(texts) + len(odd), len(texts) + len(odd)
    expected = answers["student"].tolist()
    different = sum(len({*answer}) > 1 for answer in zip(expected, *(side[: len(texts)] for side in found), strict=True))
    different += sum(alone != together for alone, together in zip(*(side[len(texts) :] for side in found), strict=True))
    accuracy = (answers["student"] == answers["actual"]).mean()
    say(f"  {len(set(expected))} classes among {len(texts)} answers, accuracy {accuracy:.3f}, {different} different")
    if len(set(expected)) < 2:
        raise CommandError(f"'{setting.name}' gives every text the same label, which shows nothing; train it for longer")
    return len(texts) + len(odd), different


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--folder", type=Path, help="keep the runs there, and skip what has been run")
    options = parser.parse_args()
    with one_line_errors("package_truth"), place(options.folder) as folder:
        folder = folder.resolve()
        say("Packages against the pipelines that made them")
        say(f"machine: {machine()}")
        chosen = [SETTINGS[number] for number in QUICK] if options.quick else SETTINGS
        size = 24 if options.quick else 80
        say(f"data: snips, {size} rows of each of 7 classes, a quarter of them for the test; {len(chosen)} settings")
        rows = different = 0
        for number, setting in enumerate(chosen):
            say(f"{number + 1} {setting.name}")
            run(setting, folder / f"run-{number}", size)
            asked, wrong = judge(setting, folder / f"run-{number}", folder / "environments", fresh=not options.quick)
            rows, different = rows + asked, different + wrong
        finish(settings=len(chosen), rows=rows, different=different)


if __name__ == "__main__":
    main()
