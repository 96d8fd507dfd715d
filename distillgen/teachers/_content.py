"""The content of the pictures and sounds in a request, read when it is sent."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from distillgen.inference.faults import Rejected
from distillgen.inference.parts import with_parts
from distillgen.inference.request import Request
from distillgen.rows.media import HEAD, MOST_BYTES, media_type, place_in

_FORMATS = {"audio/wav": "wav", "audio/mpeg": "mp3", "audio/flac": "flac"}


class Content(NamedTuple):
    """The content of a file, and its media type, such as image/png."""

    media: str
    data: bytes


def content(part: Mapping[str, Any], root: Path) -> Content:
    """Return the content of the file that a part refers to. `root` is the project's folder.

    Raise Rejected for a file that is missing, outside the project, no file of the part's type, too large, or
    not the one that the row refers to.
    """
    path, word = str(part.get("path", "")), "sound" if part["type"] == "audio" else "picture"
    file = os.path.join(root, path)
    try:
        if place_in(file, root) is None:
            raise Rejected(f"the {word} '{path}' lies outside the project")
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode):
            raise Rejected(f"the {word} '{path}' is no file")
        if status.st_size > MOST_BYTES:
            raise Rejected(f"the {word} '{path}' has more than {MOST_BYTES >> 20} MB")
        with open(file, "rb") as stream:
            data = stream.read()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        why = getattr(error, "strerror", None) or error
        raise Rejected(f"the {word} '{path}' cannot be read: {why}") from error
    if hashlib.sha256(data).hexdigest() != part["sha256"]:
        raise Rejected(f"the {word} '{path}' has changed since the row was made; run again from the source")
    media = media_type(data[:HEAD])
    if not media.startswith(part["type"]):
        raise Rejected(f"'{path}' is no {word} of a kind that is sent (PNG, JPEG, WebP, GIF; WAV, MP3, FLAC)")
    return Content(media, data)


def picture(part: Mapping[str, Any], root: Path) -> Any:
    """Return the picture of a part, in colour. Raise Rejected, or what Pillow raises for a torn file."""
    from PIL import Image

    return Image.open(io.BytesIO(content(part, root).data)).convert("RGB")


def content_part(part: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Return a part with its content, in OpenAI's form. Raise Rejected."""
    media, data = content(part, root)
    text = base64.b64encode(data).decode()
    if part["type"] == "audio":
        return {"type": "input_audio", "input_audio": {"data": text, "format": _FORMATS[media]}}
    return {"type": "image_url", "image_url": {"url": f"data:{media};base64,{text}"}}


async def with_content(request: Request, root: Path) -> Request:
    """Return a request with the content of its pictures and sounds, in OpenAI's form. Raise Rejected."""
    messages = await asyncio.to_thread(with_parts, request.messages, lambda part: content_part(part, root))
    return replace(request, messages=messages)
