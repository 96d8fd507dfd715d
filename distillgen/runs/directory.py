"""Reading a run directory: its state, its corpus, and the dropped records with their reasons."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import IO, Any

from distillgen.errors import ConfigError, DistillgenError, did_you_mean
from distillgen.extras import need
from distillgen.html_table import html_table
from distillgen.inference.places import Place, place_beside
from distillgen.located_yaml import VARIABLE
from distillgen.platforms import lock
from distillgen.privacy import Guard, public
from distillgen.record import Dropped, Record, loads_own
from distillgen.state_files import PARTIAL, Damaged, is_whole, load_state, replace_text
from distillgen.text import display

RUN_ID = "run.id"  # the name of the run in a database
MACHINE = "machine.json"  # private paths and addresses; the file is never published
STATE = ("state", "stages", "models", "totals", "kept", "dropped")
"""Keys that `usage.json` always has."""


@dataclass(frozen=True)
class Run:
    """A run directory."""

    directory: Path

    def __post_init__(self) -> None:
        """Take a path that is written as a text, too."""
        object.__setattr__(self, "directory", Path(self.directory))

    @property
    def state(self) -> dict[str, Any]:
        """Return the content of `usage.json`: state, stages, models, totals."""
        state = self._stored_state()
        if state["state"] == "running" and not is_running(self.directory):
            state = self._stored_state()  # a run that has ended just now wrote it before its lock was free
            if state["state"] == "running" and not is_running(self.directory):
                state["state"] = "killed"
        return state

    def _stored_state(self) -> dict[str, Any]:
        try:
            return load_state(self.directory / "usage.json", *STATE)
        except (FileNotFoundError, NotADirectoryError):
            raise ConfigError(f"'{self.directory}' is not a run directory (it has no usage.json)") from None

    @property
    def lock(self) -> dict[str, Any]:
        """Return the content of `pipeline.lock.yaml`: the pipeline as it was run."""
        import yaml

        path = self.directory / "pipeline.lock.yaml"
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is faster
        try:
            return dict(yaml.load(path.read_bytes(), Loader=loader))
        except FileNotFoundError as error:
            raise Damaged(path, "it is missing") from error
        except (yaml.YAMLError, ValueError, TypeError) as error:
            raise Damaged(path, "it is not the YAML of a pipeline") from error

    def check(self) -> None:
        """Raise Damaged if a file does not hold the rows that were written to it."""
        before = version(self.directory / "usage.json")
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
                if version(self.directory / "usage.json") != before:
                    return self.check()  # a run has begun or ended meanwhile
                rows_of_it = "row that was" if count == 1 else f"{count:,} rows that were"
                raise Damaged(path, f"it does not hold the {rows_of_it} written to it")

    @property
    def ledger(self) -> Place:
        """Return the file of the ledger that holds the run's answers, or its database."""
        return place_beside(self.directory, str(self.state["ledger"]))

    @property
    def corpus(self) -> Any:
        """Return the kept records as a `datasets.Dataset` (needs the extra 'datasets')."""
        need("Run.corpus", "datasets")
        from datasets import load_dataset

        return load_dataset("json", data_files=str(self.directory / "corpus.jsonl"), split="train")

    @property
    def kept(self) -> Rows:
        """Return the kept records."""
        return Rows(self.directory / "corpus.jsonl")

    @property
    def dropped(self) -> Rows:
        """Return the dropped records."""
        return Rows(self.directory / "dropped.jsonl")

    def __repr__(self) -> str:
        """Return the directory with the state of the run, or why it cannot be read."""
        try:
            return f"Run('{self.directory}'): {self.state['state']}, {self}"
        except DistillgenError as error:
            return f"Run('{self.directory}'): {error}"

    def _repr_html_(self) -> str:
        """Return a table of the stages, for notebooks."""
        try:
            stages = self.state["stages"]
        except DistillgenError as error:
            return html_table((), (), str(error))
        lines = [
            (
                stage["name"],
                f"{stage['rows']:,}",
                f"{stage['kept']:,}",
                display.reasons(stage["dropped"]),
                ", ".join(f"{title} {display.number(value)}" for title, value in stage["measured"].items()),
            )
            for stage in stages
        ]
        return html_table(("stage", "rows", "kept", "dropped by", "measured"), lines, repr(self))

    def __str__(self) -> str:
        state = self.state
        parts = display.gathered(state["stages"])
        lost = f", {parts} gathered" if parts else ""
        lost += "".join(f", {n} {name}" for name, n in state["dropped"].items())
        totals = state["totals"]
        tokens = totals["input_tokens"] + totals["output_tokens"]
        return (
            f"{state['stages'][-1]['rows']} records: {state['kept']} kept{lost}; "
            f"{totals['requests']} requests, {tokens:,} tokens, ${totals['cost_usd']:.2f}"
        )


