"""Check that a .gguf file is complete, by its header, before llama.cpp or a conversion fails in the middle of
a run.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3).
"""

from __future__ import annotations

import mmap
import struct
from math import prod
from pathlib import Path

from distillgen.errors import ConfigError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
TEXT, ARRAY = 8, 9
NUMBER_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    9: (32, 36),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    30: (1, 2),
}
"""Weights and bytes of a block, by type of tensor. A tensor of another type has at least one byte."""
MOST_ENTRIES = 1 << 24  # entries of an array or table; more means a broken header


def check_gguf(path: Path) -> None:
    """Raise ConfigError if the file is not GGUF, has a broken header, or is shorter than its header says."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(len(MAGIC))
        if start != MAGIC:
            mistake = "is empty" if not size else f"is not GGUF: it begins with {start!r}"
            raise ConfigError(f"'{path.name}' {mistake}; give a model's .gguf file")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                needed = _Header(content).end_of_weights()
            except (struct.error, OverflowError, KeyError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"'{path.name}' has a broken or cut-off GGUF header; download it again"
                ) from error
    if size < needed:
        raise ConfigError(
            f"'{path.name}' is cut off: {size:,} of at least {needed:,} bytes; download it again"
        )


def architecture_of(path: Path) -> str:
    """Return the architecture that a whole file names, such as llama; "clip" is one that sees or hears."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        header = _Header(content)
        header.end_of_weights()
        return header.architecture


class _Header:
    """Reads the header of a file once, from its start."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content, self._at, self._alignment = content, len(MAGIC), 32
        self.architecture = ""

    def end_of_weights(self) -> int:
        """Return the smallest size of the file, in bytes."""
        version = self._number("<I")
        if version not in VERSIONS:
            raise ConfigError(
                f"the .gguf file is of version {version}; versions {VERSIONS[0]} and {VERSIONS[1]} can be "
                "read"
            )
        tensors, entries = self._count(), self._count()
        for _ in range(entries):
            name, kind = self._text(), self._number("<I")
            if name == b"general.alignment" and kind == 4:
                self._alignment = self._number("<I") or 32
            elif name == b"general.architecture" and kind == TEXT:
                self.architecture = self._text().decode()
            else:
                self._skip(kind)
        end = 0
        for _ in range(tensors):
            self._text()
            shape = [self._number("<Q") for _ in range(self._number("<I"))]
            weights, block_bytes = BLOCKS.get(self._number("<I"), (0, 1))
            length = prod(shape) // weights * block_bytes if weights else 1
            end = max(end, self._number("<Q") + length)
        begin = -(-self._at // self._alignment) * self._alignment
        return begin + end if tensors else self._at

    def _skip(self, kind: int) -> None:
        if kind == TEXT:
            self._text()
        elif kind == ARRAY:
            inner, count = self._number("<I"), self._count()
            if inner in NUMBER_BYTES:
                self._at += NUMBER_BYTES[inner] * count
            else:
                for _ in range(count):
                    self._skip(inner)
        else:
            self._at += NUMBER_BYTES[kind]

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._content, self._at)
        self._at += struct.calcsize(form)
        return int(value)

    def _count(self) -> int:
        count = self._number("<Q")
        if count > MOST_ENTRIES:
            raise OverflowError(f"{count} entries")
        return count

    def _text(self) -> bytes:
        length = self._number("<Q")
        begin, self._at = self._at, self._at + length
        # names that matter here are short
        return self._content[begin : self._at] if length < 64 else b""
