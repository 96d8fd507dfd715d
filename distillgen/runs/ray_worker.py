"""A worker of a run with `--executor ray`: an actor of Ray Data that runs the row-wise stages of shards.

It opens the ledger and makes the teachers once, so that its models stay loaded from shard to shard, and so do
its connections and its limits. Of a shard only the answers are kept: they are in the ledger that all share.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distillgen.errors import BudgetStop, ConfigError, DistillgenError, Stopped
from distillgen.flow.stage import Job, RunContext, WorkerServices
from distillgen.inference.endpoint import endpoint_class
from distillgen.inference.ledger import Ledger
from distillgen.inference.limits import Budget
from distillgen.inference.places import Place
from distillgen.pipeline.load import Pipeline, load
from distillgen.record import digest
from distillgen.runs import shards
from distillgen.runs.execute import pull, teachers_of
from distillgen.runs.foreman import MOST_ATTEMPTS, Count
from distillgen.runs.interpreter import interpreter_tuned, new_loop
from distillgen.runs.log import log_task_error, run_log, without_secrets
from distillgen.runs.state import Live, Options, StageCount
from distillgen.runs.streams import hold_open

log = logging.getLogger("distillgen")

REPORT_S = 0.5  # seconds between two reports to the foreman
RETRY_S = (0.02, 0.5)  # the first and the longest wait for money that other workers have reserved
LOGS = "workers"  # the folder of the run directory with the logs of Ray and of each worker
PER_MINUTE = ("rpm", "input_tpm", "output_tpm")


@dataclass(frozen=True)
class Work:
    """What a worker needs to run shards of a pipeline. Ray sends it to other machines."""

    pipeline: str | Path | Mapping[str, Any]
    sets: tuple[str, ...]
    rows: Path | None
    """The file that takes the place of the source, if the rows came from Python."""
    host: str
    """The name of the machine on which the command runs."""
    folder: Path
    """The working directory of the command, in which the pipeline is found."""
    directory: Path
    """The directory of the whole run."""
    options: Options
    ledger: Place
    run: str
    """The name of the run in the ledger. The workers' answers have a name under it, so that their usage is
    that of the run, and the run sees which answers they replaced.
    """
    shards: int
    workers: int
    last: int
    """The index of the last stage that workers run."""

    def load(self, *further_sets: str) -> Pipeline:
        """Return the checked pipeline. Raise ConfigError."""
        return load(self.pipeline, [*self.sets, *further_sets], rows=self.rows)


def worker_share(pipeline: Pipeline, options: Options, workers: int, last: int) -> Pipeline:
    """Return a pipeline whose models have a worker's share of their limits.

    Requests and tokens a minute are divided, and the requests in flight of an endpoint that all workers ask.
    A model in the worker's own process has its limit for itself. Raise ConfigError if fewer requests than
    workers may be in flight.
    """
    model_names = {name for bound in pipeline.bound_stages[: last + 1] for name in bound.models}
    models = {}
    for name, spec in pipeline.models.items():
        limits = {limit: value / workers for limit in PER_MINUTE if (value := getattr(spec, limit))}
        most = options.concurrency or spec.max_concurrency
        if most and endpoint_class(spec.provider, pipeline.project).paid:
            if most < workers and name in model_names:
                raise ConfigError(
                    f"model '{name}' takes {most} requests at once, and each of {workers} workers sends one "
                    f"or more: give --workers {most}, or raise the limit"
                )
            most = max(1, most // workers)
        models[name] = spec.model_copy(update={**limits, "max_concurrency": most})
    return replace(pipeline, models=models)


def look(work: Work) -> tuple[str, str]:
    """Return the name of this machine, and a digest of the pipeline with its files here. Raises
    ConfigError.
    """
    try:
        with contextlib.chdir(work.folder):
            return platform.node(), digest(work.load().fingerprints(work.options.limit))
    except OSError as error:
        raise _absent(work) from error


def refuse_elsewhere(hosts: set[str], work: Work) -> None:
    """Raise ConfigError if a machine other than the command's would write to a ledger that is a file."""
    if isinstance(work.ledger, Path) and (away := sorted(hosts - {work.host})):
        raise ConfigError(
            f"--executor ray: the cluster has another machine ({away[0]}), and the ledger {work.ledger} is a "
            "file of SQLite, whose locks are for one machine. Give a ledger in PostgreSQL: --ledger "
            "postgresql://…; or unset RAY_ADDRESS, to work on this machine alone"
        )


