"""Push a data set or a student to the Hugging Face Hub, which gets only files that it does not have."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.extras import need
from distillgen.inference.places import public_name, read_place
from distillgen.privacy import SECRET, public
from distillgen.record import META, dumps
from distillgen.rows.media import TYPES
from distillgen.runs.card import student_card
from distillgen.runs.directory import Run, guard_of, is_running, read_rows
from distillgen.runs.export import export
from distillgen.runs.export_media import refers_to_files
from distillgen.runs.export_rows import ExportOptions
from distillgen.runs.hub_repository import File, open_repository
from distillgen.state_files import PARTIAL, load_state, remove_folder

WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")
COMMITTED = 1000  # pictures and sounds of one commit; the rows that name them come last
MOST_JSON_BYTES = 1 << 20  # a larger JSON file is a vocabulary
RUN_FILES = ("README.md", "corpus.jsonl", "pipeline.lock.yaml", "usage.json")
NOT_PUSHED = (
    "checkpoint-*",
    "*.partial",
    ".*",
    "optimizer.*",
    "scheduler.pt",
    "rng_state*.pth",
    "trainer_state.json",
    "training_args.bin",
    "runs",
)
"""Patterns of files and folders of a student that only the training or only this machine needs."""


@dataclass(frozen=True)
class Pushed:
    """The result of a push. `others` are the repository's files that were not pushed."""

    address: str
    private: bool
    others: Sequence[str]


def data_files(data: Run | str) -> list[File]:
    """Return the files of a run's data set, or of a folder that `export` wrote; raise ConfigError.

    A run with pictures or sounds is exported first, to a hidden folder of its directory.
    """
    if isinstance(data, str):
        folder = Path(data)
        if not (folder / "README.md").is_file():
            raise ConfigError(
                f"'{data}' is neither a run nor a folder that 'distillgen export RUN' wrote (no README.md)"
            )
        files = _of_folder(folder)
        if not any(file.size for file in files if file.name != "README.md"):
            raise ConfigError(f"'{data}' has no rows to push: all files but README.md are empty")
        return files
    check_finished(data)
    if any(map(refers_to_files, read_rows(data.directory / "corpus.jsonl"))):
        return [*_of_folder(_exported(data)), *described_files(data)]
    return [
        File("README.md", data.directory / "README.md"),
        File(
            "corpus.jsonl",
            _without_keys(data.directory / "corpus.jsonl", data.directory / ".published.jsonl"),
        ),
        *described_files(data),
    ]


def _of_folder(folder: Path) -> list[File]:
    """Return the files of a folder, without hidden ones."""
    names = (path.relative_to(folder) for path in _inside(folder))
    return [
        File(name.as_posix(), folder / name)
        for name in names
        if not any(part.startswith(".") for part in name.parts)
    ]


def _exported(run: Run) -> Path:
    """Return the folder with the run's rows and their files, as `datasets` loads them; write it if the corpus
    has changed since. Raise ConfigError.
    """
    place, corpus = run.directory / ".published", run.directory / "corpus.jsonl"
    folder = place / run.directory.resolve().name  # the card names it
    written_at = corpus.stat().st_mtime_ns
    if not _is_of(folder, written_at):
        remove_folder(place)
        try:
            export(run, folder, ExportOptions())
        except ConfigError as error:
            remedy = f"distillgen export {run.directory} -o FOLDER …, then distillgen push FOLDER"
            raise ConfigError(f"{error.message}: {remedy}") from error
        os.utime(folder, ns=(written_at, written_at))
    return folder


def _is_of(published: Path, written_at: int) -> bool:
    """Return whether what is to be published is there, and is that of the corpus with this time of change.

    A later time of its own would say little: a run may write its corpus anew while it is made.
    """
    return published.exists() and published.stat().st_mtime_ns == written_at


def check_finished(run: Run) -> None:
    """Raise ConfigError unless the run has gone to its end and has kept rows."""
    if missing := [name for name in RUN_FILES if not (run.directory / name).exists()]:
        raise ConfigError(f"'{run.directory}' has no {missing[0]} yet; run it to its end first")
    state = run.state
    if state["state"] == "running" or is_running(run.directory):
        remedy = f"wait for it (distillgen status {run.directory}), or add --while-running"
        raise ConfigError(f"'{run.directory}' is still running; {remedy}")
    if state["state"] != "finished":
        problem = f"is not finished ({state['state']})"
        raise ConfigError(f"'{run.directory}' {problem}; run it to its end first")
    if not state["stages"][-1]["complete"]:
        problem = "has stages that were not run"
        raise ConfigError(f"'{run.directory}' {problem}; run it to its end first")
    if not state["kept"]:
        raise ConfigError(
            f"'{run.directory}' has no rows to push; see: distillgen show {run.directory} --dropped"
        )


