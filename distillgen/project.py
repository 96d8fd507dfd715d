"""Projects: the files of a user's project, and its Python code."""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.util import cache_from_source, resolve_name
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from distillgen.errors import ConfigError, UserCodeError, did_you_mean
from distillgen.record import Record
from distillgen.user_files import inner_files, opened

KINDS = ("pipelines", "prompts", "filters", "data")
MARKS = KINDS[:-1]  # folders that mark a project; many other folders are called data
UNPACKED_BYTES, PACKED_RATIO = 256 << 20, 50  # a packed text of more than both is no text that anybody wrote


def home(kind: str) -> Path:
    """Return the folder of a kind of content that ships with distillgen, in a wheel or in a checkout."""
    inside = Path(__file__).parent / kind
    return inside if inside.is_dir() else Path(__file__).parent.parent / kind


def project_of(pipeline: Path) -> Path:
    """Return the folder of the project that a pipeline file belongs to.

    It is the file's own folder, if that has content, or else the project around it. A pipeline that ships
    with distillgen belongs to the project around the working directory.
    """
    folder = pipeline.resolve().parent
    if folder.is_relative_to(Path(__file__).resolve().parent):
        return project_around(Path.cwd())
    return folder if any((folder / kind).is_dir() for kind in KINDS) else project_around(folder)


def project_around(folder: Path) -> Path:
    """Return the nearest project among a folder and the folders above it, or else the folder itself.

    The home folder and the root folder are never the project of a folder below them, because a pipeline may
    read all files of its project.
    """
    folder = folder.resolve()
    for candidate in (folder, *folder.parents):
        if candidate.name == "pipelines":
            return candidate.parent
        if candidate in (Path.home(), Path(candidate.anchor)):
            continue
        if any((candidate / kind).is_dir() for kind in MARKS):
            return candidate
    return folder


def from_here(path: Path) -> Path:
    """Return a path as messages show it: relative, if it lies below the working directory."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


@dataclass(frozen=True)
class Project:
    """A folder with pipelines, prompts, filters or data of a user.

    A pipeline reads only files of its project and files that ship with distillgen. `trusted` are names of
    other files, which the user typed on the command line; they are relative to the working directory or else
    to the project.
    """

    root: Path
    trusted: frozenset[str] = field(default_factory=frozenset)
    data: Mapping[str, Path] = field(default_factory=dict, hash=False)
    """Files that Python code hands over, by the name under which the pipeline reads them."""
    filters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Filters that Python code hands over, by name. They hide others."""

    def find(self, kind: str, name: str, suffix: str) -> Path:
        """Return the file of a prompt, filter or pipeline. A file of the project hides a shipped one of the
        same name.
        """
        for folder in (self.root / kind, home(kind)):
            if path := file_in(folder, name, suffix):
                return path
        raise ConfigError(f"there is no {kind[:-1]} '{name}'{did_you_mean(name, self.names(kind, suffix))}")

    def names(self, kind: str, suffix: str) -> list[str]:
        """Return all names of a kind, of the project and shipped."""
        names = set()
        for folder in (self.root / kind, home(kind)):
            for path in folder.rglob(f"*{suffix}"):
                if not path.name.startswith(("_", ".")) and path.name != "README.md":
                    names.add(path.relative_to(folder).with_suffix("").as_posix())
        return sorted(names)

    def file(self, path: str) -> Path:
        """Return the data file or folder that a pipeline or prompt names. Raise ConfigError."""
        if path in self.data:
            return self.data[path]
        if not path or "\0" in path:
            raise ConfigError(f"{path!r} is no name of a file")
        roots = [self.root.resolve(), home("data").parent.resolve()]
        if path in self.trusted:
            roots.insert(0, Path.cwd())
        file = next((file for root in roots if (file := (root / path).resolve()).exists()), None)
        if file is None:
            near = [p.name for p in (self.root / path).parent.glob("*")]
            raise ConfigError(f"there is no file '{path}'{did_you_mean(Path(path).name, near)}")
        if path not in self.trusted and not any(file.is_relative_to(root) for root in roots):
            remedy = "move it there, or name it on the command line with --set"
            raise ConfigError(f"'{path}' lies outside the project ({self.root}); {remedy}")
        return file


def file_in(folder: Path, name: str, suffix: str) -> Path | None:
    """Return the file `name` of a folder, if there is one and no link leads out of the folder."""
    path = folder / (name.removesuffix(suffix) + suffix)
    return path if path.is_file() and path.resolve().is_relative_to(folder.resolve()) else None


def read_text(path: Path) -> str:
    """Return the text of a file. Raise ConfigError with the line that is not UTF-8, or for a packed file that
    becomes very large.
    """
    with opened(path) as (stream, encoding):
        most = max(UNPACKED_BYTES, PACKED_RATIO * path.stat().st_size)
        data = stream.read(most + 1)
    if len(data) > most:
        raise ConfigError(f"unpacked it has more than {most >> 20} MB; cut it into files", path=path)
    try:
        text = data.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"not UTF-8 text ({error.reason}); save the file as UTF-8", path=path, line=line
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def load_module(path: Path) -> ModuleType:
    """Return the module of a user's Python file. Raise ConfigError, with the line, if it is broken.

    The file is executed once, and again when it or a project file that it imports has changed.
    """
    path = path.resolve()
    imports = imported(path)
    hashes = {file: file_sha256(file) for file in imports.values()}
    name = f"distillgen_{path.stem}_{hashlib.sha256(f'{path} {code_sha256(path)}'.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    changed = any(_LOADED.get(file, sha256) != sha256 for file, sha256 in hashes.items())
    for other, file in imports.items():  # otherwise Python would use the files as they were
        if changed:
            sys.modules.pop(other, None)
        if changed or file not in _LOADED:
            _discard_bytecode(file)
    _LOADED.update(hashes)
    module = sys.modules[name] = ModuleType(
        name
    )  # dataclasses and pickle look up the module of a class there
    module.__file__, module.__package__ = str(path), ""
    try:
        exec(compile(path.read_bytes(), path, "exec", dont_inherit=True), vars(module))
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception | SystemExit):
            raise
        raise loading_error(error, path) from error
    return module


