"""Near-duplicates among many short texts: documents a second and peak memory of a whole run with the filter
`near_duplicate`, beside datatrove's MinHash pipeline and a plain use of datasketch. Each reads the same JSONL
file, writes what it keeps, and runs in a process of its own on one core at a time; every tenth text is an
earlier one with a word changed.

Regenerate: python -m tests.benchmarks.near_duplicates --texts 1000000

The peers are installed into a virtual environment of their own, which --peers DIR keeps.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

PEERS = ("datatrove[processing]==0.10.1", "spacy>=3.8,<4", "orjson", "datasketch==2.0.0")
WORDS, THRESHOLD = 30, 0.7


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


def measured(python: str, what: str, source: Path, out: Path) -> tuple[float, float, float]:
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
