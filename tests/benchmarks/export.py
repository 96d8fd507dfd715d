"""Exporting very many rows: rows a second, and that memory is the same for few and for many.

Regenerate: python -m tests.benchmarks.export --rows 1000000
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--few", type=int, default=10_000)
    parser.add_argument("--formats", default="jsonl,csv,parquet,arrow")
    given = parser.parse_args()
    print("python -m tests.benchmarks.export", *sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        for rows in (given.few, given.rows):
            data = Path(folder) / f"{rows}.jsonl"
            with data.open("w") as stream:
                for i in range(rows):
                    stream.write(
                        json.dumps(
                            {
                                "question": f"What is {i}?",
                                "answer": f"It is the number {i}, which " + "follows another " * 12,
                            }
                        )
                        + "\n"
                    )
            for name in given.formats.split(","):
                out = Path(folder) / f"{name}-{rows}"
                command = [
                    sys.executable,
                    "-m",
                    "distillgen",
                    "export",
                    data,
                    "--format",
                    name,
                    "--shape",
                    "messages",
                    "--split",
                    "train=0.99,test=0.01",
                ]
                begun = time.perf_counter()
                process = subprocess.Popen(
                    [*map(str, command), "--shard-rows", "100000", "-o", str(out)], stdout=subprocess.DEVNULL
                )
                peak = os.wait4(process.pid, 0)[2].ru_maxrss / 1024
                process.returncode = 0
                took = time.perf_counter() - begun
                size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 1e6
                print(
                    f"{name:<8} {rows:>10,} rows {took:7.1f} s {rows / took:9,.0f} rows/s "
                    f"{peak:5.0f} MB peak {size:7.0f} MB written",
                    flush=True,
                )


if __name__ == "__main__":
    main()