def _discard_bytecode(file: Path) -> None:
    """Remove what Python compiled of a file: an edit of the same second and length looks no newer."""
    with suppress(OSError):  # a folder that nobody may write to: its files have not been edited either
        Path(cache_from_source(file)).unlink(missing_ok=True)


def load_function(name: str, root: Path, others: Iterable[str] = ()) -> tuple[Callable[..., Any], Path]:
    """Return the function that `file.py:function` names, and its file, which lies in the project or among the
    shipped data. Raise ConfigError; the message suggests one of `others` that is near.
    """
    file, _, function_name = name.partition(":")
    shipped = home("data").resolve()
    homes = ((root.resolve(), root.resolve()), (shipped.parent, shipped))
    paths = [path for folder, inside in homes if (path := (folder / file).resolve()).is_relative_to(inside)]
    script_file = next((path for path in paths if path.is_file()), None)
    if script_file is None:
        hint = did_you_mean(file, others)
        raise ConfigError(f"there is no script '{file}' inside the project{hint}, or give 'file.py:function'")
    content = vars(load_module(script_file))
    function = content.get(function_name)
    if not callable(function):
        functions = [one for one, value in content.items() if isinstance(value, FunctionType)]
        hint = did_you_mean(function_name, functions)
        raise ConfigError(f"'{file}' has no function '{function_name}'{hint}")
    return function, script_file


def loading_error(error: BaseException, path: Path) -> ConfigError:
    """Return the ConfigError for an exception that a Python file raised when it was loaded, with the file's
    line.
    """
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return ConfigError(f"{error.msg}", path=path, line=error.lineno)
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
    return ConfigError(f"cannot be loaded: {type(error).__name__}: {error}", path=path, line=line)


_LOADED: dict[Path, str] = {}
"""SHA-256 of the project files that loaded modules import, when they were imported."""


def code_sha256(path: Path) -> str:
    """Return the SHA-256 of a Python file and of the project files that it imports."""
    hashes = [file_sha256(file) for file in (path, *imported(path).values())]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def imported(path: Path) -> dict[str, Path]:
    """Return the project files that a Python file imports, directly or through others, by module name."""
    files: dict[str, Path] = {}
    due = [("", path.resolve())]
    while due:
        package, file = due.pop()
        for name in _names_imported(file.read_bytes(), package):
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                module = ".".join(parts[:end])
                source = None if module in files else _source(module)
                if source and source != path.resolve():
                    files[module] = source
                    due.append((module if source.stem == "__init__" else module.rpartition(".")[0], source))
    return dict(sorted(files.items()))


@lru_cache(maxsize=256)
def _names_imported(code: bytes, package: str) -> tuple[str, ...]:
    """Return the absolute names of the modules that a file may import. A name imported from a module may be
    one.
    """
    names = list[str]()
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError):  # reported when the file is loaded
        return ()
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level <= len(package.split(".")) * bool(package):
            module = resolve_name("." * node.level + (node.module or ""), package)
            names += [f"{module}.{alias.name}" for alias in node.names]
    ours = {*sys.stdlib_module_names, __package__}
    return tuple(dict.fromkeys(name for name in names if name.partition(".")[0] not in ours))


def _source(module: str) -> Path | None:
    """Return the file of a module, without importing it; None if it is installed."""
    folders: Any = None
    spec = None
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:end]), folders)
        if spec is None or (folders := spec.submodule_search_locations) is None and end < len(parts):
            return None
    if spec is None or not spec.has_location or not str(spec.origin).endswith(".py"):
        return None
    file = Path(str(spec.origin)).resolve()
    return file if _is_users(file) else None


def _is_users(file: Path) -> bool:
    """Whether a file is the user's, or content that ships; not of Python, of a package or of distillgen's
    engine.
    """
    if any(file.is_relative_to(home(kind)) for kind in KINDS):
        return True
    others = (Path(__file__).parent, Path(sysconfig.get_path("stdlib")))
    installed = {"site-packages", "dist-packages"} & {*file.parts} or any(map(file.is_relative_to, others))
    return file.is_file() and not installed


def user_error(error: BaseException, function: str, records: Sequence[Record] = ()) -> UserCodeError:
    """Return the UserCodeError for an exception that a user's `function` raised for one of these records."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    users = [(frame, line) for frame, line in reversed(frames) if _is_users(Path(frame.f_code.co_filename))]
    if len(records) > 1:  # the innermost variable that holds one of the records belongs to a loop over them
        values = (
            value for frame, _ in users for value in frame.f_locals.values() if isinstance(value, Record)
        )
        records = [record for value in values for record in records if record is value][:1] or records
    place = "".join(map(at_record, records[:1]))
    if len(records) > 1:
        place = f" at one of {len(records)} records, from {records[0].source} to {records[-1].source}"
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    path, line = (Path(users[0][0].f_code.co_filename), users[0][1]) if users else (None, None)
    return UserCodeError(f"{function} raised {text}{place}", path=path, line=line)


def at_record(record: Record) -> str:
    """Return the clause that names the record of an error."""
    return f" at the record {record.id} ({record.source})"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of the files in a folder (see
    `inner_files`).
    """
    if path.is_dir():
        total = hashlib.sha256()
        for inner in inner_files(path):
            total.update(f"{inner.relative_to(path).as_posix()}\0{file_sha256(inner)}\n".encode())
        return total.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
