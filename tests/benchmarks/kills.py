"""Real kills, by night: a run is killed with SIGKILL at random moments until it ends, again and again.

With PostgreSQL, the server crashes at every tenth kill of a run. Counted are answers that are missing, stored
twice or asked for again, and whether each corpus is that of a run that nothing killed.

Regenerate: python -m tests.benchmarks.kills --kills 1000
"""

import argparse
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from distillgen.inference.ledger import Ledger
from distillgen.inference.places import read_place
from tests.conftest import ProjectFolder
from tests.endpoint import Endpoint
from tests.postgres import Postgres

ROWS, AT_ONCE = 200, 12
AFTER = '  - generate: {name: again, model: teacher, template: "Judge {{ answer }}", output: verdict}\n'


def lap(
    project: ProjectFolder, out: str, place: str, chance: random.Random, endpoint: Endpoint, crash, kills: int
) -> int:
    """Run to the end; return the number of kills, at most `kills`, each after a few requests."""
    killed = 0
    command = [sys.executable, "-m", "distillgen", "run", "ask", "-q", "--ledger", place, "-o", out]
    while True:
        process = subprocess.Popen(command, cwd=project.path, env=project.env(), stderr=subprocess.PIPE)
        enough = endpoint.asked.total() + chance.randrange(1, 60)
        while process.poll() is None and (killed == kills or endpoint.asked.total() < enough):
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.2))
        if process.poll() is not None:
            assert process.returncode == 0, process.communicate()[1].decode()
            return killed
        process.kill()
        process.communicate()
        killed += 1
        if killed % 10 == 0:
            crash()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--ledger", nargs="*", default=["sqlite", "postgresql"])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print("python -m tests.benchmarks.kills", *sys.argv[1:], "| seed", options.seed)
    chance, faults = random.Random(options.seed), 0
    for kind in options.ledger:
        killed = laps = repeated = missing = twice = other = 0
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            endpoint = stack.enter_context(Endpoint(latency_s=0.08))
            server = stack.enter_context(Postgres()) if kind == "postgresql" else None

            def crash() -> None:
                if server:  # noqa: B023
                    server.stop("immediate")  # noqa: B023
                    server.start()  # noqa: B023

            project = ProjectFolder(folder)
            project.ask_pipeline(endpoint.url, ROWS, model=f", max_concurrency: {AT_ONCE}", after=AFTER)
            lap(project, "runs/0", "whole.sqlite3", chance, endpoint, crash, 0)
            whole = (folder / "runs/0/corpus.jsonl").read_bytes()
            while killed < options.kills:
                laps += 1
                endpoint.asked.clear()
                place = server.database() if server else f"{laps}.sqlite3"
                kills = lap(project, f"runs/{laps}", place, chance, endpoint, crash, options.kills - killed)
                again = endpoint.asked.total() - len(endpoint.asked)
                assert again <= AT_ONCE * kills, f"{again} requests again after {kills} kills"
                killed, repeated = killed + kills, repeated + again
                other += (folder / f"runs/{laps}/corpus.jsonl").read_bytes() != whole
                ledger = Ledger(read_place(place) if server else folder / place, read_only=True)
                query = "SELECT count(*), count(DISTINCT key) FROM answers WHERE status = 'ok'"
                ((rows, keys),) = ledger.store.rows(query)
                ledger.close_now()
                missing, twice = missing + 2 * ROWS - keys, twice + rows - keys
        print(
            f"{kind}: {killed} kills in {laps} runs of {2 * ROWS} answers: {missing} missing, {twice} stored "
            f"twice, {repeated} asked again ({repeated / max(killed, 1):.1f} a kill, {AT_ONCE} in flight), "
            f"{other} corpora differ",
            flush=True,
        )
        faults += missing + twice + other
    sys.exit(int(faults > 0))


if __name__ == "__main__":
    main()
