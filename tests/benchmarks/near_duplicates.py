"""Near-duplicates among many short texts: documents a second and peak memory of a whole run with the filter
`near_duplicate`, beside datatrove's MinHash pipeline and a plain use of datasketch. Each reads the same JSONL
file, writes what it keeps, and runs in a process of its own on one core at a time; every tenth text is an
earlier one with a word changed.

Regenerate: python -m tests.benchmarks.near_duplicates --texts 1000000

With --index it measures the search alone, beside a bare loop of rensa's MinHash and LSH over the first texts,
with and without the time of its shingles. Texts are generated as they are needed, and are not held in
memory; the time of generating them does not count.

Regenerate: python -m tests.benchmarks.near_duplicates --index --texts 10000000

The peers are installed into a virtual environment of their own, which --peers DIR keeps.
"""

import argparse
import functools
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

PEERS = ("datatrove[processing]==0.10.1", "spacy>=3.8,<4", "orjson", "datasketch==2.0.0")
WORDS, THRESHOLD = 30, 0.7
CHUNK, BARE_LOOP = 256, 200_000  # texts of a call; texts of rensa's loop, whose memory grows with them


def word(chance: random.Random) -> str:
    """One of 30,976 words without digits, which datatrove takes for one another."""
    return "".join(
        a + b
        for a, b in zip(
            chance.choices("bcdfgklmnprstvwz", k=2), chance.choices("aeiouyäöüåé", k=2), strict=True
        )
    )


