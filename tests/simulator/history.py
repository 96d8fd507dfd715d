"""One history: the runs of a drawn pipeline under drawn faults, and the invariants that hold throughout."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from operator import gt
from pathlib import Path
from typing import Any

from distillgen import Filter
from distillgen.errors import BudgetStop
from distillgen.inference.ledger import UNANSWERED, Ledger
from distillgen.inference.limits import FIRST
from distillgen.inference.sqlite_store import SqliteStore
from distillgen.pipeline.load import Pipeline, load
from distillgen.runs.execute import execute
from distillgen.runs.state import Options
from tests.simulator.machine import MEMORY, connect, simulated
from tests.simulator.provider import ANSWER, ANSWERED, LOST, PRICE, Call, ClientBuilder, Provider
from tests.simulator.world import Broken, Process, World

SIGINT = 2
ROWS = 4
SAMPLES = 3
MOST_TOKENS = 20
PATIENCE_S = 5.0  # virtual time in which a process learns of a fault
ENOUGH_S = 900.0  # virtual time in which every run ends once faults have ended
STAGES = """\
  - source: {path: data/seeds.jsonl}
  - generate: {model: teacher, template: "{{ question }}", output: answer, n: N, max_tokens: 20}
"""
SECOND = (
    '  - generate: {name: again, model: teacher, template: "{{ answer }}", output: second, max_tokens: 20}\n'
)
KILLED = "the run was killed before the answer came"


@cache
def pipeline(samples: int, second: bool) -> Pipeline:
    """The pipeline with so many samples, and with a second stage that asks about each answer."""
    folder = Path(tempfile.mkdtemp(prefix="simulator-"))
    (folder / "data").mkdir()
    (folder / "pipelines").mkdir()
    rows = [json.dumps({"question": f"What is {i}?"}) for i in range(ROWS)]
    (folder / "data/seeds.jsonl").write_text("\n".join(rows) + "\n")
    price = f"{{input: {PRICE['input']}, output: {PRICE['output']}}}"
    model = f"{{provider: openai, model: m, base_url: 'http://localhost/v1', price: {price}}}"
    text = f"version: 1\nmodels:\n  teacher: {model}\n"
    text += "stages:\n" + STAGES.replace("N", str(samples)) + SECOND * second + "  - filter: [seen]\n"
    path = folder / "pipelines/ask.yaml"
    path.write_text(text)

    def measure(records: Any) -> list[float]:
        _current.seen(
            [record.fields[name] for record in records for name in ("answer", "second")[: 1 + second]]
        )
        return [0.0] * len(records)

    return load(path, filters={"seen": Filter(measure, lambda _: None)})


_current: History


@dataclass
class Run:
    """A run directory, and who starts the run again whenever it has ended."""

    name: str
    cap: float | None
    directory: Path
    retry: bool = False
    process: Process | None = None
    lives: int = 0
    done: bool = False
    complete: bool = False
    """Whether it has ended with an answer to everything, so that it asks nothing any more."""
    stopped_by_cap: bool = False


class History:
    """A history that a seed has drawn. `play` raises Broken where an invariant does not hold."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        draw = self.world.draw
        self.samples, self.second = draw.choice([1, SAMPLES]), draw.random() < 0.4
        self.rows = draw.randint(1, ROWS)
        self.faults_end = self.world.now + draw.choice([2, 10, 40])
        self.provider = Provider(self.world, draw.choice([0, 0.1, 0.3, 0.6]), draw.choice([0.02, 0.3, 2]))
        self.provider.check = self._check_call
        self.limits = {
            "max_concurrency": draw.choice([None, 1, 2, 4]),
            "rpm": draw.choice([None, None, 60, 600]),
            "input_tpm": draw.choice([None, None, 600]),
            "output_tpm": draw.choice([None, None, 600]),
            "max_retries": draw.choice([1, 8]),
            "timeout_s": draw.choice([5.0, 30.0]),
        }
        self.stored: defaultdict[str, int] = defaultdict(int)
        self.answers: dict[tuple[int, int], str] = {}
        self.last_id = 0
        self.reader: sqlite3.Connection | None = None
        self.had_io_errors = False
        self.settled: Counter[str] = Counter()

    def play(self) -> None:
        """Play it to its end."""
        global _current
        _current = self
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY, prefix="history-"))
        self.world.written = self._written
        draw, models = self.world.draw, pipeline(self.samples, self.second).models
        base = pipeline(self.samples, self.second)
        spec = models["teacher"].model_copy(update=self.limits)
        self.pipeline = replace(base, models={"teacher": spec})
        self.plan = [estimate for _, estimate in self.pipeline.plan(self.rows)]
        calls = self.rows * (1 + self.second * self.samples)
        likely = calls * 0.12 * self.samples
        self.runs = [
            Run(name, draw.choice([None, 0.6 * likely, likely, 3 * likely]), self.folder / name)
            for name in "ab"[: draw.choice([1, 1, 2])]
        ]
        self.world.note(
            f"{self.rows} rows, {self.samples} samples, second stage: {self.second}, {self.limits}"
        )
        self.world.note(f"faults until {self.faults_end - 1000:g}: {self.provider.faulty:g} of the requests")
        ClientBuilder.provider = self.provider
        with simulated(self.world):
            try:
                self._schedule()
                self.world.run(self._is_over, self.faults_end + ENOUGH_S)
                self._check_end()
            finally:
                if self.reader:
                    self.reader.close()
                shutil.rmtree(self.folder)
                self.world.bury()

    def _schedule(self) -> None:
        """Draw what happens from outside."""
        world, draw = self.world, self.world.draw
        for run in self.runs:
            run.directory.mkdir()
            world.note(f"run {run.name}: cap {run.cap}")
            world.at(world.now + draw.choice([0, 0.3, 3]), lambda run=run: self._begin(run))
        span = self.faults_end - world.now
        for _ in range(draw.choice([0, 1, 1, 2, 4])):
            run, moment = draw.choice(self.runs), world.now + draw.random() * span
            what = draw.choice(["kill", "kill", "stop", "jump", "interrupt", "reboot"])
            seconds = draw.choice([1, 20, 35, 3600])
            if what == "stop":
                self.faults_end = max(self.faults_end, moment + seconds)
            world.at(moment, lambda run=run, what=what, seconds=seconds: self._happen(run, what, seconds))
        world.at(self.faults_end, self._end_faults)

    def _happen(self, run: Run, what: str, seconds: float) -> None:
        world = self.world
        if what == "jump":
            world.jump(world.draw.choice([-1, 1]) * 10 ** world.draw.uniform(1, 8))
        elif what == "reboot":
            world.reboot()
        elif (process := run.process) and process.alive and not process.main.done():
            if what == "kill":
                world.kill(process)
            elif what == "stop":
                world.stop(process, seconds)
            elif SIGINT in process.loop.signal_handlers:
                world.note(f"{process.name} is interrupted")
                self._interrupt(process)
                if world.draw.random() < 0.3:
                    process.after(1, lambda: self._interrupt(process))

    def _interrupt(self, process: Process) -> None:
        process.interrupts += 1
        if handler := process.loop.signal_handlers.get(SIGINT):
            process.loop.call_soon(handler)

    def _end_faults(self) -> None:
        self.world.note("faults end")
        self.provider.faulty = 0.0
        for process in self.world.processes:
            process.failure = lambda statement: None
            process.kill_at_write = 0

    def _begin(self, run: Run) -> None:
        """Start the run's program."""
        world, draw = self.world, self.world.draw
        run.lives += 1
        process = run.process = world.start(f"{run.name}{run.lives}")
        process.run, process.retry, process.begun_at = run.name, run.retry, world.now
        process.complete = run.complete
        if world.now < self.faults_end and draw.random() < 0.15:
            process.kill_at_write = draw.randint(1, 40)
        if world.now < self.faults_end and draw.random() < 0.1:
            process.failure = self._disk(process)
        options = Options(limit=self.rows, max_cost_usd=run.cap, retry_failed=run.retry)
        last = len(self.pipeline.stages) - 1
        world.note(f"{process.name} begins{', retrying' * run.retry}")
        process.start(
            execute(
                self.pipeline, self.plan, run.directory, options, self.folder / "ledger", (0, last), [], None
            )
        )

    def _disk(self, process: Process) -> Callable[[str], Exception | None]:
        """A disk that gets full at some write, or reports an error."""
        draw, at = self.world.draw, process.writes + self.world.draw.randint(5, 40)
        reserve, full = self.folder / "ledger.reserve", draw.random() < 0.7

        def failure(statement: str) -> Exception | None:
            if process.writes < at or not statement.lstrip().startswith(("INSERT", "COMMIT")):
                return None
            if full:
                return sqlite3.OperationalError("database or disk is full") if reserve.exists() else None
            process.failed_at = process.failed_at or self.world.now
            return sqlite3.OperationalError("disk I/O error")

        return failure

    def _is_over(self) -> bool:
        for run in self.runs:
            process = run.process
            if process and not process.alive:
                self._again(run)
            elif process and process.main.done():
                self._ended(run, process)
        return all(run.done for run in self.runs)

    def _again(self, run: Run) -> None:
        """Start the run again a little later."""
        if run.lives > 40:
            raise Broken(f"run {run.name} does not end")
        run.process = None
        wait_s = self.world.draw.choice([0.1, 3, 40])
        self.world.at(self.world.now + wait_s, lambda: self._begin(run))

    def _ended(self, run: Run, process: Process) -> None:
        world = self.world
        error = process.main.exception() or process.main.result().error
        world.note(f"{process.name} ends: {error}")
        world.end(process)
        self._check_life(run, process)
        is_late = process.begun_at >= self.faults_end
        if error is not None and not hasattr(error, "exit_code"):
            raise Broken(f"{process.name} ends with {error!r}")
        run.complete = error is None and not process.main.result().state("")["failed"]
        if run.complete and world.draw.random() < 0.9:
            run.done, run.process = True, None
        elif is_late and process.retry and (error is None or isinstance(error, BudgetStop)):
            run.done, run.stopped_by_cap, run.process = True, error is not None, None
        elif error is None or isinstance(error, BudgetStop):
            run.retry, run.process = True, None
            moment = max(world.now, self.faults_end) + 1
            world.at(moment, lambda: self._begin(run))
        elif is_late:
            raise Broken(f"{process.name} fails without a fault: {error}")
        else:
            self._again(run)

    # The invariants

    def seen(self, texts: list[str]) -> None:
        """What a stage sees is durable."""
        for text in texts:
            match = ANSWER.match(text)
            if match is None or (int(match[1]), int(match[2])) not in self.answers:
                self.world.faults.append(f"a stage sees {text!r} before it is in the ledger")

    def _written(self, process: Process) -> None:
        """Look at the rows that a transaction has added."""
        rows = self._rows(
            "SELECT id, run, status, cost_usd, requests, completion FROM answers WHERE id > ?", self.last_id
        )
        for number, run, status, cost, requests, completion in rows:
            self.last_id = number
            told = json.loads(completion)
            if status in UNANSWERED and told["error"] != KILLED:
                process.uncounted.append(cost)
            if match := ANSWER.match(told.get("text", "")):
                answer = int(match[1]), int(match[2])
                call = self.provider.calls[answer[0]]
                if answer in self.answers:
                    raise Broken(f"answer {answer} is stored twice")
                self.answers[answer] = status
                call.stored += 1
                call.stored_usd += cost
                call.requests += requests
                if status == "ok":
                    self.stored[call.prompt] += 1
                if run != call.run:
                    raise Broken(f"answer {answer} of run {call.run} is stored for run {run}")

    def _rows(self, query: str, *parameters: Any) -> list[Any]:
        if self.reader is None:
            self.reader = connect(self.folder / "ledger")
        return self.reader.execute(query, parameters).fetchall()

    def _check_call(self, call: Call) -> None:
        """A request is bought only if no answer is there or on its way, and within the limits."""
        process, limits, world = call.process, self.limits, self.world
        wanted = self.samples if call.prompt.startswith("What") else 1
        calls = self.provider.of_prompt[call.prompt]
        flying = sum(other.samples for other in calls if other.in_flight)
        if (
            call.in_flight
            and world.now > world.unsure_until
            and call.samples > wanted - self.stored[call.prompt] - flying
        ):
            world.faults.append(
                f"call {call.number} buys {call.samples} of {wanted} answers; "
                f"{self.stored[call.prompt]} are stored, {flying} on their way"
            )
        if any(other.not_before > world.now and other.process is process for other in calls):
            world.faults.append(f"call {call.number} is too early for the pause that was asked for")
        late = sum(other.fate == "time-out" and other.process is process for other in calls)
        if late > 1 and wanted == 1 and len(self.runs) == 1:
            world.faults.append(f"call {call.number} comes after {late} time-outs")
        if process.complete:
            world.faults.append(f"call {call.number} is made though everything is answered")
        if process.failed_at and world.now > process.failed_at + PATIENCE_S:
            world.faults.append(f"call {call.number} is made though its answer cannot be stored")
        most = limits["max_concurrency"]
        if most and self.provider.flying[process.name] >= most:
            world.faults.append(f"call {call.number} is one too many at once")
        count = sum(other.process is process for other in self.provider.calls) + 1
        for name, settled in (("input_tpm", process.tokens[0]), ("output_tpm", process.tokens[1])):
            tpm, most_open = limits[name], 100 * (most or FIRST)
            if tpm and settled > max(1, tpm / 60) + most_open + (world.now - process.begun_at) * tpm / 60:
                world.faults.append(f"call {call.number} is too early for {settled} of {tpm} {name}")
        recent = sum(other.process is process and other.at > world.now - 2 for other in self.provider.calls)
        if (rpm := limits["rpm"]) and recent > max(1, rpm / 60) + 1 + 2 * rpm / 60 + (most or FIRST):
            world.faults.append(f"call {call.number} is one of {recent} in 2 s, for {rpm} requests a minute")
        if rpm and count > max(1, rpm / 60) + 1 + (world.now - process.begun_at) * rpm / 60:
            world.faults.append(f"call {call.number} is too early for {rpm} requests a minute")

    def _check_life(self, run: Run, process: Process) -> None:
        """Whatever has ended a run but a kill: what it paid for is in the ledger."""
        calls = [call for call in self.provider.calls if call.process is process]
        if process.main.exception() is None:
            live = process.main.result()
            if abs(live.budget.reserved) > 1e-9 or any(not t.idle for t in live.teachers.values()):
                raise Broken(f"{process.name} ends with {live.budget.reserved} reserved, or with requests")
        if process.failed_at:
            return
        for call in calls:
            if call.fate in ANSWERED and not call.stored:
                raise Broken(f"call {call.number} is paid for, and its answer is not in the ledger")
        if any(call.fate == "given up" for call in calls) and process.interrupts < 2:
            raise Broken(f"{process.name} gives up answers that are paid for")
        lost = sorted(call.cost_usd for call in calls if call.fate in LOST)
        if len(lost) != len(process.uncounted) or any(map(gt, lost, sorted(process.uncounted))):
            raise Broken(f"{process.name} loses answers for {lost}, and counts {process.uncounted}")

    def _check_end(self) -> None:
        self.world.now += SqliteStore.lease_s
        provider, ledger = self.provider, Ledger(self.folder / "ledger")
        usage = ledger.usage()
        ledger.close_now()
        for table in ("claims", "owners"):
            if rows := self._rows(f"SELECT * FROM {table}"):
                raise Broken(f"{table} are left: {rows}")
        for run in self.runs:
            if run.cap is not None and provider.billed[run.name] > run.cap + 1e-9:
                raise Broken(f"run {run.name} costs {provider.billed[run.name]}, over its cap of {run.cap}")
        for call in provider.calls:
            if call.stored and call.requests != 1:
                raise Broken(f"call {call.number} is counted as {call.requests} requests")
            if call.stored and abs(call.stored_usd - call.cost_usd) > 1e-9:
                raise Broken(
                    f"call {call.number} is billed {call.cost_usd}, and stored with {call.stored_usd}"
                )
        for run in self.runs:
            self._check_run(run, sum(used.cost_usd for used in usage if used.run == run.name))
        for process in self.world.dead:
            self._check_killed(process)
        whole = [run for run in self.runs if not run.stopped_by_cap]
        corpora = {(run.directory / "corpus.jsonl").read_bytes() for run in whole}
        if len(corpora) > 1 and not self.world.unsure_until:
            raise Broken("two runs with one ledger have different corpora")
        if extra := self._rows(
            "SELECT key FROM answers WHERE status = 'ok' GROUP BY key HAVING count(*) > 1"
        ):
            if not self.world.unsure_until:
                raise Broken(f"{len(extra)} requests have two answers")

    def _check_killed(self, process: Process) -> None:
        """A kill costs what was in flight, and nothing else."""
        calls = [call for call in self.provider.calls if call.process is process]
        missing = [call for call in calls if not call.stored and (call.fate in ANSWERED or not call.ended)]
        if len(missing) > (self.limits["max_concurrency"] or FIRST):
            raise Broken(f"a kill of {process.name} loses {len(missing)} answers")

    def _check_run(self, run: Run, ledger_usd: float) -> None:
        calls = [call for call in self.provider.calls if call.run == run.name]
        unknown = sum(
            call.cost_usd
            for call in calls
            if not call.stored and run.cap is None and (call.process.killed or call.process.failed_at)
        )
        if ledger_usd + unknown < self.provider.billed[run.name] - 1e-9:
            raise Broken(
                f"run {run.name} was billed {self.provider.billed[run.name]}, and counts {ledger_usd}"
            )
        lives = [process for process in self.world.ever if process.run == run.name]
        if not any(process.killed or process.failed_at or process.stopped_s for process in lives):
            if self._rows(
                "SELECT id FROM answers WHERE run = ? AND completion LIKE ?", run.name, f"%{KILLED}%"
            ):
                raise Broken(f"run {run.name} counts what a killed run had in flight, and was never killed")
        costs = self._rows("SELECT status, cost_usd FROM answers WHERE run = ?", run.name)
        rows, known = sum(cost for _, cost in costs), sum(cost for status, cost in costs if status != "lost")
        state = json.loads((run.directory / "usage.json").read_text())
        if abs(rows - ledger_usd) > 1e-9 or not known - 1e-5 <= state["totals"]["cost_usd"] <= rows + 1e-5:
            raise Broken(f"run {run.name}: rows {rows}, ledger {ledger_usd}, {state['totals']['cost_usd']}")
        corpus = (run.directory / "corpus.jsonl").read_text().splitlines()
        if not run.stopped_by_cap and len(corpus) != self.rows * self.samples:
            raise Broken(f"run {run.name} has {len(corpus)} rows of {self.rows * self.samples}")
