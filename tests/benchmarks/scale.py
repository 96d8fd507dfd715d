"""A run of very many rows: memory, going on when it is finished, replaying it from its ledger alone, status.

Regenerate: python -m tests.benchmarks.scale --rows 1000000
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.asking import measured, ours, served


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--few", type=int, default=10_000)
    given = parser.parse_args()
    print("python -m tests.benchmarks.scale", *sys.argv[1:])
    with served(0.0) as url, tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few", Path(folder) / "many"

        def tell(what: str, rows: int, result: tuple[float, float, float]) -> None:
            print(
                f"{what:<44}{rows:>10,} rows {result[0]:8.1f} s {rows / result[0]:9,.0f} "
                f"rows/s {result[2]:5.0f} MB peak",
                flush=True,
            )

        tell("asked", given.few, measured(ours, url, given.few, 256, few))
        tell("asked", given.rows, measured(ours, url, given.rows, 256, many))
        tell("run again: nothing is left to ask", given.rows, measured(ours, url, given.rows, 256, many))
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "distillgen", "status", str(many)], check=True, capture_output=True
        )
        print(f"status: {time.perf_counter() - begun:.2f} s")
        shutil.rmtree(many / "stages")
        tell("run again from the ledger alone", given.rows, measured(ours, url, given.rows, 256, many))
        print(f"ledger: {many.with_suffix('.sqlite3').stat().st_size / given.rows:,.0f} bytes a row")


if __name__ == "__main__":
    main()
