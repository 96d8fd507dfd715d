"""Carrying a pipeline out in a directory. Running again on the same directory continues.

Everything that is written here except the ledger is a pure function of the pipeline, its files, the source and the
ledger; so nothing here needs to be saved for a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import yaml

from distillgen.errors import ConfigError, DistillgenError, Stopped, did_you_mean
from distillgen.ledger import COUNTS, Ledger, Usage, salvage
from distillgen.pipeline import Pipeline, from_environment, load
from distillgen.record import Record, dumps
from distillgen.stages import CHUNK, Chunks, Job, Stage
from distillgen.stages.generate import FAILURES, Generate
from distillgen.teachers import Services, Teacher, teacher_class
from distillgen.teachers.limits import Budget
from distillgen.teachers.scripted import Script, Scripted

log = logging.getLogger("distillgen")

PARTIAL = ".partial"
FLUSH_EVERY_S = 0.5  # how old the rows may be that `show` finds while a run goes on


@dataclass(frozen=True)
class Options:
    """How a run is carried out; none of it changes what an unlimited run gives."""

    limit: int | None = None
    first: str | None = None
    until: str | None = None
    retry_failed: bool = False
    retry_with: Mapping[str, Any] = field(default_factory=dict)
    max_cost_usd: float | None = None
    concurrency: int | None = None
    ledger: Path | None = None
    salvage: bool = False
    scripts: Mapping[str, Script] = field(default_factory=dict)


@dataclass
class StageCount:
    """What has left a stage so far."""

    name: str
    kind: str
    fingerprint: str = ""
    sources: int = 0
    rows: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    complete: bool = False


@dataclass
class Live:
    """A run while it goes on, for progress displays."""

    pipeline: Pipeline
    directory: Path
    stages: list[StageCount]
    teachers: Mapping[str, Teacher]
    budget: Budget
    total: int | None
    most_usd: float
    last: int
    stopping: str = ""
    started: float = field(default_factory=time.monotonic)
    first_kept: Record | None = None
    first_shown: bool = False


@dataclass(frozen=True)
class Run:
    """A run directory."""

    directory: Path

    @property
    def state(self) -> dict[str, Any]:
        """What `usage.json` holds: state, stages, models, totals."""
        try:
            state: dict[str, Any] = json.loads((self.directory / "usage.json").read_text())
        except FileNotFoundError:
            raise ConfigError(f"'{self.directory}' is not a run directory (it has no usage.json)") from None
        if state["state"] == "running" and not is_running(self.directory):
            state["state"] = "killed"
        return state

    @property
    def corpus(self) -> Any:
        """What survived, as a `datasets.Dataset` (needs the extra 'datasets')."""
        from datasets import load_dataset

        return load_dataset("json", data_files=str(self.directory / "corpus.jsonl"), split="train")

    @property
    def dropped(self) -> Rows:
        """What did not."""
        return Rows(self.directory / "dropped.jsonl")

    def __str__(self) -> str:
        s = self.state
        last = s["stages"][-1]
        lost = ", ".join(f"{n} {name}" for name, n in s["dropped"].items())
        t = s["totals"]
        return (
            f"{last['rows']} records: {s['kept']} kept{', ' + lost if lost else ''}; {t['requests']} requests, "
            f"{t['input_tokens'] + t['output_tokens']:,} tokens, ${t['cost_usd']:.2f}"
        )


class Rows(Sequence[Record]):
    """The records of a JSONL file of a run, read when they are looked at."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Record]:
        return read_records(self.path)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]

    def group(self, by: str) -> dict[str, list[Record]]:
        """Dropped records by 'filter', 'stage' or 'reason'."""
        groups: dict[str, list[Record]] = {}
        for record in self:
            groups.setdefault(getattr(record.dropped, by), []).append(record)
        return groups


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file of a run, also while it is being written."""
    if not path.exists():
        path = path.with_name(path.name + PARTIAL)
    if not path.exists():
        return
    with path.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                return  # still being written
            yield Record.from_row(json.loads(line))


def is_running(directory: Path) -> bool:
    """Whether a process is carrying out a run in `directory`."""
    try:
        with (directory / "run.lock").open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def run(
    pipeline: str | Path | Mapping[str, Any], *, out: str | Path | None = None, sets: Sequence[str] = (),
    teachers: Mapping[str, Script] | None = None, **options: Any,
) -> Run:  # fmt: skip
    """Carry a pipeline out and return its run.

    `pipeline` is a path, a name, or the same structure as a dict; `out` the directory (default runs/<name>); `teachers`
    replaces models by Python functions of (Request, sample index); further options are those of `Options`. Raises
    ConfigError before anything is asked, BudgetStop at the cost cap.
    """
    known = set(Options.__dataclass_fields__)
    for name in options:
        if name not in known:
            raise ConfigError(f"run() has no option '{name}'{did_you_mean(name, known)}")
    checked = load(pipeline, sets)
    directory = Path(out) if out else Path("runs") / checked.name
    made = execute(checked, directory, Options(**options, scripts=teachers or {}))
    if asyncio._get_running_loop() is None:
        asyncio.run(made)
    else:  # a notebook's loop is running in this thread
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, made).result()
    return Run(directory)


async def execute(
    pipeline: Pipeline, directory: Path, options: Options, watch: Callable[[Live], Awaitable[None]] | None = None
) -> Live:
    """Carry out a checked pipeline; `watch` runs beside it and is cancelled at the end."""
    if options.concurrency:
        models = {n: s.model_copy(update={"max_concurrency": options.concurrency}) for n, s in pipeline.models.items()}
        pipeline = replace(pipeline, models=models)
    _check_budget(pipeline, options)
    first, last = _range(pipeline, options)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_locked(directory))
        stack.enter_context(_logged(directory / "run.log"))
        prints = pipeline.fingerprints(options.limit)
        if first:
            _require_stored(pipeline, directory, first, prints)
        path = options.ledger or directory / "ledger.sqlite3"
        if options.salvage and path.exists():
            count, kept = salvage(path)
            log.warning("%d answers were read from the damaged ledger, which is kept as %s", count, kept)
        ledger = Ledger(path)
        try:
            return await _carry_out(pipeline, directory, options, ledger, prints, first, last, watch)
        finally:
            await ledger.close()


def _prepare(
    pipeline: Pipeline, directory: Path, options: Options, ledger: Ledger, prints: Sequence[str], first: int, last: int
) -> tuple[Live, Job]:
    """Teachers, counts and the lock file of a run that is about to start."""
    budget = Budget(options.max_cost_usd, spent=sum(u.cost_usd for u in _usage(ledger, directory, options)))
    hidden = from_environment(pipeline.shown_models)
    services = Services(ledger, budget, directory.resolve().name, pipeline.project.root, hidden)
    teachers = {name: _teacher(name, pipeline, services, options) for name in pipeline.models}
    counts = [StageCount(s.name, s.kind, p) for s, p in zip(pipeline.stages, prints, strict=True)]
    if first:  # taken as they are stored
        stored = Run(directory).state["stages"][:first]
        counts[:first] = [StageCount(**s | {"dropped": Counter(s["dropped"])}) for s in stored]
    total = pipeline.source.count(pipeline.project)
    if options.limit is not None:
        total = options.limit if total is None else min(total, options.limit)
    most = sum(estimate.max_cost_usd or 0.0 for _, estimate in pipeline.plan(options.limit))
    _write(directory / "pipeline.lock.yaml", yaml.safe_dump(pipeline.lock(), sort_keys=False, allow_unicode=True))
    job = Job(pipeline.project, teachers, ledger, pipeline.seed, options.limit, options.retry_failed, options.retry_with)
    return Live(pipeline, directory, counts, teachers, budget, total, most, last), job


def _usage(ledger: Ledger, directory: Path, options: Options) -> list[Usage]:
    """What this run has used, in all its sessions; a ledger of its own holds nothing else."""
    return ledger.usage(directory.resolve().name if options.ledger else None)


async def _carry_out(
    pipeline: Pipeline, directory: Path, options: Options, ledger: Ledger, prints: Sequence[str],
    first: int, last: int, watch: Callable[[Live], Awaitable[None]] | None,
) -> Live:  # fmt: skip
    live, job = _prepare(pipeline, directory, options, ledger, prints, first, last)
    log.info("run: %s in %s", pipeline.name, directory)

    def state(word: str) -> dict[str, Any]:
        return _state(live, word, _usage(ledger, directory, options))

    consume = asyncio.create_task(_pull(pipeline, directory, job, live, first, last))
    beside = [asyncio.ensure_future(each) for each in (_save_state(directory, state), *([watch(live)] if watch else []))]
    error: Exception | None = None
    with _signals(consume, live):
        try:
            await consume
        except asyncio.CancelledError:
            error = Stopped(live.stopping or "stopped")
        except OSError as failure:
            remedy = "The answers that were paid for are safe; mend it and run again to go on"
            error = DistillgenError(f"cannot write to '{directory}': {(failure.strerror or str(failure)).lower()}. {remedy}")
            error.__cause__ = failure
        except Exception as failure:
            error = failure
        live.stopping = live.stopping or ("finishing" if error else "")
        for teacher in live.teachers.values():
            await teacher.stop(error or Stopped("the run is over"))
        for task in beside:
            task.cancel()
        for ended in await asyncio.gather(*beside, return_exceptions=True):
            if isinstance(ended, Exception):  # neither the display nor usage.json may end a run, nor go wrong unheard
                log.error("beside the run: %s: %s", type(ended).__name__, ended)
    for teacher in live.teachers.values():
        await teacher.close()
    words = {4: "stopped by budget", 130: "interrupted"}
    word = words.get(getattr(error, "exit_code", 1), "failed") if error else "finished"
    try:
        _finish(directory, state(word), last == len(pipeline.stages) - 1)
    except (OSError, DistillgenError):
        if error is None:
            raise
    if error is not None:
        log.error("%s: %s", word, error)
        raise error
    return live


async def _pull(pipeline: Pipeline, directory: Path, job: Job, live: Live, first: int, last: int) -> None:
    """Chain the stages, write what leaves each, and pull until the source is dry."""
    folder = directory / "stages"
    folder.mkdir(exist_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        stream: Chunks = _stored(stage_file(directory, pipeline.stages, first - 1)) if first else _nothing()
        for i in range(first, last + 1):
            out = stack.enter_context(_partial(stage_file(directory, pipeline.stages, i)))
            whole = i == len(pipeline.stages) - 1
            corpus = stack.enter_context(_partial(directory / "corpus.jsonl")) if whole else None
            dropped = stack.enter_context(_partial(directory / "dropped.jsonl")) if whole else None
            stream = pipeline.stages[i].run(stream, job)
            stack.push_async_callback(stream.aclose)
            stream = _written(stream, live, i, out, corpus, dropped)
            stack.push_async_callback(stream.aclose)
        async for _ in stream:
            await asyncio.sleep(0)  # replayed chunks never wait; let the display and the signals in
    for count in live.stages[first : last + 1]:
        count.complete = True


async def _written(
    chunks: Chunks, live: Live, index: int, out: IO[bytes], corpus: IO[bytes] | None, dropped: IO[bytes] | None
) -> Chunks:
    """Write and count every record that leaves a stage; the last stage's records are the corpus and the dropped."""
    count, source, flushed = live.stages[index], "", 0.0
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
                if record.dropped.stage == count.name:
                    count.dropped[record.dropped.filter] += 1
                if dropped:
                    dropped.write(line)
        count.rows += len(chunk)
        for teacher in live.teachers.values():
            teacher.activity.moved_at = time.monotonic()
        if time.monotonic() - flushed > FLUSH_EVERY_S:
            flushed = time.monotonic()
            for stream in (out, corpus, dropped):
                if stream:
                    stream.flush()
        yield chunk


