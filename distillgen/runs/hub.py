"""A data set or a student goes to the Hugging Face Hub. What is there already, by its hash, does not go again."""

from __future__ import annotations

import fnmatch
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillgen import __version__
from distillgen.errors import ConfigError, DistillgenError
from distillgen.extras import need
from distillgen.privacy import public
from distillgen.record import META, dumps
from distillgen.runs.card import student_card
from distillgen.runs.directory import Run, guard_of, read_rows
from distillgen.state_files import PARTIAL, load_state
from distillgen.text.display import clipped

TOKENS = "https://huggingface.co/settings/tokens"
LOG_IN = "run: hf auth login, or export HF_TOKEN=…"
GO_ON = "run the same command again: what is uploaded stays"
HELD = "what "  # is how a secret is told of, which nothing publishes
WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")
MOST_JSON = 1 << 20  # bytes; what is larger is a vocabulary
OF_A_RUN = ("README.md", "corpus.jsonl", "pipeline.lock.yaml", "usage.json")
NOT_OF_A_STUDENT = (
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
"""Of a file or of a folder above it: what training goes on from, and what only this machine can read."""


@dataclass(frozen=True)
class File:
    """A file as the repository will have it: its bytes, or where they are."""

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


@dataclass(frozen=True)
class Pushed:
    """Where it is, whether only its owner sees it, and files of the repository that were not among what was pushed."""

    address: str
    private: bool
    others: Sequence[str]


def data_files(data: Run | str) -> list[File]:
    """What a data set is made of: a run's corpus with its card, lock and counts, or a folder that `export` has written."""
    if isinstance(data, str):
        folder = Path(data)
        if not (folder / "README.md").is_file():
            raise ConfigError(
                f"'{data}' is neither a run nor a folder that 'distillgen export RUN' has written: no README.md"
            )
        names = (path.relative_to(folder) for path in _inside(folder))
        files = [
            File(name.as_posix(), folder / name)
            for name in names
            if not any(part.startswith(".") for part in name.parts)
        ]
        if not any(file.size for file in files if file.name != "README.md"):
            raise ConfigError(f"'{data}' has no rows to push: no file in it but README.md holds anything")
        return files
    if missing := [name for name in OF_A_RUN if not (data.directory / name).exists()]:
        raise ConfigError(f"'{data.directory}' has no {missing[0]} yet; run it to its end first")
    whole = data.state
    if whole["state"] == "running":
        raise ConfigError(
            f"'{data.directory}' is being carried out; wait for it (distillgen status {data.directory})"
        )
    if whole["state"] != "finished" or not whole["stages"][-1]["complete"]:
        ended = (
            "has stages that were not carried out"
            if whole["state"] == "finished"
            else f"is not finished ({whole['state']})"
        )
        raise ConfigError(f"'{data.directory}' {ended}; run it to its end first")
    if not whole["kept"]:
        raise ConfigError(
            f"'{data.directory}' has no rows to push; see: distillgen show {data.directory} --dropped"
        )
    state = load_state(data.directory / "usage.json")
    state["ledger"] = Path(state["ledger"]).name  # where it lies is nobody's business
    state["stages"] = [
        {name: value for name, value in stage.items() if name != "fingerprint"} for stage in state["stages"]
    ]
    state["usage"] = [{**used, "run": data.directory.resolve().name} for used in state["usage"]]
    return [
        File("README.md", data.directory / "README.md"),
        File(
            "corpus.jsonl",
            _without_keys(data.directory / "corpus.jsonl", data.directory / ".published.jsonl"),
        ),
        File("pipeline.lock.yaml", data.directory / "pipeline.lock.yaml"),
        File("usage.json", json.dumps(state, indent=2).encode()),
    ]


def _without_keys(corpus: Path, published: Path) -> Path:
    """The rows without their ledger keys, which this machine's ledger alone can read, and which are digests of addresses too."""
    if not published.exists() or published.stat().st_mtime_ns <= corpus.stat().st_mtime_ns:
        fresh = published.with_suffix(PARTIAL)
        with fresh.open("wb") as out:
            for row in read_rows(corpus):
                for made in row[META]["made"]:
                    made.pop("key", None)
                out.write(dumps(row, sort_keys=False) + b"\n")
        os.replace(fresh, published)
    return published


def check(files: Sequence[File], directory: Path, *, as_it_is: bool) -> None:
    """Refuse what is not for others. Raises ConfigError with the file, the line and what stands there."""
    guard = guard_of(directory)
    for file in files:
        for number, content in enumerate(_parts(file), 1):
            if (what := guard.finding(content)) and not (as_it_is and not what.startswith(HELD)):
                remedy = "leave the field out (export --keep), or drop the row with a filter"
                remedy += "" if what.startswith(HELD) else "; --as-it-is publishes it all the same"
                raise ConfigError(f"{file.name}:{number}: here stands {what}; nothing was uploaded: {remedy}")


def _parts(file: File) -> Iterator[bytes]:
    """What a file says, line by line, or of Parquet in batches of rows; weights say nothing."""
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
    """What a student is made of, an adapter or a whole model, with a card of its own."""
    folder = run.directory / "student"
    found = [path.relative_to(folder) for path in _inside(folder)]
    names = [
        p
        for p in found
        if not any(fnmatch.fnmatch(part, pattern) for part in p.parts for pattern in NOT_OF_A_STUDENT)
    ]
    if not names:
        raise ConfigError(
            f"'{run.directory}' has no student; train one first, with the stage train or distillgen train"
        )
    files = [_described(name, folder) for name in names if name != Path("README.md")]
    return [File("README.md", student_card(run.directory).encode()), *files]


def _described(name: Path, folder: Path) -> File:
    """A file of a student; what describes it does not say where on this machine its base lies."""
    path = folder / name
    if path.suffix != ".json" or path.stat().st_size > MOST_JSON:
        return File(name.as_posix(), path)
    try:
        told = json.loads(path.read_bytes())
    except ValueError:  # not JSON in spite of its name
        return File(name.as_posix(), path)
    shown = public(told)
    return File(name.as_posix(), path if shown == told else json.dumps(shown, indent=2).encode())


def _inside(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def push(files: Sequence[File], repository: str, kind: str, *, public: bool) -> Pushed:
    """Make the repository (`owner/name`, or `name` of the token's owner; `kind` dataset or model) where there is none, and
    commit the files. Private unless `public`. Raises DistillgenError with what to do.
    """
    need("push", "huggingface_hub")
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    hub = HfApi(library_name="distillgen", library_version=__version__)
    if get_token() is None:
        raise ConfigError(
            f"there is no Hugging Face token; make one with write permission at {TOKENS}, then {LOG_IN}"
        )
    try:
        owner = hub.whoami()["name"]
        repository = repository if "/" in repository else f"{owner}/{repository}"
        other = {"dataset": "model", "model": "dataset"}[kind]
        if not hub.repo_exists(repository, repo_type=kind) and hub.repo_exists(repository, repo_type=other):
            raise ConfigError(
                f"'{repository}' is a {other} repository on the Hub; give the {kind} a name of its own"
            )
        made = hub.create_repo(repository, repo_type=kind, private=not public, exist_ok=True)
        private = bool(hub.repo_info(repository, repo_type=kind).private)
        if not private and not public:
            raise ConfigError(
                f"'{repository}' is public already; give --public to publish there, or another repository"
            )
        additions = [CommitOperationAdd(file.name, _readable(file)) for file in files]
        message = f"Upload with distillgen {__version__}"
        hub.create_commit(repository, additions, commit_message=message, repo_type=kind)
        there = set(hub.list_repo_files(repository, repo_type=kind))
    except DistillgenError:
        raise
    except Exception as error:
        if (told := _explained(error, repository, str(hub.endpoint))) is None:
            raise
        raise told from error
    return Pushed(str(made), private, sorted(there - {file.name for file in files} - {".gitattributes"}))


def _readable(file: File) -> str | bytes:
    return file.content if isinstance(file.content, bytes) else str(file.content)


def _explained(error: BaseException, repository: str, endpoint: str) -> DistillgenError | None:
    """What the Hub, or the way there, has against it, and what to do; None for what is neither's. Never what was sent: an
    address can hold a signature, a header the token.
    """
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    names = {name for one in causes for name in (cls.__name__ for cls in type(one).__mro__)}
    response = next((found for one in causes if (found := getattr(one, "response", None)) is not None), None)
    if "OfflineModeIsEnabled" in names:
        return DistillgenError("HF_HUB_OFFLINE is set, so that nothing is uploaded; unset it")
    if "HFValidationError" in names:
        return ConfigError(
            f"'{repository}' is no name for a repository: letters, digits, '-', '_' and '.', as owner/name"
        )
    if response is not None:
        status = response.status_code
        said = next((found for one in causes if (found := getattr(one, "server_message", None))), "")
        remedy = {
            401: f"does not accept the token; make a new one with write permission at {TOKENS}, then {LOG_IN}",
            403: f"does not let this token write to '{repository}'; make one that may at {TOKENS}, or give another repository",
            404: f"has no '{repository}' that this token may write to; look at its name and its owner",
        }.get(
            status,
            f"answered {status}; {GO_ON}" if status >= 500 or status == 429 else f"refuses it ({status})",
        )
        return DistillgenError(
            f"the Hub {remedy}" + (f": {clipped(said, 300)}" if status == 400 and said else "")
        )
    if isinstance(error, ValueError):
        return DistillgenError(f"the Hub refuses it: {clipped(error, 300)}")
    if names & {"TransportError", "ConnectionError", "TimeoutError", "RequestException"}:
        return DistillgenError(
            f"cannot reach {endpoint} ({type(causes[-1]).__name__}); look at the network, then {GO_ON}"
        )
    return None


def listing(files: Sequence[File], repository: str, kind: str, public: bool) -> dict[str, Any]:
    """What would be pushed, for --dry-run."""
    return {
        "repository": repository,
        "type": kind,
        "private": not public,
        "bytes": sum(file.size for file in files),
        "files": [{"name": file.name, "bytes": file.size} for file in files],
    }
