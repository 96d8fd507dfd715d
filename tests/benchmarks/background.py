"""Responses that are paid for twice when a run is killed again and again with SIGKILL, at random moments, in
three arms: with the ids in the ledger and an endpoint that honours Idempotency-Key; with the ids alone; and,
as a control, with a ledger that loses the ids at each kill.

Regenerate: python -m tests.benchmarks.background --kills 50
"""

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

import distillgen
from tests.background_endpoint import BackgroundEndpoint
from tests.conftest import ProjectFolder
from tests.teachers.test_openai_background import MODE, forget_ids, killed_again_and_again

ROWS_A_KILL, CONCURRENCY = 12, 6
ARMS = {"ids and keys": (True, False), "ids alone": (False, False), "control: neither": (False, True)}


def measure(kills: int, honours_keys: bool, forgets: bool) -> tuple[int, int, int]:
    """Return the rows, the requests that were sent, and the responses beyond one a row."""
    with tempfile.TemporaryDirectory() as folder, BackgroundEndpoint(honours_keys=honours_keys) as endpoint:
        endpoint.latency_s = 0.2
        project, rows = ProjectFolder(Path(folder)), ROWS_A_KILL * kills
        os.chdir(folder)
        project.ask_pipeline(endpoint.url, rows, model=f"{MODE}, max_concurrency: {CONCURRENCY}")
        between = (lambda: forget_ids(project)) if forgets else (lambda: None)
        killed_again_and_again(project, endpoint, kills, random.Random(0), between)
        distillgen.run("ask")
        assert len(project.read("runs/ask/corpus.jsonl")) == len(endpoint.made) == rows
        return rows, endpoint.posts, endpoint.repeats()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    kills = parser.parse_args().kills
    print(f"{kills} kills, {CONCURRENCY} requests in flight, command: {' '.join(sys.argv)}")
    for arm, (honours_keys, forgets) in ARMS.items():
        rows, posts, repeats = measure(kills, honours_keys, forgets)
        print(f"{arm:>16}: {rows} rows, {posts} requests sent, {repeats} responses too many")


if __name__ == "__main__":
    main()
