"""Pictures and sounds: what a file is by its first bytes, whether it is whole, and the reference to it.

Each file is read once, at the source. A file that cannot be used gives a reason, and no package is needed.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from distillgen.record import is_reference
from distillgen.state_files import write_shared

IMAGE, AUDIO = "image", "audio"
FOLDER = "runs/media"
"""The folder of pictures and sounds that rows hold as bytes, seen from the project."""

ENDINGS = {
    "image/png": (".png",),
    "image/jpeg": (".jpg", ".jpeg"),
    "image/gif": (".gif",),
    "image/webp": (".webp",),
    "audio/wav": (".wav",),
    "audio/mpeg": (".mp3",),
    "audio/flac": (".flac",),
}
"""The endings of each kind of file; the first is that of a file that distillgen writes."""

TYPES = {ending: media for media, endings in ENDINGS.items() for ending in endings}
HEAD = 16  # first bytes that show what a file is
MOST_BYTES = 100 << 20
"""The largest file: no provider takes one of this size."""
MOST_PIXELS = 100_000_000
"""The largest picture, such as 10,000 by 10,000: as numbers it takes 300 MB."""

_WORDS = {IMAGE: "picture", AUDIO: "sound"}
_SIGNS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"fLaC": "audio/flac",
    b"ID3": "audio/mpeg",
}
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(//|[a-z]+/)")  # with that of a data URI
_STREAMED = (0, 0xFFFFFFFF)  # sizes in a RIFF file of a program that did not know the size


UNUSABLE = "unusable_file"
"""The name, in the place of a filter's, under which a row with such a picture or sound leaves."""


class FileFault(str):
    """The reason why a picture or sound of a row cannot be used. The row is dropped; `check` accepts it."""


class File(NamedTuple):
    """A picture or a sound that can be used."""

    media: str
    """Its type, such as image/png."""
    sha256: str
    path: str = ""
    """Its path in the project."""

    @property
    def reference(self) -> dict[str, Any]:
        """The reference to it."""
        return {"path": self.path, "sha256": self.sha256}


def media_type(head: bytes) -> str:
    """Return the type of a file with these first bytes, such as image/png; "" if it is another file."""
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], "")
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2 and head[2] >> 4 not in (0, 15):
        return "audio/mpeg"  # a frame of layer III without the title that most files begin with
    return next((media for sign, media in _SIGNS.items() if head.startswith(sign)), "")


def examined(file: Path) -> File:
    """Return the type and the hash of a picture or a sound. Raise ValueError, with the reason, for another
    file: one that is missing, no regular file, too large or torn, or that has another's ending.
    """
    try:
        state = file.stat()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise ValueError(f"there is no file '{file.name[:100]}'") from error
    if not stat.S_ISREG(state.st_mode):
        raise ValueError(f"'{file.name}' is a {'folder' if stat.S_ISDIR(state.st_mode) else 'device'}")
    if state.st_size > MOST_BYTES:
        raise ValueError(
            f"'{file.name}' has {state.st_size >> 20} MB, and at most {MOST_BYTES >> 20} are read"
        )
    file_or_reason = _examined(file, state.st_size, state.st_mtime_ns)
    if isinstance(file_or_reason, str):
        raise ValueError(file_or_reason)
    return file_or_reason


@lru_cache(maxsize=1 << 16)
def _examined(file: Path, size: int, changed_ns: int) -> File | str:
    """Return what a file of this size and time of change is, or the reason why it cannot be used."""
    try:
        data = file.read_bytes()
    except OSError as error:
        return f"'{file.name}' cannot be read: {(error.strerror or str(error)).lower()}"
    ending = file.suffix.lower()
    media = media_type(data[:HEAD])
    if not media or TYPES.get(ending, media) != media:
        kind = f"{_name(media)}, in spite of its ending" if media else f"none of {_names()}"
        return f"'{file.name}' is {kind}"
    if reason := fault(media, data):
        return f"'{file.name}' {reason}"
    return File(media, hashlib.sha256(data).hexdigest())


def _name(media: str) -> str:
    return {"image/webp": "WebP", "audio/mpeg": "MP3"}.get(media, media.partition("/")[2].upper())


def _names() -> str:
    return ", ".join(map(_name, ENDINGS))


def fault(media: str, data: bytes) -> str:
    """Return why the content of a file of this type cannot be used: "is cut off", for example; "" if it can.

    A cut is seen in PNG, JPEG, GIF, WebP and WAV.
    """
    try:
        size = _CHECKS[media](data)
    except (struct.error, IndexError):
        return "is cut off"
    except _Torn as torn:
        return str(torn)
    width, height = size
    if media.startswith(IMAGE) and not width * height:
        return "is a picture without pixels"
    if width * height > MOST_PIXELS:
        return f"has {width:,} by {height:,} pixels, and at most {MOST_PIXELS:,} are taken"
    return ""


class _Torn(Exception):
    """A file is not whole. The message says how."""


def _png(data: bytes) -> tuple[int, int]:
    place, view = 8, memoryview(data)
    size = struct.unpack_from(">II", data, 16)
    while True:
        length, name = struct.unpack_from(">I4s", data, place)
        (check,) = struct.unpack_from(">I", data, place + 8 + length)
        if zlib.crc32(view[place + 4 : place + 8 + length]) != check:
            raise _Torn("is damaged: a check sum is wrong")
        if name == b"IEND":
            return size
        place += 12 + length


