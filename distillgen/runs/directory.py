"""A run directory, as it is read: its state, its corpus, what was dropped and why."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.located_yaml import VARIABLE
from distillgen.platforms import lock
from distillgen.privacy import Guard, public
from distillgen.record import Record, loads_own
from distillgen.state_files import PARTIAL, Damaged, is_whole, load_state

MACHINE = "machine.json"  # paths and addresses that nothing published may hold; itself it stays here
STATE = ("state", "stages", "models", "totals", "kept", "dropped")
"""What `usage.json` holds at least."""


@dataclass(frozen=True)
class Run:
    """A run directory."""

    directory: Path

    @property
    def state(self) -> dict[str, Any]:
        """What `usage.json` holds: state, stages, models, totals."""
        try:
            state = load_state(self.directory / "usage.json", *STATE)
        except (FileNotFoundError, NotADirectoryError):
            raise ConfigError(f"'{self.directory}' is not a run directory (it has no usage.json)") from None
        if state["state"] == "running" and not is_running(self.directory):
            state["state"] = "killed"
        return state

    @property
    def lock(self) -> dict[str, Any]:
        """What `pipeline.lock.yaml` holds: the pipeline as it was carried out."""
        import yaml

        fast, path = (
            getattr(yaml, "CSafeLoader", yaml.SafeLoader),
            self.directory / "pipeline.lock.yaml",
        )  # of libyaml
        try:
            return dict(yaml.load(path.read_bytes(), Loader=fast))
        except (yaml.YAMLError, ValueError, TypeError) as error:
            raise Damaged(path, "it is no YAML of a pipeline") from error

    def check(self) -> None:
        """Raise Damaged where a file of rows does not hold those that were written to it."""
        state = self.state
        rows = {
            stage_file(self.directory, i, s["name"]): s["rows"]
            for i, s in enumerate(state["stages"])
            if s["complete"]
        }
        if state["stages"] and (last := state["stages"][-1])["complete"]:
            rows[self.directory / "corpus.jsonl"] = last["kept"]
            rows[self.directory / "dropped.jsonl"] = last["rows"] - last["kept"]
        for path, count in rows.items():
            if path.exists() and not is_whole(path, count):
                raise Damaged(path, f"it does not hold the {count:,} rows that were written to it")

    @property
    def ledger(self) -> Path:
        """The ledger that its answers are in."""
        return self.directory / str(self.state["ledger"])

    @property
    def corpus(self) -> Any:
        """What survived, as a `datasets.Dataset` (needs the extra 'datasets')."""
        from datasets import load_dataset

        return load_dataset("json", data_files=str(self.directory / "corpus.jsonl"), split="train")

    @property
    def dropped(self) -> Rows:
        """What did not."""
        return Rows(self.directory / "dropped.jsonl")

    def __str__(self) -> str:
        state = self.state
        lost = "".join(f", {n} {name}" for name, n in state["dropped"].items())
        totals = state["totals"]
        tokens = totals["input_tokens"] + totals["output_tokens"]
        return (
            f"{state['stages'][-1]['rows']} records: {state['kept']} kept{lost}; {totals['requests']} requests, "
            f"{tokens:,} tokens, ${totals['cost_usd']:.2f}"
        )


def guard_of(directory: Path) -> Guard:
    """What finds in what is published what the run in `directory`, or one in the working directory, has of this machine."""
    machine = directory / MACHINE
    here = load_state(machine, "paths", "addresses") if machine.is_file() else {"paths": [], "addresses": []}
    addresses = [
        VARIABLE.sub(lambda variable: os.environ.get(variable[1], ""), address)
        for address in here["addresses"]
    ]
    return Guard([*here["paths"], directory.resolve(), Path.cwd()], addresses)


def evaluations(directory: Path) -> list[dict[str, Any]]:
    """What the run's evaluate stages found, as they wrote it, each with its stage's name, its metrics in order, and the methods
    of its intervals.
    """
    found = []
    for path in sorted(directory.glob("evaluation*.json")):
        told: dict[str, Any] = public(load_state(path, "models"))
        metrics = dict.fromkeys(metric for model in told["models"].values() for metric in model["metrics"])
        models = told["models"].values()
        shares = [
            each
            for model in models
            for each in (*model["metrics"].values(), model.get("likeliest_option", {}))
        ]
        methods = dict.fromkeys(
            each["method"] for each in (*shares, *told["comparisons"]) if each.get("method")
        )
        name = path.stem.partition("-")[2] or path.stem
        found.append(
            {"file": path.stem, "name": name, "metrics": list(metrics), "methods": list(methods), **told}
        )
    return found


class Rows(Sequence[Record]):
    """The records of a JSONL file of a run, read when they are looked at."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Record]:
        return read_records(self.path)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]

    def group(self, by: str) -> dict[str, list[Record]]:
        """Dropped records by 'filter', 'stage' or 'reason'."""
        groups: dict[str, list[Record]] = {}
        for record in self:
            groups.setdefault(getattr(record.dropped, by), []).append(record)
        return groups


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file of a run, each a row as JSON, also while it is being written."""
    if not path.exists():
        path = path.with_name(path.name + PARTIAL)
    if not path.exists():
        return
    with path.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                if path.suffix == PARTIAL:
                    return  # still being written
                raise Damaged(path, "its last line has no end")
            yield line


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of a run, also while it is being written. Raises Damaged."""
    for number, line in enumerate(read_lines(path), 1):
        try:
            yield loads_own(line)
        except ValueError as error:
            raise Damaged(path, f"line {number:,} is not JSON") from error


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file of a run, also while it is being written."""
    return map(Record.from_row, read_rows(path))


def reached(stages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The stages that any row has left, of those in `usage.json`; the first at least."""
    return [stage for stage in stages if stage["rows"] or stage["complete"]] or stages[:1]


def furthest(directory: Path, stages: Sequence[Mapping[str, Any]]) -> Path:
    """The file of the rows that came furthest: in a finished run those of the corpus and those that were dropped."""
    came = reached(stages)
    return stage_file(directory, len(came) - 1, came[-1]["name"])


def ended(run: Run, *, dropped: bool) -> Iterator[Record]:
    """What survived, or what did not; of a run that did not reach its end, among the rows that came furthest."""
    stages = run.state["stages"]
    if reached(stages) == stages:
        return read_records(run.directory / ("dropped.jsonl" if dropped else "corpus.jsonl"))
    return (
        record for record in read_records(furthest(run.directory, stages)) if bool(record.dropped) == dropped
    )


def is_running(directory: Path) -> bool:
    """Whether a process is carrying out a run in `directory`."""
    try:
        with (directory / "run.lock").open("rb") as stream:
            lock(stream.fileno(), shared=True)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def stage_file(directory: Path, index: int, name: str) -> Path:
    """Where the records that left a stage are."""
    return directory / "stages" / f"{index + 1:02d}-{name}.jsonl"
