"""Teachers with a planted truth, and the run of a recipe on them: what the tests of the recipes share."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import distillgen
from distillgen.inference.request import Completion, Request
from distillgen.project import home
from distillgen.runs.directory import Run

Reply = Callable[[str, int], "str | Completion"]
"""(the text of the request, sample) -> the answer."""


def text_of(request: Request) -> str:
    """Return the prompt, or the texts of all turns, a blank line between two."""
    if request.prompt is not None:
        return request.prompt
    return "\n\n".join(str(turn.get("content") or "") for turn in request.messages)


def draw(*parts: Any) -> random.Random:
    """Return a generator of random numbers that depends on `parts` alone."""
    return random.Random("/".join(map(str, parts)))


def chance(share: float, *parts: Any) -> bool:
    """Return whether a planted event of this probability happens; the same for the same parts."""
    return draw(*parts).random() < share


class Teacher:
    """A scripted teacher. The first phrase of `replies` that a request contains decides who answers.

    It keeps the requests that reached it: a replayed answer is not among them. A request without a phrase
    fails, and the row says so.
    """

    def __init__(self, replies: Mapping[str, Reply | str], name: str = "teacher") -> None:
        self.replies, self.__qualname__ = replies, name
        self.requests: list[Request] = []
        self._lock = threading.Lock()

    def __call__(self, request: Request, sample: int) -> str | Completion:
        with self._lock:
            self.requests.append(request)
        text = text_of(request)
        for phrase, reply in self.replies.items():
            if phrase in text:
                return reply if isinstance(reply, str) else reply(text, sample)
        raise AssertionError(f"no reply for: {text[:200]}")

    def asked(self, phrase: str = "") -> list[str]:
        """Return the texts of the requests that contain the phrase."""
        return [text for text in map(text_of, self.requests) if phrase in text]


def teach(
    recipe: str | Mapping[str, Any],
    teachers: Teacher | Mapping[str, Any],
    sets: Sequence[str] = (),
    out: str = "run",
    **options: Any,
) -> Run:
    """Run a shipped recipe, or a pipeline as a mapping, on scripted teachers; one teacher stands for all."""
    if isinstance(teachers, Teacher):
        teachers = dict.fromkeys(_pipeline(recipe)["models"], teachers)
    return distillgen.run(recipe, out=out, sets=sets, teachers=teachers, **options)


def _pipeline(recipe: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(recipe, Mapping):
        return recipe
    return yaml.safe_load((home("pipelines") / f"{recipe}.yaml").read_text(encoding="utf-8"))


def drops(run: Run) -> Counter[tuple[str, str]]:
    """Return how many records each filter of each stage dropped."""
    return Counter((r.dropped.stage, r.dropped.filter) for r in run.dropped if r.dropped)


def train_here(monkeypatch: Any, see: Callable[[Any], object] = lambda job: None) -> None:
    """Let trainings take place in this process, so that torch is imported once for all of a recipe.

    `see` is called with the declaration of each.
    """
    from distillgen.training.job import TrainingJob
    from distillgen.training.process import train

    async def here(work: Path, stage: str, notes: Any) -> None:
        job = TrainingJob.model_validate_json((work / "job.json").read_bytes())
        see(job)
        train(work, job)

    monkeypatch.setattr("distillgen.stages.train.supervise", here)


def accuracies(run: Run) -> dict[str, float]:
    """The share of exact answers of each model that a recipe's stages evaluate."""
    models = [
        model
        for file in run.directory.glob("evaluation*.json")
        for model in json.loads(file.read_bytes())["models"].items()
    ]
    return {name: figures["metrics"]["exact"]["mean"] for name, figures in models}
