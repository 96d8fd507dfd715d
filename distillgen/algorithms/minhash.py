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
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rensa import RMinHash

from distillgen.algorithms.buckets import KEY_BITS, Block, Runs, Table
from distillgen.algorithms.shingle_hashes import Hashes

SKETCH = 256  # hashes of a set: larger sets are compared with a standard error of at most 0.03
MISSED = 1 / 30  # the largest share of pairs exactly at the threshold that share no bucket
MOST_BANDS, MOST_ROWS = 12, 8
MOST_IN_MEMORY = 5_000_000  # entries: at `threshold` 0.7 those of 550,000 texts, in 64 MiB
BLOCK = 1 << 20  # texts that are matched together once the buckets are on disk

Array = np.ndarray[Any, np.dtype[Any]]


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
    """The texts so far that have no near-duplicate among earlier ones.

    Texts are added in order, and their matches are asked for in the same order. While the buckets have at
    most MOST_IN_MEMORY entries, one for each band of a text, they are in memory, and texts may be matched a
    few at a time. Then the index goes `on_disk`, where a text takes as long to match as BLOCK of them: add
    texts until it is `full`. Its memory grows no further, and the matches are the same.
    """

    def __init__(self, threshold: float, *, folder: Path | None = None, seed: int = 0) -> None:
        """`threshold` is the lowest Jaccard similarity, between 0 and 1, of near-duplicates. `folder` is that
        of unnamed files, by default the system's for temporary files.
        """
        self._threshold, self._seed, self._folder = threshold, seed, folder
        self._bands, self._rows = banding(threshold)
        self._buckets: Table | Runs = Table()
        self._texts = _Texts(folder)
        self._keys: list[Array] = []
        self._matches: Iterator[Match] = iter(())
        self.waiting = 0
        """The texts whose matches were not asked for yet."""

    @property
    def on_disk(self) -> bool:
        """Whether texts are to be matched many at a time."""
        return isinstance(self._buckets, Runs)

    @property
    def full(self) -> bool:
        """Whether a block of texts waits."""
        return self.waiting >= BLOCK

    def add(self, ids: Sequence[str], hashes: Hashes) -> None:
        """Add texts, by the hashes of their shingles."""
        mixed = _mixed(hashes.flat)
        self._texts.add(ids, *_sketches(mixed, hashes.ends))
        self._keys.append(self._band_keys(mixed, hashes.ends))
        self.waiting += len(ids)

    def matches(self, count: int) -> list[Match]:
        """Return the best match of each of the next texts among the earlier ones that are no near-duplicates
        and share a bucket with it.
        """
        if self._keys:
            self._matches = chain([*self._matches], self._judged())
        self.waiting -= count
        return list(islice(self._matches, count))

    def id(self, number: int) -> str:
        """Return the id of the text with this number."""
        return self._texts.id(number)

    def _band_keys(self, flat: Array, ends: Array) -> Array:
        """Return the key of each text's bucket in each band."""
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            flat, ends.astype(np.uint64), self._bands * self._rows, self._seed
        )
        signatures = np.array(matrix.to_rows(), np.uint64).reshape(-1, self._bands, self._rows)
        keys = np.broadcast_to(np.arange(self._bands, dtype=np.uint64), signatures.shape[:2])
        for row in range(self._rows):
            keys = _mixed(keys ^ signatures[:, :, row])
        return keys >> np.uint64(64 - KEY_BITS)

    def _judged(self) -> Iterator[Match]:
        """Return the matches of the texts that were added since the last call."""
        keys, self._keys = np.concatenate(self._keys), []
        first, count = self._texts.kept, len(keys)
        block = Block(keys, self._buckets, first)
        del keys
        kept, best, similarities = np.ones(count, np.bool_), np.full(count, -1), np.zeros(count)
        for row, buckets in block.rows():
            if others := block.texts(buckets):
                sketch = self._texts.sketch(first + row)
                near = [Match(n, jaccard(sketch, self._texts.sketch(n))) for n in sorted(others)]
                best[row], similarities[row] = match = max(near, key=_similarity)
                if match.similarity >= self._threshold:
                    kept[row] = False
                    continue
            block.put(row, buckets)
        numbers = np.cumsum(kept) + (first - 1)
        self._buckets.add(*block.entries(kept, numbers))
        self._texts.keep(kept)
        if isinstance(self._buckets, Table) and self._buckets.used > MOST_IN_MEMORY:
            runs = Runs(self._folder)
            runs.add(*self._buckets.entries())
            self._buckets = runs
        in_block = best >= first
        best[in_block] = numbers[best[in_block] - first]
        return map(Match, array("q", best.tobytes()), array("d", similarities.tobytes()))


