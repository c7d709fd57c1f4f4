"""What a kind's module of the gate must hold; torch-free."""

from pathlib import Path
from typing import Any, Protocol, cast

from stillhouse.gate.gate_parts import Judgement
from stillhouse.kinds.protocol import load
from stillhouse.kinds.registry import KINDS


class Judge(Protocol):
    def judge(self, gate: Any, threads: int, against: str | None, folder: Path | None) -> Judgement:
        """The candidate, and beside it the package in `folder`, if any. Raises ArtifactError for a damaged one."""
        ...


def judge_of(kind: str) -> Judge:
    return cast(Judge, load(KINDS[kind].judge))
