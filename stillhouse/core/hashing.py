"""Keyed hashes of row ids: every random choice about a row is a pure function of its id and named salts.

So a row's split, views and withheld label stay what they are when rows are added, sorted or dealt to other ranks.
"""

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def salt(*parts: str | int) -> np.uint64:
    """A 64-bit constant from words and numbers, e.g. `salt("view", seed)`."""
    text = "\0".join(str(part) for part in parts)
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big"))


def text_keys(texts) -> np.ndarray:
    """64-bit keys (N,) of texts."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def mix(keys: np.ndarray, key: np.uint64 | int) -> np.ndarray:
    """64-bit keys (N,) hashed with another one: the finaliser of SplitMix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = (keys.astype(np.uint64) ^ np.uint64(key)) + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def uniform(keys: np.ndarray, key: np.uint64 | int) -> np.ndarray:
    """float64 (N,) in [0, 1) from keys (N,)."""
    return (mix(keys, key) >> np.uint64(11)).astype(np.float64) * 2.0**-53
