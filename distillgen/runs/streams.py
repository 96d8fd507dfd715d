"""Standard streams that can be used, whatever the program that started this one has closed or set."""

from __future__ import annotations

import io
import os
import sys


def hold_open() -> None:
    """Put /dev/null where a standard stream is closed: the next file or socket would take its number, at which the event
    loop aborts and into which prints would go.
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


def escape_unknown() -> None:
    r"""Print a character that standard output's encoding lacks as \u…, where it would end the program."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
