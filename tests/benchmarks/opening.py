"""Opening a ledger in PostgreSQL for one run, where a team's database holds the answers of many.

The control sums up the answers of all runs, which is what opening did before it asked for those of one.

Regenerate: python -m tests.benchmarks.opening --rows 1000000 --runs 1000
"""

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median

import psycopg

from distillgen.inference.ledger import Ledger
from distillgen.inference.places import Database
from tests.postgres import Postgres

FILL = """
INSERT INTO answers (key, run, stage, model, status, requests, retries, input_tokens, cached_tokens,
    output_tokens, cost_usd, request, completion, cache_write_tokens, reasoning_tokens)
SELECT sha256(i::text::bytea), 'run-' || i %% %(runs)s,
    'stage', 'model', 'ok', 1, 0, 100 + i %% 900, 0, i %% 50,
    0.001, '{}', '{"text":"a short answer"}', 0, 0
FROM generate_series(1, %(rows)s) AS i
"""


def seconds(work: Callable[[], object], turns: int) -> float:
    """Return the median time of some work."""
    times = []
    for _ in range(turns):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return median(times)


def opened(place: Database, run: str | None) -> None:
    """Open the ledger, and sum up what a run has cost; None stands for all."""
    ledger = Ledger(place)
    ledger.spent_usd(run)
    ledger.close_now()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    print("python -m tests.benchmarks.opening", *sys.argv[1:])
    with Postgres() as server:
        place = Database(server.database())
        new_s = seconds(lambda: opened(place, "run-7"), options.turns)
        with psycopg.connect(place.url, autocommit=True) as connection:
            connection.execute(FILL, {"rows": options.rows, "runs": options.runs})
            connection.execute("VACUUM ANALYZE answers")
        one_s = seconds(lambda: opened(place, "run-7"), options.turns)
        all_s = seconds(lambda: opened(place, None), options.turns)
    print(f"a new ledger {new_s:.3f} s; {options.rows:,} answers of {options.runs:,} runs: {one_s:.3f} s")
    print(f"the control, which sums up all: {all_s:.3f} s, {all_s / one_s:.1f} times as long")


if __name__ == "__main__":
    main()
