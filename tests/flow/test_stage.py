"""The one bounded loop that all stages share, and the format stage."""

import asyncio
import random
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillgen.errors import ConfigError
from distillgen.flow.ordered import in_order, splice
from distillgen.flow.stage import CheckContext, Job, RunContext, WorkerServices, stage_class
from distillgen.inference.outcome import Outcome
from distillgen.plugins import names
from distillgen.project import Project
from distillgen.record import Record
from distillgen.stages.format import Format


def record(number: int) -> Record:
    return Record.read({"n": number}, f"x:{number}")


async def source(sizes, log=None):
    number = 0
    try:
        for size in sizes:
            if log is not None:
                log.append(size)
            yield [record(number + i) for i in range(size)]
            number += size
    finally:
        if log is not None:
            log.append("closed")


def numbers(chunks):
    return [r.fields["n"] for chunk in chunks for r in chunk]


@given(st.lists(st.integers(1, 5), max_size=12), st.integers(1, 4), st.integers(0, 999).map(random.Random))
@settings(max_examples=40, deadline=None)
def test_order_is_kept_and_what_runs_is_bounded(sizes, window, chance):
    running = most = 0

    async def later(r, turns):
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(turns):
            await asyncio.sleep(0)
        running -= 1
        return [r, r]

    def begin(chunk):
        return [
            Outcome.of([r]) if chance.random() < 0.3 else Outcome.start(later(r, chance.randrange(20)))
            for r in chunk
        ]

    async def main():
        chunks = [chunk async for chunk in in_order(source(sizes), begin, lambda: window)]
        assert all(chunks)
        seen = numbers(chunks)
        assert sorted(set(seen)) == list(range(sum(sizes))) and seen == sorted(seen)
        assert most <= window + max(sizes, default=0) + 1
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_upstream_waits_for_a_slow_consumer():
    async def main():
        log: list = []
        async with aclosing(
            in_order(source([1] * 1000, log), lambda chunk: [Outcome.of(chunk)], window=lambda: 4)
        ) as chunks:
            await anext(chunks)
            for _ in range(100):
                await asyncio.sleep(0)
        assert len(log) <= 20

    asyncio.run(main())


def test_what_is_ready_leaves_before_what_waits():
    async def main():
        gate = asyncio.Event()

        async def later(chunk):
            await gate.wait()
            return chunk

        chunks = in_order(
            source([1, 1, 1]),
            lambda chunk: [Outcome.start(later(chunk)) if chunk[0].fields["n"] == 1 else Outcome.of(chunk)],
            window=lambda: 4,
        )
        async with aclosing(chunks):
            assert numbers([await asyncio.wait_for(anext(chunks), 5)]) == [0]
            gate.set()
            assert numbers([chunk async for chunk in chunks]) == [1, 2]

    asyncio.run(main())


def test_what_became_ready_meanwhile_leaves_together():
    async def main():
        gate = asyncio.Event()

        async def later(r):
            if r.fields["n"] == 0:
                await gate.wait()
            return [r]

        begin = lambda chunk: [Outcome.start(later(r)) for r in chunk]  # noqa: E731
        async with aclosing(in_order(source([5, 5]), begin, window=lambda: 20)) as chunks:
            first = asyncio.ensure_future(anext(chunks))
            for _ in range(20):
                await asyncio.sleep(0)
            gate.set()
            assert numbers([await first]) == list(range(10))

    asyncio.run(main())


def test_ready_chunks_do_not_pile_up_while_nobody_takes_them():
    async def main():
        pulled = []

        async def endless():
            while True:
                pulled.append(10)
                yield [record(i) for i in range(10)]

        async with aclosing(
            in_order(endless(), lambda chunk: [Outcome.of(chunk)], window=lambda: 64)
        ) as chunks:
            taken = await anext(chunks)
            for _ in range(1000):
                await asyncio.sleep(0)
            assert sum(pulled) - len(taken) <= 64 + 2 * 10 and len(taken) <= 64 + 2 * 10

    asyncio.run(main())


def test_a_cancelled_upstream_ends_the_loop():
    async def broken():
        yield [record(0)]
        raise asyncio.CancelledError

    async def main():
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(5):
                assert [
                    chunk
                    async for chunk in in_order(broken(), lambda chunk: [Outcome.of(chunk)], window=lambda: 4)
                ]

    asyncio.run(main())


