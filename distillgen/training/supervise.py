"""Start the process that trains, watch it, and say how it ended."""

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
    """Carry the training out in a process that ends when its standard input does, so that it never outlives this one."""
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
    ended = asyncio.create_task(process.wait())
    try:
        while not (await asyncio.wait([ended], timeout=LOOK_EVERY_S))[0]:
            notes[stage] = _told(work)
    finally:
        del notes[stage]
        assert process.stdin
        process.stdin.close()
        await ended
    if process.returncode:
        raise _failure(process.returncode, work, stage)


def _failure(code: int, work: Path, stage: str) -> DistillgenError:
    """What the process said of its end; else what it printed last."""
    with suppress(FileNotFoundError):
        told = orjson.loads((work / "error.json").read_bytes())
        return (ConfigError if told["mistake"] else DistillgenError)(f"stage '{stage}': {told['message']}")
    how = "was killed (is there memory enough?)" if code < 0 else f"ended with exit code {code}"
    lines = (work / "output.txt").read_text(errors="replace").strip().splitlines()[-3:]
    message = f"the training {how}: {' | '.join(lines)} (all that it printed is in {work / 'output.txt'})"
    return DistillgenError(f"stage '{stage}': {message}")


def _told(work: Path) -> str:
    """The line of a training that goes on."""
    try:
        told = json.loads((work / "progress.json").read_bytes())
    except FileNotFoundError:
        return "loading torch and the student"
    parts = [told["doing"] or f"step {told['step']:,}/{told['steps']:,}"]
    parts += [f"loss {number(told['loss'])}"] if told["loss"] is not None else []
    parts += [f"{duration(told['left_s'])} left"] if told["left_s"] is not None else []
    return "  ".join(parts)
