"""Mutations: faults of one line in the product, and what finds each. `python -m tests.simulator.mutations`.

Each is made in a copy of the package. The simulator plays histories with the copy; if none breaks, the tests
that the entry names are run.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
LONGEST_S = 900  # a mutation may make a loop endless


@dataclass(frozen=True)
class Mutation:
    """A fault of one line. `tests` are run if the simulator does not find it."""

    file: str
    old: str
    new: str
    breaks: str
    tests: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return ROOT / "distillgen" / self.file

    def __str__(self) -> str:
        return f"{self.file}: {self.breaks}"


def mutations() -> list[Mutation]:
    """All mutations of the list."""
    content = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return [Mutation(**entry) for entry in content["mutation"]]


@contextmanager
def copy_with(mutation: Mutation) -> Iterator[Path]:
    """A checkout in which one file differs; all else is linked to this one."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        copy = Path(name)
        for path in ROOT.iterdir():
            if path.name not in ("distillgen", ".git"):
                (copy / path.name).symlink_to(path)
        shutil.copytree(
            ROOT / "distillgen", copy / "distillgen", ignore=shutil.ignore_patterns("__pycache__")
        )
        file = copy / "distillgen" / mutation.file
        file.write_text(
            file.read_text(encoding="utf-8").replace(mutation.old, mutation.new), encoding="utf-8"
        )
        yield copy


def found_by(mutation: Mutation, histories: int) -> str:
    """What finds a mutation; "" if nothing does."""
    with copy_with(mutation) as copy:
        arguments = ["tests.simulator", "--until-broken", "--histories", str(histories)]
        if why := _failure(copy, arguments):
            return f"simulator: {why}"
        for test in mutation.tests:
            if why := _failure(copy, ["pytest", "-q", "-n0", "-x", "-p", "no:cacheprovider", test]):
                return f"{test}: {why}"
    return ""


def _failure(copy: Path, arguments: list[str]) -> str:
    """Why a command fails in the copy; "" if it does not."""
    command = [sys.executable, "-P", "-m", *arguments]
    environment = {"PYTHONPATH": str(copy), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=LONGEST_S
        )
    except subprocess.TimeoutExpired:
        return "no end"
    if done.returncode == 0:
        return ""
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("seed", "FAILED"))]
    return (lines or ["it fails"])[0][:140]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator.mutations", description=__doc__)
    parser.add_argument("--histories", type=int, default=600, help="histories for each mutation")
    parser.add_argument("--only", default="", help="only mutations with this text in their file or effect")
    args = parser.parse_args()
    chosen = [mutation for mutation in mutations() if args.only in str(mutation)]
    by = {"simulator": 0, "a test": 0, "nothing": 0}
    for mutation in chosen:
        why = found_by(mutation, args.histories)
        by["simulator" if why.startswith("simulator") else "a test" if why else "nothing"] += 1
        print(f"{mutation}\n    {why or 'NOT FOUND'}", flush=True)
    print(f"{len(chosen)} mutations: {', '.join(f'{count} found by {name}' for name, count in by.items())}")
    return int(by["nothing"] > 0)


if __name__ == "__main__":
    sys.exit(main())
