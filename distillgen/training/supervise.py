"""Let the training process carry out jobs, show their progress, and report how each ended."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

import orjson

from distillgen.errors import ConfigError, DistillgenError, UserCodeError
from distillgen.platforms import how_ended, kills_for_memory
from distillgen.text.display import duration, number

LOOK_EVERY_S = 0.3
QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1"}


class TrainingProcess:
    """A process that has loaded torch, and carries out one training after the other.

    It begins with the first training, and has the environment of that moment. It ends when its standard
    input is closed, which the end of this process does too, however this ends.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    async def carry_out(self, work: Path, notes: MutableMapping[str, str], stage: str) -> int:
        """Train as `job.json` in the folder `work` says; return the exit code, negative for a signal."""
        waiting = self._process
        with (work / "output.txt").open("ab") as output:
            process = self._start(output)
        assert process.stdin
        with suppress(BrokenPipeError):  # it was killed just now: its exit code says so
            process.stdin.write(orjson.dumps([os.getcwd(), str(work)]) + b"\n")
            process.stdin.flush()
        notes[stage] = "starting"
        code = asyncio.create_task(asyncio.to_thread(self._code, process))
        try:
            while not (await asyncio.wait([code], timeout=LOOK_EVERY_S))[0]:
                notes[stage] = _progress(work)
        finally:
            del notes[stage]
            if not code.done():  # the run is being stopped
                process.stdin.close()
                await code
                self.end()
        if code.result() is None and process is waiting:  # it ended while it waited: let another begin
            return await self.carry_out(work, notes, stage)
        return code.result() or process.returncode or 0

    def _start(self, output: BinaryIO) -> subprocess.Popen[bytes]:
        """Return the process; it is started if there is none, or if it has ended."""
        if self._process is None or self._process.poll() is not None:
            self.end()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "distillgen.training.process"],
                env={**os.environ, **QUIET},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )
        return self._process

    def _code(self, process: subprocess.Popen[bytes]) -> int | None:
        """Wait for the end of the job, and return its exit code; that of the process, if it ends with it.

        Return None if the process ended before it took the job.
        """
        assert process.stdout
        receipt = process.stdout.readline()
        line = process.stdout.readline()
        if line:
            return int(line)
        code = process.wait()
        return code if receipt else None

    def end(self) -> None:
        """End the process; a later training begins another."""
        if self._process is not None:
            assert self._process.stdin and self._process.stdout
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
            self._process = None


_SHARED: ContextVar[TrainingProcess | None] = ContextVar("_SHARED", default=None)


@contextmanager
def one_training_process() -> Iterator[TrainingProcess]:
    """Let all trainings in this block share a process, which saves loading torch for each.

    A block inside another shares the process of the outer one.
    """
    outer = _SHARED.get()
    if outer is not None:
        yield outer
        return
    process = TrainingProcess()
    token = _SHARED.set(process)
    try:
        yield process
    finally:
        _SHARED.reset(token)
        process.end()


async def supervise(work: Path, stage: str, notes: MutableMapping[str, str]) -> None:
    """Train in the training process, and raise an error if it fails; `notes` shows the stage's progress."""
    (work / "error.json").unlink(missing_ok=True)
    kills = kills_for_memory()
    with one_training_process() as process:
        code = await process.carry_out(work, notes, stage)
    if code:
        raise _failure(code, work, stage, kills)


def _failure(code: int, work: Path, stage: str, kills: int | None) -> DistillgenError:
    """Return the error that the process wrote; if it wrote none, one with its last lines of output.

    `kills` are those for memory that the kernel had counted before.
    """
    with suppress(FileNotFoundError):
        error = orjson.loads((work / "error.json").read_bytes())
        if "path" in error:  # of the project's objective, loss, weight or body
            message = f"stage '{stage}' raised {error['message']}"
            return UserCodeError(message, path=error["path"], line=error["line"])
        return (ConfigError if error["mistake"] else DistillgenError)(f"stage '{stage}': {error['message']}")
    lines = (work / "output.txt").read_text(errors="replace").strip().splitlines()[-3:]
    outcome = how_ended(code, kills)
    message = f"the training {outcome}: {' | '.join(lines)} (its whole output is in {work / 'output.txt'})"
    return DistillgenError(f"stage '{stage}': {message}")


def _progress(work: Path) -> str:
    """Return the stage's line while it trains."""
    try:
        progress = json.loads((work / "progress.json").read_bytes())
    except FileNotFoundError:
        return "loading torch and the student"
    parts = [progress["doing"] or f"step {progress['step']:,}/{progress['steps']:,}"]
    parts += [f"loss {number(progress['loss'])}"] if progress["loss"] is not None else []
    parts += [f"{duration(progress['left_s'])} left"] if progress["left_s"] is not None else []
    return "  ".join(parts)
