"""The progress of a training, in `progress.json` and `sessions.json`, and its checkpoints."""

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
    """Replace a file at once; processes that train together may write the same one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(value, indent=1))
    os.replace(fresh, path)


class Progress(TrainerCallback):  # type: ignore[misc]
    """Write the progress of a training, and ask for a checkpoint every `save_every_s` seconds."""

    def __init__(self, folder: Path, save_every_s: float) -> None:
        self._folder, self._save_every_s = folder, save_every_s
        self._energy = Energy()
        self._file = folder / "sessions.json"
        self.sessions: list[dict[str, Any]] = (
            json.loads(self._file.read_bytes()) if self._file.exists() else []
        )
        self.sessions.append({"seconds": 0.0, "joules": None, "from_step": 0})
        self._began_at = self._saved_at = time.monotonic()
        self._steps_began = self._written_at = 0.0
        self._state: dict[str, Any] = {
            "doing": "loading the student",
            "step": 0,
            "steps": 0,
            "loss": None,
            "left_s": None,
        }
        self.say("loading the student")

    def say(self, doing: str) -> None:
        """Show what the process does before or after the steps."""
        self._state |= {"doing": doing, "left_s": None}
        self._write()

    def _write(self) -> None:
        if not is_main():
            return
        self._written_at = time.monotonic()
        self.sessions[-1] |= {
            "seconds": round(self._written_at - self._began_at, 1),
            "joules": self._energy.joules,
        }
        write_json(self._folder / "progress.json", self._state)
        write_json(self._file, self.sessions)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the step at which this session begins."""
        self.sessions[-1]["from_step"] = state.global_step
        self._steps_began = self._saved_at = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the latest loss."""
        if logs and "loss" in logs:
            self._state["loss"] = float(logs["loss"])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the progress, and decide about a checkpoint: all processes take the decision of the first."""
        now, steps = time.monotonic(), state.global_step - self.sessions[-1]["from_step"]
        left_s = (state.max_steps - state.global_step) * (now - self._steps_began) / steps
        self._state |= {"doing": "", "step": state.global_step, "steps": state.max_steps, "left_s": left_s}
        due = torch.tensor(float(now - self._saved_at >= self._save_every_s), device=args.device)
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(due, 0)
        if due.item() and state.global_step < state.max_steps:
            control.should_save, self._saved_at = True, now
        if now - self._written_at > WRITE_EVERY_S:
            self._write()
