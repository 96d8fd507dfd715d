"""The pictures of a document: files that are named by their content, to which its Markdown refers."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from distillgen.state_files import write_shared

log = logging.getLogger("distillgen")

CONVERSIONS = "runs/documents"
"""The folder of converted documents, seen from the project."""

_LINK = re.compile(r"\\?!\[([^\]]*)\]\((?!https?:|//)([^()\s]+)\)")
_REFERENCE = re.compile(rf"!\[[^\]]*\]\(({CONVERSIONS}/pictures/[0-9a-f]{{64}}\.\w+)\)")


def placed(pages: Sequence[str], pictures: Sequence[Mapping[str, str]], conversions: Path) -> list[str]:
    """Write the pictures of a document, in their order, to files; return its pages with links to the files.

    Each picture has its `format` and its `data`, in base64. If there are more or fewer than links, nobody
    knows which belongs where, and all links lose their targets.
    """
    links = sum(len(_LINK.findall(page)) for page in pages)
    names = (
        [_file_of(picture, conversions / "pictures") for picture in pictures]
        if links == len(pictures)
        else []
    )
    if links and not names:
        log.info("a document has %d pictures and %d places for them: they are left out", len(pictures), links)
    targets = iter([f"{CONVERSIONS}/pictures/{name}" for name in names] or [""] * links)
    return [_LINK.sub(lambda link: f"![{link[1]}]({next(targets)})", page) for page in pages]


def pictures_in(text: str) -> list[str]:
    """Return the files of the pictures in a Markdown text, as paths in the project, in their order."""
    return list(dict.fromkeys(_REFERENCE.findall(text)))


def all_there(pages: Sequence[str], conversions: Path) -> bool:
    """Return whether the files of all pictures are there."""
    names = (Path(path).name for page in pages for path in pictures_in(page))
    return all((conversions / "pictures" / name).is_file() for name in names)


def _file_of(picture: Mapping[str, str], folder: Path) -> str:
    """Write a picture to a file, unless it is there; return the name of the file."""
    data = base64.b64decode(picture["data"])
    ending = picture["format"] if re.fullmatch(r"[a-z0-9]{1,5}", picture["format"]) else "bin"
    file = folder / f"{hashlib.sha256(data).hexdigest()}.{ending}"
    if not file.exists():
        write_shared(file, data)
    return file.name
