"""Seconds from the command to the first request at an endpoint.

Regenerate: python -m tests.benchmarks.start
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import ProjectFolder
from tests.endpoint import Endpoint


def main() -> None:
    print("python -m tests.benchmarks.start", *sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        project = ProjectFolder(Path(folder))
        for _ in range(5):
            moments: list[float] = []
            with Endpoint(
                lambda body, times, moments=moments: moments.append(time.perf_counter())
            ) as endpoint:
                project.ask_pipeline(endpoint.url, 10)
                begun = time.perf_counter()
                own = tempfile.mkdtemp(dir=folder)
                command = [
                    sys.executable,
                    "-m",
                    "distillgen",
                    "run",
                    "ask",
                    "-o",
                    own,
                    "--ledger",
                    f"{own}.sqlite3",
                ]
                subprocess.run(command, cwd=folder, env=project.env(), check=True, capture_output=True)
                print(
                    f"{moments[0] - begun:.2f} s to the first request, "
                    f"{time.perf_counter() - begun:.2f} s in all"
                )


if __name__ == "__main__":
    main()
