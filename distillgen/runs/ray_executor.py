"""`--executor ray`: Ray Data carries the row-wise stages of a run over many processes and machines.

The unit of work is a shard. A pool of actors runs the shards, as many at once as there are actors, and stores
the answers in the ledger that all share. Then the command runs the whole pipeline on that ledger, as
`distillgen gather` does: the answers are there, and everything else is derived from them. So the corpus is
the one of a single process, to the byte. An actor that dies is started again by Ray, and its shard is run
again: what it had stored is there, and only the requests in flight are asked again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distillgen.errors import BudgetStop, ConfigError, DistillgenError, Stopped
from distillgen.extras import need
from distillgen.flow.bounds import check_cap
from distillgen.inference.ledger import Ledger
from distillgen.pipeline.load import Pipeline
from distillgen.platforms import cores
from distillgen.runs import shards
from distillgen.runs.execute import names_in_ledger, prepared
from distillgen.runs.foreman import Foreman, ShardProgress, Tally
from distillgen.runs.lock import directory_lock, ledger_in_use
from distillgen.runs.ray_worker import LOGS, Work, Worker, look, refuse_elsewhere, worker_share
from distillgen.runs.resume import made_place
from distillgen.runs.run import stage_range
from distillgen.runs.state import Live, Options, outcome_of
from distillgen.runs.stopping import HANGUP
from distillgen.state_files import replace_text

SHARDS_PER_WORKER = 8  # so that a worker that ends early finds another shard
CONNECT_S = 10.0  # the longest wait for a cluster to answer
LOOK_S = 0.5  # seconds between two looks at the work of all
ENVIRONMENT = {  # variables that are set already keep their values
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # or the command prints errors of its own C++ code that are none
}


@dataclass(frozen=True)
class Crew:
    """The options of `--executor ray`."""

    workers: int | None = None
    """The number of actors; default: one for each GPU where a model is vLLM's, else for each core."""
    shards: int | None = None
    """The number of parts of the rows; default: 8 for each worker."""

    def check(self, executor: str | None, *, alone: bool) -> None:
        """Raise ConfigError if there is no such executor, or if options have no use with or without it.
        `alone` says that the run has neither a shard nor several seeds.
        """
        if executor not in (None, "ray"):
            raise ConfigError(f"there is no executor '{executor}'; 'ray' is one")
        if executor is None and (self.workers or self.shards):
            raise ConfigError("workers and shards are of the executor ray: give it, or leave them out")
        if executor and not alone:
            raise ConfigError(
                "the executor ray makes shards of its own, of one seed: leave shard and seeds out"
            )


Show = Callable[[ShardProgress], None]


def check_ray(pipeline: Pipeline, *, functions: Sequence[str] = ()) -> None:
    """Raise ConfigError if Ray cannot carry the pipeline's row-wise stages. `functions` are the names of
    models and filters that Python code handed over.
    """
    need("--executor ray", "ray", "pyarrow")
    if functions:
        raise ConfigError(
            f"--executor ray: '{functions[0]}' is a Python function of this process, which no worker has; "
            "write it into a file of the project: a filter into filters/, a model's provider into teachers/"
        )
    last = shards.row_wise(pipeline) - 1
    if last < 1:
        raise ConfigError(
            f"--executor ray: the stage '{pipeline.stages[min(1, len(pipeline.stages) - 1)].name}' needs all "
            "records, and before it is nothing that workers could share; run without --executor"
        )
    for name in _asked_models(pipeline, last):
        if getattr(pipeline.models[name], "mode", "") == "batch":
            raise ConfigError(
                f"--executor ray: model '{name}' answers by its batch API, which takes the rows of all "
                "shards at once, within a day; a worker would wait a day for each of its shards. Run without "
                f"--executor, or with --set {name}.mode=online"
            )


def ask_by_ray(
    pipeline: Pipeline,
    argument: str | Path | Mapping[str, Any],
    sets: Sequence[str],
    directory: Path,
    options: Options,
    crew: Crew,
    show: Show | None = None,
    *,
    rows: Path | None = None,
) -> Options:
    """Run the row-wise stages of a checked pipeline on the workers; return the options of the run that makes
    its files from their answers.

    `argument`, `sets` and `rows` are what the pipeline was loaded from. Raises ConfigError before anything is
    asked; Stopped if it is interrupted, or the error of a worker, after the answers in flight are stored.
    Where the money is spent it returns, and the run that follows says so.
    """
    check_ray(pipeline, functions=[*options.scripts, *pipeline.project.filters])
    if options.first:
        raise ConfigError(
            "--executor ray runs the stages from the first on: leave --stage and --from out; what is in the "
            "ledger is not asked again"
        )
    stages = stage_range([stage.name for stage in pipeline.stages], options)
    last = min(shards.row_wise(pipeline) - 1, stages[1])
    plan = [estimate for _, estimate in pipeline.plan(options.limit)]
    if options.max_cost_usd is not None:
        check_cap("--max-cost-usd", zip(pipeline.bound_stages, plan, strict=True))
    with directory_lock(directory), _cluster(crew, directory / LOGS / "ray.log") as cluster:
        workers = _workers(pipeline, crew, cluster, last)
        worker_share(pipeline, options, workers, last)
        path = made_place(pipeline, directory, options)
        with ledger_in_use(path, options):
            ledger = Ledger(path)  # raises the error of one that cannot be used
            try:
                _, name = names_in_ledger(directory, ledger)
                live = prepared(pipeline, plan, directory, options, ledger, *stages)
            finally:
                ledger.close_now()
            work = Work(
                argument,
                tuple(sets),
                rows,
                platform.node(),
                Path.cwd(),
                directory.resolve(),
                replace(options, ledger=None, salvage=False, report_to=()),
                path.resolve() if isinstance(path, Path) else path,
                name,
                crew.shards or SHARDS_PER_WORKER * workers,
                workers,
                last,
            )
            _look_around(work, pipeline, cluster)
            with state_file(live) as write:
                _carry_out(work, live, _gpus(pipeline, last), write, show)
    return replace(options, ledger=path, retry_failed=False, retry_with={}, salvage=False)


