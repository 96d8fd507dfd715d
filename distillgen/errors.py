"""The exceptions of distillgen, each with the exit code of the program."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable
from pathlib import Path


class DistillgenError(Exception):
    """An error that a user can correct. The text says what is wrong, where, and what to do."""

    exit_code = 2


class ConfigError(DistillgenError):
    """A mistake in a pipeline, prompt, filter, option or file. Most are raised before the first request."""

    def __init__(self, message: str, *, path: Path | str | None = None, line: int | None = None) -> None:
        self.message, self.path, self.line = message, path, line
        prefix = f"{place_of(path, line)}: " if path else ""
        super().__init__(prefix + message)


def place_of(path: Path | str, line: int | None = None) -> str:
    """Return `file:line`; a file below the working directory is relative to it."""
    with contextlib.suppress(ValueError):
        path = Path(path).relative_to(Path.cwd())
    return f"{path}:{line}" if line else str(path)


class UserCodeError(ConfigError):
    """A function of the user, such as the measure of a filter, raised an exception, which is the cause of
    this one.
    """

    def with_text(self, text: str) -> UserCodeError:
        """Return the same error with a longer text, such as a remedy at its end."""
        error = UserCodeError(self.message + text, path=self.path, line=self.line)
        error.__cause__ = self.__cause__
        return error


class LedgerError(DistillgenError):
    """The ledger cannot be opened, read or written."""


class Stopped(DistillgenError):
    """The run was interrupted. The same command continues it."""

    exit_code = 130


class BudgetStop(Stopped):
    """The next request could exceed `--max-cost-usd`."""

    exit_code = 4


MOST_NAMES = 24  # names in a message


def did_you_mean(name: str, valid_names: Iterable[str], *, otherwise: str = "") -> str:
    """Return a clause with the valid name that is nearest to `name`; if none is near, with the valid names,
    at most `MOST_NAMES` of them. `otherwise` says what else helps.
    """
    options = sorted(valid_names)
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?{f' Otherwise, {otherwise}' if otherwise else ''}"
    rest = f" and {len(options) - MOST_NAMES} more" if len(options) > MOST_NAMES else ""
    clause = f"; known: {', '.join(options[:MOST_NAMES])}{rest}" if options else ""
    return clause + (f"; {otherwise}" if otherwise else "")
