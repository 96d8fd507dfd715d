"""Workers of one run: answers a second of 1, 2 and 4 workers against an endpoint that takes 200 ms for an
answer, as shards (`--shard`, one process each) and with `--executor ray`. Each worker has few requests in
flight, so that the latency bounds it and not the machine: the ideal is workers x requests / latency. The rate
counts from the first request to the last; `whole` is the time of the commands, with their start and, of Ray,
its cluster's.

Regenerate: python -m tests.benchmarks.workers --seconds 15 --concurrency 4
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import ProjectFolder
from tests.endpoint import Endpoint

LATENCY_S = 0.2
SHARDS_PER_WORKER = 4


class Timed(Endpoint):
    """An endpoint that notes when requests arrive."""

    def usual(self, request, body):
        self.times.append(time.monotonic())
        return super().usual(request, body)

    times: list[float] = []


def of_shards(workers: int, concurrency: int) -> list[list[str]]:
    """The commands of workers that are shards."""
    return [["--shard", f"{i}/{workers}", "--concurrency", str(concurrency)] for i in range(workers)]


def of_ray(workers: int, concurrency: int) -> list[list[str]]:
    """The command that starts the workers with Ray; its limit is that of all."""
    shards = SHARDS_PER_WORKER * workers
    words = ["--executor", "ray", "--workers", str(workers), "--shards", str(shards)]
    return [[*words, "--concurrency", str(concurrency * workers)]]


def measured(commands: Sequence[Sequence[str]], rows: int) -> tuple[float, float]:
    """Run commands side by side in a new project; return answers a second, and the seconds of all."""
    with tempfile.TemporaryDirectory() as folder, Timed(latency_s=LATENCY_S) as endpoint:
        endpoint.times = []
        project = ProjectFolder(Path(folder))
        project.ask_pipeline(endpoint.url, rows)
        started = time.monotonic()
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "distillgen", "run", "ask", "--quiet", *words],
                cwd=project.path,
                env=project.env(),
                stderr=subprocess.DEVNULL,
            )
            for words in commands
        ]
        codes = [command.wait() for command in running]
        whole_s = time.monotonic() - started
        assert not any(codes) and len(endpoint.asked) == rows == endpoint.asked.total(), codes
        return rows / (max(endpoint.times) - min(endpoint.times) + LATENCY_S), whole_s


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--seconds", type=float, default=15.0, help="of asking, if nothing but latency counts"
    )
    arguments.add_argument("--concurrency", type=int, default=4, help="requests in flight of a worker")
    arguments.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    given = arguments.parse_args()
    counts = " ".join(map(str, given.workers))
    print(
        f"python -m tests.benchmarks.workers --seconds {given.seconds:g} --concurrency {given.concurrency} "
        f"--workers {counts}"
    )
    first: dict[str, float] = {}
    for workers in given.workers:
        ideal = workers * given.concurrency / LATENCY_S
        for kind, commands in (("shards", of_shards), ("ray", of_ray)):
            rate, whole_s = measured(commands(workers, given.concurrency), round(ideal * given.seconds))
            ratio = rate / first.setdefault(kind, rate)
            line = {
                "workers": workers,
                "as": kind,
                "answers/s": round(rate, 1),
                "of ideal": round(rate / ideal, 2),
            }
            print(
                json.dumps({**line, "ratio to one": round(ratio, 2), "whole s": round(whole_s, 1)}),
                flush=True,
            )


if __name__ == "__main__":
    main()