class _Texts:
    """The id and the sketch of each text, in unnamed files."""

    def __init__(self, folder: Path | None) -> None:
        self._file, self._places = (tempfile.TemporaryFile(dir=folder) for _ in range(2))
        for file in (self._file, self._places):
            weakref.finalize(self, file.close)
        self._ends = array("Q", [0])  # of the texts since the last call of `keep`
        self.kept = 0
        """The texts that were kept: they have the numbers from 0. Those after them are not decided yet."""

    def add(self, ids: Sequence[str], sketches: Array, ends: Array) -> None:
        """Add texts. `ends` holds where each one's sketch ends in `sketches`, after a first 0."""
        names = [name.encode() for name in ids]
        data = sketches.tobytes()
        self._file.seek(self._ends[-1])
        self._file.write(
            b"".join(
                part
                for name, (start, end) in zip(names, pairwise((4 * ends).tolist()), strict=True)
                for part in (len(name).to_bytes(2), name, data[start:end])
            )
        )
        sizes = np.diff(4 * ends) + np.fromiter(map(len, names), np.int64, len(names)) + 2
        self._ends.frombytes((np.cumsum(sizes) + self._ends[-1]).astype(np.uint64).tobytes())

    def keep(self, kept: Array) -> None:
        """Number the texts since the last call for which `kept` is true, and forget the others."""
        ends = np.array(self._ends)
        self._places.seek(0, os.SEEK_END)
        self._places.write(np.stack([ends[:-1], ends[1:]], 1)[kept].tobytes())
        self._ends = self._ends[-1:]
        self.kept += int(np.count_nonzero(kept))

    def id(self, number: int) -> str:
        """Return the id of a text."""
        return self._entry(number)[0].decode()

    def sketch(self, number: int) -> Array:
        """Return the sketch of a text."""
        return np.frombuffer(self._entry(number)[1], np.uint32)

    def _entry(self, number: int) -> tuple[bytes, bytes]:
        if number >= self.kept:
            start, end = self._ends[number - self.kept : number - self.kept + 2]
        else:
            self._places.seek(16 * number)
            start, end = np.frombuffer(self._places.read(16), np.uint64).tolist()
        self._file.seek(start)
        entry = self._file.read(end - start)
        size = 2 + int.from_bytes(entry[:2])
        return entry[2:size], entry[size:]


def _similarity(match: Match) -> float:
    return match.similarity


def _sketches(flat: Array, ends: Array) -> tuple[Array, Array]:
    """Return the SKETCH smallest distinct upper halves of each text's hashes, and where each text's end."""
    texts = np.repeat(np.arange(len(ends) - 1, dtype=np.uint64), np.diff(ends))
    ordered = np.sort(texts << np.uint64(32) | flat >> np.uint64(32))
    distinct = ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]
    starts = np.searchsorted(distinct, np.arange(len(ends), dtype=np.uint64) << np.uint64(32))
    counts = np.diff(starts)
    small = np.arange(len(distinct)) - np.repeat(starts[:-1], counts) < SKETCH
    return distinct[small].astype(np.uint32), np.append(0, np.cumsum(np.minimum(counts, SKETCH)))


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
