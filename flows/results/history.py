"""What commits of this clone hold of finished runs: parameters, recorded outputs, scores. Nothing is checked out.

    with RunHistory(root) as history:
        history.params(commit), history.metrics(commit), history.recipe_of(commit, params)

`dvc exp show --json` says the same of a hundred experiments in half a minute; this reads git's objects through one `git
cat-file` and the small files out of DVC's cache.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.repository.workspace import cache_folder, shared_folder
from stillhouse.core.identity import differing_keys
from stillhouse.core.recorded_files import object_path
from stillhouse.core.scores import METRICS

Change = tuple[str, Any, Any]
"""Dotted parameter, its value before and after; None where it was not there."""
RECIPES = "recipes"
LONGEST_VALUE = 40
MEMORY = "history.json"
"""In git's own folder of the clone: what was parsed, by the hash of its file."""
DEFAULT = "params.yaml"


class RunHistory:
    """A clone's git objects and DVC cache; a context, because a git process stands behind it."""

    def __init__(self, root: Path):
        self.root = root
        self.cache = cache_folder(root)
        self.memory = shared_folder(root) / MEMORY
        self.known: dict[str, Any] = {}
        self.used: dict[str, Any] = {}

    def __enter__(self) -> Self:
        with suppress(OSError, ValueError):
            self.known = json.loads(self.memory.read_text(encoding="utf-8"))
        self.git = subprocess.Popen(
            ["git", "cat-file", "--batch"],
            cwd=self.root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.git.communicate()
        if self.used.keys() != self.known.keys():
            temporary = self.memory.with_name(f"{self.memory.name}.{os.getpid()}")
            with suppress(OSError):
                temporary.write_text(json.dumps(self.used), encoding="utf-8")
                temporary.replace(self.memory)

    # ---- git ----

    def read(self, name: str) -> tuple[str, bytes] | None:
        """Hash and bytes of an object by name, such as `COMMIT:params.yaml`; None if there is none."""
        assert self.git.stdin is not None
        assert self.git.stdout is not None
        self.git.stdin.write(f"{name}\n".encode())
        self.git.stdin.flush()
        words = self.git.stdout.readline().split()
        if len(words) != 3:
            return None
        data = self.git.stdout.read(int(words[2]))
        self.git.stdout.read(1)
        return words[0].decode(), data

    def parsed(self, name: str, parse: Callable[[bytes], Any]) -> dict[str, Any]:
        """What `parse` makes of a YAML file of a commit, as JSON would hold it; empty if it is missing or damaged.

        A file is parsed once, also in later calls: YAML takes 15 to 60 milliseconds a file.
        """
        found = self.read(name)
        if found is None:
            return {}
        digest, data = found
        if digest not in self.used:
            tree = self.known.get(digest)
            if tree is None:
                with suppress(YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError):
                    tree = json.loads(json.dumps(parse(data), default=str))
            self.used[digest] = tree if isinstance(tree, dict) else {}
        return self.used[digest]

    def params(self, commit: str) -> dict[str, Any]:
        return self.parsed(f"{commit}:{DEFAULT}", as_params)

    def recipes(self, commit: str) -> dict[str, dict[str, Any]]:
        """Name to parameters of the recipes that lie in a commit."""
        found = self.read(f"{commit}:{RECIPES}")
        if found is None:
            return {}
        names, data = [], found[1]
        while data:
            entry, _, data = data.partition(b"\0")
            names.append(entry.split(b" ", 1)[1].decode(errors="replace"))
            # The entry's hash.
            data = data[len(found[0]) // 2 :]
        return {
            name[: -len(".yaml")]: self.parsed(f"{commit}:{RECIPES}/{name}", as_params)
            for name in names
            if name.endswith(".yaml")
        }

    # ---- DVC ----

    def outputs(self, commit: str) -> dict[str, str]:
        """Path to MD5 of every output that `dvc.lock` of a commit records."""
        return self.parsed(f"{commit}:dvc.lock", as_outputs)

    def json(self, md5: str | None) -> dict[str, Any] | None:
        """What a small output holds; None if the cache does not hold it as it was."""
        if not md5:
            return None
        with suppress(OSError, ValueError):
            data = (self.cache / object_path(md5)).read_bytes()
            if hashlib.md5(data).hexdigest() == md5:
                return json.loads(data)
        return None

    def metrics(self, commit: str) -> dict[str, Any] | None:
        """`data/evaluate/metrics.json` as the commit records it; None if it records none, or the cache does not hold it."""
        return self.json(self.outputs(commit).get(str(METRICS)))


def as_params(data: bytes) -> Any:
    return YAML(typ="safe", pure=True).load(data)


def as_outputs(data: bytes) -> dict[str, str]:
    # The parser in C is four times faster, and what it reads differently of YAML does not stand in this file.
    return outputs_in(YAML(typ="safe").load(data))


def outputs_in(lock: Mapping[str, Any]) -> dict[str, str]:
    """Path to MD5 of every output in a `dvc.lock`."""
    stages = lock.get("stages") or {}
    return {out["path"]: str(out.get("md5", "")) for entry in stages.values() for out in entry.get("outs") or []}


def nearest_recipe(
    params: Mapping[str, Any], recipes: Mapping[str, Mapping[str, Any]], start: Mapping[str, Any]
) -> tuple[str, list[Change]]:
    """Which of `recipes` some parameters were most likely made from, and what differs from it; `params.yaml` for `start`.

    A run does not keep the name of its recipe, and need not: what differs least is what it is understood from. Of equals it
    is what the run started from, under the name of a recipe if that is the same.
    """
    same = {name: recipe for name, recipe in recipes.items() if recipe == start}
    found = {name: differences(recipe, params) for name, recipe in {**same, DEFAULT: start, **recipes}.items()}
    name = min(found, key=lambda name: len(found[name]))
    return name, found[name]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """What differs between two trees of parameters."""
    names = [name for key in sorted({*old, *new}) for name in differing_keys(old.get(key), new.get(key), key)]
    return [(name, value_at(old, name), value_at(new, name)) for name in names]


def in_words(change: Change) -> str:
    """`train_student.distillation.temperature 2.0 -> 4`."""
    name, old, new = change
    return f"{name} {value(old)} -> {value(new)}"


def value(of: Any) -> str:
    """A parameter's value as a few words."""
    if of is None:
        return "none"
    text = of if isinstance(of, str) else json.dumps(of, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def value_at(tree: Any, name: str) -> Any:
    """The value at a dotted name; None if there is none."""
    for key in name.split("."):
        # Keys may be numbers.
        found = [value for each, value in tree.items() if str(each) == key] if isinstance(tree, Mapping) else []
        if not found:
            return None
        tree = found[0]
    return tree
