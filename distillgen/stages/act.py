"""act: run the tool calls at the end of a dialogue, and add the results to it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

from pydantic import Field

from distillgen.answers.functions import functions_in, modules_beside
from distillgen.answers.sandbox import run_calls
from distillgen.answers.tool_calls import Call, call_of
from distillgen.confinement import Limits, Unconfined, lacking
from distillgen.errors import ConfigError, did_you_mean
from distillgen.flow.ordered import in_order
from distillgen.flow.stage import CHUNK, BoundStage, CheckContext, Chunk, Chunks, Estimate, Job, Stage
from distillgen.inference.outcome import Outcome
from distillgen.platforms import cores
from distillgen.project import read_text
from distillgen.record import META, Record, digest, dumps

PIECE = 32  # most records in one piece of work; a stop waits for one

Turn: TypeAlias = Mapping[str, Any]


class Act(Stage):
    """Run the calls of the last turn of a dialogue, and add a turn of the role `tool` for each.

    The functions are Python code that runs in a process without network, environment, children and other
    files. They may import installed packages. Each turn of a dialogue gets a process of its own, and the
    ledger keeps the results, so that a resumed run has the same ones. A dialogue that does not end with calls
    passes unchanged. Several steps are this stage and a `generate` inside `rounds`.
    """

    kind = "act"
    scope = "row"
    remakes = True
    reads = "the field `history`; the file `functions`"
    writes = "the field `history`, with a turn for each call; drops records whose calls fail"

    functions: str = Field(description="Python file with the functions, such as data/tools.py")
    history: str = Field("messages", description="field with the dialogue")
    errors: Literal["drop", "keep"] = Field(
        "drop",
        description="what a failed call does: drop the record, or keep it, with the error as the tool's "
        "answer",
    )
    timeout_s: float = Field(10.0, gt=0, description="longest time for the calls of one turn, in seconds")
    cpu_s: int = Field(5, ge=1, description="most processor time for the calls of one turn, in seconds")
    memory_mb: int = Field(1024, ge=1, description="most memory for the calls of one turn, in MB")
    max_bytes: int = Field(10_000, ge=1, description="most bytes of all turns that one turn's calls add")
    unconfined: bool = Field(
        False,
        description="whether calls run without isolation where the machine offers none; safe only in a "
        "container",
    )

    def bind(self, context: CheckContext) -> BoundAct:
        """Read the names of the functions. Raise ConfigError if a file, a field or isolation is missing."""
        context.need(self.history, "'history'")
        if self.history == META:
            raise ConfigError(f"the field '{META}' is distillgen's own; name another history")
        path = context.project.file(self.functions)
        code = read_text(path)
        names = frozenset(function.name for function in functions_in(code, path))
        if modules := modules_beside(code, {path.parent, context.project.root}):
            mistake = f"it imports '{modules[0]}' of the project, which the process of a call cannot read"
            raise ConfigError(f"{mistake}; put all of the code into one file", path=path)
        if not self.unconfined and (missing := lacking()):
            remedy = "mend that; or run in a container of its own, and give unconfined: true"
            raise ConfigError(
                f"this machine cannot confine calls, for lack of {' and '.join(missing)}; {remedy}"
            )
        files = {self.functions: path}
        return BoundAct(self, context, context.fields, files=files, code=code, names_of_functions=names)

    def estimate(self, before: Estimate, samples: Sequence[Record], context: CheckContext) -> Estimate:
        """Return the number of records, and the size of the dialogue with the results."""
        made_bytes = before.made_bytes
        return Estimate(before.rows, made_bytes=None if made_bytes is None else made_bytes + self.max_bytes)


@dataclass(frozen=True)
class BoundAct(BoundStage):
    """The stage with the code of its functions."""

    stage: Act
    code: str = field(kw_only=True)
    names_of_functions: frozenset[str] = field(kw_only=True)

    def turns(self) -> dict[str, list[list[dict[str, Any]]]]:
        """Return the dialogues before the stage, and those with the result of a call."""
        dialogues = self.context.turns(self.stage.history)
        called = [[*turns, {"role": "tool", "content": "text"}] for turns in dialogues]
        return {self.stage.history: [*dialogues, *called]} if dialogues else {}

    def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Run the calls of every live record. Records that arrive meanwhile wait together."""
        return self._acted(in_order(chunks, lambda chunk: [Outcome.of(chunk)], window=lambda: CHUNK), job)

    async def _acted(self, chunks: Chunks, job: Job) -> Chunks:
        async with aclosing(chunks):
            async for chunk in chunks:
                for start in range(0, len(chunk), PIECE):
                    yield await self._answered(chunk[start : start + PIECE], job)

    async def _answered(self, chunk: Chunk, job: Job) -> Chunk:
        """Return the records with the results, which come from the ledger or from new processes."""
        calls = [self._calls(record) for record in chunk]
        keys = [self._key(calls_of_record) for calls_of_record in calls]
        results = job.services.ledger.find_scores([key for key in keys if key])
        missing = {
            key: calls_of_record
            for key, calls_of_record in zip(keys, calls, strict=True)
            if key and key not in results
        }
        if missing:
            new = dict(
                zip(missing, await asyncio.to_thread(self._run_all, list(missing.values())), strict=True)
            )
            await job.services.ledger.add_scores(new)
            results |= new
        return [
            self._extended(record, calls_of_record, results[key]) if key else self._without_calls(record)
            for record, calls_of_record, key in zip(chunk, calls, keys, strict=True)
        ]

    def _calls(self, record: Record) -> Sequence[Call | None]:
        """Return the calls of the dialogue's last turn; None for one that names no function."""
        turns = None if record.dropped else record.fields.get(self.stage.history)
        last = turns[-1] if isinstance(turns, list) and turns else None
        if not isinstance(last, Mapping) or last.get("role") != "assistant":
            return ()
        calls = last.get("tool_calls")
        return [call_of(call) for call in calls] if isinstance(calls, list) else ()

    def _without_calls(self, record: Record) -> Record:
        """Return a record without calls, dropped if it has no dialogue."""
        history = self.stage.history
        if record.dropped or isinstance(record.fields.get(history), list | None):
            return record
        return record.drop(self.name, "malformed", f"'{history}' is no dialogue")

    @cached_property
    def _sha256(self) -> str:
        return digest(self.code, 64)

    def _key(self, calls: Sequence[Call | None]) -> bytes | None:
        """Return the ledger's key of the results, which depend on the code, the limits and the calls."""
        if not calls:
            return None
        stage = self.stage
        limits = [stage.timeout_s, stage.cpu_s, stage.memory_mb, stage.unconfined]
        named_calls = [call and [call.name, call.arguments] for call in calls]
        return digest(["act", self._sha256, limits, named_calls], 32).encode()

    def _run_all(self, calls: Sequence[Sequence[Call | None]]) -> list[list[list[str]]]:
        """Return the text and the error of each call, for the calls of several records."""
        with ThreadPoolExecutor(cores()) as pool:
            return list(pool.map(self._run_calls, calls))

    def _run_calls(self, calls: Sequence[Call | None]) -> list[list[str]]:
        """Return the text and the error of each call of one turn."""
        mistakes = [self._mistake(call) for call in calls]
        good = [
            (call.name, call.arguments or {})
            for call, mistake in zip(calls, mistakes, strict=True)
            if call and not mistake
        ]
        stage = self.stage
        limits = Limits(timeout_s=stage.timeout_s, cpu_s=stage.cpu_s, memory_mb=stage.memory_mb)
        try:
            results = iter(run_calls(self.code, good, limits=limits, confined=not stage.unconfined))
        except Unconfined as error:
            raise ConfigError(f"stage '{self.name}': the process could not be confined: {error}") from error
        return [["", mistake] if mistake else [*next(results)] for mistake in mistakes]

    def _mistake(self, call: Call | None) -> str:
        """Return why a call cannot be made, or ""."""
        if call is None:
            return "it names no function"
        if call.name not in self.names_of_functions:
            return f"there is no function '{call.name}'{did_you_mean(call.name, self.names_of_functions)}"
        return "" if call.arguments is not None else "its arguments are no JSON object"

    def _extended(
        self, record: Record, calls: Sequence[Call | None], results: Sequence[Sequence[str]]
    ) -> Record:
        """Return the record with a turn for each result; drop it if a call failed or they are too long."""
        stage = self.stage
        turns = list(record.fields[stage.history])
        last = dict(turns[-1])
        last["tool_calls"] = [
            call if not parsed or parsed.id else {**call, "id": f"call_{len(turns)}_{number}"}
            for number, (call, parsed) in enumerate(zip(last["tool_calls"], calls, strict=True), 1)
        ]
        added: list[Turn] = []
        for number, (call, (text, error)) in enumerate(zip(last["tool_calls"], results, strict=True), 1):
            parsed = calls[number - 1]
            if error and (stage.errors == "drop" or not parsed):
                name = f" ({parsed.name})" if parsed else ""
                return record.drop(self.name, "error", f"call {number} of {len(calls)}{name}: {error}")
            content = dumps({"error": error}).decode() if error else text
            added.append({"role": "tool", "tool_call_id": call["id"], "content": content})
        if (size := len(dumps(added))) > stage.max_bytes:
            return record.drop(self.name, "max_bytes", f"the results have {size} bytes > {stage.max_bytes}")
        return replace(record, fields={**record.fields, stage.history: [*turns[:-1], last, *added]})