def name_in(place: Place, directory: Path) -> str:
    """Return the name of a run in its ledger.

    That is its directory as seen from the ledger's file, or "." if the file is in it. A database is seen from
    many machines: there, a run has a random name, which its directory keeps, and a run in its folder has a
    name below it.
    """
    directory = directory.resolve()
    if isinstance(place, Path):
        return os.path.relpath(directory, place.resolve().parent)
    for folder in (directory, *directory.parents):
        if (file := folder / RUN_ID).is_file():
            below = directory.relative_to(folder)
            return "/".join((file.read_text(encoding="utf-8"), *below.parts))
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{directory.name}-{secrets.token_hex(4)}"
    replace_text(directory / RUN_ID, name)
    return name


def project_root(directory: Path) -> Path:
    """Return the project's folder of the run in `directory`, to which its rows name files."""
    machine = directory / MACHINE
    return Path(load_state(machine, "paths")["paths"][0]) if machine.is_file() else Path.cwd()


def guard_of(directory: Path) -> Guard:
    """Return a guard that finds private content: paths and addresses of this machine and of the run."""
    machine = directory / MACHINE
    here = load_state(machine, "paths", "addresses") if machine.is_file() else {"paths": [], "addresses": []}
    addresses = [
        VARIABLE.sub(lambda variable: os.environ.get(variable[1], ""), address)
        for address in here["addresses"]
    ]
    return Guard([*here["paths"], directory.resolve(), Path.cwd()], addresses)


def evaluations(directory: Path) -> list[dict[str, Any]]:
    """Return the results of the run's evaluate stages.

    Each has the stage's name, its metrics in order, and the methods of its intervals. Figures of all answers
    together stand behind the metrics, in the same form.
    """
    results = []
    for path in sorted(directory.glob("evaluation*.json")):
        result: dict[str, Any] = public(load_state(path, "models"))
        models = result["models"].values()
        for model in models:
            model["metrics"] |= model.get("figures", {})
        metrics = dict.fromkeys(metric for model in models for metric in model["metrics"])
        shares = []
        for model in models:
            shares += [*model["metrics"].values(), model.get("likeliest_option", {})]
        intervals = [*shares, *result["comparisons"]]
        methods = dict.fromkeys(interval["method"] for interval in intervals if interval.get("method"))
        name = path.stem.partition("-")[2] or path.stem
        results.append(
            {"file": path.stem, "name": name, "metrics": list(metrics), "methods": list(methods), **result}
        )
    return results


SHOWN_ROWS = 10  # of a table in a notebook


