"""What can go wrong, and the exit code that each kind ends the program with."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable
from pathlib import Path


class DistillgenError(Exception):
    """An error that a person can act on: its text says what, where and what to do."""

    exit_code = 2


class ConfigError(DistillgenError):
    """A mistake in a pipeline, prompt, filter, option or file, found before anything was paid for."""

    def __init__(self, message: str, *, path: Path | str | None = None, line: int | None = None) -> None:
        self.message, self.path, self.line = message, path, line
        place = f"{place_of(path, line)}: " if path else ""
        super().__init__(place + message)


def place_of(path: Path | str, line: int | None = None) -> str:
    """`file:line`, the file relative to the working directory where it lies inside."""
    with contextlib.suppress(ValueError):
        path = Path(path).relative_to(Path.cwd())
    return f"{path}:{line}" if line else str(path)


class UserCodeError(ConfigError):
    """A function of the user's own, such as a filter's measure, raised an exception, which is the cause of this one."""


class LedgerError(DistillgenError):
    """The ledger cannot be opened, read or written."""


class Stopped(DistillgenError):
    """The run was asked to stop; what is finished is safe and running again goes on."""

    exit_code = 130


class BudgetStop(Stopped):
    """The next request could cost more than is left of `--max-cost-usd`."""

    exit_code = 4


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A clause that names the nearest valid name, or all of them where none is near."""
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(options)}" if options else ""
