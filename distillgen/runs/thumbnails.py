"""Pictures and sounds of rows as pages show them: a small copy, or the reason why there is none."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from distillgen.rows.media import AUDIO, look_up
from distillgen.runs.export_media import names_file

SIDE = 240  # pixels of the longer side of a small copy
MOST_SHOWN = 6  # files of one field
MOST_PIXELS = 16_000_000  # of a picture that is made smaller; that takes up to half a second, and 60 MB


@dataclass(frozen=True)
class Thumbnail:
    """A picture or a sound on a page."""

    name: str
    about: str
    """What it is and how large: "PNG, 12 kB"."""
    kind: str = ""
    """`image` or `audio`; "" if the file cannot be used."""
    picture: str = ""
    """The small copy of a picture as a data URI; "" if there is none."""
    size: tuple[int, int] = (0, 0)
    """Its width and height."""
    problem: str = ""
    """Why there is none."""
    reference: tuple[str, str] = ("", "")
    """The path and the hash of the file."""


def are_files(value: Any) -> bool:
    """Return whether a value is a reference to a file, or a list of such references."""
    values = value if isinstance(value, list) and value else [value]
    return all(map(names_file, values))


def shown_files(value: Any, root: Path) -> list[Thumbnail]:
    """Return the first files of such a value. `root` is the project's folder."""
    values = value if isinstance(value, list) else [value]
    return [_thumbnail(reference, root) for reference in values[:MOST_SHOWN]]


def _thumbnail(reference: Mapping[str, Any], root: Path) -> Thumbnail:
    path, sha256 = str(reference["path"]), str(reference["sha256"])
    name = PurePosixPath(path).name
    try:
        file = look_up(path, root, root)
        size = (root / path).stat().st_size
    except (ValueError, OSError) as error:
        return Thumbnail(name, "", problem=str(error))
    if file.sha256 != sha256:
        return Thumbnail(name, "", problem="the file has changed since the row was made")
    kind, _, form = file.media.partition("/")
    about = f"{form.upper()}, {max(1, round(size / 1000)):,} kB"
    if kind == AUDIO:
        return Thumbnail(name, about, kind, reference=(path, sha256))
    picture, shape, problem = _small((root / path).resolve(), sha256)
    return Thumbnail(name, about, kind, picture, shape, problem, (path, sha256))


@lru_cache(maxsize=512)
def _small(file: Path, sha256: str) -> tuple[str, tuple[int, int], str]:
    """Return a small copy of a picture as a data URI, its width and height, and why there is none."""
    if find_spec("PIL") is None:
        return "", (0, 0), "shown with the extra: pip install 'distillgen[pictures]'"
    from PIL import Image

    try:
        with Image.open(file) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                return "", (0, 0), f"{picture.width:,} by {picture.height:,} pixels are too many to be shown"
            picture.draft("RGB", (2 * SIDE, 2 * SIDE))
            small = picture.convert(
                "RGBA" if "transparency" in picture.info or "A" in picture.mode else "RGB"
            )
        small.thumbnail((SIDE, SIDE))
        form = "PNG" if small.mode == "RGBA" or max(small.size) <= 64 else "JPEG"
        stream = io.BytesIO()
        small.save(stream, form, **({"quality": 80} if form == "JPEG" else {}))
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and others for a torn picture
        return "", (0, 0), f"the picture cannot be shown: {type(error).__name__}"
    data = base64.b64encode(stream.getvalue()).decode()
    return f"data:image/{form.lower()};base64,{data}", small.size, ""
