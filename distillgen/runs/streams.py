"""Standard streams: usable even if the parent process closed them or set another encoding."""

from __future__ import annotations

import codecs
import io
import os
import sys


def hold_open() -> None:
    """Open /dev/null in the place of each closed standard stream.

    Otherwise the next file or socket would get the stream's number: the event loop aborts at that, and prints
    would go into the file.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", closefd=False))


PLAIN = {"…": "...", "–": "-", "—": "-", "±": "+/-", "⟨": "<", "⟩": ">"}
"""What a text of distillgen says with signs that an encoding lacks."""


def escape_unknown() -> None:
    r"""Print characters that the encoding of a standard stream lacks in plain signs, or as \u…, instead of
    failing.
    """
    codecs.register_error("plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and (sign := PLAIN.get(error.object[error.start])):
        return sign, error.start + 1
    return codecs.backslashreplace_errors(error)
