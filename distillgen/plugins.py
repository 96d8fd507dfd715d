"""Plug-ins: stages, teachers, objectives and filters, each found by its name.

A name is looked up in three places: in the project's folder (`stages/rename.py`), among the entry points of
installed packages (group `distillgen.stages`), and among the plug-ins that ship with distillgen. The first
place that has it hides the others.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from distillgen.errors import ConfigError, did_you_mean, place_of
from distillgen.project import Project, file_in, home, imported, load_module, loading_error

NOUNS = {
    "stages": "stage",
    "teachers": "provider",
    "objectives": "objective",
    "filters": "filter",
    "losses": "loss",
    "bodies": "student body",
    "scores": "score",
}
"""The noun for a plug-in of each folder, in messages."""

Base = TypeVar("Base")


@dataclass(frozen=True)
class Plugin:
    """A plug-in: its folder, its name, and the Python file that defines it."""

    folder: str
    name: str
    file: Path
    shipped: bool = False
    entry: EntryPoint | None = None
    """The entry point of the package that it comes from."""

    @property
    def origin(self) -> str:
        """Where it comes from, for messages."""
        if self.entry:
            return _package(self.entry)
        return "the one of distillgen" if self.shipped else place_of(self.file)

    @property
    def files(self) -> dict[str, Path]:
        """The files of its code, for the lock file; none for a shipped plug-in."""
        if self.shipped:
            return {}
        modules = {f"module {name}": file for name, file in imported(self.file).items()}
        return {f"{self.folder}/{self.name}": self.file, **modules}

    def load(self) -> Any:
        """Return its module, or the object that an entry point names. Raise ConfigError for a broken file."""
        if self.entry is None:
            of_the_engine = self.shipped and self.folder != "filters"
            return (
                import_module(f"distillgen.{self.folder}.{self.name}")
                if of_the_engine
                else load_module(self.file)
            )
        try:
            return self.entry.load()
        except Exception as error:
            raise loading_error(error, self.file) from error

    def mistake(self, message: str) -> ConfigError:
        """Return a ConfigError about its file."""
        return ConfigError(message, path=self.file)


def names(folder: str, project: Project) -> list[str]:
    """Return the names of all plug-ins of a folder: of the caller in Python, of the project, of installed
    packages, and the shipped ones.
    """
    of_caller = project.filters if folder == "filters" else ()
    return sorted({*project.names(folder, ".py"), *(entry.name for entry in _entries(folder)), *of_caller})


def find(folder: str, name: str, project: Project, further: Iterable[str] = ()) -> Plugin:
    """Return the plug-in of a name. Raise ConfigError, with the nearest name, if there is none; `further`
    names what is no plug-in and may be meant, too.
    """
    plugin = next(_all_of_name(folder, name, project), None)
    if plugin is None:
        raise ConfigError(
            f"there is no {NOUNS[folder]} '{name}'{did_you_mean(name, [*names(folder, project), *further])}"
        )
    root = str(project.root.resolve())
    if not plugin.shipped and plugin.entry is None and root not in sys.path:
        sys.path.append(root)  # the plug-in may import modules of its project; these hide no installed ones
    return plugin


def hiding(folder: str, name: str, project: Project) -> str:
    """Return a note if the plug-in of a name hides others, unless they are equal copies of it; else ""."""
    first, *others = _all_of_name(folder, name, project)
    code = first.file.read_bytes() if others else b""
    origins = [other.origin for other in others if other.file.read_bytes() != code]
    return f"{NOUNS[folder]} '{name}': {first.origin} hides {' and '.join(origins)}" if origins else ""


def plugin_class(
    folder: str, name: str, base: type[Base], project: Project, *, further: Iterable[str] = ()
) -> type[Base]:
    """Return the class of a plug-in: the one subclass of `base` that its file defines. Raise ConfigError."""
    plugin = find(folder, name, project, further)
    content = plugin.load()
    if isinstance(content, ModuleType):
        classes = [
            value
            for value in vars(content).values()
            if isinstance(value, type) and issubclass(value, base) and value.__module__ == content.__name__
        ]
        used_as_bases = {parent for one in classes for parent in one.__mro__[1:]}
        classes = [one for one in classes if one not in used_as_bases]
    else:
        classes = [content] if isinstance(content, type) and issubclass(content, base) else []
    if len(classes) != 1:
        number = f"{len(classes)} ({', '.join(one.__name__ for one in classes)})" if classes else "none"
        raise plugin.mistake(
            f"the file of a {NOUNS[folder]} defines one subclass of {base.__name__}, and this defines "
            f"{number}"
        )
    return classes[0]


def filter_factory(name: str, project: Project) -> Callable[..., Any]:
    """Return the factory of a filter: the function named as its file. Raise ConfigError."""
    plugin = find("filters", name, project)
    content = plugin.load()
    factory = getattr(content, name, None) if isinstance(content, ModuleType) else content
    if not inspect.isfunction(factory):
        raise plugin.mistake(
            f"a filter file defines one function named as the file: def {name}(*, ...) -> Filter"
        )
    return factory


def _all_of_name(folder: str, name: str, project: Project) -> Iterator[Plugin]:
    """Yield the plug-ins of a name; the first is the one that is used."""
    if Path(name).name.startswith("_"):  # a module that several plug-ins share
        return
    shipped = file_in(home(folder), name, ".py")
    file = file_in(project.root / folder, name, ".py")
    if file and not (shipped and file.samefile(shipped)):
        yield Plugin(folder, name, file)
    for entry in _entries(folder):
        if entry.name == name:
            yield Plugin(folder, name, _file_of(entry), entry=entry)
    if shipped:
        yield Plugin(folder, name, shipped, shipped=True)


def _file_of(entry: EntryPoint) -> Path:
    """Return the file of the module that an entry point names. Raise ConfigError if there is none."""
    try:
        spec = find_spec(entry.module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"{_package(entry)} names '{entry.value}' for {entry.group}, '{entry.name}': there is no such "
            "module"
        )
    return Path(spec.origin)


def _package(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name}" if entry.dist else "a package"


def _entries(folder: str) -> list[EntryPoint]:
    return [entry for entry in _entry_points(tuple(sys.path)) if entry.group == f"distillgen.{folder}"]


@cache
def _entry_points(path: tuple[str, ...]) -> list[EntryPoint]:
    """Return all plug-ins of installed packages. This reads the metadata of every package, so it is done
    once.
    """
    installed = entry_points()
    return [entry for folder in NOUNS for entry in installed.select(group=f"distillgen.{folder}")]
