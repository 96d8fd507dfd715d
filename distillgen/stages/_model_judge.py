"""Judge records by what models answer about them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any

from distillgen.errors import DistillgenError
from distillgen.flow.asking import Answers, Question, ask_each
from distillgen.flow.filter import Number
from distillgen.flow.measuring import Judge, checked_numbers, score_keys
from distillgen.flow.stage import CHUNK, Chunk, Chunks, Job
from distillgen.inference.request import Request
from distillgen.inference.spec import Spec
from distillgen.inference.teacher import Teacher
from distillgen.prompting.output_form import Unparsable
from distillgen.record import Record


@dataclass(frozen=True)
class ModelJudge:
    """A filter that asks models, in a running stage."""

    judge: Judge
    teachers: Mapping[str, Teacher]
    """The models that the filter asks, by name."""
    job: Job
    _new: dict[bytes, Number] = field(default_factory=dict)
    """The numbers that the ledger does not hold yet, by key."""

    async def run(self, chunks: Chunks) -> Chunks:
        """Yield the records as the filter leaves them; store its numbers where it keeps them."""
        judged = ask_each(
            chunks,
            [*self.teachers.values()],
            self.job,
            self.judge.stage,
            asker=self.judge.entry.label,
            questions=self._questions,
            answered=self._judge_by,
            settled=self._judge_by_ledger,
        )
        async with aclosing(judged):
            async for chunk in judged:
                yield chunk
                if len(self._new) >= CHUNK:
                    await self._store()
        if self._new:
            await self._store()

    def _judge_by_ledger(self, chunk: Chunk) -> list[Record | None]:
        """Judge the records whose numbers the ledger holds; return None for the others."""
        live = [record for record in chunk if not record.dropped]
        self.judge.costs["rows"] += len(live)
        if self.judge.filter.depends_on is None:
            return [None] * len(chunk)
        keys = self._keys(live)
        number_by_key = self.job.services.ledger.find_scores(keys)
        numbers = map(number_by_key.get, keys)
        numbers_of_chunk = [None if record.dropped else next(numbers) for record in chunk]
        pairs = zip(chunk, numbers_of_chunk, strict=True)
        return [None if number is None else self.judge(record, number) for record, number in pairs]

    def _questions(self, record: Record) -> list[Question]:
        """Return the filter's requests about a record, each with the teacher that answers it."""
        questions = list[Question]()
        for request in self.judge.requests(record, self.teachers):
            teacher = self.teachers[request.model]
            request = with_model_options(request, teacher.spec, teacher.model)
            questions.append((teacher, request, 1, None))
        return questions

    def _judge_by(self, record: Record, answers: Answers) -> Chunk:
        """Judge a record by the answers about it. One that cannot be read drops the record."""
        judge, completions = self.judge, [of_request for _, of_request in answers]
        try:
            for completion in chain.from_iterable(completions):
                if completion.status != "ok":
                    raise Unparsable(completion.error or f"the answer was {completion.status}")
            measure_result = judge.filter.measure([record], [completions])
            (number,) = checked_numbers(measure_result, 1, judge.entry.label)
        except Unparsable as error:
            return [record.drop(judge.stage, "failed", f"not judged by {judge.entry.label}: {error}")]
        except DistillgenError:
            raise
        except Exception as error:
            raise judge.broken(error, [record]) from error
        judge.costs["measured"] += 1
        if judge.filter.depends_on is not None:
            self._new[self._keys([record])[0]] = number
        return [judge(record, number)]

    def _keys(self, records: Chunk) -> list[bytes]:
        """Return the keys of the ledger for the filter's numbers of these records."""
        return score_keys(self.judge.entry, self.judge.filter, records, self._models)

    @cached_property
    def _models(self) -> list[list[Any]]:
        """What a number depends on of the models that are asked."""
        return [
            [t.identity, t.model, t.spec.sampling_options(), "json_schema" in t.spec.capabilities]
            for t in self.teachers.values()
        ]

    async def _store(self) -> None:
        """Store the new numbers; those that come meanwhile wait for the next time."""
        numbers = dict(self._new)
        self._new.clear()
        await self.job.services.ledger.add_scores(numbers)


def with_model_options(request: Request, spec: Spec, model: str = "") -> Request:
    """Return the request with the model's name and sampling options, which override the prompt's."""
    schema = request.schema if "json_schema" in spec.capabilities else None
    return replace(
        request,
        model=model or spec.model,
        schema=schema,
        sampling={**request.sampling, **spec.sampling_options()},
    )
