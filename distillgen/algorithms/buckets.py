"""Buckets of locality-sensitive hashing, in memory or on disk.

A bucket holds the first BUCKET texts with its key: a key that more texts share is that of boilerplate. Keys
have KEY_BITS bits, and spread evenly.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

BUCKET = 16
KEY_BITS, ROW_BITS = 40, 24  # of an entry of 64 bits: the key above, the text below
LOAD = 0.6  # largest share of the table's slots in use
SHARDS = 256  # so many that the keys of a block in one shard fit into the processor's cache
PIECE = 1 << 18  # entries that are read at a time

_SHIFT, _ROW = np.uint64(ROW_BITS), np.uint64((1 << ROW_BITS) - 1)


class Texts(NamedTuple):
    """Texts in buckets."""

    at: Array
    """For each text, the index of its key among those that were looked up."""
    numbers: Array
    """The number of each text."""


class Buckets(Protocol):
    """Buckets of numbered texts. The keys rise in every call."""

    def find(self, keys: Array) -> Texts:
        """Return the texts with these keys, which are distinct."""

    def add(self, keys: Array, numbers: Array) -> None:
        """Put each text into the bucket of its key."""


class Table:
    """Buckets in memory: a hash table with linear probing in one array, 8 bytes a slot.

    A dict of lists takes ten times as much memory. Numbers are less than 2^ROW_BITS - 1.
    """

    def __init__(self) -> None:
        self._slots: Array = np.zeros(1 << 12, np.uint64)
        self.used = 0
        """The entries so far, one for each text of a bucket."""

    def find(self, keys: Array) -> Texts:
        """Return the texts with these keys."""
        indices, matching = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
        index, at = np.arange(len(keys)), self._home(keys)
        while len(index):
            entries = self._slots[at]
            same = (entries >> _SHIFT == keys) & (entries != 0)
            indices.append(index[same])
            matching.append(entries[same])
            used = np.flatnonzero(entries)
            index, keys, at = index[used], keys[used], (at[used] + 1) & (len(self._slots) - 1)
        return Texts(np.concatenate(indices), _numbers(np.concatenate(matching)))

    def add(self, keys: Array, numbers: Array) -> None:
        """Put each text into the bucket of its key."""
        self.used += len(keys)
        size = len(self._slots)
        while self.used > LOAD * size:
            size *= 2
        if size > len(self._slots):
            entries = self._slots[self._slots != 0]
            self._slots = np.zeros(size, np.uint64)
            self._put(entries)
        self._put(keys << _SHIFT | (numbers + 1).astype(np.uint64))  # an entry of 0 is a free slot

    def entries(self) -> tuple[Array, Array]:
        """Return the keys, which rise, and the number of the text with each."""
        entries = self._slots[self._slots != 0]
        entries.sort()
        return entries >> _SHIFT, _numbers(entries)

    def _put(self, entries: Array) -> None:
        at = self._home(entries >> _SHIFT)
        while len(entries):
            free = self._slots[at] == 0
            self._slots[at[free]] = entries[free]
            on = np.flatnonzero(self._slots[at] != entries)  # of two entries for one slot the last is stored
            entries, at = entries[on], (at[on] + 1) & (len(self._slots) - 1)

    def _home(self, keys: Array) -> Array:
        return (keys >> np.uint64(KEY_BITS + 1 - len(self._slots).bit_length())).astype(np.int64)


def _numbers(entries: Array) -> Array:
    return (entries & _ROW).astype(np.int64) - 1


class Runs:
    """Buckets in an unnamed file, none of them in memory.

    Each `add` appends a run of entries, sorted by key. `find` reads what is in a range of keys, a shard, from
    every run, and goes on to the next range. It takes about as long for one key as for millions.
    """

    def __init__(self, folder: Path | None = None, shards: int = SHARDS) -> None:
        """`folder` is that of the file, by default the system's for temporary files."""
        self._file = tempfile.TemporaryFile(dir=folder)
        weakref.finalize(self, self._file.close)
        self._edges = np.linspace(0, 1 << KEY_BITS, shards + 1).astype(np.uint64)
        self._runs: list[tuple[int, Array]] = []  # its least number; where its shards start, and its end

    def find(self, keys: Array) -> Texts:
        """Return the texts with these keys."""
        indices, numbers = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for shard, (start, end) in enumerate(pairwise(np.searchsorted(keys, self._edges).tolist())):
            if start == end:
                continue
            sought = _Sought(keys[start:end])
            for least, places in self._runs:
                for entries in self._read(*places[shard : shard + 2].tolist()):
                    at, offsets = sought.among(entries)
                    indices.append(at + start)
                    numbers.append(offsets + least)
        return Texts(np.concatenate(indices), np.concatenate(numbers))

    def add(self, keys: Array, numbers: Array) -> None:
        """Put each text into the bucket of its key. The numbers span less than 2^ROW_BITS."""
        if len(keys):
            least, end = int(numbers.min()), self._file.seek(0, os.SEEK_END) // 8
            self._runs.append((least, np.searchsorted(keys, self._edges) + end))
            self._file.write((keys << _SHIFT | (numbers - least + 1).astype(np.uint64)).data)

    def _read(self, start: int, end: int) -> Iterator[Array]:
        for at in range(start, end, PIECE):
            self._file.seek(8 * at)
            yield np.frombuffer(self._file.read(8 * min(PIECE, end - at)), np.uint64)