def _absent(work: Work) -> ConfigError:
    return ConfigError(
        f"the machine {platform.node()} has no folder {work.folder}: each machine of the cluster needs the "
        "project at the same path"
    )


@dataclass
class SharedBudget(Budget):
    """The budget of one worker: the foreman, an actor, reserves the money of all."""

    foreman: Any = None
    worker: int = 0

    async def reserve(self, worst_usd: float) -> None:
        """Reserve the worst case of a request before it is sent. Wait while others may cost less than they
        have reserved. Raise BudgetStop if it can exceed the cap.
        """
        wait_s, longest_s = RETRY_S
        while True:
            granted, why = await self.foreman.reserve.remote(self.worker, worst_usd)
            if granted:
                break
            if why:
                raise BudgetStop(why)
            await asyncio.sleep(wait_s)
            wait_s = min(longest_s, 2 * wait_s)
        self.reserved += worst_usd

    def settle(self, worst_usd: float, cost_usd: float) -> None:
        """Replace a reserved worst case by the cost."""
        super().settle(worst_usd, cost_usd)
        self.foreman.settle.remote(self.worker, worst_usd, cost_usd)


class Worker:
    """Runs shards, one after the other. After an error it runs no more."""

    def __init__(self, work: Work, foreman: Any) -> None:
        """`foreman` is the handle of the actor that all workers share."""
        self._work, self._foreman = work, foreman
        self._bench: _Bench | None = None
        self._error: DistillgenError | None = None
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="shards", daemon=True)
        self._thread.start()

    def __del__(self) -> None:
        """Ray Data deletes its last reference before the process of an actor ends."""
        self.close()

    def close(self) -> None:
        """Stop the models, and leave the ledger. No shard may be running."""
        if self._bench is not None:
            bench, self._bench = self._bench, None
            asyncio.run_coroutine_threadsafe(bench.close(), self._loop).result()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __call__(self, batch: Mapping[str, Sequence[int]]) -> dict[str, list[Any]]:
        """Run the shard in a batch of one; return its number, and the exit code and the text of the error
        that stopped it, if any.
        """
        (shard,) = batch["item"]
        error = asyncio.run_coroutine_threadsafe(self._run(int(shard)), self._loop).result()
        text = "\n".join([str(error), *getattr(error, "__notes__", ())]) if error else ""
        return {"shard": [int(shard)], "exit_code": [error.exit_code if error else 0], "error": [text]}

    async def _run(self, shard: int) -> DistillgenError | None:
        """Run a shard; return the error after which this worker runs no more."""
        if self._error is not None:
            return self._error
        try:
            if self._bench is None:
                self._bench = _Bench(self._work, self._foreman, await self._foreman.join.remote())
            with without_secrets(self._bench.hidden):
                await self._bench.run(shard)
        except DistillgenError as error:
            self._error = error
        except Exception as error:
            log.error("shard %d of %d", shard, self._work.shards, exc_info=error)
            place = f"; the traceback is in {self._bench.log_file}" if self._bench else ""
            self._error = DistillgenError(
                f"a worker on {platform.node()} failed in shard {shard}: {type(error).__name__}: "
                f"{error}{place}"
            )
        return self._error


