"""The contamination filter against a large evaluation set: CPU time and memory of reading it, and records a
second.

python -m tests.benchmarks.contamination [--items 100000] [--rows 20000]
"""

import argparse
import json
import random
import resource
import tempfile
import time
from itertools import product
from pathlib import Path

from distillgen.plugins import filter_factory
from distillgen.project import Project
from distillgen.record import Record


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--items", type=int, default=100_000, help="of the evaluation set, 60 words each")
    options.add_argument(
        "--rows", type=int, default=20_000, help="records of 100 words, 1 in 100 of which repeats an item"
    )
    given = options.parse_args()
    draw = random.Random(0)
    words = ["".join(letters) for letters in product("abcdefghijklmnopqrstuvwxyz", repeat=3)]
    with tempfile.TemporaryDirectory() as folder:
        items = [" ".join(draw.choices(words, k=60)) for _ in range(given.items)]
        (Path(folder) / "eval.jsonl").write_text(
            "".join(json.dumps({"question": item}) + "\n" for item in items)
        )
        planted = [draw.choice(items) if i % 100 == 0 else "" for i in range(given.rows)]
        del items
        project = Project(Path(folder))
        measure = filter_factory("contamination", project)(
            fields=["text"], against="eval.jsonl", project=project
        ).measure
        before, started = peak_mb(), time.process_time()
        measure([Record.read({"text": ""}, "")])
        print(
            f"{given.items:,} items read in {time.process_time() - started:.1f} s, "
            f"{peak_mb() - before:,.0f} MB"
        )
        seconds = found = 0.0
        for start in range(0, given.rows, 256):
            some = planted[start : start + 256]
            rows = [
                Record.read({"text": f"{item} {' '.join(draw.choices(words, k=100 - 60 * bool(item)))}"}, "")
                for item in some
            ]
            started = time.process_time()
            numbers = measure(rows)
            seconds += time.process_time() - started
            found += sum(
                bool(number["line"]) == bool(item) for number, item in zip(numbers, some, strict=True)
            )
        print(
            f"{given.rows / seconds:,.0f} records/s, {1e6 / given.rows * seconds:.0f} s for a "
            f"million; {found / given.rows:.2%} right"
        )


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
