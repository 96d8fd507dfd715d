"""Push a data set or a student to the Hugging Face Hub, which gets only files that it does not have."""

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
from distillgen.privacy import SECRET, public
from distillgen.record import META, dumps
from distillgen.runs.card import on_the_hub, student_card
from distillgen.runs.directory import Run, guard_of, read_rows
from distillgen.state_files import PARTIAL, load_state
from distillgen.text.display import clipped

TOKEN_PAGE = "https://huggingface.co/settings/tokens"
LOG_IN = "run: hf auth login, or export HF_TOKEN=…"
RETRY = "run the same command again: uploaded files stay"
WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")
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
class File:
    """A file of the repository: its name there, and its bytes or their path here."""

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        """Return the size in bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


@dataclass(frozen=True)
class Pushed:
    """The result of a push. `others` are the repository's files that were not pushed."""

    address: str
    private: bool
    others: Sequence[str]


def data_files(data: Run | str) -> list[File]:
    """Return the files of a run's data set, or of a folder that `export` wrote; raise ConfigError."""
    if isinstance(data, str):
        folder = Path(data)
        if not (folder / "README.md").is_file():
            raise ConfigError(
                f"'{data}' is neither a run nor a folder that 'distillgen export RUN' wrote (no README.md)"
            )
        names = (path.relative_to(folder) for path in _inside(folder))
        files = [
            File(name.as_posix(), folder / name)
            for name in names
            if not any(part.startswith(".") for part in name.parts)
        ]
        if not any(file.size for file in files if file.name != "README.md"):
            raise ConfigError(f"'{data}' has no rows to push: all files but README.md are empty")
        return files
    if missing := [name for name in RUN_FILES if not (data.directory / name).exists()]:
        raise ConfigError(f"'{data.directory}' has no {missing[0]} yet; run it to its end first")
    run_state = data.state
    if run_state["state"] == "running":
        remedy = f"wait for it (distillgen status {data.directory})"
        raise ConfigError(f"'{data.directory}' is still running; {remedy}")
    if run_state["state"] != "finished":
        problem = f"is not finished ({run_state['state']})"
        raise ConfigError(f"'{data.directory}' {problem}; run it to its end first")
    if not run_state["stages"][-1]["complete"]:
        problem = "has stages that were not run"
        raise ConfigError(f"'{data.directory}' {problem}; run it to its end first")
    if not run_state["kept"]:
        raise ConfigError(
            f"'{data.directory}' has no rows to push; see: distillgen show {data.directory} --dropped"
        )
    state = load_state(data.directory / "usage.json")
    state["ledger"] = Path(state["ledger"]).name  # not its folder on this machine
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
    """Write the rows without their ledger keys, which are digests of addresses; return the path."""
    if not published.exists() or published.stat().st_mtime_ns <= corpus.stat().st_mtime_ns:
        fresh = published.with_suffix(PARTIAL)
        with fresh.open("wb") as out:
            for row in read_rows(corpus):
                for answer in row[META]["made"]:
                    answer.pop("key", None)
                out.write(dumps(row, sort_keys=False) + b"\n")
        os.replace(fresh, published)
    return published


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


def push(files: Sequence[File], repository: str, kind: str, *, public: bool) -> Pushed:
    """Commit the files to a repository, `owner/name` or `name`; raise DistillgenError with the remedy.

    A repository that does not exist is created, private unless `public`. `kind` is dataset or model.
    """
    need("push", "huggingface_hub")
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    hub = HfApi(library_name="distillgen", library_version=__version__)
    if get_token() is None:
        raise ConfigError(
            f"there is no Hugging Face token; make one with write permission at {TOKEN_PAGE}, then {LOG_IN}"
        )
    try:
        owner = hub.whoami()["name"]
        repository = repository if "/" in repository else f"{owner}/{repository}"
        other = {"dataset": "model", "model": "dataset"}[kind]
        if not hub.repo_exists(repository, repo_type=kind) and hub.repo_exists(repository, repo_type=other):
            raise ConfigError(
                f"'{repository}' is a {other} repository on the Hub; give the {kind} a name of its own"
            )
        address = hub.create_repo(repository, repo_type=kind, private=not public, exist_ok=True)
        private = bool(hub.repo_info(repository, repo_type=kind).private)
        if not private and not public:
            raise ConfigError(
                f"'{repository}' is public already; give --public to publish there, or another repository"
            )
        additions = [CommitOperationAdd(file.name, _content(file, repository)) for file in files]
        message = f"Upload with distillgen {__version__}"
        hub.create_commit(repository, additions, commit_message=message, repo_type=kind)
        repository_files = set(hub.list_repo_files(repository, repo_type=kind))
    except DistillgenError:
        raise
    except Exception as error:
        explanation = _explanation(error, repository, str(hub.endpoint))
        if explanation is None:
            raise
        raise explanation from error
    return Pushed(
        str(address), private, sorted(repository_files - {file.name for file in files} - {".gitattributes"})
    )


def _content(file: File, repository: str) -> str | bytes:
    """Return the bytes of a file or its path; a card names the repository to load."""
    if file.name == "README.md":
        card = file.content if isinstance(file.content, bytes) else file.content.read_bytes()
        return on_the_hub(card.decode(), repository).encode()
    return file.content if isinstance(file.content, bytes) else str(file.content)


def _explanation(error: BaseException, repository: str, endpoint: str) -> DistillgenError | None:
    """Return an error that says why the push failed, and the remedy; None for an error not of the Hub.

    It never repeats the request: its address can hold a signature, its headers the token.
    """
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    names = {cls.__name__ for cause in causes for cls in type(cause).__mro__}
    responses = (getattr(cause, "response", None) for cause in causes)
    response = next((response for response in responses if response is not None), None)
    if "OfflineModeIsEnabled" in names:
        return DistillgenError("HF_HUB_OFFLINE is set, so that nothing is uploaded; unset it")
    if "HFValidationError" in names:
        return ConfigError(
            f"'{repository}' is not a name of a repository: letters, digits, '-', '_' and '.', as owner/name"
        )
    if response is not None:
        status = response.status_code
        messages = (getattr(cause, "server_message", None) for cause in causes)
        message = next(filter(None, messages), "")
        remedies = {
            401: "does not accept the token; make a new one with write permission at "
            f"{TOKEN_PAGE}, then {LOG_IN}",
            403: f"does not let this token write to '{repository}'; make one that may at "
            f"{TOKEN_PAGE}, or give another repository",
            404: f"has no '{repository}' that this token may write to; check its name and its owner",
        }
        passing = status >= 500 or status == 429
        remedy = remedies.get(status, f"answered {status}; {RETRY}" if passing else f"refuses it ({status})")
        return DistillgenError(
            f"the Hub {remedy}" + (f": {clipped(message, 300)}" if status == 400 and message else "")
        )
    if isinstance(error, ValueError):
        return DistillgenError(f"the Hub refuses it: {clipped(error, 300)}")
    if names & {"TransportError", "ConnectionError", "TimeoutError", "RequestException"}:
        return DistillgenError(
            f"cannot reach {endpoint} ({type(causes[-1]).__name__}); look at the network, then {RETRY}"
        )
    return None


def listing(files: Sequence[File], repository: str, kind: str, public: bool) -> dict[str, Any]:
    """Return the names and sizes of the files, and the repository, for --dry-run and --json."""
    return {
        "repository": repository,
        "type": kind,
        "private": not public,
        "bytes": sum(file.size for file in files),
        "files": [{"name": file.name, "bytes": file.size} for file in files],
    }