def _jpeg(data: bytes) -> tuple[int, int]:
    place, size = 2, None
    while True:
        mark, kind = data[place], data[place + 1]
        if mark != 0xFF:
            raise _Torn("is damaged")
        if kind == 0xFF:  # filling
            place += 1
            continue
        (length,) = struct.unpack_from(">H", data, place + 2)
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, place + 5)
            size = width, height
        place += 2 + length
        if kind == 0xDA:
            break
    if size is None:
        raise _Torn("is damaged")
    if data.find(b"\xff\xd9", place) < 0:
        raise _Torn("is cut off")
    return size


def _gif(data: bytes) -> tuple[int, int]:
    size = struct.unpack_from("<HH", data, 6)
    if not data.rstrip(b"\0").endswith(b";"):
        raise _Torn("is cut off")
    return size


def _riff(data: bytes) -> None:
    (size,) = struct.unpack_from("<I", data, 4)
    if size not in _STREAMED and size > len(data) - 8 + 1:  # some programs leave the last filling byte out
        raise _Torn("is cut off")


def _webp(data: bytes) -> tuple[int, int]:
    _riff(data)
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _wav(data: bytes) -> tuple[int, int]:
    _riff(data)
    return 0, 0


def _flac(data: bytes) -> tuple[int, int]:
    if len(data) < 4 + 4 + 34:  # its first block, which describes the sound
        raise _Torn("is cut off")
    return 0, 0


def _mp3(data: bytes) -> tuple[int, int]:
    return 0, 0


_CHECKS: dict[str, Callable[[bytes], tuple[int, int]]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/gif": _gif,
    "image/webp": _webp,
    "audio/wav": _wav,
    "audio/mpeg": _mp3,
    "audio/flac": _flac,
}
"""The function that checks a file of each type, and returns the width and height of a picture."""


def place_in(file: str | Path, folder: Path) -> str | None:
    """Return the path of a file, without links and relative to the folder; None if it lies outside of it."""
    here, (parent, name) = os.getcwd(), os.path.split(file)
    if name in ("", ".", "..") or os.path.islink(file):
        path = os.path.realpath(file)
    else:
        path = _real_folder(parent, here) + name
    outer = _real_folder(os.fspath(folder), here)
    return path[len(outer) :].replace(os.sep, "/") if path.startswith(outer) else None


@lru_cache(maxsize=1 << 10)
def _real_folder(folder: str, here: str) -> str:
    """Return the path of a folder, as seen from `here`, without links and with a separator at its end."""
    return os.path.join(os.path.realpath(os.path.join(here, folder)), "")


def inside(file: Path, root: Path) -> File:
    """Return a picture or sound of the project in `root`. Raise ValueError, with the reason,
    for a file outside of it or one that cannot be used.
    """
    try:
        place = place_in(file, root)
    except (OSError, ValueError) as error:  # a name that is too long, or has a zero byte
        raise ValueError(f"there is no file '{file.name[:100]}'") from error
    if place is None:
        raise ValueError(f"'{file.name}' lies outside the project; copy it there")
    return examined(root / place)._replace(path=place)


def look_up(path: str, folder: Path, root: Path) -> File:
    """Return the picture or sound that a row names by its path in the folder of the rows, or else in the
    project. Raise ValueError with the reason.
    """
    short = path if len(path) <= 100 else f"{path[:100]}…"
    if _ADDRESS.match(path):
        raise ValueError(f"'{short}' is an address: download the file first, and name it by its path")
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    if posix.is_absolute() or windows.anchor:
        raise ValueError(f"'{short}' is an absolute path: name the file as seen from the rows or the project")
    if ".." in posix.parts or ".." in windows.parts:
        raise ValueError(f"'{short}' leads upwards: name the file as seen from the rows or the project")
    if not path.strip() or "\0" in path:
        raise ValueError(
            "a name of a file is empty" if not path.strip() else "a name of a file has a zero byte"
        )
    try:
        file = next((place for place in (folder / path, root / path) if place.exists()), None)
    except OSError:  # the name is too long
        file = None
    if file is None:
        raise ValueError(f"there is no file '{short}'")
    return inside(file, root)


def store(data: bytes, root: Path) -> dict[str, Any]:
    """Write a picture or sound to the project's folder of media, unless it is there; return its reference.

    Raise ValueError, with the reason, for a file that is torn or too large. Other files have no type.
    """
    media = media_type(data[:HEAD])
    word = _WORDS[media.partition("/")[0]]
    if len(data) > MOST_BYTES:
        raise ValueError(f"the {word} has {len(data) >> 20} MB, and at most {MOST_BYTES >> 20} are read")
    if reason := fault(media, data):
        raise ValueError(f"the {word} {reason}")
    sha256 = hashlib.sha256(data).hexdigest()
    path = f"{FOLDER}/{sha256}{ENDINGS[media][0]}"
    file = root / path
    if not file.is_file() or file.stat().st_size != len(data) or file.read_bytes() != data:
        write_shared(file, data)
    return {"path": path, "sha256": sha256}


def referred(value: Any, kind: str, folder: Path, root: Path) -> Any:
    """Return the reference to each file that a value names: a path, or a list of paths. Null stays null.

    Raise ValueError, with the reason, for a value without such a file, or with one of another kind.
    """
    if value is None:
        return None
    if isinstance(value, list):
        return [referred(one, kind, folder, root) for one in value]
    word = _WORDS[kind]
    if is_reference(value):
        file = look_up(str(value["path"]), root, root)
        if file.sha256 != value["sha256"]:
            raise ValueError(f"'{value['path']}' has changed since the row was made")
    elif isinstance(value, str):
        file = look_up(value, folder, root)
    else:
        kind_of_value = type(value).__name__
        raise ValueError(f"a {word} is named by its path, and this is {kind_of_value}: {str(value)[:60]}")
    if not file.media.startswith(kind):
        raise ValueError(f"'{PurePosixPath(file.path).name}' is no {word}")
    return file.reference