async def _nothing() -> Chunks:
    return
    yield []


async def _stored(path: Path) -> Chunks:
    chunk: list[Record] = []
    for record in read_records(path):
        chunk.append(record)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def stage_file(directory: Path, stages: Sequence[Stage], index: int) -> Path:
    """Where the records that left a stage are."""
    return directory / "stages" / f"{index + 1:02d}-{stages[index].name}.jsonl"


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place when the stage ends in any orderly way; until then the former one stands."""
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("wb") as stream:
        try:
            yield stream
        finally:
            stream.flush()
            os.replace(partial, path)


def _teacher(name: str, pipeline: Pipeline, services: Services, options: Options) -> Teacher:
    spec, shown = pipeline.models[name], str(pipeline.shown_models[name]["model"])
    if name in options.scripts:
        return Scripted(name, spec, services, shown_model=shown, script=options.scripts[name])
    return teacher_class(spec.provider)(name, spec, services, shown_model=shown)


def _range(pipeline: Pipeline, options: Options) -> tuple[int, int]:
    names = [stage.name for stage in pipeline.stages]
    for wanted in (options.first, options.until):
        if wanted is not None and wanted not in names:
            raise ConfigError(f"there is no stage '{wanted}'{did_you_mean(wanted, names)}")
    first = names.index(options.first) if options.first else 0
    last = names.index(options.until) if options.until else len(names) - 1
    if last < first:
        raise ConfigError(f"stage '{options.until}' comes before '{options.first}'")
    return first, last


def _require_stored(pipeline: Pipeline, directory: Path, first: int, prints: Sequence[str]) -> None:
    """--from takes the stored records of the stage before as they are; they must be of this very pipeline."""
    before = pipeline.stages[first - 1].name
    try:
        stored = Run(directory).state["stages"][first - 1]
    except (ConfigError, IndexError):
        stored = {}
    if not stored.get("complete") or stored.get("fingerprint") != prints[first - 1]:
        why = "has changed since it was run" if stored.get("complete") else "has not been run to its end"
        raise ConfigError(f"--from {pipeline.stages[first].name}: the stage before it, '{before}', {why}; run without --from")


def _check_budget(pipeline: Pipeline, options: Options) -> None:
    """A cap holds only where the worst case of a request is known."""
    if options.max_cost_usd is None:
        return
    for stage in pipeline.stages:
        if not isinstance(stage, Generate) or not teacher_class((spec := pipeline.models[stage.model]).provider).paid:
            continue
        if spec.price is None:
            remedy = "add price: {input: …, output: …}, US dollars for a million tokens"
            raise ConfigError(f"--max-cost-usd: model '{stage.model}' has no price; {remedy}")
        if stage.sampling(spec, stage.load_prompt(pipeline.project)).get("max_tokens") is None:
            remedy = "set it in the prompt's sampling, the model or the stage"
            raise ConfigError(f"--max-cost-usd: stage '{stage.name}' has no max_tokens, so that an answer has no bound; {remedy}")


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One process a directory."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stream = (directory / "run.lock").open("a+")
    except OSError as error:
        raise ConfigError(f"cannot write to '{directory}': {error.strerror}. Choose another directory with --out") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise ConfigError(
                f"'{directory}' is in use by another run (process {stream.read().strip() or 'unknown'}); "
                f"wait for it, look at it with: distillgen status {directory}, or choose another --out"
            ) from None
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()


@contextlib.contextmanager
def _signals(consume: asyncio.Task[None], live: Live) -> Iterator[None]:
    """The first Ctrl-C stops cleanly; the second gives up what is in flight."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if live.stopping:
            for teacher in live.teachers.values():
                teacher.abandon()
            return
        live.stopping = "interrupted"
        consume.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _save_state(directory: Path, state: Callable[[str], dict[str, Any]]) -> None:
    """Keep usage.json fresh for `distillgen status` in another terminal."""
    while True:
        _write(directory / "usage.json", json.dumps(state("running"), indent=2))
        await asyncio.sleep(1)