def text(number: int) -> str:
    """Text `number`, the same whenever it is asked for; every tenth repeats an earlier one but for a word."""
    chance = random.Random(number)
    if number % 10 == 9:
        words = text(10 * chance.randrange(number // 10 + 1)).split()
        words[chance.randrange(WORDS)] = word(chance)
        return " ".join(words)
    return " ".join(word(chance) for _ in range(WORDS))


@functools.cache
def vocabulary() -> list[str]:
    """The words of `word`, in a fixed order."""
    syllables = ["".join(pair) for pair in itertools.product("bcdfgklmnprstvwz", "aeiouyäöüåé")]
    return ["".join(pair) for pair in itertools.product(syllables, repeat=2)]


def scrambled(numbers: np.ndarray) -> np.ndarray:
    """A random number of 64 bits for each number (SplitMix64)."""
    numbers = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def chunks(count: int) -> Iterator[tuple[range, list[str]]]:
    """Texts as `text` gives them, from another stream of random numbers, a chunk at a time."""
    words = vocabulary()
    for start in range(0, count, CHUNK):
        numbers = np.arange(start, min(start + CHUNK, count))
        repeats = numbers % 10 == 9
        earlier = 10 * (scrambled(numbers + (1 << 40)) % (numbers // 10 + 1).astype(np.uint64)).astype(int)
        own = np.where(repeats, earlier, numbers)[:, None] * WORDS + np.arange(WORDS)
        chosen = scrambled(own) % np.uint64(len(words))
        changed = scrambled(numbers[repeats] + (1 << 41))
        chosen[np.flatnonzero(repeats), changed % np.uint64(WORDS)] = (changed >> np.uint64(32)) % np.uint64(
            len(words)
        )
        rows = chosen.tolist()
        yield range(start, start + len(rows)), [" ".join([words[at] for at in row]) for row in rows]


def index(count: str, out: str) -> None:
    from distillgen.algorithms.minhash import Index
    from distillgen.algorithms.shingle_hashes import shingle_hashes

    search, drops, seconds = Index(THRESHOLD, folder=Path(out)), [0, 0], 0.0
    order = itertools.count()

    def judge() -> None:
        while search.waiting:
            for match in search.matches(min(CHUNK, search.waiting)):
                number = next(order)
                if match.similarity >= THRESHOLD:
                    drops[number % 10 == 9] += 1
                    search.id(match.number)  # for the reason

    for numbers, texts in chunks(int(count)):
        begun = time.process_time()
        search.add([f"{number:020x}" for number in numbers], shingle_hashes(texts, 3))
        if search.full or not search.on_disk:
            judge()
        seconds += time.process_time() - begun
    begun = time.process_time()
    judge()
    seconds += time.process_time() - begun
    links = [link for link in Path("/proc/self/fd").iterdir() if link.exists()]
    unnamed = sum(link.stat().st_size for link in links if not link.stat().st_nlink)
    print(
        f"the index    {int(count):,} texts: {int(count) / seconds:,.0f} texts a CPU second; "
        f"{drops[1]:,} of {int(count) // 10:,} planted found, {drops[0]:,} others dropped; "
        f"{unnamed / 1e6:,.0f} MB on disk"
    )


def scan(count: str, out: str) -> None:
    """The time of looking the keys of a block up in runs on disk, which grows with the runs."""
    from distillgen.algorithms.buckets import KEY_BITS, Runs

    chance, runs, size, seconds = np.random.default_rng(0), Runs(Path(out)), 8_500_000, []
    keys = np.unique(chance.integers(0, 1 << KEY_BITS, 9_400_000, np.uint64))
    for run in range(6):
        runs.add(np.sort(chance.integers(0, 1 << KEY_BITS, size, np.uint64)), run * size + np.arange(size))
        begun = time.process_time()
        runs.find(keys)
        seconds.append(time.process_time() - begun)
    print(f"the runs     {(seconds[-1] - seconds[0]) / (5 * size) * 1e9:.1f} ns for each further entry")


def rensa(count: str, out: str) -> None:
    from rensa import RMinHash, RMinHashLSH

    lsh, dropped, seconds, shingle_s = RMinHashLSH(THRESHOLD, 128, 16), 0, 0.0, 0.0
    for numbers, texts in chunks(min(int(count), BARE_LOOP)):
        begun = time.process_time()
        sets = []
        for each in texts:
            words = each.lower().split()
            sets.append(list(map(" ".join, zip(words, words[1:], words[2:], strict=False))))
        ready = time.process_time()
        for number, shingles in zip(numbers, sets, strict=True):
            signature = RMinHash(128, 0)
            signature.update(shingles)
            if lsh.query(signature):
                dropped += 1
            else:
                lsh.insert(number, signature)
        shingle_s, seconds = shingle_s + ready - begun, seconds + time.process_time() - ready
    done = min(int(count), BARE_LOOP)
    print(
        f"rensa's loop {done:,} texts: {done / seconds:,.0f} texts a CPU second, "
        f"{done / (seconds + shingle_s):,.0f} with the time of the shingles; "
        f"{dropped:,} dropped, {done // 10:,} planted"
    )


def distillgen(source: str, out: str) -> None:
    import distillgen

    stages = [
        {"source": {"path": source}},
        {"filter": [{"near_duplicate": {"by": ["text"], "threshold": THRESHOLD}}]},
    ]
    run = distillgen.run({"version": 1, "stages": stages}, out=out, sets=[f"source.path={source}"])
    os.link(run.directory / "corpus.jsonl", Path(out) / "kept.jsonl")


def datatrove(source: str, out: str) -> None:
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from loguru import logger

    logger.remove()
    config = MinhashConfig(n_grams=3)  # 14 bands of 8, its default
    folder = str(Path(source).parent)

    def carry_out(*steps, **world):
        data = None
        for step in steps:
            data = step.run(data, **world)
        for _ in data or ():
            pass

    def read():
        return JsonlReader(folder, glob_pattern=Path(source).name)

    carry_out(read(), MinhashDedupSignature(f"{out}/signatures", config=config), rank=0, world_size=1)
    for bucket in range(config.num_buckets):
        step = MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=config)
        carry_out(step, rank=bucket, world_size=config.num_buckets)
    carry_out(MinhashDedupCluster(f"{out}/buckets", f"{out}/remove", config=config))
    writer = JsonlWriter(out, output_filename="kept.jsonl", compression=None)
    carry_out(read(), MinhashDedupFilter(f"{out}/remove"), writer, rank=0, world_size=1)


def datasketch(source: str, out: str) -> None:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    with open(source) as lines, open(f"{out}/kept.jsonl", "w") as kept:
        for number, line in enumerate(lines):
            words = json.loads(line)["text"].lower().split()
            signature = MinHash(num_perm=128)
            signature.update_batch(
                [" ".join(gram).encode() for gram in zip(words, words[1:], words[2:], strict=False)]
            )
            if not index.query(signature):
                index.insert(number, signature)
                kept.write(line)


def measured(python: str, what: str, source: Path | str, out: Path) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak RSS in MB of one contender in a process of its own."""
    out.mkdir()
    begun = time.perf_counter()
    one = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "TQDM_DISABLE": "1"}
    process = subprocess.Popen(
        [python, __file__, "--only", what, str(source), str(out)], env=os.environ | one
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{what} failed")
    peak = (
        out / "peak"
    ).read_text()  # ru_maxrss would count what the process was before it became Python, too
    return time.perf_counter() - begun, used.ru_utime + used.ru_stime, int(peak) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument(
        "--peers", type=Path, help="a virtual environment with the peers, made there if there is none"
    )
    parser.add_argument("--index", action="store_true", help="measure the search alone, beside rensa")
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        what, *where = given.only
        globals()[what](*where)
        status = Path("/proc/self/status").read_text()
        (Path(where[1]) / "peak").write_text(status.split("VmHWM:")[1].split()[0])
        return
    print("python -m tests.benchmarks.near_duplicates", *sys.argv[1:], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if given.index:
            for what in ("rensa", "scan", "index"):
                _, _, peak_mb = measured(sys.executable, what, str(given.texts), Path(folder) / what)
                print(f"             {peak_mb:,.0f} MB peak", flush=True)
            return
        peers = given.peers or Path(folder) / "peers"
        if not (peers / "bin/python").exists():
            venv.create(peers, with_pip=True)
            subprocess.run([peers / "bin/pip", "install", "-q", *PEERS], check=True)
        source = Path(folder) / "texts.jsonl"
        with source.open("w") as stream:
            stream.writelines(json.dumps({"id": str(i), "text": text(i)}) + "\n" for i in range(given.texts))
        planted = given.texts // 10
        for what, python in (
            ("distillgen", sys.executable),
            ("datatrove", peers / "bin/python"),
            ("datasketch", peers / "bin/python"),
        ):
            out = Path(folder) / what
            seconds, cpu_s, peak_mb = measured(str(python), what, source, out)
            with (out / "kept.jsonl").open() as kept:
                dropped = given.texts - sum(1 for _ in kept)
            print(
                f"{what:<12} {given.texts / seconds:8,.0f} documents/s  "
                f"{given.texts / cpu_s:8,.0f} a CPU second  "
                f"{peak_mb:7,.0f} MB peak  dropped {dropped:,} of {planted:,} planted",
                flush=True,
            )


if __name__ == "__main__":
    main()
