"""The ledger alone: durable inserts, look-ups and claims a second, in a SQLite file and in PostgreSQL.

PostgreSQL is a server of its own on this machine, with its defaults; the ratio is to the SQLite file of the
same run. A second process that asks makes each request write its claim first.

Regenerate: python -m tests.benchmarks.ledger --rows 50000 --turns 3
"""

import argparse
import asyncio
import contextlib
import hashlib
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from distillgen.inference.ledger import Answer, Ledger
from distillgen.inference.places import Database, Place
from tests.postgres import Postgres

REQUEST, COMPLETION = b'{"model":"m"}' * 10, b'{"text":"a short answer of a few words"}' * 2


async def measure(place: Place, rows: int, at_once: int) -> dict[str, float]:
    """Return the rates of one ledger, in rows a second."""
    keys = [hashlib.sha256(b"%d" % i).digest() for i in range(rows)]
    rates = {}

    async def stored(ledger: Ledger, keys: list[bytes], claimed: bool) -> float:
        waiting, begun = iter(keys), time.perf_counter()

        async def worker() -> None:
            for key in waiting:
                if claimed:
                    assert await ledger.claim([key], "run", "stage", "model")
                sums = (1, 0, 20, 0, 8, 0.001)
                await ledger.add([Answer(key, "run", "stage", "model", "ok", *sums, REQUEST, COMPLETION)])

        await asyncio.gather(*(worker() for _ in range(at_once)))
        return len(keys) / (time.perf_counter() - begun)

    ledger = Ledger(place)
    rates["durable inserts"] = await stored(ledger, keys, claimed=False)
    begun = time.perf_counter()
    found = sum(len(ledger.find(keys[i : i + 256])) for i in range(0, rows, 256))
    rates["look-ups, 256 at once"] = found / (time.perf_counter() - begun)
    begun = time.perf_counter()
    found = sum(len(ledger.find([key])) for key in keys[: rows // 10])
    rates["look-ups, one at once"] = found / (time.perf_counter() - begun)
    second = Ledger(place)
    await second.claim([b"another process"], "run", "stage", "model")
    further = [hashlib.sha256(b"further %d" % i).digest() for i in range(rows // 5)]
    await ledger.claim([b"this one"], "run", "stage", "model")
    rates["claimed and stored, two processes"] = await stored(ledger, further, claimed=True)
    await second.close()
    rates["(bytes a row)"] = ledger.store.size() / (rows * 1.2)
    await ledger.close()
    begun = time.perf_counter()
    ledger = Ledger(place)
    ledger.usage("run")
    ledger.close_now()
    rates["rows summed as a run is opened"] = rows * 1.2 / (time.perf_counter() - begun)
    return rates


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--at-once", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    print("python -m tests.benchmarks.ledger", *sys.argv[1:])
    seen: dict[str, list[tuple[float, float]]] = {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Postgres())
        for turn in range(options.turns):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            files, databases = (
                uvloop.run(measure(place, options.rows, options.at_once))
                for place in (Path(folder) / "ledger.sqlite3", Database(server.database()))
            )
            for name, rate in files.items():
                seen.setdefault(name, []).append((rate, databases[name]))
            ratio = databases["durable inserts"] / files["durable inserts"]
            print(f"turn {turn + 1}: {ratio:.2f}", flush=True)
    print(f"{'rows a second':<34} {'SQLite':>9} {'PostgreSQL':>11} {'ratio':>6}")
    for name, pairs in seen.items():
        file, database = (median(column) for column in zip(*pairs, strict=True))
        ratio = median(second / first for first, second in pairs)
        print(f"{name:<34} {file:>9,.0f} {database:>11,.0f} {ratio:>6.2f}")


if __name__ == "__main__":
    main()