def described_files(run: Run) -> list[File]:
    """Return the files that say how the rows were made: the lock file, and `usage.json` without paths."""
    state = load_state(run.directory / "usage.json")
    state["ledger"] = public_name(read_place(state["ledger"]))  # not its folder or its host
    state["stages"] = [
        {name: value for name, value in stage.items() if name != "fingerprint"} for stage in state["stages"]
    ]
    state["usage"] = [{**used, "run": run.directory.resolve().name} for used in state["usage"]]
    return [
        File("pipeline.lock.yaml", run.directory / "pipeline.lock.yaml"),
        File("usage.json", json.dumps(state, indent=2).encode()),
    ]


def _without_keys(corpus: Path, published: Path) -> Path:
    """Write the rows without their ledger keys, which are digests of addresses; return the path."""
    written_at = corpus.stat().st_mtime_ns
    if not _is_of(published, written_at):
        fresh = published.with_suffix(PARTIAL)
        with fresh.open("wb") as out:
            for row in read_rows(corpus):
                out.write(published_line(row))
        os.utime(fresh, ns=(written_at, written_at))
        os.replace(fresh, published)
    return published


def published_line(row: Mapping[str, Any]) -> bytes:
    """Return a row of a run as the line that is published, without the keys of its answers in the ledger."""
    for answer in row[META]["made"]:
        answer.pop("key", None)
    return dumps(row, sort_keys=False) + b"\n"


def check(files: Sequence[File], directory: Path, *, as_it_is: bool) -> None:
    """Raise ConfigError, with file and line, for a secret, or a path, address or name of this machine."""
    guard = guard_of(directory)
    for file in files:
        for number, content in enumerate(_parts(file), 1):
            finding = guard.finding(content)
            if finding and not (as_it_is and not finding.startswith(SECRET)):
                remedy = "leave the field out (export --keep), or drop the row with a filter"
                remedy += "" if finding.startswith(SECRET) else "; --as-it-is publishes it all the same"
                raise ConfigError(
                    f"{file.name}:{number}: here stands {finding}; nothing was uploaded: {remedy}"
                )


def _parts(file: File) -> Iterator[bytes]:
    """Give the lines of a file, or batches of rows of Parquet; give nothing of weights."""
    suffix = Path(file.name).suffix
    if isinstance(file.content, bytes):
        yield from file.content.splitlines()
    elif suffix == ".parquet":
        need("push of Parquet", "pyarrow")
        import pyarrow.parquet as parquet

        for batch in parquet.ParquetFile(file.content).iter_batches():
            yield dumps(batch.to_pylist())
    elif suffix not in WEIGHTS:
        with file.content.open("rb") as lines:
            yield from lines


def student_files(run: Run) -> list[File]:
    """Return the files of a run's student with its card; raise ConfigError if there is no student."""
    folder = run.directory / "student"
    paths = [path.relative_to(folder) for path in _inside(folder)]
    names = [
        p
        for p in paths
        if not any(fnmatch.fnmatch(part, pattern) for part in p.parts for pattern in NOT_PUSHED)
    ]
    if not names:
        raise ConfigError(
            f"'{run.directory}' has no student; train one first, with the stage train or distillgen train"
        )
    files = [_described(name, folder) for name in names if name != Path("README.md")]
    return [File("README.md", student_card(run.directory).encode()), *files]


def _described(name: Path, folder: Path) -> File:
    """Return a file of a student; remove the base model's path on this machine from JSON."""
    path = folder / name
    if path.suffix != ".json" or path.stat().st_size > MOST_JSON_BYTES:
        return File(name.as_posix(), path)
    try:
        value = json.loads(path.read_bytes())
    except ValueError:  # not JSON, in spite of its name
        return File(name.as_posix(), path)
    published = public(value)
    return File(name.as_posix(), path if published == value else json.dumps(published, indent=2).encode())


def _inside(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def push(files: Sequence[File], name: str, kind: str, *, public: bool) -> Pushed:
    """Commit the files to a repository, `owner/name` or `name`; raise DistillgenError with the remedy.

    A repository that does not exist is created, private unless `public`. `kind` is dataset or model.
    """
    repository = open_repository(name, kind, public=public)
    first = [file for file in files if Path(file.name).suffix.lower() in TYPES]
    for start in range(0, len(first), COMMITTED):
        repository.commit(first[start : start + COMMITTED])
    repository.commit([file for file in files if file not in first] if first else files)
    others = {entry.name for entry in repository.entries()} - {file.name for file in files}
    return Pushed(repository.address, repository.private, sorted(others - {".gitattributes"}))


def listing(files: Sequence[File], repository: str, kind: str, public: bool) -> dict[str, Any]:
    """Return the names and sizes of the files, and the repository, for --dry-run and --json."""
    return {
        "repository": repository,
        "type": kind,
        "private": not public,
        "bytes": sum(file.size for file in files),
        "files": [{"name": file.name, "bytes": file.size} for file in files],
    }
