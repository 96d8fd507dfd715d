"""lm_eval: public benchmarks through the Language Model Evaluation Harness (Gao et al. 2021), for models on this machine."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import util
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import Field

from distillgen.algorithms.intervals import Interval, unpaired, wilson_interval
from distillgen.errors import ConfigError, DistillgenError
from distillgen.flow.stage import CheckContext, Chunks, Job, Stage
from distillgen.inference.teacher import Teacher
from distillgen.project import Project
from distillgen.record import digest, dumps
from distillgen.teachers.transformers import TransformersSpec, folders


class LmEval(Stage):
    """Carry out tasks of lm-eval with models on this machine, in a process of its own. Records go through as they are; what
    came of it stands in `evaluation-<name>.json` and in the report, the harness's own results in `lm-eval/`.
    """

    kind = "lm_eval"
    reads = "the tasks of lm-eval"
    writes = "`evaluation-<name>.json` and the folder `lm-eval/`"

    asked: list[str] = Field(
        min_length=1,
        alias="models",
        description="models to ask: student, base, or a model with provider transformers",
    )
    tasks: list[str] = Field(
        min_length=1, description="tasks or groups of tasks, as `lm-eval ls tasks` names them"
    )
    include_path: str | None = Field(None, description="folder with your own tasks, as YAML")
    num_fewshot: int | None = Field(
        None, ge=0, description="number of worked examples; default: the task's own"
    )
    items: int | None = Field(None, ge=1, description="number of items of each task; default: all")
    batch_size: int = Field(8, ge=1, description="number of items answered at once")

    def models(self, project: Project) -> list[str]:
        """Who is asked."""
        return list(self.asked)

    def files(self, project: Project) -> dict[str, Path]:
        """The tasks of your own."""
        return {self.include_path: project.file(self.include_path)} if self.include_path else {}

    def check(self, context: CheckContext) -> frozenset[str]:
        """The models are on this machine, and the harness is there."""
        for name in self.asked:
            if not isinstance(context.able(name), TransformersSpec):
                raise ConfigError(
                    f"model '{name}' is none on this machine: lm-eval takes student, base, provider transformers"
                )
        self.files(context.project)
        if util.find_spec("lm_eval") is None:
            raise ConfigError("it needs the package lm-eval: pip install lm-eval")
        return context.fields

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Let all records through, then evaluate: what trains a student is an earlier stage."""
        async for chunk in chunks:
            yield chunk
        found = {name: await self._results(job.teachers[name], job) for name in self.asked}
        told = {
            "items": max(
                result["n-samples"][task]["effective"]
                for result in found.values()
                for task in result["n-samples"]
            ),
            "of": f"{', '.join(self.tasks)} (lm-eval)",
            "samples": 1,
            "models": {
                name: {"answers": 0, "metrics": _metrics(result), "numbers": {}}
                for name, result in found.items()
            },
            "comparisons": [
                each for one, other in combinations(found, 2) for each in _compared(one, other, found)
            ],
        }
        (job.directory / f"evaluation-{self.name}.json").write_bytes(dumps(told, sort_keys=False) + b"\n")

    async def _results(self, teacher: Teacher, job: Job) -> dict[str, Any]:
        """The harness's results, which are kept: the same model is not put to the same tasks twice."""
        how = self.model_dump(exclude={"name", "asked", "batch_size"})
        kept = job.directory / "lm-eval" / f"{teacher.name}-{digest([teacher.identity, how], 12)}.json"
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
                await self._harness(teacher, folder, job)
                (result,) = Path(folder).rglob("results_*.json")
                result.rename(kept)
        result_of: dict[str, Any] = json.loads(kept.read_bytes())
        return result_of

    async def _harness(self, teacher: Teacher, folder: str, job: Job) -> None:
        model, adapter = folders(teacher.spec.model, teacher.services.root)
        args = {"pretrained": model, "peft": adapter, "dtype": getattr(teacher.spec, "dtype", None)}
        options = {
            "--model": "hf",
            "--model_args": ",".join(f"{key}={value}" for key, value in args.items() if value),
            "--tasks": ",".join(self.tasks),
            "--output_path": folder,
            "--batch_size": self.batch_size,
            "--limit": self.items,
            "--num_fewshot": self.num_fewshot,
            "--device": getattr(teacher.spec, "device", None),
            "--include_path": self.include_path and job.project.file(self.include_path),
        }
        given = [str(part) for name, value in options.items() if value is not None for part in (name, value)]
        output = job.directory / "lm-eval" / "output.txt"
        with output.open("ab") as stream:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "lm_eval",
                "run",
                *given,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        try:
            await process.wait()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            last = " | ".join(output.read_text(errors="replace").strip().splitlines()[-2:])
            raise DistillgenError(
                f"stage '{self.name}': lm-eval failed on '{teacher.name}': {last} (more in {output})"
            )


def _metrics(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each measure of each task with its interval, where the harness gives a standard error: of a share Wilson's, which has
    a width where all are right; of what is not between 0 and 1, 1.96 standard errors.
    """
    found: dict[str, dict[str, Any]] = {}
    for task, values in result["results"].items():
        for name, value in values.items():
            measure, _, variant = name.partition(",")
            if variant and not measure.endswith("_stderr") and isinstance(value, float | int):
                error = values.get(f"{measure}_stderr,{variant}")
                label = f"{task} {measure}" + (f" ({variant})" if variant != "none" else "")
                size = result["n-samples"].get(task, {}).get("effective", 0)
                about = Interval(value, value, "")
                if isinstance(error, float | int):
                    share = (
                        size > 1
                        and 0 <= value <= 1
                        and error**2 * (size - 1) <= value * (1 - value) * (1 + 1e-6)
                    )
                    about = wilson_interval(value, error**2 * size, size) if share else _around(value, error)
                found[label] = {"mean": float(value), **about._asdict(), "n": size or 1}
    return found


def _around(value: float, error: float) -> Interval:
    return Interval(value - 1.96 * error, value + 1.96 * error, "1.96 standard errors")


def _compared(one: str, other: str, found: Mapping[str, Mapping[str, Any]]) -> Sequence[dict[str, Any]]:
    """The difference of two models by each measure; two-sided p of a z-test, which knows the items only by their number."""
    first, second = _metrics(found[one]), _metrics(found[other])
    told = []
    for metric in first.keys() & second.keys():
        a, b = first[metric], second[metric]
        difference = a["mean"] - b["mean"]
        about = unpaired(a["mean"], _interval(a), b["mean"], _interval(b))
        error = (difference - about.low if difference > 0 else about.high - difference) / 1.96
        p = math.erfc(abs(difference) / error / math.sqrt(2)) if error else 1.0
        told.append(
            {
                "metric": metric,
                "first": one,
                "second": other,
                "difference": difference,
                **about._asdict(),
                "p": max(p, sys.float_info.min),
            }
        )
    return sorted(told, key=lambda each: str(each["metric"]))


def _interval(figure: Mapping[str, Any]) -> Interval:
    return Interval(figure["low"], figure["high"], figure["method"])