class Rows(Sequence[Record]):
    """The records of a JSONL file of a run. Each access reads the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Record]:
        return read_records(self.path)

    def __len__(self) -> int:
        return sum(1 for _ in read_lines(self.path))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int) and index >= 0:
            for record in islice(self, index, None):
                return record
            raise IndexError(f"'{self.path}' has no row {index}; the first is 0")
        return list(self)[index]

    def __repr__(self) -> str:
        """Return the file with its number of rows."""
        return f"Rows('{self.path}'): {len(self):,} records"

    def _repr_html_(self) -> str:
        """Return a table of the first rows, for notebooks."""
        records = list(islice(self, SHOWN_ROWS))
        names = [*dict.fromkeys(name for record in records for name in record.fields)]
        why = [
            f"{r.dropped.stage}/{r.dropped.filter}: {r.dropped.reason}" if r.dropped else "" for r in records
        ]
        lines = [
            [*(record.fields.get(name) for name in names), *([reason] if any(why) else [])]
            for record, reason in zip(records, why, strict=True)
        ]
        more = f"; the first {SHOWN_ROWS}:" if len(self) > SHOWN_ROWS else ""
        return html_table([*names, *(["dropped"] if any(why) else [])], lines, repr(self) + more)

    def group(self, by: str) -> dict[str, list[Record]]:
        """Return the dropped records by 'filter', 'stage' or 'reason'. Raise ConfigError for another name."""
        names = [field.name for field in fields(Dropped)]
        if by not in names:
            raise ConfigError(f"records are not grouped by '{by}'{did_you_mean(by, names)}")
        groups: dict[str, list[Record]] = {}
        for record in self:
            if record.dropped:
                groups.setdefault(getattr(record.dropped, by), []).append(record)
        return groups


def read_lines(path: Path) -> Iterator[bytes]:
    """Give the lines of a file of a run, each a row as JSON, also while the file is being written."""
    if (stream := open_rows(path)) is not None:
        with stream:
            yield from _lines_in(stream)


def _lines_in(stream: IO[bytes]) -> Iterator[bytes]:
    for line in stream:
        if not line.endswith(b"\n"):
            if stream.name.endswith(PARTIAL):
                return  # still being written
            raise Damaged(Path(stream.name), "its last line has no end")
        yield line


def version(file: Path | int) -> tuple[int, ...]:
    """Return what is another for each new file of a name: files of a run are replaced, not changed."""
    with suppress(FileNotFoundError):
        status = os.stat(file)
        return status.st_ino, status.st_mtime_ns, status.st_size
    return ()


def open_rows(path: Path) -> IO[bytes] | None:
    """Open a file of rows, or the one that is being written; return None if there is neither."""
    partial = path.with_name(path.name + PARTIAL)
    for place in (path, partial, path):  # once more: the run may rename it between the two looks
        with suppress(FileNotFoundError):
            return place.open("rb")
    return None


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Give the rows of a file of a run, also while it is being written; raise Damaged."""
    if (stream := open_rows(path)) is not None:
        with stream:
            yield from rows_in(stream)


def rows_in(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Give the rows of an open file of a run; raise Damaged."""
    for number, line in enumerate(_lines_in(stream), 1):
        try:
            yield loads_own(line)
        except ValueError as error:
            raise Damaged(Path(stream.name), f"line {number:,} is not JSON") from error


def read_records(path: Path) -> Iterator[Record]:
    """Give the records of a file of a run, also while it is being written."""
    return map(Record.from_row, read_rows(path))


def reached(stages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the stages that a row has left, at least the first."""
    return [stage for stage in stages if stage["rows"] or stage["complete"]] or stages[:1]


def furthest(directory: Path, stages: Sequence[Mapping[str, Any]]) -> Path:
    """Return the file of the last stage that a row has left; in a finished run it holds all records."""
    reached_stages = reached(stages)
    return stage_file(directory, len(reached_stages) - 1, reached_stages[-1]["name"])


def final_records(run: Run, *, dropped: bool) -> Iterator[Record]:
    """Give the kept or the dropped records; of an unfinished run, those of the furthest stage."""
    stages = run.state["stages"]
    if reached(stages) == stages:
        return read_records(run.directory / ("dropped.jsonl" if dropped else "corpus.jsonl"))
    return (
        record for record in read_records(furthest(run.directory, stages)) if bool(record.dropped) == dropped
    )


def is_running(directory: Path) -> bool:
    """Return whether a process is running a pipeline in `directory`."""
    try:
        with (directory / "run.lock").open("rb") as stream:
            lock(stream.fileno(), shared=True)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def stage_file(directory: Path, index: int, name: str) -> Path:
    """Return the path of the records that left a stage."""
    return directory / "stages" / f"{index + 1:02d}-{name}.jsonl"
