"""Near-duplicates compared with brute force: no false positives, and hardly one missed."""

import gc
import random
import re
import signal
import subprocess
import sys
import tracemalloc
from collections import Counter
from itertools import product

import numpy as np
import pytest

import distillgen
from distillgen.algorithms import minhash
from distillgen.algorithms.shingle_hashes import shingle_hashes
from distillgen.flow import whole_set
from distillgen.plugins import filter_factory
from distillgen.project import Project
from distillgen.record import Record
from distillgen.text.ngrams import ngrams
from distillgen.text.words import words

CASES = [
    ({"by": ["x"]}, {"x": "anything"}, None),
    ({"by": ["x"], "unit": "character", "shingle": 5}, {"x": "湖はとても深い。"}, None),
]


@pytest.fixture
def near_duplicate(tmp_path):
    """near_duplicate(texts, chunk=…, **options) -> for each text None, or (its reason, the place of the text
    named in it).
    """

    def apply(texts, chunk=256, **options):
        made = filter_factory("near_duplicate", Project(tmp_path))(by=["x"], **options)
        records = [Record(f"{i:020x}", {"x": text}) for i, text in enumerate(texts)]
        found = []
        for start in range(0, len(records), chunk):
            numbers = made.measure(records[start : start + chunk])
            found += [made.decide(number) for number in numbers]
        return [reason and (reason, int(re.search(r"to (\w{20}) ", reason)[1], 16)) for reason in found]

    return apply