def _asked_models(pipeline: Pipeline, last: int) -> list[str]:
    """Return the names of the models that the stages up to `last` ask."""
    bound_stages = pipeline.bound_stages[: last + 1]
    return [name for bound in bound_stages for name in bound.models if name in pipeline.models]


def _gpus(pipeline: Pipeline, last: int) -> int:
    """Return the number of GPUs that a worker needs for vLLM's engines."""
    specs = [pipeline.models[name] for name in _asked_models(pipeline, last)]
    return max(
        (getattr(s, "tensor_parallel_size", None) or 1 for s in specs if s.provider == "vllm"), default=0
    )


@contextlib.contextmanager
def _cluster(crew: Crew, log_file: Path) -> Iterator[Any]:
    """Connect to the cluster in RAY_ADDRESS, or start one on this machine; give ray, and leave it again.

    What Ray prints, such as how a worker died, goes into the log file.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address := os.environ.get("RAY_ADDRESS", ""):
        _check_address(address)
    import ray
    import ray.data

    local = {"num_cpus": max(cores(), (crew.workers or 0)) + 1, "include_dashboard": False}
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("a", encoding="utf-8") as stream, contextlib.redirect_stdout(stream):
        try:
            ray.init(address=address or "local", **quiet, **({} if address else local))
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            where = f"the cluster of RAY_ADDRESS={address}" if address else "a cluster on this machine"
            raise ConfigError(f"--executor ray: {where} cannot be used: {error}") from error
        logging.getLogger("ray").setLevel(logging.ERROR)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            yield ray
        finally:
            ray.shutdown()


def _check_address(address: str) -> None:
    """Raise ConfigError if nothing answers at host:port. Ray itself would try for many minutes."""
    if re.fullmatch(r"[\w.-]+:\d+", address):
        host, _, port = address.partition(":")
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        except OSError as error:
            raise ConfigError(
                f"--executor ray: no cluster answers at RAY_ADDRESS={address}: {error}. Start one with "
                "ray start --head, or unset RAY_ADDRESS, to work on this machine alone"
            ) from error


def _workers(pipeline: Pipeline, crew: Crew, cluster: Any, last: int) -> int:
    """Return the number of workers. Raise ConfigError if the cluster has no place for them."""
    has, gpus = cluster.cluster_resources(), _gpus(pipeline, last)
    places = {"CPU": int(has.get("CPU", 0))}
    if not os.environ.get("RAY_ADDRESS"):
        places["CPU"] -= 1  # the one more of _cluster
    if gpus:
        places["GPU"] = int(has.get("GPU", 0)) // gpus
    kind = min(places, key=lambda name: places[name])
    workers = crew.workers or places[kind]
    if not 0 < workers <= places[kind]:
        needs = f"{gpus} GPU for vLLM" if kind == "GPU" else "a CPU"
        remedy = f"give --workers {places[kind]}" if places[kind] else "add machines that have some"
        raise ConfigError(
            f"--executor ray: each of {workers or 1} workers needs {needs}, and the cluster has places for "
            f"{places[kind]}; {remedy}"
        )
    return workers


def _look_around(work: Work, pipeline: Pipeline, cluster: Any) -> None:
    """Raise ConfigError if another machine of the cluster lacks the project or has another one, or cannot
    reach the ledger.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = cluster.get_runtime_context().get_node_id()
    others = [
        node["NodeID"]
        for node in cluster.nodes()
        if node["Alive"] and node["NodeID"] != here and node["Resources"].get("CPU")
    ]
    if not others:
        return
    task = cluster.remote(look)
    strategies = [NodeAffinitySchedulingStrategy(node, soft=False) for node in others]
    try:
        looks = cluster.get(
            [task.options(num_cpus=0, scheduling_strategy=place).remote(work) for place in strategies]
        )
    except cluster.exceptions.RayTaskError as error:
        if isinstance(error.cause, DistillgenError):
            raise ConfigError(f"--executor ray: {error.cause}") from None
        raise
    _, here_digest = look(work)
    refuse_elsewhere({host for host, _ in looks}, work)
    for host, there in looks:
        if there != here_digest:
            raise ConfigError(
                f"--executor ray: the pipeline '{pipeline.name}' or one of its files differs on {host}: each "
                "machine of the cluster needs the same project and the same version of distillgen"
            )