@pytest.mark.parametrize("where", ["source", "begin", "result"])
def test_an_error_comes_after_what_was_before_it(where):
    async def broken():
        async for chunk in source([1, 1, 1, 1]):
            if where == "source" and chunk[0].fields["n"] == 2:
                raise ConfigError("planted")
            yield chunk

    async def later(chunk):
        await asyncio.sleep(0.001 * random.random())
        if where == "result" and chunk[0].fields["n"] == 2:
            raise ConfigError("planted")
        return chunk

    def begin(chunk):
        if where == "begin" and chunk[0].fields["n"] == 2:
            raise ConfigError("planted")
        return [Outcome.start(later(chunk))]

    async def main():
        seen = []
        with pytest.raises(ConfigError, match="planted"):
            async for chunk in in_order(broken(), begin, window=lambda: 8):
                seen += numbers([chunk])
        assert seen == [0, 1]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_closed_early_it_leaves_nothing_behind():
    async def main():
        log: list = []
        cancelled = []

        async def later(chunk):
            try:
                await asyncio.sleep(chunk[0].fields["n"] * 1000)
            except asyncio.CancelledError:
                cancelled.append(chunk[0].fields["n"])
                raise
            return chunk

        async with aclosing(
            in_order(source([1] * 100, log), lambda chunk: [Outcome.start(later(chunk))], window=lambda: 3)
        ) as chunks:
            assert numbers([await anext(chunks)]) == [0]
            await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert log[-1] == "closed" and cancelled and sorted(cancelled) == list(range(1, len(cancelled) + 1))

    asyncio.run(main())


def test_splice_leaves_the_dropped_where_they_are():
    a, b, c = record(0), record(1).drop("s", "f", "r"), record(2)
    assert splice([a, b, c], [[], [a, c]]) == [b, a, c]


def test_stages_are_found_by_their_files():
    project = Project(Path())
    assert {"filter", "format", "generate", "source"} <= set(names("stages", project))
    assert all(stage_class(kind, project).kind == kind for kind in names("stages", project))
    with pytest.raises(ConfigError, match="there is no stage 'filtre'; did you mean 'filter'?"):
        stage_class("filtre", project)


def shape(records, **options):
    fields = frozenset(name for r in records for name in r.fields).union(options.get("keep") or ())
    bound = Format(name="shape", **options).bind(CheckContext(fields, {}, Project(".")))

    async def main():
        async def chunks():
            yield records

        return [
            r
            async for chunk in bound.run(chunks(), Job(RunContext(Project(".")), WorkerServices({}, None)))
            for r in chunk
        ]

    return asyncio.run(main())


def test_format_makes_messages_and_keeps_fields():
    row = Record.read({"q": "{{ a }}", "a": "A\n", "n": 1}, "x:1").scored({"s": 1.0})
    (out,) = shape(
        [row],
        fields={"text": "{{ q }}={{ a }}"},
        messages=[{"system": "S"}, {"user": "{{ q }}"}, {"assistant": "{{ a }}"}],
        keep=["n"],
    )
    turns = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "{{ a }}"},
        {"role": "assistant", "content": "A\n"},
    ]
    assert out.fields == {"n": 1, "text": "{{ a }}=A\n", "messages": turns}
    assert out.id == row.id and out.scores == row.scores
    assert shape([row], fields={"n": "{{ n + 1 }}"})[0].fields == {"q": "{{ a }}", "a": "A\n", "n": "2"}
    assert shape([row], keep=["a", "none"])[0].fields == {"a": "A\n"}


def test_format_drops_unshapable_rows_and_passes_dropped_ones():
    gone = Record.read({"q": 1}, "x:2").drop("s", "f", "r")
    bad, same, good = shape(
        [Record.read({"a": 1}, "x:1"), gone, Record.read({"q": 2}, "x:3")], fields={"t": "{{ q }}"}
    )
    assert (
        bad.dropped.stage == "shape"
        and bad.dropped.filter == "unrenderable"
        and "there is no field 'q' in the row" in bad.dropped.reason
    )
    assert same is gone and good.fields == {"q": 2, "t": "2"}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"fields": {"t": "{{ qq }}"}}, "the template of 't' needs the field 'qq'"),
        ({"messages": [{"user": "{{ qq }}"}]}, "the template of 'user' needs the field 'qq'"),
        ({"keep": ["qq"]}, "'keep' needs the field 'qq'"),
        ({"fields": {"meta": "x"}}, "the field 'meta' is distillgen's own"),
        ({"fields": {"t": "{{ q"}}, "the template of 't': unexpected end of template"),
    ],
)
def test_format_is_checked(options, message):
    given = CheckContext(frozenset({"q", "a"}), {}, Project("."))
    with pytest.raises(ConfigError, match=message):
        Format(name="shape", **options).bind(given)


def test_what_format_leaves():
    given = CheckContext(frozenset({"q", "a"}), {}, Project("."))
    assert Format(fields={"t": "{{ q }}"}).bind(given).fields == {"q", "a", "t"}
    assert Format(messages=[{"user": "{{ q }}"}], keep=["a"]).bind(given).fields == {"a", "messages"}
    for wrong, message in (
        ({}, "nothing to do"),
        ({"messages": [{"robot": "x"}]}, "a turn is one of"),
        ({"messages": [{"user": "a", "system": "b"}]}, "a turn is one of"),
    ):
        with pytest.raises(ValueError, match=message):
            Format(**wrong)