def _state(live: Live, word: str, usage: Sequence[Usage]) -> dict[str, Any]:
    dropped: Counter[str] = Counter()
    for count in live.stages:
        dropped.update(count.dropped)
    failed = sum(n for count in live.stages for name, n in count.dropped.items() if count.kind == "generate" and name in FAILURES)
    models: dict[str, dict[str, float]] = {}
    for u in usage:
        total = models.setdefault(u.model, dict.fromkeys(COUNTS, 0))
        total.update({key: total[key] + getattr(u, key) for key in COUNTS})
    return {
        "pipeline": live.pipeline.name,
        "state": word,
        "source_rows": live.total,
        "kept": live.stages[-1].kept,
        "failed": failed,
        "dropped": dict(dropped.most_common()),
        "stages": [asdict(count) | {"dropped": dict(count.dropped.most_common())} for count in live.stages],
        "models": models,
        "usage": [asdict(u) for u in usage],
        "totals": {key: round(sum(m[key] for m in models.values()), 6) for key in COUNTS},
        "seconds": round(time.monotonic() - live.started, 1),
        "updated_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _finish(directory: Path, state: dict[str, Any], whole: bool) -> None:
    from distillgen.report import write_card, write_report

    _write(directory / "usage.json", json.dumps(state, indent=2))
    if whole:
        write_report(directory)
        write_card(directory)


def _write(path: Path, text: str) -> None:
    """Replace a file at once, so that a reader never sees half of it."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)