class _Bench:
    """The pipeline, the open ledger and the teachers of a worker."""

    def __init__(self, work: Work, foreman: Any, number: int) -> None:
        hold_open()
        asyncio.get_running_loop().set_exception_handler(log_task_error)
        try:
            os.chdir(work.folder)
        except OSError as error:
            raise _absent(work) from error
        refuse_elsewhere({platform.node()}, work)  # a cluster may have grown since the command looked
        self._work, self._foreman, self._number = work, foreman, number
        self._pipeline = pipeline = worker_share(work.load(), work.options, work.workers, work.last)
        secrets = set[str]().union(*(spec.secrets() for spec in pipeline.models.values()))
        self.hidden = dict.fromkeys(secrets, "[withheld]") | pipeline.environment
        self._opened = contextlib.ExitStack()
        self._opened.enter_context(interpreter_tuned())
        self.log_file = work.directory / LOGS / f"{number}.log"
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self._warnings = self._opened.enter_context(run_log(self.log_file, self.hidden))
        self._ledger = Ledger(work.ledger)
        self._budget = Budget()
        if (cap := work.options.max_cost_usd) is not None:
            promised = self._ledger.promised_usd(work.run)
            self._budget = SharedBudget(cap, paced=False, promised=promised, foreman=foreman, worker=number)
        self._name = f"{work.run}/workers"
        self._teacher, self._teachers = teachers_of(
            pipeline, work.directory, work.options, self._ledger, self._budget, self._name
        )

    async def close(self) -> None:
        """Stop the models, and leave the ledger."""
        for teacher in self._teachers.values():
            await teacher.stop(Stopped("the work is over"))
            await teacher.close()
        await self._ledger.close()
        self._opened.close()

    async def run(self, shard: int) -> None:
        """Run the stages of a shard, and tell the foreman. Raise what stops it, after the answers in flight
        are stored.
        """
        if not await self._foreman.begin.remote(self._number, shard):
            raise DistillgenError(
                f"{MOST_ATTEMPTS} workers died of shard {shard} of {self._work.shards}, so that it is not "
                f"begun again; {self._work.directory / LOGS / 'ray.log'} says how. A usual cause is too "
                "little memory for all workers of a machine: give fewer --workers, or more --shards"
            )
        with tempfile.TemporaryDirectory(prefix="distillgen-") as folder:
            part = shards.override(self._pipeline, f"{shard}/{self._work.shards}")
            live = self._live(self._work.load(part), Path(folder))
            options = self._work.options
            retries = options.retry_failed, options.retry_with
            context = RunContext(
                live.pipeline.project, live.directory, live.pipeline.seed, options.limit, *retries
            )
            services = WorkerServices(self._teachers, self._ledger, self._teacher, notes=live.notes)
            consume = asyncio.create_task(pull(live, Job(context, services)))
            reports = asyncio.create_task(self._report(live, shard, consume))
            error: Exception | None = None
            try:
                await consume
            except asyncio.CancelledError:
                error = Stopped("interrupted")
            except Exception as failure:
                error = failure
            reports.cancel()
            await asyncio.gather(reports, return_exceptions=True)
            if error is not None:
                for teacher in self._teachers.values():
                    await teacher.stop(error)
            await self._tell(live, shard)
        if error is not None:
            raise error
        await self._foreman.finish.remote(shard)

    def _live(self, pipeline: Pipeline, folder: Path) -> Live:
        """Return the state of a shard before its first stage."""
        counts = [StageCount(stage.name, stage.kind) for stage in pipeline.stages]
        plan = [estimate for _, estimate in pipeline.plan(self._work.options.limit)]
        ledger, last = self._ledger, self._work.last
        return Live(
            pipeline, folder, ledger, self._name, 0, counts, self._teachers, self._teacher, self._budget,
            None, plan, 0, last,
        )  # fmt: skip

    async def _report(self, live: Live, shard: int, consume: asyncio.Task[None]) -> None:
        """Tell the foreman how far the shard is; stop it if the foreman says so."""
        while True:
            await asyncio.sleep(REPORT_S)
            if await self._tell(live, shard):
                consume.cancel()
                return

    async def _tell(self, live: Live, shard: int) -> bool:
        activities = [teacher.activity for teacher in self._teachers.values()]
        count = Count(
            sum(activity.answered for activity in activities),
            sum(activity.replayed for activity in activities),
            sum(activity.failed for activity in activities),
            self._budget.spent,
        )
        usage = self._ledger.usage_added()
        stages = [replace(stage, measured={}, costs={}) for stage in live.stages[: live.last + 1]]
        return bool(
            await self._foreman.report.remote(self._number, count, usage, shard, stages, list(self._warnings))
        )
