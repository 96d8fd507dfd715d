"""Near-duplicates among any number of texts: MinHash signatures, locality-sensitive hashing, and every candidate verified.

Broder 1997, On the resemblance and containment of documents; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets,
chapter 3. A text is the set of its shingles. Signatures are cut into bands; texts that agree in a whole band share a bucket
and are candidates. A candidate's Jaccard similarity is then exact for sets of up to SKETCH shingles, and estimated from the
SKETCH smallest hashes of the larger ones.
"""

from __future__ import annotations

import math
import tempfile
import weakref
from array import array
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import numpy as np
from rensa import RMinHash

from distillgen.text.ngrams import ngrams

SKETCH = 256  # shingles: a standard error of at most 0.03 beyond
MISSED = 1 / 30  # at most, of pairs that lie exactly at the threshold
MOST_BANDS, MOST_ROWS = 12, 8
BUCKET = 16  # records in one bucket: what more texts share tells nothing of a text
LOAD, GROWTH, BLOCK = 0.7, 1.5, 1 << 16

Array = np.ndarray[Any, np.dtype[Any]]


def shingles(tokens: Sequence[str], size: int) -> list[str]:
    """Every `size` tokens that stand together; of a shorter text all of them."""
    return list(map(" ".join, ngrams(tokens, size))) or [" ".join(tokens)]


class Match(NamedTuple):
    """The most similar earlier text among the candidates: its number, -1 where there was none, and the Jaccard similarity."""

    number: int
    similarity: float


def banding(threshold: float) -> tuple[int, int]:
    """Bands and rows a band, as selective as MOST_BANDS allow: a pair of similarity s shares a bucket with the probability
    1 - (1 - s^rows)^bands.
    """
    rows = max((r for r in range(2, MOST_ROWS + 1) if (1 - threshold**r) ** MOST_BANDS <= MISSED), default=1)
    return math.ceil(math.log(MISSED) / math.log1p(-(threshold**rows))), rows


