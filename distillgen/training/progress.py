"""How far a training is: `progress.json` for the run, `sessions.json` for the manifest, and checkpoints at intervals."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from distillgen.training.hardware import Energy

WRITE_EVERY_S = 0.5


def is_main() -> bool:
    """Return whether this process, of those that train together, is the one that writes files."""
    return os.environ.get("RANK", "0") == "0"


def write_json(path: Path, value: Any) -> None:
    """Write a file that other processes read, whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(value, indent=1))
    os.replace(fresh, path)


class Progress(TrainerCallback):  # type: ignore[misc]
    """Tells how far the training is, and has a checkpoint made every so many seconds."""

    def __init__(self, folder: Path, save_every_s: float) -> None:
        self._folder, self._save_every_s = folder, save_every_s
        self._energy = Energy()
        self._file = folder / "sessions.json"
        self.sessions: list[dict[str, Any]] = (
            json.loads(self._file.read_bytes()) if self._file.exists() else []
        )
        self.sessions.append({"seconds": 0.0, "joules": None, "from_step": 0})
        self._began = self._saved = time.monotonic()
        self._first = self._written = 0.0
        self._told: dict[str, Any] = {
            "doing": "loading the student",
            "step": 0,
            "steps": 0,
            "loss": None,
            "left_s": None,
        }
        self.say("loading the student")

    def say(self, doing: str) -> None:
        """What is done before and after the steps."""
        self._told |= {"doing": doing, "left_s": None}
        self._tell()

    def _tell(self) -> None:
        if not is_main():
            return
        self._written = time.monotonic()
        self.sessions[-1] |= {"seconds": round(self._written - self._began, 1), "joules": self._energy.joules}
        write_json(self._folder / "progress.json", self._told)
        write_json(self._file, self.sessions)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note where this session goes on."""
        self.sessions[-1]["from_step"] = state.global_step
        self._first = self._saved = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the newest loss."""
        if logs and "loss" in logs:
            self._told["loss"] = float(logs["loss"])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell, and decide on a checkpoint, for all processes alike."""
        now, done = time.monotonic(), state.global_step - self.sessions[-1]["from_step"]
        left = (state.max_steps - state.global_step) * (now - self._first) / done
        self._told |= {"doing": "", "step": state.global_step, "steps": state.max_steps, "left_s": left}
        due = torch.tensor(float(now - self._saved >= self._save_every_s), device=args.device)
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(due, 0)
        if due.item() and state.global_step < state.max_steps:
            control.should_save, self._saved = True, now
        if now - self._written > WRITE_EVERY_S:
            self._tell()
