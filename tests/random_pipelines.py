"""Random pipelines from the words that branch, gather and grow, and processes that run and kill them."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import distillgen
from distillgen.inference.request import Request

MODELS = ("alice", "bob", "carol")
IN_FLIGHT = 3  # requests of a model at once
ROWS = 12
WORDS = "amber birch cedar delta ember fjord grove haven islet jolly".split()
KILLED = -signal.SIGKILL

Stage = dict[str, Any]


@dataclass
class Draw:
    """A pipeline while it is drawn. `texts` are the fields with a text; a condition may leave them null."""

    random: random.Random
    texts: list[str] = field(default_factory=lambda: ["q"])
    lists: dict[str, list[str]] = field(default_factory=dict)
    """Fields with a list of mappings, each with the fields of a mapping."""
    number: int = 0

    def name(self, kind: str) -> str:
        self.number += 1
        return f"{kind}{self.number}"

    def text(self) -> str:
        return self.random.choice(self.texts)

    def shown(self, name: str) -> str:
        return f"{{{{ {name} or 'none' }}}}"

    def condition(self) -> str:
        """Return a condition that holds for some records."""
        words = " or ".join(f"'{word}' in ({self.text()} or '')" for word in self.random.sample(WORDS, 3))
        return f"{{{{ {words} }}}}"

    def when(self, stage: Stage) -> Stage:
        return stage | {"when": self.condition()} if self.random.random() < 0.4 else stage


def generate(draw: Draw) -> Stage:
    output = draw.name("text")
    options: Stage = {"name": draw.name("ask"), "template": f"{draw.shown(draw.text())}\n{output}"}
    options |= {"output": output, "n": draw.random.choice([1, 1, 2, 3]), "temperature": 1}
    kind = draw.random.random()
    options["model"] = draw.random.choice(MODELS)
    if kind < 0.4:
        options["model"] = list(draw.random.sample(MODELS, draw.random.choice([2, 3])))
        options["author"] = draw.name("author")
        if kind < 0.2:
            options["pick"] = draw.random.choice([1, 2])
    if draw.random.random() < 0.3:
        options["mark"] = draw.name("usable")
    stage = {"generate": draw.when(options)}
    draw.texts.append(output)
    return stage


def words(draw: Draw) -> Stage:
    """A filter of the stage itself, which may mark."""
    options: Stage = {"name": draw.name("words"), "filters": []}
    options["filters"].append({"where": {"name": draw.name("holds"), "true": draw.condition()}})
    if draw.random.random() < 0.4:
        options["mark"] = draw.name("right")
    return {"filter": draw.when(options)}


def unique(draw: Draw) -> Stage:
    filters = [{"unique": {"name": draw.name("once"), "by": [draw.text()]}}]
    return {"filter": {"name": draw.name("unique"), "filters": filters}}


def reshape(draw: Draw) -> Stage:
    name = draw.name("text")
    made = f"{draw.shown(draw.text())} and {draw.shown(draw.text())}"
    stage = {"format": draw.when({"name": draw.name("shape"), "fields": {name: made}})}
    draw.texts.append(name)
    return stage


def gather(draw: Draw) -> Stage:
    into, keep = draw.name("answers"), draw.random.sample(draw.texts, 1)
    options: Stage = {"name": draw.name("gather"), "into": into, "keep": keep}
    if draw.random.random() < 0.5:
        options["by"] = ["q"]
    if draw.random.random() < 0.3:
        options["at_least"] = 2
    if draw.random.random() < 0.3:
        options["k"] = 2
    draw.lists[into] = keep
    draw.texts = ["q"]  # other fields may differ between siblings
    return {"gather": options}


def unfold(draw: Draw) -> Stage:
    name = draw.random.choice(sorted(draw.lists))
    into = draw.name("part")
    del draw.lists[name]
    return {"unfold": {"name": draw.name("unfold"), "field": name, "into": into}}


def retrieve(draw: Draw) -> Stage:
    into = draw.name("near")
    options: Stage = {"name": draw.name("retrieve"), "from": "here", "into": into, "keep": ["q"], "k": 2}
    by = draw.random.choice(["random", "bm25", "nearest"])
    options |= {"by": by, "others": draw.random.random() < 0.5}
    if by != "random":
        options |= {"query": "q", "key": "q"}
    if by == "nearest":
        options["embedder"] = "words"
    draw.lists[into] = ["q"]
    return {"retrieve": options}


def add(draw: Draw) -> Stage:
    return {"add": {"name": draw.name("add"), "path": "more.jsonl", "n": 3, "origin": draw.name("origin")}}


def rounds(draw: Draw) -> Stage:
    inner = [
        generate(draw),
        *(draw.random.choice(ROW_WORDS)(draw) for _ in range(draw.random.choice([1, 2]))),
    ]
    options: Stage = {"name": draw.name("loop"), "n": 2, "stages": inner}
    if draw.random.random() < 0.4:
        options |= {"offer": "kept", "guard": {"kept": 0.9}, "max_records": 2 * ROWS}
    elif draw.random.random() < 0.5:
        options["repeat"] = True
    return {"rounds": options}


Word = Callable[[Draw], Stage]
ROW_WORDS: list[Word] = [generate, words, unique, reshape]
WORDS_OF_A_PIPELINE: list[Word] = [*ROW_WORDS, generate, gather, unfold, retrieve, add, rounds]


def random_pipeline(seed: int, words_left_out: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return the pipeline of a seed, over a source of drawn rows or of a file."""
    draw = Draw(random.Random(f"pipeline {seed}"))
    source: Stage = {"path": "rows.jsonl"}
    if draw.random.random() < 0.3:
        source = {"draw": {"n": ROWS, "fields": {"q": WORDS, "number": {"from": 1, "to": 99}}}}
    if draw.random.random() < 0.3:
        source["held_out"] = 0.3
    stages: list[Stage] = [{"source": source}, generate(draw)]
    for _ in range(draw.random.randint(2, 5)):
        word = draw.random.choice([w for w in WORDS_OF_A_PIPELINE if w.__name__ not in words_left_out])
        if (word is unfold and not draw.lists) or (word is rounds and any("rounds" in s for s in stages)):
            word = generate
        stages.append(word(draw))
    models = {
        name: {"provider": "scripted", "model": "echo", "max_concurrency": IN_FLIGHT} for name in MODELS
    }
    return {"version": 1, "seed": seed, "models": models, "stages": stages}


