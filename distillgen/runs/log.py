"""The log of a run and its warnings, without secrets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError, DistillgenError
from distillgen.inference.redaction import hide

MOST_WARNINGS = 20  # shown on the terminal; run.log holds all

log = logging.getLogger("distillgen")


class _Formatter(logging.Formatter):
    """Formats log records and their tracebacks without secrets."""

    def __init__(
        self, hidden: Mapping[str, str], form: str = "%(asctime)s %(levelname)s %(message)s"
    ) -> None:
        super().__init__(form)
        self._hidden = hidden

    def format(self, record: logging.LogRecord) -> str:
        return hide(super().format(record), self._hidden)


class _Warnings(logging.Handler):
    """Keeps texts without secrets for the display of the run: the first MOST_WARNINGS different warnings, or
    with `verbose` every line of the log but errors, which end the command with a message of their own.
    """

    def __init__(self, hidden: Mapping[str, str], *, verbose: bool) -> None:
        super().__init__(logging.INFO if verbose else logging.WARNING)
        self.setFormatter(_Formatter(hidden, "%(message)s"))
        self.texts: list[str] = []
        self._verbose = verbose

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno > logging.WARNING:
            return
        text = self.format(record)
        if self._verbose or text not in self.texts and len(self.texts) < MOST_WARNINGS:
            self.texts.append(text)


def log_task_error(loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """Log the error of a task that is not awaited. asyncio would print it, with its secrets."""
    log.error("%s", context["message"], exc_info=context.get("exception"))


@contextlib.contextmanager
def without_secrets(hidden: Mapping[str, str]) -> Iterator[None]:
    """Remove secrets from an exception that leaves the block, and from its traceback."""
    try:
        yield
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        if hide(text, hidden) == text:
            raise
        log.error("%s", text)
        if not isinstance(error, DistillgenError):
            message = f"{type(error).__name__}: {hide(str(error), hidden)}"
            raise RuntimeError(message).with_traceback(error.__traceback__) from None
        error.args = tuple(hide(str(argument), hidden) for argument in error.args)
        error.__notes__ = [hide(note, hidden) for note in getattr(error, "__notes__", ())]
        if isinstance(error, ConfigError):
            error.message = hide(error.message, hidden)
        error.__cause__ = error.__context__ = None
        raise


@contextlib.contextmanager
def run_log(path: Path, hidden: Mapping[str, str], *, verbose: bool = False) -> Iterator[list[str]]:
    """Write the log without the texts that are `hidden`; give the list that warnings are added to, and with
    `verbose` the other lines.
    """
    handler, warnings = logging.FileHandler(path, encoding="utf-8"), _Warnings(hidden, verbose=verbose)
    handler.setFormatter(_Formatter(hidden))
    level = log.level
    log.addHandler(handler)
    log.addHandler(warnings)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield warnings.texts
    finally:
        log.removeHandler(handler)
        log.removeHandler(warnings)
        log.setLevel(level)
        handler.close()
