"""Files that a pattern names, such as reports/**/*.pdf."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from distillgen.errors import ConfigError
from distillgen.project import Project
from distillgen.user_files import inner_files

_WILD = frozenset("*?[")


class Place(NamedTuple):
    """A file, or a folder of which the files that match `pattern` are read; "" for all. `name` is the name of
    the file or folder in the pipeline.
    """

    name: str
    path: Path
    pattern: str = ""


def place_of(name: str, project: Project) -> Place:
    """Return what a name stands for. A file with a wildcard in its name is that file. Raise ConfigError."""
    folders = (project.root, Path()) if name in project.trusted else (project.root,)
    if not _WILD & {*name} or any((folder / name).exists() for folder in folders):
        return Place(name, project.file(name))
    parts = PurePosixPath(Path(name).as_posix()).parts
    first = next(i for i, part in enumerate(parts) if _WILD & {*part})
    base = str(PurePosixPath(*parts[:first]))
    if ".." in parts[first:]:
        raise ConfigError(f"the pattern of '{name}' leads out of '{base}'; name the folder itself")
    if name in project.trusted:
        project = replace(project, trusted=project.trusted | {base})
    return Place(base, project.file(base), "/".join(parts[first:]))


def matches(place: Place) -> dict[str, Path]:
    """Return the files of a folder that match its pattern, by name. Raise ConfigError if there are none."""
    inside = {*place.path.glob(place.pattern)}
    files = [file for file in inner_files(place.path) if file in inside]
    if not files:
        raise ConfigError(f"no file in '{place.name}' matches '{place.pattern}'")
    return {f"{place.name}/{file.relative_to(place.path).as_posix()}": file for file in files}
