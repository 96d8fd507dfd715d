"""Where content is found: the user's project first, then what ships with distillgen."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from distillgen.errors import ConfigError, did_you_mean

KINDS = ("pipelines", "prompts", "filters", "data")


def home(kind: str) -> Path:
    """The shipped folder of a kind of content, in a wheel or in a checkout."""
    inside = Path(__file__).parent / kind
    return inside if inside.is_dir() else Path(__file__).parent.parent / kind


def project_of(pipeline: Path) -> Path:
    """The project that a pipeline file belongs to: the nearest folder above it with content of its own, not above the
    working directory; else the file's own folder. A shipped pipeline works in the working directory.
    """
    folder, here = pipeline.resolve().parent, Path.cwd().resolve()
    if folder.is_relative_to(home("pipelines").resolve()):
        return here
    above = [parent for parent in (folder, *folder.parents) if parent.is_relative_to(here)]
    if not above and folder.name == "pipelines":
        above = [folder.parent]
    return next((parent for parent in above if any((parent / kind).is_dir() for kind in KINDS)), folder)


@dataclass(frozen=True)
class Project:
    """A folder with content of its own. No file outside of it and of what ships is read, unless `trusted` (what the
    user typed on the command line) names it.
    """

    root: Path
    trusted: frozenset[str] = field(default_factory=frozenset)

    def find(self, kind: str, name: str, suffix: str) -> Path:
        """The file of the prompt, filter or pipeline `name`; the user's own hides a shipped one of the same name."""
        for folder in (self.root / kind, home(kind)):
            path = folder / (name.removesuffix(suffix) + suffix)
            if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
                return path
        raise ConfigError(f"there is no {kind[:-1]} '{name}'{did_you_mean(name, self.names(kind, suffix))}")

    def names(self, kind: str, suffix: str) -> list[str]:
        """All names of a kind, the user's and the shipped."""
        found = set()
        for folder in (self.root / kind, home(kind)):
            for path in folder.rglob(f"*{suffix}"):
                if not path.name.startswith(("_", ".")) and path.name != "README.md":
                    found.add(path.relative_to(folder).with_suffix("").as_posix())
        return sorted(found)

    def file(self, path: str) -> Path:
        """A data file or folder named in a pipeline or prompt."""
        roots = [self.root.resolve(), home("data").parent.resolve()]
        found = next((file for root in roots if (file := (root / path).resolve()).exists()), None)
        if found is None:
            near = [p.name for p in (self.root / path).parent.glob("*")]
            raise ConfigError(f"there is no file '{path}'{did_you_mean(Path(path).name, near)}")
        if path not in self.trusted and not any(found.is_relative_to(root) for root in roots):
            remedy = "move it there, or name it on the command line with --set"
            raise ConfigError(f"'{path}' lies outside the project ({self.root}); {remedy}")
        return found

    def filter(self, name: str) -> Callable[..., Any]:
        """The factory in `filters/<name>.py`, the function named as the file."""
        path = self.find("filters", name, ".py")
        factory = getattr(load_module(path, f"distillgen_filter_{name}"), name, None)
        if not inspect.isfunction(factory):
            raise ConfigError(f"a filter file defines one function named as the file: def {name}(*, ...) -> Filter", path=path)
        return factory


def read_text(path: Path) -> str:
    """A pipeline's or prompt's text. Raises ConfigError with the line that is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"not UTF-8 text ({error.reason}); save the file as UTF-8", path=path, line=line) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=path) from error


def load_module(path: Path, name: str) -> ModuleType:
    """Run a Python file of the project as a module of its own; its mistakes become a ConfigError with the line."""
    module = ModuleType(name)
    module.__file__ = str(path)
    try:
        exec(compile(path.read_bytes(), path, "exec", dont_inherit=True), vars(module))
    except SyntaxError as error:
        raise ConfigError(f"{error.msg}", path=path, line=error.lineno) from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
        raise ConfigError(f"cannot be loaded: {type(error).__name__}: {error}", path=path, line=line) from error
    return module


Base = TypeVar("Base")


def class_in(module: str, base: type[Base]) -> type[Base]:
    """The one subclass of `base` that a module of ours defines: stages and teachers are found by their file's name."""
    inside = vars(importlib.import_module(module)).values()
    return next(c for c in inside if isinstance(c, type) and issubclass(c, base) and c.__module__ == module)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files in a folder."""
    if path.is_dir():
        total = hashlib.sha256()
        for inner in sorted(p for p in path.rglob("*") if p.is_file()):
            total.update(f"{inner.relative_to(path).as_posix()}\0{file_sha256(inner)}\n".encode())
        return total.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