class _Sought:
    """Keys that are looked up among entries. A table of the lower bits of all keys, which the processor's
    cache holds, passes most other entries by.
    """

    def __init__(self, keys: Array) -> None:
        self._keys = keys
        self._low = np.uint64((1 << max(8, (8 * len(keys)).bit_length())) - 1)
        self._table = np.zeros(int(self._low) + 1, np.bool_)
        self._table[keys & self._low] = True

    def among(self, entries: Array) -> tuple[Array, Array]:
        """Return the index of the key, and the number, of each entry with one of the keys."""
        entries = entries[self._table[entries >> _SHIFT & self._low]]
        keys = entries >> _SHIFT
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        same = self._keys[at] == keys
        return at[same], _numbers(entries[same])


class Block:
    """The buckets of texts that are matched together.

    A text of the block is a row, from 0, and has the number `first` + row. Earlier ones have lower numbers.
    """

    def __init__(self, keys: Array, earlier: Buckets, first: int) -> None:
        """Each row of `keys` has the keys of a text; `earlier` holds the texts before the block."""
        entries = (keys << _SHIFT | np.arange(len(keys), dtype=np.uint64)[:, None]).ravel()
        entries.sort()
        keys = entries >> _SHIFT
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        texts = earlier.find(keys[starts])
        sizes = np.diff(starts, append=len(entries))
        before = np.bincount(texts.at, minlength=len(starts))
        shared = (sizes > 1) | (before > 0)
        self._entries, self._in_shared = entries, np.repeat(shared, sizes)
        self._sizes, self._before = sizes[shared], before[shared]
        room = np.minimum(self._sizes + self._before, BUCKET)
        ends = np.cumsum(room)
        order = np.argsort(texts.at, kind="stable")
        at = (np.cumsum(shared) - 1)[texts.at[order]]
        place = np.arange(len(at)) - (np.cumsum(self._before) - self._before)[at]
        numbers = np.zeros(room.sum(), np.int64)
        numbers[(ends - room)[at] + place] = texts.numbers[order]
        self._first, self._numbers = first, array("q", numbers.tobytes())
        self._starts, self._ends = array("q", (ends - room).tobytes()), array("q", ends.tobytes())
        self._next = array("q", (ends - room + self._before).tobytes())

    def rows(self) -> Iterator[tuple[int, Sequence[int]]]:
        """Yield each row that shares buckets with another text, in order, and these buckets."""
        rows = self._entries[self._in_shared] & _ROW
        order = np.argsort(rows, kind="stable")
        rows, buckets = rows[order], np.repeat(np.arange(len(self._sizes)), self._sizes)[order]
        starts = np.flatnonzero(np.append(True, rows[1:] != rows[:-1]))[: len(rows)]
        for start, end in pairwise([*starts.tolist(), len(rows)]):
            yield int(rows[start]), buckets[start:end].tolist()

    def texts(self, buckets: Sequence[int]) -> set[int]:
        """Return the numbers of the texts in these buckets so far."""
        return set().union(*(self._numbers[self._starts[b] : self._next[b]] for b in buckets))

    def put(self, row: int, buckets: Sequence[int]) -> None:
        """Put a row into its shared buckets, as far as they are not full."""
        for bucket in buckets:
            if (place := self._next[bucket]) < self._ends[bucket]:
                self._numbers[place], self._next[bucket] = self._first + row, place + 1

    def entries(self, kept: Array, numbers: Array) -> tuple[Array, Array]:
        """Return the keys, which rise, under which the kept rows are stored, and the number for each."""
        rows = (self._entries & _ROW).astype(np.int64)
        chosen = kept[rows]
        shared = chosen[self._in_shared]
        so_far = np.cumsum(shared) - shared
        at_start = so_far[np.cumsum(self._sizes) - self._sizes]
        chosen[self._in_shared] &= so_far + np.repeat(self._before - at_start, self._sizes) < BUCKET
        return self._entries[chosen] >> _SHIFT, numbers[rows[chosen]]
