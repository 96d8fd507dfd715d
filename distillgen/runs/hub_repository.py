"""A repository of the Hugging Face Hub: it is created, listed, and gets commits of files."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillgen import __version__
from distillgen.errors import ConfigError, DistillgenError
from distillgen.extras import need
from distillgen.runs.card import on_the_hub
from distillgen.text.display import clipped

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TOKEN_PAGE = "https://huggingface.co/settings/tokens"
LOG_IN = "run: hf auth login, or export HF_TOKEN=…"
RETRY = "run the same command again: uploaded files stay"


class PassingFault(DistillgenError):
    """The Hub or the network is at fault, and may not be later."""


class OtherCommit(PassingFault):
    """Another commit came first."""


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
class Entry:
    """A file that the repository holds. `digest` is its SHA-256, or the SHA-1 that git names it by."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Repository:
    """A repository that exists."""

    hub: HfApi
    name: str
    kind: str
    """dataset or model"""
    address: str
    private: bool

    def head(self) -> str:
        """Return the last commit; raise DistillgenError with the remedy."""
        with _explained(self.name, self.hub):
            return str(self.hub.repo_info(self.name, repo_type=self.kind).sha)

    def entries(self) -> list[Entry]:
        """Return the files of the repository by name; raise DistillgenError with the remedy."""
        from huggingface_hub.hf_api import RepoFile

        with _explained(self.name, self.hub):
            tree = self.hub.list_repo_tree(self.name, recursive=True, repo_type=self.kind)
            files = sorted((f for f in tree if isinstance(f, RepoFile)), key=lambda file: str(file.path))
            return [Entry(f.path, f.size, f.lfs.sha256 if f.lfs else f.blob_id) for f in files]

    def commit(self, files: Sequence[File], removed: Sequence[str] = (), after: str | None = None) -> None:
        """Add or replace files, and remove others, in one commit; raise DistillgenError with the remedy.

        Raises OtherCommit if the last commit is not the one that this one is to come `after`.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        additions = [CommitOperationAdd(file.name, _content(file, self.name)) for file in files]
        operations: list[Any] = [*additions, *(CommitOperationDelete(name) for name in removed)]
        message = f"Upload with distillgen {__version__}"
        with _explained(self.name, self.hub):
            self.hub.create_commit(
                self.name, operations, commit_message=message, repo_type=self.kind, parent_commit=after
            )


def open_repository(name: str, kind: str, *, public: bool) -> Repository:
    """Return the repository `owner/name` or `name`; raise DistillgenError with the remedy.

    A repository that does not exist is created, private unless `public`. `kind` is dataset or model.
    """
    need("push", "huggingface_hub")
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    hub = HfApi(library_name="distillgen", library_version=__version__)
    if get_token() is None:
        raise ConfigError(
            f"there is no Hugging Face token; make one with write permission at {TOKEN_PAGE}, then {LOG_IN}"
        )
    with _explained(name, hub):
        owner = hub.whoami()["name"]
    name = name if "/" in name else f"{owner}/{name}"
    with _explained(name, hub):
        other = {"dataset": "model", "model": "dataset"}[kind]
        if not hub.repo_exists(name, repo_type=kind) and hub.repo_exists(name, repo_type=other):
            raise ConfigError(
                f"'{name}' is a {other} repository on the Hub; give the {kind} a name of its own"
            )
        address = hub.create_repo(name, repo_type=kind, private=not public, exist_ok=True)
        private = bool(hub.repo_info(name, repo_type=kind).private)
    if not private and not public:
        raise ConfigError(
            f"'{name}' is public already; give --public to publish there, or another repository"
        )
    return Repository(hub, name, kind, str(address), private)


def _content(file: File, repository: str) -> str | bytes:
    """Return the bytes of a file or its path; a card names the repository to load."""
    if file.name == "README.md":
        card = file.content if isinstance(file.content, bytes) else file.content.read_bytes()
        return on_the_hub(card.decode(), repository).encode()
    return file.content if isinstance(file.content, bytes) else str(file.content)


@contextlib.contextmanager
def _explained(repository: str, hub: HfApi) -> Iterator[None]:
    """Raise an error of the Hub or the network as one with the remedy."""
    try:
        yield
    except DistillgenError:
        raise
    except Exception as error:
        explanation = _explanation(error, repository, str(hub.endpoint))
        if explanation is None:
            raise
        raise explanation from error


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
        if status == 412:
            return OtherCommit(f"another commit came first to '{repository}'; {RETRY}")
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
        error_class = PassingFault if passing else DistillgenError
        return error_class(
            f"the Hub {remedy}" + (f": {clipped(message, 300)}" if status == 400 and message else "")
        )
    if isinstance(error, ValueError):
        return DistillgenError(f"the Hub refuses it: {clipped(error, 300)}")
    if names & {"TransportError", "ConnectionError", "TimeoutError", "RequestException"}:
        return PassingFault(
            f"cannot reach {endpoint} ({type(causes[-1]).__name__}); look at the network, then {RETRY}"
        )
    return None
