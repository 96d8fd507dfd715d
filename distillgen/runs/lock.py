"""Locks: one run per directory, and no salvage of a ledger that another run uses."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from distillgen.errors import ConfigError
from distillgen.inference.ledger_files import salvage
from distillgen.inference.places import Place, is_there
from distillgen.platforms import lock, open_folder
from distillgen.runs.directory import is_running
from distillgen.runs.state import Options
from distillgen.state_files import SEEDS

log = logging.getLogger("distillgen")

LOOK_S = 5.0  # the longest that a command that looks whether a run goes on may hold its lock
SIGNS = ("run.lock", "pipeline.lock.yaml", "usage.json", SEEDS)  # one of them is in every run
WRITTEN_OVER = ("README.md", "corpus.jsonl", "dropped.jsonl", "report.html", "run.log", "stages", "student")


@contextlib.contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Create the directory and hold its lock; raise ConfigError if another run holds it, or if it is no run
    and has files that a run would write over.
    """
    if not any((directory / name).exists() for name in SIGNS):
        for name in WRITTEN_OVER:
            if (directory / name).exists():
                raise ConfigError(
                    f"'{directory}' is no run, and a run would write over its '{name}'; "
                    "choose another directory with --out"
                )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stream = (directory / "run.lock").open("a+")
    except OSError as error:
        raise ConfigError(
            f"cannot write to '{directory}': {error.strerror}. Choose another directory with --out"
        ) from error
    with stream:
        until = time.monotonic() + LOOK_S
        while True:
            try:
                lock(stream.fileno())
                break
            except BlockingIOError:
                if time.monotonic() < until and not is_running(directory):
                    time.sleep(0.005)  # a command looks whether a run goes on
                    continue
                stream.seek(0)
                process = stream.read().strip(" \0\n") or "unknown"
                raise ConfigError(
                    f"'{directory}' is in use by another run (process {process}); "
                    f"wait for it, look at it with: distillgen status {directory}, or choose another --out"
                ) from None
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


@contextlib.contextmanager
def ledger_in_use(place: Place, options: Options) -> Iterator[None]:
    """Mark the ledgers in this folder as in use; with `salvage`, replace a damaged ledger first.

    Raises ConfigError if another run uses the ledger that is to be salvaged.
    """
    if not isinstance(place, Path):
        if options.salvage:
            raise ConfigError(f"--salvage is for files; restore the database {place} from its backup")
        yield
        return
    if not place.parent.is_dir():  # opening the ledger raises the error
        yield
        return
    with open_folder(place.parent) as folder:
        if options.salvage and is_there(place):
            try:
                lock(folder)
            except BlockingIOError:
                raise ConfigError(
                    f"the ledger {place} is in use by another run; wait for it before --salvage"
                ) from None
            count, kept = salvage(place)
            log.warning("%d answers were read from the damaged ledger, which is kept as %s", count, kept)
        lock(folder, shared=True, wait=True)
        yield