class Index:
    """The texts so far, but for near-duplicates of others. In memory they take at most 17 bytes a band, whatever their
    length; a temporary file holds their ids and sketches.
    """

    def __init__(self, threshold: float, seed: int = 0) -> None:
        """`threshold` is the Jaccard similarity, between 0 and 1, from which a text is a near-duplicate."""
        self._threshold, self._seed = threshold, seed
        self._bands, self._rows = banding(threshold)
        self._buckets = _Buckets()
        self._file = tempfile.TemporaryFile()
        weakref.finalize(self, self._file.close)
        self._ends = array("Q", [0])

    def add(self, ids: Sequence[str], texts: Sequence[Sequence[str]]) -> list[Match]:
        """For each text, as its shingles, its best match among those before it that were no near-duplicates themselves."""
        sketches, keys = self._hashed(texts)
        rows, numbers = self._buckets.find(keys.ravel())
        candidates: list[set[int]] = [set() for _ in ids]
        for row, number in zip((rows // self._bands).tolist(), numbers.tolist(), strict=True):
            candidates[row].add(number)
        near: dict[int, list[int]] = {}  # the buckets of this very batch
        matches, kept, kept_numbers = [], [], []
        for row, (name, sketch, own) in enumerate(zip(ids, sketches, keys.tolist(), strict=True)):
            others = candidates[row].union(*(near.get(key, ()) for key in own))
            match = max(
                (Match(n, jaccard(sketch, self._sketch(n))) for n in sorted(others)),
                key=_similarity,
                default=_NONE,
            )
            matches.append(match)
            if match.similarity < self._threshold:
                number = self._keep(name, sketch)
                kept.append(row)
                kept_numbers.append(number)
                for key in own:
                    near.setdefault(key, []).append(number)
        if kept:
            self._buckets.add(keys[kept].ravel(), np.repeat(np.array(kept_numbers, np.uint64), self._bands))
        return matches

    def id(self, number: int) -> str:
        """The id of the text that a match names."""
        return self._stored(number)[0]

    def _hashed(self, texts: Sequence[Sequence[str]]) -> tuple[list[Array], Array]:
        """Of each text the smallest hashes of its shingles, and the keys of its buckets, one a band."""
        hashes = RMinHash.hash_token_sets(texts)
        ends = [0, *accumulate(map(len, hashes))]
        flat = _mixed(np.fromiter(chain.from_iterable(hashes), np.uint64, ends[-1]))
        small = (flat >> np.uint64(32)).astype(np.uint32)
        sketches = [np.unique(small[start:end])[:SKETCH] for start, end in zip(ends, ends[1:], strict=False)]
        offsets = np.array(ends, np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            flat, offsets, self._bands * self._rows, self._seed
        )
        signatures = np.array(matrix.to_rows(), np.uint64).reshape(-1, self._bands, self._rows)
        keys = np.broadcast_to(np.arange(self._bands, dtype=np.uint64), signatures.shape[:2])
        for row in range(self._rows):
            keys = _mixed(keys ^ signatures[:, :, row])
        return sketches, keys >> np.uint64(32)

    def _keep(self, name: str, sketch: Array) -> int:
        stored = name.encode()
        self._file.seek(self._ends[-1])
        self._file.write(len(stored).to_bytes(2) + stored + sketch.tobytes())
        self._ends.append(self._file.tell())
        return len(self._ends) - 2

    def _stored(self, number: int) -> tuple[str, bytes]:
        start, end = self._ends[number : number + 2]
        self._file.seek(start)
        stored = self._file.read(end - start)
        size = 2 + int.from_bytes(stored[:2])
        return stored[2:size].decode(), stored[size:]

    def _sketch(self, number: int) -> Array:
        return np.frombuffer(self._stored(number)[1], np.uint32)


_NONE = Match(-1, 0.0)


def _similarity(match: Match) -> float:
    return match.similarity


def jaccard(a: Array, b: Array) -> float:
    """The similarity of two sets by their smallest hashes, sorted and distinct: exact where neither sketch is full."""
    known = min((sketch[-1] for sketch in (a, b) if len(sketch) == SKETCH), default=None)
    if known is not None:  # above a full sketch's last hash nothing is known of its set
        a, b = (sketch[: np.searchsorted(sketch, known, "right")] for sketch in (a, b))
    both = len(set(a.tolist()).intersection(b.tolist()))  # of short arrays faster than NumPy's
    return both / (len(a) + len(b) - both)


def _mixed(values: Array) -> Array:
    """Hashes of which every bit depends on every bit (the finalizer of SplitMix64)."""
    mixed: Array = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


class _Buckets:
    """Which records have a key: a hash table with linear probing in one array, 8 bytes an entry, key above number + 1.

    A dict of lists takes ten times as much.
    """

    def __init__(self) -> None:
        self._slots: Array = np.zeros(1 << 12, np.uint64)
        self._used = 0

    def find(self, keys: Array) -> tuple[Array, Array]:
        """Pairs of an index into `keys` and the number of a record that has that key."""
        rows, numbers = [], []
        index, at = np.arange(len(keys)), self._home(keys)
        while len(index):
            there = self._slots[at]
            same = (there >> np.uint64(32) == keys[index]) & (there != 0)
            rows.append(index[same])
            numbers.append((there[same] & np.uint64(0xFFFFFFFF)) - np.uint64(1))
            taken = there != 0
            index, at = index[taken], (at[taken] + 1) % len(self._slots)
        return np.concatenate(rows), np.concatenate(numbers)

    def add(self, keys: Array, numbers: Array) -> None:
        """Give each record its key, unless BUCKET others have it already."""
        if self._used + len(keys) > LOAD * len(self._slots):
            self._grow(len(keys))
        self._put(keys << np.uint64(32) | numbers + np.uint64(1))

    def _put(self, entries: Array) -> None:
        at, crowd = self._home(entries >> np.uint64(32)), np.zeros(len(entries), np.uint8)
        while len(entries):
            free = self._slots[at] == 0
            self._slots[at[free]] = entries[free]
            there = self._slots[at]  # of two that went for one place the last has it, and the other goes on
            crowd += there >> np.uint64(32) == entries >> np.uint64(32)
            self._used += int(np.count_nonzero(there[free] == entries[free]))
            on = (there != entries) & (crowd < BUCKET)
            entries, crowd, at = entries[on], crowd[on], (at[on] + 1) % len(self._slots)

    def _grow(self, more: int) -> None:
        """The entries wait in a file, so that the old table and the new one are never in memory together."""
        size = max(int(len(self._slots) * GROWTH), int((self._used + more) / LOAD) + 1)
        with tempfile.TemporaryFile() as waiting:
            for start in range(0, len(self._slots), BLOCK):
                part = self._slots[start : start + BLOCK]
                waiting.write(part[part != 0].tobytes())
            del part, self._slots
            self._slots, self._used = np.zeros(size, np.uint64), 0
            waiting.seek(0)
            while entries := waiting.read(8 * BLOCK):
                self._put(np.frombuffer(entries, np.uint64))

    def _home(self, keys: Array) -> Array:
        return (keys * np.uint64(len(self._slots)) >> np.uint64(32)).astype(np.int64)
