"""The ledger alone: durable inserts and look-ups a second.

Regenerate: python -m tests.benchmarks.ledger --rows 200000
"""

import argparse
import asyncio
import hashlib
import sys
import tempfile
import time
from pathlib import Path

from distillgen.inference.ledger import Answer, Ledger


async def measure(path: Path, rows: int, at_once: int) -> None:
    request, completion = b'{"model":"m"}' * 10, b'{"text":"a short answer of a few words"}' * 2
    keys = [hashlib.sha256(b"%d" % i).digest() for i in range(rows)]
    waiting = iter(keys)
    ledger = Ledger(path)

    async def worker() -> None:
        for key in waiting:
            await ledger.add(
                [Answer(key, "run", "stage", "model", "ok", 1, 0, 20, 0, 8, 0.001, request, completion)]
            )

    begun = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    print(f"{rows / (time.perf_counter() - begun):,.0f} durable inserts/s, {at_once} at once")
    begun = time.perf_counter()
    found = sum(len(ledger.find(keys[i : i + 256])) for i in range(0, rows, 256))
    print(f"{found / (time.perf_counter() - begun):,.0f} look-ups/s")
    await ledger.close()


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--at-once", type=int, default=1024)
    given = parser.parse_args()
    print("python -m tests.benchmarks.ledger", *sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(measure(Path(folder) / "ledger.sqlite3", given.rows, given.at_once))


if __name__ == "__main__":
    main()