def write_rows(folder: Path) -> None:
    """Write the files that random pipelines read."""
    rows = [{"q": f"{WORDS[i % 7]} {WORDS[i * i % 10]} {i % 9}"} for i in range(ROWS)]
    for name, lines in (("rows.jsonl", rows), ("more.jsonl", [{"q": f"more {word}"} for word in WORDS])):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


class Teacher:
    """Answers with words that depend on the request and the sample, and notes each request in a file.

    It ends its process with SIGKILL at request number `fatal`, counted over all models.
    """

    count = 0

    def __init__(self, name: str, log: Path, fatal: int | None) -> None:
        self.__qualname__, self.name, self.log, self.fatal = name, name.encode(), log, fatal

    def __call__(self, request: Request, sample: int) -> str:
        Teacher.count += 1
        if Teacher.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        line = b"%b %b %d" % (self.name, request.json, sample)
        with self.log.open("ab") as log:
            log.write(line + b"\n")
        answer = random.Random(line)
        if answer.random() < 0.05:
            raise ValueError("a planted fault")
        return " ".join(answer.choices(WORDS, k=3))


def _carry_out(folder: str, pipeline: dict[str, Any], out: str, log: str, fatal: int | None) -> None:
    os.chdir(folder)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    teachers = {name: Teacher(name, Path(folder, log), fatal) for name in MODELS}
    distillgen.run(pipeline, out=out, teachers=teachers)


class Runner:
    """Runs pipelines, each in a forked process of its own that can be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["tests.random_pipelines", "distillgen.runs.run"])

    def run(self, pipeline: dict[str, Any], out: str, log: str, fatal: int | None = None) -> int:
        """Run a pipeline; return the exit code, KILLED after a SIGKILL at request number `fatal`."""
        arguments = (str(self.folder), pipeline, out, log, fatal)
        process = self._processes.Process(target=_carry_out, args=arguments)
        process.start()
        process.join(120)
        assert process.exitcode is not None, "the run does not end"
        return process.exitcode

    def asked(self, log: str) -> list[bytes]:
        """Return the requests of a log, each with its sample."""
        file = self.folder / log
        return file.read_bytes().splitlines() if file.exists() else []

    def rows(self, out: str, name: str) -> list[dict[str, Any]]:
        """Return the rows of a file of a run."""
        return [json.loads(line) for line in (self.folder / out / name).read_bytes().splitlines()]
