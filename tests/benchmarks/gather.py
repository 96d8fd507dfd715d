"""Gathering the rows of a JSONL file, four of a question: rows a second and peak memory of a whole run with
the stage `gather`, beside a bare loop over `itertools.groupby` and a run that only reads the rows. Each
reads the same file and runs in a process of its own; `shuffled` reads the rows in random order.

Regenerate: python -m tests.benchmarks.gather --rows 1000000
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIBLINGS = 4


def row(number: int) -> str:
    """Row `number`, the same whenever it is asked for."""
    chance = random.Random(number)
    answer = " ".join(chance.choices(("yes", "no", "perhaps", "always", "never"), k=20))
    question = f"What is {number // SIBLINGS}?"
    return json.dumps({"question": question, "answer": answer, "grade": chance.randrange(10)}) + "\n"


def loop(source: str, out: str) -> None:
    with open(source) as lines, open(f"{out}/lists.jsonl", "w") as lists:
        for _, group in itertools.groupby(map(json.loads, lines), lambda row: row["question"]):
            ranked = sorted(group, key=lambda row: -row["grade"])
            answers = [{"answer": row["answer"], "grade": row["grade"]} for row in ranked]
            lists.write(json.dumps({**ranked[0], "answers": answers}) + "\n")


def only_read(source: str, out: str) -> None:
    import distillgen

    stages = [{"source": {"path": source}}]
    distillgen.run({"version": 1, "stages": stages}, out=out, sets=[f"source.path={source}"])


def stage(source: str, out: str, **options: object) -> None:
    import distillgen

    gather = {"by": ["question"], "into": "answers", "keep": ["answer", "grade"], "best": "grade", **options}
    stages = [{"source": {"path": source}}, {"gather": gather}]
    run = distillgen.run({"version": 1, "stages": stages}, out=out, sets=[f"source.path={source}"])
    os.link(run.directory / "corpus.jsonl", Path(out) / "lists.jsonl")


def adjacent(source: str, out: str) -> None:
    stage(source, out, adjacent=True)


def anywhere(source: str, out: str) -> None:
    stage(source, out)


def shuffled(source: str, out: str) -> None:
    stage(source.replace("rows", "shuffled"), out)


def measured(what: str, source: Path, out: Path) -> tuple[float, float]:
    """Wall seconds and peak RSS in MB of one contender in a process of its own."""
    out.mkdir()
    begun = time.perf_counter()
    command = [sys.executable, "-m", "tests.benchmarks.gather", "--only", what, str(source), str(out)]
    subprocess.run(command, check=True)
    return time.perf_counter() - begun, int((out / "peak").read_text()) / 1024


def lists_of(path: Path) -> list[tuple[str, list[object]]]:
    with path.open() as lines:
        rows = map(json.loads, lines)
        return sorted((row["question"], row["answers"]) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--few", type=int, default=100_000)
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        what, *where = given.only
        globals()[what](*where)
        status = Path("/proc/self/status").read_text()
        (Path(where[1]) / "peak").write_text(status.split("VmHWM:")[1].split()[0])
        return
    print("python -m tests.benchmarks.gather", *sys.argv[1:], flush=True)
    for rows in (given.few, given.rows):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "rows.jsonl"
            lines = [row(number) for number in range(rows)]
            source.write_text("".join(lines))
            random.Random(0).shuffle(lines)
            (Path(folder) / "shuffled.jsonl").write_text("".join(lines))
            del lines
            expected = None
            for what in ("loop", "only_read", "adjacent", "anywhere", "shuffled"):
                seconds, peak_mb = measured(what, source, Path(folder) / what)
                path = Path(folder) / what / "lists.jsonl"
                if rows == given.few and what in ("loop", "adjacent", "anywhere"):
                    lists = lists_of(path)  # in the order of the file where grades are equal
                    expected = expected or lists
                    assert lists == expected, f"{what} made other lists"
                print(
                    f"{what:<10}{rows:>10,} rows {seconds:8.1f} s {rows / seconds:10,.0f} rows/s "
                    f"{peak_mb:6.0f} MB peak",
                    flush=True,
                )


if __name__ == "__main__":
    main()