@contextlib.contextmanager
def state_file(live: Live) -> Iterator[Show]:
    """Give a function that writes usage.json, for `distillgen status`, and write it once more at the end.

    Its `stages` are those of the run that follows, or of the one before; what the workers do is in `workers`.
    """
    latest: list[ShardProgress] = []

    def write(progress: ShardProgress, outcome: str = "running") -> None:
        latest[:] = [progress]
        tally = progress.tally
        workers = {
            "workers": progress.workers,
            "shards": progress.shards,
            "finished": tally.finished,
            "stages": [stage.entry() for stage in tally.stages],
        }
        state = live.state(outcome, tally.usage) | {"from_ledger": tally.count.from_ledger}
        replace_text(live.directory / "usage.json", json.dumps(state | {"workers": workers}, indent=2))

    try:
        yield write
    except DistillgenError as error:
        if latest:
            write(latest[0], outcome_of(error))
        raise


def _carry_out(work: Work, live: Live, gpus: int, write: Show, show: Show | None) -> None:
    """Let the workers run all shards. Raise what stopped them."""
    import ray

    foreman = ray.remote(Foreman).options(num_cpus=0).remote(work.options.max_cost_usd, live.budget.spent)
    pool = ray.data.ActorPoolStrategy(size=work.workers, max_tasks_in_flight_per_actor=1)
    numbers = ray.data.from_items(list(range(work.shards)), override_num_blocks=work.shards)
    resources: dict[str, Any] = {"num_cpus": 1, **({"num_gpus": gpus} if gpus else {})}
    answered = numbers.map_batches(
        Worker, fn_constructor_args=(work, foreman), batch_size=1, compute=pool, **resources
    )
    stopping = threading.Event()
    errors: dict[int, DistillgenError] = {}
    shows = [write, *([show] if show else [])]
    with _signals(stopping), _watched(foreman, work, live.total, stopping, shows) as latest:
        try:
            for row in answered.iter_rows():
                if code := row["exit_code"]:
                    errors.setdefault(code, _error(row))
                    if code != BudgetStop.exit_code:  # or others could still ask for less money
                        stopping.set()
        except KeyboardInterrupt:
            stopping.set()
        except ray.exceptions.RayError as error:
            raise DistillgenError(
                f"Ray ended the work: {error}. The answers are safe in {work.ledger}; the same command "
                "goes on"
            ) from error
    for code in sorted(errors.keys() - {Stopped.exit_code, BudgetStop.exit_code}):
        raise errors[code]
    if stopping.is_set():
        raise Stopped(
            f"interrupted: {latest[-1].finished} of {work.shards} shards are done, and the answers are safe "
            f"in {work.ledger}; the same command goes on"
        )


def _error(row: Mapping[str, Any]) -> DistillgenError:
    """Return the error that stopped a worker."""
    error = DistillgenError(row["error"])
    error.exit_code = int(row["exit_code"])
    return error


@contextlib.contextmanager
def _signals(stopping: threading.Event) -> Iterator[None]:
    """Set `stopping` on the first Ctrl-C, SIGTERM or SIGHUP; raise KeyboardInterrupt on the second. A thread
    gets no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        if stopping.is_set() and number != HANGUP:
            raise KeyboardInterrupt
        stopping.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    if HANGUP is not None and signal.getsignal(HANGUP) != signal.SIG_IGN:  # set by nohup
        before[HANGUP] = signal.signal(HANGUP, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _watched(
    foreman: Any, work: Work, total: int | None, stopping: threading.Event, shows: Sequence[Show]
) -> Iterator[list[Tally]]:
    """Show the progress twice a second, and pass a stop on to the workers; give a list that ends with the
    work so far.
    """
    import ray

    over, started, latest = threading.Event(), time.monotonic(), [Tally()]

    def look_on() -> None:
        passed_on, before, at, rate = False, 0, started, 0.0
        while True:
            last_look = over.wait(LOOK_S)
            if stopping.is_set() and not passed_on:
                passed_on = True
                ray.get(foreman.stop.remote())
            latest[:] = [tally := ray.get(foreman.tally.remote())]
            now, answers = time.monotonic(), tally.count.answers
            rate = 0.9 * rate + 0.1 * (answers - before) / (now - at)
            before, at = answers, now
            progress = ShardProgress(tally, work.shards, work.workers, total, now - started, rate, passed_on)
            for show in shows:
                show(progress)
            if last_look:
                return

    watcher = threading.Thread(target=look_on, name="workers", daemon=True)
    watcher.start()
    try:
        yield latest
    finally:
        over.set()
        watcher.join()
