"""The viewer over very many rows: seconds to the first page, to the end of indexing, and for pages then.

Regenerate: python -m tests.benchmarks.view --rows 1000000
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from distillgen.record import Record, digest, dumps
from tests.conftest import ProjectFolder

PIPELINE = """# many.yaml: rows
version: 1
stages:
  - source: {path: rows.jsonl}
  - filter: {name: check, filters: [word_count: {field: answer, min_words: 30}]}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    count = parser.parse_args().rows
    print("python -m tests.benchmarks.view", *sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        directory = many_rows(ProjectFolder(Path(folder)), count)
        size = (directory / "stages" / "02-check.jsonl").stat().st_size
        print(f"{count:,} rows, {size / 1e6:,.0f} MB")
        with viewer(directory) as address:
            begun = time.perf_counter()
            while "indexed so far" in page(address):
                time.sleep(0.2)
            print(f"all rows indexed after {time.perf_counter() - begun:.1f} s")
            index = sum(file.stat().st_size for file in (directory / "view").iterdir())
            print(f"index: {index / count:.0f} bytes a row")
            for what, query in (
                ("first page", {}),
                ("last page", {"page": (count - 1) // 50}),
                ("dropped rows", {"drop": "check/word_count", "page": 100}),
                ("sorted by score, middle page", {"sort": "-judge", "page": count // 100}),
                ("a range of a score", {"score": "judge", "low": 6, "high": 6.1}),
                ("search for a frequent text", {"text": "ab"}),
                ("search for a text that is nowhere", {"text": "no such words"}),
                ("a row with its relatives", {"row": digest(count // 2)}),
            ):
                begun = time.perf_counter()
                assert ('<a class="card' in page(address, **query)) is (what[-7:] != "nowhere"), what
                print(f"{what:<36}{time.perf_counter() - begun:8.2f} s")
        print("opened again: ", end="")
        with viewer(directory):
            pass
        two_runs(directory, many_rows(ProjectFolder(Path(folder)), count, "other"))


def two_runs(first: Path, second: Path) -> None:
    """Seconds to the pages of two runs side by side, of which the second has no index at first."""
    with viewer(second, first) as address:
        for view, until in (
            ("totals", "output tokens"),
            ("rows", " the same</a>"),
            ("rows, again", " the same</a>"),
        ):
            begun = time.perf_counter()
            while until not in page(address, view="compare/same", page=100):
                time.sleep(0.05)
            print(f"side by side: {view:<22}{time.perf_counter() - begun:8.2f} s")


def many_rows(project: ProjectFolder, count: int, name: str = "many") -> Path:
    """A finished run whose last stage gave so many rows of about 900 bytes; in one of another name than
    `many` a tenth of the rows has another answer, and a tenth another score.
    """
    chance, other = random.Random(0), name != "many"
    words = [
        "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 9))) for _ in range(5000)
    ]
    project.write("pipelines/many.yaml", PIPELINE)
    project.rows("rows.jsonl", [{"question": "what", "answer": "a " * 40}])
    project.cli("run", "many", "-o", f"runs/{name}")
    directory = project.path / "runs" / name
    made = {"stage": "ask", "model": "m", "key": "ab" * 32, "prompt": "p@1", "sample": 0, "draw": "{}"}
    with (directory / "stages" / "02-check.jsonl").open("wb") as stream:
        for i in range(count):
            fields = {
                "question": " ".join(chance.choices(words, k=12)),
                "answer": " ".join(chance.choices(words, k=60)),
            }
            scores = {
                "judge": chance.gauss(6, 2) + (other and i % 10 == 1),
                "word_count": float(chance.randint(20, 80)),
                "share": chance.random(),
            }
            record_id = digest(i)
            if other and i % 10 == 0:
                record_id, fields["answer"] = digest([i, name]), fields["answer"][::-1]
            parent = digest(["parent", i // 4])
            record = Record(
                record_id, fields, (parent,), f"rows.jsonl:{i // 4}", (made,), scores, item=parent
            )
            if scores["word_count"] < 30:
                record = record.drop("check", "word_count", f"{scores['word_count']:.0f} words < 30")
            stream.write(dumps(record.row(), sort_keys=False) + b"\n")
    state = json.loads((directory / "usage.json").read_text())
    state["stages"][-1] |= {"rows": count, "kept": count}
    (directory / "usage.json").write_text(json.dumps(state))
    return directory


@contextmanager
def viewer(*directories: Path):
    """`distillgen view`, from the command to its first page with rows."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "distillgen", "view", *map(str, directories)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        address = re.search(r"http\S+", process.stdout.readline())[0]
        while '<a class="card' not in page(address):
            time.sleep(0.02)
        print(f"first page with rows after {time.perf_counter() - begun:.2f} s")
        try:
            yield address
        finally:
            process.terminate()


def page(address: str, **query) -> str:
    with urllib.request.urlopen(f"{address}?{urllib.parse.urlencode(query)}") as answer:
        return answer.read().decode()


if __name__ == "__main__":
    main()
