"""Errors a user can act on. Every message is one line: what is wrong, where, what was expected, what to do."""

import difflib
from collections.abc import Iterable


class StillhouseError(Exception):
    """Base of every error that is the user's to mend; the stage prints its message and exits with code 1."""


class ParamsError(StillhouseError):
    """A parameter is unknown, missing, of the wrong type or out of range."""


class DataError(StillhouseError):
    """A data file or row cannot be used."""


class ArtifactError(StillhouseError):
    """A file that an earlier stage wrote is missing, damaged or belongs to something else."""


class EnvironmentMismatchError(StillhouseError):
    """The interpreter or its packages are not the ones that `env.lock` names."""


class TopologyError(StillhouseError):
    """The global batch does not fit the number of processes and the micro-batch, or a pool or run asks for processes that
    torchrun cannot start. `flows.dispatch.children` knows it by its name."""


class StorageError(StillhouseError):
    """The disk refused a write."""


class MemoryShortageError(StillhouseError):
    """A training needs more memory than there is."""


class NonFiniteError(StillhouseError):
    """A loss or gradient is NaN or infinite."""


class HangError(StillhouseError):
    """A rank waits in vain for another one."""


class HubError(StillhouseError):
    """A hub id, revision or network address did not answer."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word closest to `word`, or the list of known words, or nothing."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""
