"""Near-duplicates among many texts: MinHash signatures, locality-sensitive hashing, and a check of every
candidate.

The method is that of Broder 1997, On the resemblance and containment of documents, and of Leskovec,
Rajaraman, Ullman, Mining of Massive Datasets, chapter 3. A text is the set of its shingles. Its signature is
cut into bands; texts with an equal band share a bucket, and are candidates. The Jaccard similarity of
candidates is exact for sets of up to SKETCH shingles, and estimated from the SKETCH smallest hashes of larger
sets.
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

SKETCH = 256  # hashes of a set: larger sets are compared with a standard error of at most 0.03
MISSED = 1 / 30  # the largest share of pairs exactly at the threshold that share no bucket
MOST_BANDS, MOST_ROWS = 12, 8
BUCKET = 16  # most records in one bucket: a band that more texts share is boilerplate
LOAD, GROWTH, BLOCK = 0.7, 1.5, 1 << 16

Array = np.ndarray[Any, np.dtype[Any]]


def shingles(tokens: Sequence[str], size: int) -> list[str]:
    """Return the n-grams of `size` tokens, joined by spaces; of a shorter text, the whole text."""
    return list(map(" ".join, ngrams(tokens, size))) or [" ".join(tokens)]


class Match(NamedTuple):
    """The most similar earlier text among the candidates."""

    number: int
    """The number of the text, from 0; -1 if there is no candidate."""
    similarity: float
    """Jaccard similarity, from 0 to 1."""


def banding(threshold: float) -> tuple[int, int]:
    """Return the number of bands, and of rows in a band: as many rows as MOST_BANDS allow.

    A pair of similarity s shares a bucket with probability 1 - (1 - s^rows)^bands.
    """
    rows = max((r for r in range(2, MOST_ROWS + 1) if (1 - threshold**r) ** MOST_BANDS <= MISSED), default=1)
    return math.ceil(math.log(MISSED) / math.log1p(-(threshold**rows))), rows


class Index:
    """The texts so far without near-duplicates. A text takes at most 17 bytes of memory per band, whatever
    its length; a temporary file holds the ids and sketches.
    """

    def __init__(self, threshold: float, seed: int = 0) -> None:
        """`threshold` is the lowest Jaccard similarity, between 0 and 1, of near-duplicates."""
        self._threshold, self._seed = threshold, seed
        self._bands, self._rows = banding(threshold)
        self._buckets = _Buckets()
        self._file = tempfile.TemporaryFile()
        weakref.finalize(self, self._file.close)
        self._ends = array("Q", [0])

    def add(self, ids: Sequence[str], texts: Sequence[Sequence[str]]) -> list[Match]:
        """Return the best match of each text, a list of shingles, among the earlier texts that are no
        near-duplicates.
        """
        sketches, keys = self._hashed(texts)
        rows, numbers = self._buckets.find(keys.ravel())
        candidates: list[set[int]] = [set() for _ in ids]
        for row, number in zip((rows // self._bands).tolist(), numbers.tolist(), strict=True):
            candidates[row].add(number)
        near: dict[int, list[int]] = {}  # buckets of the texts of this batch
        matches, kept, kept_numbers = [], [], []
        for row, (name, sketch, text_keys) in enumerate(zip(ids, sketches, keys.tolist(), strict=True)):
            others = candidates[row].union(*(near.get(key, ()) for key in text_keys))
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
                for key in text_keys:
                    near.setdefault(key, []).append(number)
        if kept:
            self._buckets.add(keys[kept].ravel(), np.repeat(np.array(kept_numbers, np.uint64), self._bands))
        return matches

    def id(self, number: int) -> str:
        """Return the id of the text with this number."""
        return self._entry(number)[0]

    def _hashed(self, texts: Sequence[Sequence[str]]) -> tuple[list[Array], Array]:
        """Return for each text the smallest hashes of its shingles, and its bucket key in each band."""
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
        entry = name.encode()
        self._file.seek(self._ends[-1])
        self._file.write(len(entry).to_bytes(2) + entry + sketch.tobytes())
        self._ends.append(self._file.tell())
        return len(self._ends) - 2

    def _entry(self, number: int) -> tuple[str, bytes]:
        start, end = self._ends[number : number + 2]
        self._file.seek(start)
        entry = self._file.read(end - start)
        size = 2 + int.from_bytes(entry[:2])
        return entry[2:size].decode(), entry[size:]

    def _sketch(self, number: int) -> Array:
        return np.frombuffer(self._entry(number)[1], np.uint32)


_NONE = Match(-1, 0.0)


def _similarity(match: Match) -> float:
    return match.similarity


def jaccard(a: Array, b: Array) -> float:
    """Return the similarity of two sets from their smallest hashes, sorted and distinct: exact if no sketch
    is full.
    """
    last_hash = min((sketch[-1] for sketch in (a, b) if len(sketch) == SKETCH), default=None)
    if last_hash is not None:  # a full sketch does not hold the larger hashes of its set
        a, b = (sketch[: np.searchsorted(sketch, last_hash, "right")] for sketch in (a, b))
    both = len(set(a.tolist()).intersection(b.tolist()))  # faster than NumPy for short arrays
    return both / (len(a) + len(b) - both)


def _mixed(values: Array) -> Array:
    """Return hashes in which every bit depends on every bit of the input (the finalizer of SplitMix64)."""
    mixed: Array = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


class _Buckets:
    """The records of each key: a hash table with linear probing in one array.

    An entry takes 8 bytes, with the key in the upper and number + 1 in the lower half. A dict of lists takes
    ten times as much memory.
    """

    def __init__(self) -> None:
        self._slots: Array = np.zeros(1 << 12, np.uint64)
        self._used = 0

    def find(self, keys: Array) -> tuple[Array, Array]:
        """Return pairs of an index into `keys` and the number of a record with that key, as two arrays."""
        rows, numbers = [], []
        index, at = np.arange(len(keys)), self._home(keys)
        while len(index):
            entries = self._slots[at]
            same = (entries >> np.uint64(32) == keys[index]) & (entries != 0)
            rows.append(index[same])
            numbers.append((entries[same] & np.uint64(0xFFFFFFFF)) - np.uint64(1))
            used = entries != 0
            index, at = index[used], (at[used] + 1) % len(self._slots)
        return np.concatenate(rows), np.concatenate(numbers)

    def add(self, keys: Array, numbers: Array) -> None:
        """Store the key of each record, unless BUCKET records have it already."""
        if self._used + len(keys) > LOAD * len(self._slots):
            self._grow(len(keys))
        self._put(keys << np.uint64(32) | numbers + np.uint64(1))

    def _put(self, entries: Array) -> None:
        at, crowd = self._home(entries >> np.uint64(32)), np.zeros(len(entries), np.uint8)
        while len(entries):
            free = self._slots[at] == 0
            self._slots[at[free]] = entries[free]
            slots = self._slots[at]  # of two entries for one slot the last is stored; the other goes on
            crowd += slots >> np.uint64(32) == entries >> np.uint64(32)
            self._used += int(np.count_nonzero(slots[free] == entries[free]))
            on = (slots != entries) & (crowd < BUCKET)
            entries, crowd, at = entries[on], crowd[on], (at[on] + 1) % len(self._slots)

    def _grow(self, more: int) -> None:
        """Enlarge the table. A file holds the entries meanwhile, so that memory never holds both tables."""
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
