"""run.log, and the warnings of a run, without secrets."""

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

MOST_WARNINGS = 20  # that are shown; run.log holds all

log = logging.getLogger("distillgen")


class _Formatter(logging.Formatter):
    """Records and their tracebacks without secrets."""

    def __init__(
        self, hidden: Mapping[str, str], form: str = "%(asctime)s %(levelname)s %(message)s"
    ) -> None:
        super().__init__(form)
        self._hidden = hidden

    def format(self, record: logging.LogRecord) -> str:
        return hide(super().format(record), self._hidden)


class _Warnings(logging.Handler):
    """Keeps the first MOST_WARNINGS different warnings, without secrets, for whoever watches the run."""

    def __init__(self, hidden: Mapping[str, str]) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(_Formatter(hidden, "%(message)s"))
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno == logging.WARNING and text not in self.texts and len(self.texts) < MOST_WARNINGS:
            self.texts.append(text)


def log_unheard(loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """What goes wrong in a task that nobody awaits belongs in the log, where secrets are withheld."""
    log.error("%s", context["message"], exc_info=context.get("exception"))


@contextlib.contextmanager
def without_secrets(hidden: Mapping[str, str]) -> Iterator[None]:
    """No exception that leaves a run shows a secret, nor does its traceback."""
    try:
        yield
    except Exception as error:
        shown = "".join(traceback.format_exception(error))
        if hide(shown, hidden) == shown:
            raise
        log.error("%s", shown)
        if not isinstance(error, DistillgenError):
            text = f"{type(error).__name__}: {hide(str(error), hidden)}"
            raise RuntimeError(text).with_traceback(error.__traceback__) from None
        error.args = tuple(hide(str(each), hidden) for each in error.args)
        error.__notes__ = [hide(note, hidden) for note in getattr(error, "__notes__", ())]
        if isinstance(error, ConfigError):
            error.message = hide(error.message, hidden)
        error.__cause__ = error.__context__ = None
        raise


@contextlib.contextmanager
def run_log(path: Path, hidden: Mapping[str, str]) -> Iterator[list[str]]:
    """Write run.log, in which nothing stands that is `hidden`, and give the warnings, to which those to come are added."""
    handler, warnings = logging.FileHandler(path, encoding="utf-8"), _Warnings(hidden)
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
