"""Run a pipeline in a directory. A second run in the same directory continues.

All files but the ledger are a pure function of the pipeline, its files, the source and the ledger. So nothing
is saved for a restart, and the stored records of unchanged stages are used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

import yaml

from distillgen.errors import DistillgenError, Stopped, UserCodeError
from distillgen.flow.ahead import asks_ahead, with_asks_ahead
from distillgen.flow.condition import run_stage
from distillgen.flow.measures import Measures, by_title
from distillgen.flow.stage import CHUNK, Chunks, Estimate, Job, RunContext, WorkerServices
from distillgen.inference.endpoint import Services
from distillgen.inference.ledger import Ledger
from distillgen.inference.limits import Budget
from distillgen.inference.places import Place
from distillgen.inference.redaction import hide
from distillgen.inference.spec import Spec
from distillgen.inference.teacher import Teacher
from distillgen.pipeline.load import Pipeline
from distillgen.privacy import name_of, used_by
from distillgen.record import GATHERED, dumps
from distillgen.runs.directory import MACHINE, name_in, read_records, stage_file
from distillgen.runs.log import log_task_error
from distillgen.runs.pacing import depth_first
from distillgen.runs.resume import commands_of, fingerprints, make_teacher, resumed_stages, stored_lock
from distillgen.runs.state import Live, Options, StageCount, outcome_of
from distillgen.runs.stopping import stop_on_signals
from distillgen.state_files import partial_file, replace_text

log = logging.getLogger("distillgen")

FLUSH_EVERY_S = 0.5  # seconds between flushes, so that `show` finds recent rows during a run

Watch = Callable[[Live], Awaitable[None]]


def names_in_ledger(directory: Path, ledger: Ledger) -> tuple[str | None, str]:
    """Return the run whose usage counts, None for all in the ledger, and the name of the run in its rows."""
    name = name_in(ledger.place, directory)
    return (name, name) if name != "." else (None, directory.resolve().name)


async def execute(
    pipeline: Pipeline,
    plan: Sequence[Estimate],
    directory: Path,
    options: Options,
    place: Place,
    stage_range: tuple[int, int],
    warnings: list[str],
    watch: Watch | None,
) -> Live:
    """Run the stages of `stage_range`; return the state of the run, with the error that stopped it."""
    asyncio.get_running_loop().set_exception_handler(log_task_error)
    ledger = Ledger(place)
    try:
        live = prepared(pipeline, plan, directory, options, ledger, *stage_range)
        live.warnings = warnings
        await _carry_out(live, options, watch)
        return live
    finally:
        await ledger.close()


def prepared(
    pipeline: Pipeline,
    plan: Sequence[Estimate],
    directory: Path,
    options: Options,
    ledger: Ledger,
    first: int,
    last: int,
) -> Live:
    """Make the teachers and write the lock file; return the state of the run before its first stage."""
    capped_run, _ = names_in_ledger(options.cap_of or directory, ledger)
    ledger_run, name = names_in_ledger(directory, ledger)
    budget = Budget(
        options.max_cost_usd,
        ledger.spent_usd(capped_run),
        shared=options.cap_of is not None,
        promised=ledger.promised_usd(capped_run),
    )
    teacher, teachers = teachers_of(pipeline, directory, options, ledger, budget, name)
    prints = fingerprints(pipeline, teachers, options.limit)
    standing, first, ledger_seen = resumed_stages(
        pipeline, directory, options, ledger, prints, first, last, name
    )
    pipeline.check_remote(first, last)
    fresh = [
        StageCount(s.name, s.kind, stage_print)
        for s, stage_print in zip(pipeline.stages, prints, strict=True)
    ]
    counts = standing[:first] + fresh[first:]
    total = pipeline.source.count
    if options.limit is not None:
        total = options.limit if total is None else min(total, options.limit)
    if (before := stored_lock(directory).get("pipeline", pipeline.name)) != pipeline.name:
        remedy = "its answers stay in its ledger; to keep a corpus, choose another --out"
        log.warning("%s held the run of '%s', which this one replaces: %s", directory, before, remedy)
    _write_lock(pipeline, directory, options, teachers)
    return Live(
        pipeline,
        directory,
        ledger,
        ledger_run,
        ledger_seen,
        counts,
        teachers,
        teacher,
        budget,
        total,
        plan,
        first,
        last,
        usage_before=ledger.usage(ledger_run),
    )


def teachers_of(
    pipeline: Pipeline, directory: Path, options: Options, ledger: Ledger, budget: Budget, name: str
) -> tuple[Callable[[str, Spec], Teacher], dict[str, Teacher]]:
    """Return what makes a teacher of a model, and the teachers of the pipeline's models. `name` is that of
    the run in the ledger's rows.
    """
    order = {stage.name: i for i, stage in enumerate(pipeline.stages)}
    root, hidden = pipeline.project.root, pipeline.environment
    services = Services(ledger, budget, name, root, hidden, order, pipeline.seed)
    teacher = partial(make_teacher, services=services, options=options, project=pipeline.project)
    specs = {**pipeline.models, **pipeline.made_models(directory.resolve())}
    return teacher, {name: teacher(name, spec) for name, spec in specs.items()}


def _write_lock(
    pipeline: Pipeline, directory: Path, options: Options, teachers: Mapping[str, Teacher]
) -> None:
    """Write `pipeline.lock.yaml`, and the addresses and paths of this machine."""
    lock = pipeline.lock() | {
        "tokenizers": {name: name_of(teachers[name].tokenizer) for name in pipeline.models}
    }
    for name in pipeline.models:
        if teachers[name].model != pipeline.models[name].model:  # a path on this machine
            lock["models"][name]["model"] = teachers[name].model
    lock["commands"] = commands_of(pipeline, directory, options, stored_lock(directory))
    text = yaml.safe_dump(lock, sort_keys=False, allow_unicode=True)
    addresses = [hide(address, pipeline.environment) for address in used_by(pipeline.models)]
    here = {"addresses": addresses, "paths": [str(pipeline.project.root), str(directory.resolve())]}
    replace_text(directory / MACHINE, json.dumps(here, indent=2))
    path = directory / "pipeline.lock.yaml"
    if not path.exists() or path.read_bytes() != text.encode():
        replace_text(path, text)


async def _carry_out(live: Live, options: Options, watch: Watch | None) -> None:
    """Run the stages and write usage.json, whatever ends the run; keep the error in `live`."""
    log.info("run: %s in %s", live.pipeline.name, live.directory)
    pipeline = live.pipeline
    context = RunContext(
        pipeline.project,
        live.directory,
        pipeline.seed,
        options.limit,
        options.retry_failed,
        options.retry_with,
    )
    services = WorkerServices(live.teachers, live.ledger, live.teacher, notes=live.notes)
    job = Job(context, services)
    consume = asyncio.create_task(pull(live, job))
    beside = [asyncio.ensure_future(task) for task in (_save_state(live), *([watch(live)] if watch else []))]
    error: Exception | None = None
    with stop_on_signals(consume, live):
        try:
            _write_state(live, "running")  # before a stage touches files that the last state counts as whole
            await consume
        except asyncio.CancelledError:
            error = Stopped(live.stopping or "stopped")
        except OSError as failure:
            remedy = "The answers that were paid for are safe; mend it and run again to go on"
            if failure.errno == errno.EMFILE:
                remedy = remedy.replace("mend it", "raise the limit with ulimit -n, or lower --concurrency,")
            reason = (failure.strerror or str(failure)).lower()
            error = DistillgenError(f"cannot write to '{live.directory}': {reason}. {remedy}")
            error.__cause__ = failure
        except UserCodeError as failure:
            remedy = "Answers that were paid for are safe: mend it and run again to go on"
            remedy += f". The traceback is in {live.directory / 'run.log'}"
            error = failure.with_text(f". {remedy}")
        except Exception as failure:
            error = failure
        consume.cancel()  # if it has not begun
        live.stopping = live.stopping or ("finishing" if error else "")
        for teacher in live.teachers.values():
            await teacher.stop(error or Stopped("the run is over"))
        for task in beside:
            task.cancel()
        for result in await asyncio.gather(*beside, return_exceptions=True):
            if isinstance(result, Exception):  # of the display or usage.json: does not end the run
                log.error("beside the run: %s: %s", type(result).__name__, result)
    for teacher in live.teachers.values():
        await teacher.close()
    outcome = outcome_of(error)
    if error is not None:
        unexplained = isinstance(error, UserCodeError) or not isinstance(error, DistillgenError)
        log.error("%s: %s", outcome, error, exc_info=error.__cause__ or error if unexplained else None)
    live.error = error
    if live.ledger.is_alone:
        live.ledger_seen = live.ledger.last_id
    try:
        _write_state(live, outcome)
    except (OSError, DistillgenError):
        if error is None:
            raise


async def pull(live: Live, job: Job) -> None:
    """Chain the stages, write the records that leave each stage, and read until the source ends."""
    stages, directory, first = live.pipeline.bound_stages, live.directory, live.first
    (directory / "stages").mkdir(exist_ok=True)
    measures: list[Measures] = [{} for _ in stages]
    async with contextlib.AsyncExitStack() as stack:
        stream = (
            _stored_records(stage_file(directory, first - 1, stages[first - 1].name)) if first else _nothing()
        )
        begins = asks_ahead(stages[first : live.last + 1], job)
        for i in range(first, live.last + 1):
            if i == max(first, 1) and live.budget.max_cost_usd is not None and live.budget.paced:
                stream = depth_first(stream, live, job, i)
                stack.push_async_callback(stream.aclose)
            out = stack.enter_context(partial_file(stage_file(directory, i, stages[i].name)))
            is_last = i == len(stages) - 1
            corpus = stack.enter_context(partial_file(directory / "corpus.jsonl")) if is_last else None
            dropped = stack.enter_context(partial_file(directory / "dropped.jsonl")) if is_last else None
            live.stages[i].costs = job.services.costs.setdefault(stages[i].name, {})
            stage_job = Job(
                replace(job.context, stages=stages[:i]),
                replace(job.services, measures=measures[i], measures_before=measures[:i]),
            )
            if begins[i - first]:
                stream = with_asks_ahead(stream, begins[i - first])
                stack.push_async_callback(stream.aclose)
            stream = run_stage(stages[i], stream, stage_job)
            stack.push_async_callback(stream.aclose)
            stream = _write_records(stream, live, i, measures[i], out, corpus, dropped)
            stack.push_async_callback(stream.aclose)
        async for _ in stream:
            await asyncio.sleep(0)  # replayed chunks never wait: give the display and signals a turn
    for i in range(first, live.last + 1):
        live.stages[i].complete = True
        live.stages[i].measured = by_title(measures[i])


async def _write_records(
    chunks: Chunks,
    live: Live,
    index: int,
    measures: Measures,
    out: IO[bytes],
    corpus: IO[bytes] | None,
    dropped: IO[bytes] | None,
) -> Chunks:
    """Write and count the records that leave a stage.

    The records of the last stage are the corpus and the dropped records.
    """
    count, source, flushed = live.stages[index], "", 0.0
    names = set(live.pipeline.bound_stages[index].names())
    async for chunk in chunks:
        for record in chunk:
            if record.source != source:
                source = record.source
                count.sources += 1
            line = dumps(record.row(), sort_keys=False) + b"\n"
            out.write(line)
            if record.dropped is None:
                count.kept += 1
                if corpus:
                    corpus.write(line)
                    live.first_kept = live.first_kept or record
            else:
                if record.dropped.stage in names and record.dropped.filter == GATHERED:
                    count.gathered += 1
                elif record.dropped.stage in names:
                    count.dropped[record.dropped.filter] += 1
                if dropped:
                    dropped.write(line)
        count.rows += len(chunk)
        if measures:  # a condition counts as the records arrive
            count.measured = by_title(measures)
        now = time.monotonic()
        for teacher in live.teachers.values():
            teacher.activity.moved_at = now
        if now - flushed > FLUSH_EVERY_S:
            flushed = now
            for stream in (out, corpus, dropped):
                if stream:
                    stream.flush()
        yield chunk


async def _nothing() -> Chunks:
    return
    yield []


async def _stored_records(path: Path) -> Chunks:
    records = read_records(path)
    while chunk := list(itertools.islice(records, CHUNK)):
        yield chunk


async def _save_state(live: Live) -> None:
    """Write usage.json every second, for `distillgen status` in another terminal."""
    while True:
        await asyncio.sleep(1)
        _write_state(live, "running")


def _write_state(live: Live, outcome: str) -> None:
    replace_text(live.directory / "usage.json", json.dumps(live.state(outcome), indent=2))