def planted(count, *, length=40, seed=1):
    """Texts of random words; every third is an earlier one with a word more and some changed, its similarity
    about 0.5 to 0.97.
    """
    chance = random.Random(seed)
    vocabulary = [
        "".join(letters) for letters in product("bdfgklmnprst", "aeiou", "bdfgklmnprst", "aeiou", "nrst")
    ]
    texts: list[list[str]] = []
    for i in range(count):
        text = chance.choices(vocabulary, k=length)
        if i % 3 == 2:
            text = list(chance.choice(texts))
            for at in chance.sample(range(length), chance.randint(0, length // 12)):
                text[at] = chance.choice(vocabulary)
            text.append(chance.choice(vocabulary))
        texts.append(text)
    return [" ".join(text) for text in texts]


def exact(a, b):
    return len(a & b) / len(a | b)


def judged(texts, found, threshold):
    """Precision and recall against all pairs: a text counts that is near an earlier one that was kept."""
    sets = [frozenset(ngrams(words(text), 3)) for text in texts]
    having: dict[str, list[int]] = {}
    right = wanted = caught = dropped = 0
    for i, (own, drop) in enumerate(zip(sets, found, strict=True)):
        shared = Counter(j for shingle in own for j in having.get(shingle, ()))
        near = any(exact(own, sets[j]) >= threshold for j in shared)
        wanted, caught = wanted + near, caught + (near and drop is not None)
        if drop:
            dropped, right = dropped + 1, right + (exact(own, sets[drop[1]]) >= threshold)
        else:
            for shingle in own:
                having.setdefault(shingle, []).append(i)
    assert wanted > 5 and dropped
    return right / dropped, caught / wanted


@pytest.mark.parametrize("count", [1_500, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.85, 0.95])
def test_recall_and_precision_against_brute_force(near_duplicate, count, threshold):
    texts = planted(count)
    precision, recall = judged(texts, near_duplicate(texts, threshold=threshold), threshold)
    assert precision == 1 and recall >= 29 / 30, (precision, recall)


def test_long_texts_are_judged_by_their_sketches(near_duplicate):
    texts = planted(250, length=500)
    sets = [frozenset(ngrams(words(text), 3)) for text in texts]
    found = near_duplicate(texts, threshold=0.7)
    errors = [
        abs(float(drop[0].split()[1]) - exact(sets[i], sets[drop[1]])) for i, drop in enumerate(found) if drop
    ]
    assert len(errors) > 30 and np.mean(errors) < 0.03 and max(errors) < 0.12
    precision, recall = judged(texts, found, 0.7)
    assert precision > 0.9 and recall > 0.9


def test_the_reason_names_the_most_similar_record_that_was_kept(near_duplicate):
    text = "the honey bee that finds good flowers tells her hive by dancing on the comb"
    texts = [
        text,
        "Lake Baikal is deep",
        text.upper() + "!",
        text + " at night",
        text.replace("flowers", "food") + " at night",
        "",
    ]
    first, other, same, near, far, empty = near_duplicate(texts, chunk=4)
    assert first is other is far is empty is None
    assert same == ("similarity 1.00 to 00000000000000000000 >= 0.7", 0)
    assert near == ("similarity 0.87 to 00000000000000000000 >= 0.7", 0)


def test_texts_shorter_than_a_shingle_are_compared_whole(near_duplicate):
    assert [bool(drop) for drop in near_duplicate(["Yes", "yes!", "No", "", " ", "yes no"], shingle=5)] == [
        0,
        1,
        0,
        0,
        1,
        0,
    ]


def test_scripts_without_spaces(near_duplicate):
    lake, hare = (
        "バイカル湖は世界で最も深い湖であり、シベリア南東部に位置している。",
        "野うさぎは夜に活動する動物である。",
    )
    texts = [lake, hare, lake.replace("南東部", "南部")]
    assert near_duplicate(texts, chunk=1) == [None, None, None]
    assert [bool(drop) for drop in near_duplicate(texts, unit="character", shingle=3)] == [False, False, True]


def test_the_result_hangs_neither_on_the_chunks_nor_on_the_process(near_duplicate):
    texts = planted(600)
    found = near_duplicate(texts, chunk=256)
    assert found == near_duplicate(texts, chunk=1) == near_duplicate(texts, chunk=600)
    code = (
        "import pytest; from distillgen.project import Project; "
        "from distillgen.record import Record; from pathlib import Path\n"
        "from tests.filters.test_near_duplicate import planted\n"
        "from distillgen.plugins import filter_factory\n"
        "made = filter_factory('near_duplicate', Project(Path('.')))(by=['x'])\n"
        "numbers = made.measure([Record(f'{i:020x}', {'x': text}) for i, text in enumerate(planted(600))])\n"
        "print([made.decide(number) for number in numbers])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert done.stdout.strip() == str([drop and drop[0] for drop in found])


def test_texts_that_all_share_a_frame(near_duplicate):
    """Synthetic texts do; their buckets are crowded, and still the near-duplicates among them are found."""
    frame = " ".join(f"frame{chr(97 + i)}" for i in range(15))
    texts = [f"{frame} {text}" for text in planted(700, length=30)]
    precision, recall = judged(texts, near_duplicate(texts, threshold=0.8), 0.8)
    assert precision == 1 and recall >= 29 / 30


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.5, 0.7, 0.8, 0.9, 0.99])
def test_banding_finds_pairs_at_the_threshold_only(threshold):
    bands, rows = minhash.banding(threshold)
    assert 1 - (1 - threshold**rows) ** bands >= 29 / 30
    assert threshold < 0.5 or (bands <= 12 and 1 - (1 - (threshold / 4) ** rows) ** bands < 0.2)


@pytest.fixture
def small_memory(monkeypatch):
    """The buckets go on disk after a few hundred texts, and blocks hold 300."""
    monkeypatch.setattr(minhash, "MOST_IN_MEMORY", 2_000)
    monkeypatch.setattr(minhash, "BLOCK", 300)


def in_blocks(index, texts, chunk=50):
    """The matches of all texts, which wait as the filter lets them wait; and whether the buckets went on
    disk.
    """
    found = []
    for start in range(0, len(texts), chunk):
        part = texts[start : start + chunk]
        index.add([f"{start + i}" for i in range(len(part))], shingle_hashes(part, 3))
        if index.full or not index.on_disk:
            found += index.matches(index.waiting)
    return found + index.matches(index.waiting), index.on_disk


@pytest.mark.parametrize("frame", ["", " ".join(f"frame{chr(97 + i)}" for i in range(15))])
def test_buckets_on_disk_give_the_same_matches(frame, monkeypatch, tmp_path):
    texts = [f"{frame} {text}" for text in planted(1_200, length=30)]
    expected, on_disk = in_blocks(minhash.Index(0.7), texts)
    assert not on_disk and sum(match.similarity >= 0.7 for match in expected) > 100
    monkeypatch.setattr(minhash, "MOST_IN_MEMORY", 2_000)
    for block in (1, 300, 10_000):
        monkeypatch.setattr(minhash, "BLOCK", block)
        index = minhash.Index(0.7, folder=tmp_path)
        assert in_blocks(index, texts) == (expected, True)
        assert list(tmp_path.iterdir()) == []  # a killed process leaves no file


def test_memory_does_not_grow_once_the_buckets_are_on_disk(small_memory, monkeypatch):
    def growth():
        texts = planted(1_600)
        tracemalloc.start()
        index, sizes = minhash.Index(0.7), []
        for half in texts[:800], texts[800:]:
            in_blocks(index, half)
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        return sizes[1] - sizes[0]

    assert growth() < 20_000
    monkeypatch.setattr(minhash, "MOST_IN_MEMORY", 1_000_000)
    assert growth() > 50_000


def test_a_run_with_buckets_on_disk_gives_the_same_corpus_even_if_it_is_killed(
    project, small_memory, monkeypatch
):
    """Records wait on disk then, dropped ones with them."""
    project.rows("rows.jsonl", [{"n": i, "x": text} for i, text in enumerate(planted(1_200, length=30))])
    filters = [{"where": {"true": "{{ n % 7 != 6 }}"}}, {"near_duplicate": {"by": ["x"]}}]
    pipeline = {"version": 1, "stages": [{"source": {"path": "rows.jsonl"}}, {"filter": filters}]}
    code = f"""
import os, signal, distillgen
from distillgen.algorithms import minhash
minhash.MOST_IN_MEMORY, minhash.BLOCK = {minhash.MOST_IN_MEMORY}, {minhash.BLOCK}
matches = minhash.Index.matches
def killed(index, count):
    if index.on_disk and index.waiting < minhash.BLOCK:
        os.kill(os.getpid(), signal.SIGKILL)
    return matches(index, count)
minhash.Index.matches = killed
distillgen.run({pipeline}, out="disk")
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=project.path).returncode == -signal.SIGKILL
    left = {path.name.removesuffix(".partial") for path in (project.path / "disk").iterdir()}
    spooled, folders = [], []
    add, open_files = whole_set.Spool.add, minhash._Texts.__init__
    monkeypatch.setattr(
        minhash._Texts, "__init__", lambda *given: folders.append(given[1]) or open_files(*given)
    )
    monkeypatch.setattr(whole_set.Spool, "add", lambda *given: spooled.append(len(given[1])) or add(*given))
    distillgen.run(pipeline, out="disk")
    assert [folder.resolve() for folder in folders] == [project.path / "disk"]
    assert len(spooled) == 2  # of five chunks: one is the last, and one waits for a block of 300
    assert left <= {path.name for path in (project.path / "disk").iterdir()}
    monkeypatch.setattr(minhash, "MOST_IN_MEMORY", 1_000_000)
    spooled.clear()
    distillgen.run(pipeline, out="memory")
    assert not spooled
    for name in ("corpus.jsonl", "dropped.jsonl"):
        assert (project.path / "disk" / name).read_bytes() == (project.path / "memory" / name).read_bytes()
    dropped = Counter(row["meta"]["dropped"]["filter"] for row in project.read("disk/dropped.jsonl"))
    assert dropped["where"] == 171 and dropped["near_duplicate"] > 200


def test_matches_come_in_order_however_they_are_asked_for():
    texts = planted(90)
    expected, _ = in_blocks(minhash.Index(0.7), texts)
    index, found = minhash.Index(0.7), []
    for start, count in (0, 10), (30, 5), (60, 75):
        index.add([str(start + i) for i in range(30)], shingle_hashes(texts[start : start + 30], 3))
        found += index.matches(count)
    assert found == expected and index.waiting == 0
