"""Start the process that trains, show its progress, and report how it ended."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

import orjson

from distillgen.errors import ConfigError, DistillgenError
from distillgen.text.display import duration, number

LOOK_EVERY_S = 0.3
QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1"}


async def supervise(work: Path, stage: str, notes: MutableMapping[str, str]) -> None:
    """Train in a process of its own, and raise an error if it fails; `notes` shows the stage's progress.

    The process ends when its standard input is closed, so that it never outlives this one.
    """
    (work / "error.json").unlink(missing_ok=True)
    with (work / "output.txt").open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "distillgen.training.process",
            str(work / "job.json"),
            env={**os.environ, **QUIET},
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    notes[stage] = "starting"
    process_end = asyncio.create_task(process.wait())
    try:
        while not (await asyncio.wait([process_end], timeout=LOOK_EVERY_S))[0]:
            notes[stage] = _progress(work)
    finally:
        del notes[stage]
        assert process.stdin
        process.stdin.close()
        await process_end
    if process.returncode:
        raise _failure(process.returncode, work, stage)


def _failure(code: int, work: Path, stage: str) -> DistillgenError:
    """Return the error that the process wrote; if it wrote none, one with its last lines of output."""
    with suppress(FileNotFoundError):
        error = orjson.loads((work / "error.json").read_bytes())
        return (ConfigError if error["mistake"] else DistillgenError)(f"stage '{stage}': {error['message']}")
    outcome = "was killed (was there enough memory?)" if code < 0 else f"ended with exit code {code}"
    lines = (work / "output.txt").read_text(errors="replace").strip().splitlines()[-3:]
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
