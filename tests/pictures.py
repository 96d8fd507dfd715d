"""Pictures of one colour, and what a server that sees would say of them; no package is needed."""

import base64
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def png(colour: tuple[int, int, int], size: int = 4) -> bytes:
    """Return a PNG file of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes(colour) * size) * size
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def colour_of(data: bytes) -> tuple[int, int, int]:
    """Return the first pixel of a PNG file that `png` made."""
    place = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[place - 4 : place])
    red, green, blue = zlib.decompress(data[place + 4 : place + 4 + length])[1:4]
    return red, green, blue


def wav(samples: bytes = b"\0\1") -> bytes:
    """Return a WAV file of 8 bits."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8)
    body = b"WAVE" + form + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


def pixels_in(body: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """Return the first pixel of each picture in the body of a chat request, in their order."""
    urls = [
        part["image_url"]["url"]
        for message in body["messages"]
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "image_url"
    ]
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    return [colour_of(base64.b64decode(url.partition(",")[2])) for url in urls]


def folder_of(folder: Path, colours: list[tuple[int, int, int]]) -> Path:
    """Write a folder of pictures, named by their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, colour in enumerate(colours):
        (folder / f"{i:04}.png").write_bytes(png(colour))
    return folder
