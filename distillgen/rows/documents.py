"""Documents: PDF, Word, EPUB, HTML and others, converted to Markdown in a process with limits."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, Field

from distillgen.confinement import FINISHED, TIMED_OUT, Limits, lacking, message, run
from distillgen.errors import ConfigError
from distillgen.extras import need
from distillgen.platforms import WINDOWS
from distillgen.record import digest, dumps
from distillgen.rows.pictures import all_there, placed
from distillgen.state_files import replace_text
from distillgen.user_files import unpacked

log = logging.getLogger("distillgen")

KINDS = {
    ".pdf": "application/pdf",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".epub": "application/epub+zip",
    ".html": "text/html",
    ".htm": "text/html",
    ".rst": "text/x-rst",
}
"""The kinds of documents by the endings of their files."""

PAGED = (".pdf", ".pptx")
MOST_BYTES = 256 << 20  # of a document, unpacked
WRITTEN_MB = 64  # of Markdown
CONVERSION = 2  # a new number converts all documents again
_PROGRAM = Path(__file__).with_name("confined_conversion.py")
_PAGE_BREAK = "\n\n"


class Convert(BaseModel):
    """How to convert documents, and limits of the process that converts one. A document that reaches one
    becomes a dropped row.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    timeout_s: float = Field(60, gt=0, description="largest time for a document, in seconds")
    memory_mb: int = Field(2048, ge=512, description="largest address space of the process, in MB")
    max_pages: int = Field(2000, ge=1, description="largest number of pages of a PDF")
    pictures: bool = Field(
        False,
        description="write a document's pictures to files in runs/documents/pictures, to which its Markdown "
        "and the field `pictures` refer",
    )


class Unconverted(str):
    """The reason why a document gave no text. `check` accepts it: the run drops the document."""


@dataclass(frozen=True)
class Document:
    """The Markdown of a document, and the place where each page begins; no places without pages."""

    text: str
    pages: Sequence[int] = ()

    def page(self, place: int) -> int | None:
        """Return the number of the page, from 1, with the character at a place of the text."""
        return bisect_right(self.pages, place) if self.pages else None


def convert(path: Path, ending: str, limits: Convert, cache_folder: Path) -> Document | Unconverted:
    """Return a document as Markdown, or the reason why that cannot be done.

    What is returned is kept in `cache_folder` under a hash of the content, the limits and the converter's
    version, so that no document is converted twice. Raise ConfigError if the converter is missing.
    """
    need(f"the document '{path.name}'", "xberg")
    if WINDOWS:
        raise ConfigError("documents are converted on Linux and macOS only: make Markdown of it with pandoc")
    with tempfile.TemporaryFile() as file:
        try:
            sha256 = _copied(path, file)
        except (ConfigError, OSError) as error:
            return Unconverted(
                error.message if isinstance(error, ConfigError) else f"cannot be read: {error}"
            )
        key = digest([sha256, ending, CONVERSION, _converter(), limits.model_dump()], 32)
        kept = cache_folder / f"{key}.json"
        result = _kept(kept)
        if result is None or not all_there(result.get("pages", ()), cache_folder):
            file.seek(0)
            result = _result(file, ending, limits)
            if pictures := result.get("pictures"):
                result = {"pages": placed(result["pages"], pictures, cache_folder)}
            _keep(kept, result)
    if "error" in result:
        return Unconverted(result["error"])
    pages = [str(page).strip() for page in result["pages"]]
    if not any(pages):
        return Unconverted("it has no text: if its pages are pictures, recognise the text first (OCR)")
    begins = [0, *accumulate(len(page) + len(_PAGE_BREAK) for page in pages[:-1])]
    return Document(_PAGE_BREAK.join(pages), begins if ending in PAGED else ())


def _copied(path: Path, file: IO[bytes]) -> str:
    """Copy the unpacked content of a file; return its SHA-256. Raise ConfigError if it is too large."""
    sha256, size = hashlib.sha256(), 0
    with unpacked(path) as stream:
        while block := stream.read(1 << 20):
            size += len(block)
            if size > MOST_BYTES:
                raise ConfigError(f"it has more than {MOST_BYTES >> 20} MB")
            sha256.update(block)
            file.write(block)
    return sha256.hexdigest()


def _result(file: IO[bytes], ending: str, limits: Convert) -> Mapping[str, Any]:
    """Return the pages of a document, or the error."""
    spec = find_spec("xberg")
    job = {
        "packages": str(Path(str(spec and spec.origin)).parents[1]),
        "kind": KINDS[ending],
        "paged": ending in PAGED,
        "max_pages": limits.max_pages,
        "pictures": limits.pictures,
        "most_bytes": WRITTEN_MB << 20,
    }
    bounds = Limits(
        timeout_s=limits.timeout_s,
        cpu_s=int(limits.timeout_s) + 1,
        memory_mb=limits.memory_mb,
        written_mb=WRITTEN_MB + 1,
        threads=True,
    )
    confined = not lacking()
    environment = {"MALLOC_ARENA_MAX": "2"}  # arenas take much of the address space
    ending_of_process, _, report = run(
        _PROGRAM, job, limits=bounds, stdin=file, confined=confined, environment=environment
    )
    if ending_of_process == TIMED_OUT:
        return {"error": f"converting takes more than {limits.timeout_s:g} s (convert: {{timeout_s: …}})"}
    result = message(report) if ending_of_process == FINISHED else {}
    if "error" in result:
        return {"error": _reason(str(result["error"]), limits)}
    if "pages" in result:
        return result
    remedy = f"it is damaged, or needs more than {limits.memory_mb} MB (convert: {{memory_mb: …}})"
    return {"error": f"cannot be converted: {remedy}"}


def _reason(error: str, limits: Convert) -> str:
    """Return the converter's error as a reason, with the remedy where there is one."""
    if "requires a password" in error:
        return "it needs a password: save it without one"
    if "too many pages" in error:
        return f"it has more than {limits.max_pages:,} pages (convert: {{max_pages: …}})"
    return f"cannot be converted: {' '.join(error.split())[:300]}"


def _kept(file: Path) -> Mapping[str, Any] | None:
    """Return an earlier result; None if there is none, or a damaged one."""
    try:
        return message(file.read_bytes()) or None
    except FileNotFoundError:
        return None


def _keep(file: Path, result: Mapping[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(file, dumps(result).decode())
    except OSError as error:
        log.warning("a converted document cannot be kept, and is converted again next time: %s", error)


@cache
def _converter() -> str:
    """Return the converter's name and version."""
    return f"xberg {version('xberg')}"
