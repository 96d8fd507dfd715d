"""lm_eval: public benchmarks by the Language Model Evaluation Harness (Gao et al. 2021), for local models."""

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
from distillgen.state_files import replace_bytes
from distillgen.teachers.transformers import TransformersSpec, folders

HARNESS = """
import os, runpy, threading
def end_with_parent():
    os.read(0, 1)
    os._exit(1)
threading.Thread(target=end_with_parent, daemon=True).start()
runpy.run_module("lm_eval", run_name="__main__", alter_sys=True)
"""
"""The harness. It ends when its standard input is closed, as the end of the run does, however that ends."""


class LmEval(Stage):
    """Run tasks of lm-eval with models on this machine, in a process of its own. Records pass unchanged.

    The results are in `evaluation-<name>.json` and in the report; the harness's own files are in `lm-eval/`.
    """

    kind = "lm_eval"
    scope = "set"
    reads = "the tasks of lm-eval"
    writes = "`evaluation-<name>.json` and the folder `lm-eval/`"

    model_names: list[str] = Field(
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
        """Return the models that are asked."""
        return list(self.model_names)

    def files(self, project: Project) -> dict[str, Path]:
        """Return the folder with the user's tasks."""
        return {self.include_path: project.file(self.include_path)} if self.include_path else {}

    def check(self, context: CheckContext) -> frozenset[str]:
        """Raise ConfigError if a model is not on this machine, or lm-eval is not installed."""
        for name in self.model_names:
            if not isinstance(context.able(name), TransformersSpec):
                raise ConfigError(
                    f"model '{name}' is not on this machine: lm-eval takes student, base, or a model of "
                    "provider transformers"
                )
        self.files(context.project)
        if util.find_spec("lm_eval") is None:
            raise ConfigError("it needs the package lm-eval: pip install lm-eval")
        return context.fields

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Pass all records on, so that the stages before have ended, then evaluate."""
        async for chunk in chunks:
            yield chunk
        results = {name: await self._results(job.services.teachers[name], job) for name in self.model_names}
        evaluation = {
            "items": max(
                result["n-samples"][task]["effective"]
                for result in results.values()
                for task in result["n-samples"]
            ),
            "of": f"{', '.join(self.tasks)} (lm-eval)",
            "samples": 1,
            "models": {
                name: {"answers": 0, "metrics": _metrics(result), "numbers": {}}
                for name, result in results.items()
            },
            "comparisons": [
                comparison for pair in combinations(results, 2) for comparison in _compared(*pair, results)
            ],
        }
        replace_bytes(
            job.context.directory / f"evaluation-{self.name}.json", dumps(evaluation, sort_keys=False) + b"\n"
        )

    async def _results(self, teacher: Teacher, job: Job) -> dict[str, Any]:
        """Return the harness's results. They are kept: a model does the same tasks once."""
        options = self.model_dump(exclude={"name", "model_names", "batch_size"})
        file = (
            job.context.directory
            / "lm-eval"
            / f"{teacher.name}-{digest([teacher.identity, options], 12)}.json"
        )
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=file.parent) as folder:
                await self._harness(teacher, folder, job)
                (result,) = Path(folder).rglob("results_*.json")
                result.rename(file)
        results: dict[str, Any] = json.loads(file.read_bytes())
        return results

    async def _harness(self, teacher: Teacher, folder: str, job: Job) -> None:
        """Run the harness, which writes its results to `folder`."""
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
            "--include_path": self.include_path and job.context.project.file(self.include_path),
        }
        arguments = [
            str(part) for name, value in options.items() if value is not None for part in (name, value)
        ]
        output = job.context.directory / "lm-eval" / "output.txt"
        with output.open("ab") as stream:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                HARNESS,
                "run",
                *arguments,
                stdin=asyncio.subprocess.PIPE,  # never written
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
    """Return each measure of each task, with an interval if the harness gives a standard error.

    Shares get Wilson's interval, which has a width even if all answers are right; other numbers get 1.96
    standard errors.
    """
    metrics: dict[str, dict[str, Any]] = {}
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
                metrics[label] = {"mean": float(value), **about._asdict(), "n": size or 1}
    return metrics


def _around(value: float, error: float) -> Interval:
    return Interval(value - 1.96 * error, value + 1.96 * error, "1.96 standard errors")


def _compared(one: str, other: str, results: Mapping[str, Mapping[str, Any]]) -> Sequence[dict[str, Any]]:
    """Return the difference of two models by each measure, with the two-sided p of an unpaired z-test."""
    first, second = _metrics(results[one]), _metrics(results[other])
    comparisons = []
    for metric in first.keys() & second.keys():
        a, b = first[metric], second[metric]
        difference = a["mean"] - b["mean"]
        about = unpaired(a["mean"], _interval(a), b["mean"], _interval(b))
        error = (difference - about.low if difference > 0 else about.high - difference) / 1.96
        p = math.erfc(abs(difference) / error / math.sqrt(2)) if error else 1.0
        comparisons.append(
            {
                "metric": metric,
                "first": one,
                "second": other,
                "difference": difference,
                **about._asdict(),
                "p": max(p, sys.float_info.min),
            }
        )
    return sorted(comparisons, key=lambda comparison: str(comparison["metric"]))


def _interval(figure: Mapping[str, Any]) -> Interval:
    return Interval(figure["low"], figure["high"], figure["method"])
