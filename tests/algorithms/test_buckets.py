"""Buckets in memory and on disk, compared with a dict."""

import random
from collections import defaultdict

import numpy as np
import pytest

from distillgen.algorithms.buckets import BUCKET, KEY_BITS, Block, Runs, Table

STORES = {"memory": Table, **{f"{n} shards": lambda n=n: Runs(shards=n) for n in (1, 7, 256)}}


@pytest.fixture(params=STORES)
def store(request):
    return STORES[request.param]()


def pairs(found):
    return sorted(zip(found.at.tolist(), found.numbers.tolist(), strict=True))


def test_a_store_gives_back_what_was_put_into_it_and_nothing_else(store):
    chance = np.random.default_rng(0)
    held, keys = defaultdict(list), chance.integers(0, 1 << KEY_BITS, 5_000, np.uint64)
    keys[::50], keys[1], keys[2] = keys[0], 0, (1 << KEY_BITS) - 1
    for start in range(0, len(keys), 700):
        part = np.sort(keys[start : start + 700])
        numbers = np.arange(start, start + len(part))[::-1]
        store.add(part, numbers)
        for key, number in zip(part.tolist(), numbers.tolist(), strict=True):
            held[key].append(number)
    sought = np.unique(np.concatenate([keys[::3], chance.integers(0, 1 << KEY_BITS, 2_000, np.uint64)]))
    expected = [(at, number) for at, key in enumerate(sought.tolist()) for number in held.get(key, ())]
    assert len(expected) > 1_000 and pairs(store.find(sought)) == sorted(expected)
    near = np.unique(keys ^ np.uint64(1))
    assert pairs(store.find(near[~np.isin(near, keys)])) == []


def test_an_empty_store_and_no_keys(store):
    assert pairs(store.find(np.arange(3, dtype=np.uint64))) == []
    store.add(np.zeros(0, np.uint64), np.zeros(0, np.int64))
    assert pairs(store.find(np.zeros(0, np.uint64))) == []


def test_the_table_takes_little_memory():
    table, keys = Table(), np.random.default_rng(1).integers(0, 1 << KEY_BITS, 50_000, np.uint64)
    for part in np.split(keys, 50):
        table.add(np.sort(part), np.arange(len(part)))
    assert table._slots.nbytes < 28 * len(keys)


def test_the_entries_of_the_table_go_on_disk():
    table, runs, keys = Table(), Runs(), np.arange(1_000, dtype=np.uint64) << np.uint64(29)
    table.add(keys, np.arange(1_000)[::-1])
    runs.add(*table.entries())
    assert pairs(runs.find(keys)) == [(at, 999 - at) for at in range(1_000)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [1, 30])
def test_blocks_of_any_size_share_the_buckets_that_one_text_at_a_time_would(store, seed, size):
    """A text sees the first BUCKET kept texts with one of its keys; whether it is kept is chance here."""
    chance = random.Random(seed)
    all_keys = [chance.getrandbits(KEY_BITS) for _ in range([5, 30, 1_000][seed % 3])]
    rows = [chance.sample(all_keys, 4) for _ in range(80)]
    keep = [chance.random() < 0.7 for _ in rows]
    buckets, expected, kept = defaultdict(list), [], 0
    for row, keys in enumerate(rows):
        expected.append({number for key in keys for number in buckets[key]})
        for key in keys if keep[row] else ():
            if len(buckets[key]) < BUCKET:
                buckets[key].append(kept)
        kept += keep[row]
    seen, first = [set() for _ in rows], 0
    for start in range(0, len(rows), size):
        mask = np.array(keep[start : start + size])
        numbers = first - 1 + np.cumsum(mask)
        block = Block(np.array(rows[start : start + size], np.uint64), store, first)
        for row, shared in block.rows():
            others = block.texts(shared)
            seen[start + row] = {n if n < first else int(numbers[n - first]) for n in others}
            if mask[row]:
                block.put(row, shared)
        store.add(*block.entries(mask, numbers))
        first += int(mask.sum())
    assert seen == expected
