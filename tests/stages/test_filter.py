"""The filter contract: measure, then decide; every drop has a reason, every number is kept."""

import asyncio
import json
import re
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

import distillgen
from distillgen.errors import ConfigError, UserCodeError
from distillgen.flow import measuring
from distillgen.flow.measuring import Judge, measured, whole_groups
from distillgen.flow.stage import CheckContext, Job, RunContext, WorkerServices
from distillgen.inference.ledger import Ledger
from distillgen.project import Project
from distillgen.record import Record
from distillgen.stages.filter import FilterStage
from tests.endpoint import Endpoint, completion

HEAD = "from distillgen import FieldName, Filter\nimport asyncio\ncalls = []\n"
LENGTH = (
    HEAD
    + """
def length(*, field: FieldName = "text", max_words: int = 3) -> Filter:
    \"\"\"Drop what is long.\"\"\"
    def measure(records):
        return [len(r.fields[field].split()) for r in records]
    return Filter(measure, lambda n: None if n <= max_words else f"{n} words > {max_words}")
"""
)


@pytest.fixture
def apply(project):
    """apply([filters], records, chunk=…, ledger=…) -> records."""

    def apply(filters, records, chunk=256, ledger=None):
        job = Job(RunContext(Project(project.path)), WorkerServices({}, ledger))
        fields = frozenset(name for record in records for name in record.fields) | {"text"}
        stage = FilterStage(name="judge", filters=filters).bind(CheckContext(fields, {}, job.context.project))

        async def main():
            async def chunks():
                for start in range(0, len(records), chunk):
                    yield [*records[start : start + chunk]]

            return [r async for part in stage.run(chunks(), job) for r in part]

        return asyncio.run(main())

    return apply


def texts(*given):
    return [Record.read({"text": text}, f"x:{i}") for i, text in enumerate(given)]


def custom(
    project, measure="[1.0 for r in records]", decide="None", more="", name="custom", a="", is_async=False
):
    """A filter file whose measure and decide are these expressions; what it was asked is appended to
    calls.txt.
    """
    project.write(
        f"filters/{name}.py",
        HEAD
        + f"""
def {name}(*, threshold: float = 0.5, a: str = "x") -> Filter:
    {"async " if is_async else ""}def measure(records):
        with open("calls.txt", "a") as file:
            file.writelines(r.fields["text"] + "\\n" for r in records)
        {a}
        return {measure}
    return Filter(measure, lambda n: {decide}{more})
""",
    )


def calls(project):
    path = project.path / "calls.txt"
    found = path.read_text().splitlines() if path.exists() else []
    path.write_text("")
    return found


def test_the_first_reason_counts_and_numbers_are_kept(project, apply):
    project.write("filters/length.py", LENGTH)
    custom(project, "[float(len(r.fields['text'])) for r in records]", "'over' if n > 10 else None")
    gone = Record.read({"text": "gone"}, "x:9").drop("before", "f", "r")
    kept, long, wide, same = apply(
        ["length", {"custom": {"threshold": 1}}], [*texts("a b", "a b c d", "abcdef ghijkl"), gone]
    )
    assert kept.dropped is None and kept.scores == {"length": 2.0, "custom": 3.0}
    assert (long.dropped.stage, long.dropped.filter, long.dropped.reason) == (
        "judge",
        "length",
        "4 words > 3",
    )
    assert long.scores == {"length": 4.0}
    assert (
        wide.dropped.filter == "custom"
        and wide.dropped.reason == "over"
        and wide.scores == {"length": 2.0, "custom": 13.0}
    )
    assert same is gone and calls(project) == ["a b", "abcdef ghijkl"]


def test_options_and_names(project, apply):
    project.write("filters/length.py", LENGTH)
    (out,) = apply(
        [{"length": {"max_words": 9}}, {"length": {"name": "short", "max_words": 1}}], texts("a b")
    )
    assert (
        out.scores == {"length": 2.0, "short": 2.0}
        and out.dropped.filter == "short"
        and out.dropped.reason == "2 words > 1"
    )


def test_several_named_numbers(project, apply):
    custom(
        project,
        "[{'a': 1, 'b': len(r.fields['text'])} for r in records]",
        "None if n['b'] < n['a'] + 2 else f\"b {n['b']}\"",
    )
    kept, out = apply(["custom"], texts("ab", "abc"))
    assert kept.scores == {"custom.a": 1.0, "custom.b": 2.0} and kept.dropped is None
    assert out.dropped.reason == "b 3" and out.scores["custom.b"] == 3.0


def test_measures_are_asked_in_batches_and_order_is_kept(project, apply):
    custom(project, "[float(i) for i, r in enumerate(records)]")
    assert [r.scores["custom"] for r in apply(["custom"], texts(*"abcde"), chunk=3)] == [0, 1, 2, 0, 1]


def test_slow_async_measures_run_beside_each_other(project, apply):
    """A measure that waits until ten are under way comes to its end."""
    waits = "calls.append(1)\n        while len(calls) < 10: await asyncio.sleep(0.001)"
    custom(project, "[1.0 for r in records]", a=f"{waits}\n        await asyncio.sleep(0.001)", is_async=True)
    out = apply(["custom", {"custom": {"name": "again"}}], texts(*map(str, range(50))), chunk=1)
    assert [r.fields["text"] for r in out] == [str(i) for i in range(50)] and all(
        r.scores == {"custom": 1, "again": 1} for r in out
    )


def test_a_measure_may_give_something_to_await(project, apply):
    project.write(
        "filters/custom.py",
        HEAD
        + """
async def later(records):
    return [2.0 for r in records]

def custom(*, a: int = 1) -> Filter:
    return Filter(lambda records: later(records), lambda n: None)
""",
    )
    assert apply(["custom"], texts("a"))[0].scores == {"custom": 2.0}


@pytest.mark.parametrize("is_async", [False, True])
def test_a_whole_set_measure_sees_all_that_is_left_once_and_in_order(project, apply, is_async):
    project.write("filters/length.py", LENGTH)
    pause = "await asyncio.sleep(0.001 * (5 - len(records[0].fields['text'])))" if is_async else ""
    custom(project, "[1.0 for r in records]", more=", whole_set=True", a=pause, is_async=is_async)
    apply(["length", "custom"], texts("a", "b b b b", "cc", "ddd", "e", "f"), chunk=2)
    assert calls(project) == ["a", "cc", "ddd", "e", "f"]


def test_a_whole_set_measure_ends_when_the_run_is_stopped(project):
    long_s, begun_at = 30, time.monotonic()
    busy = f"import time; any(time.monotonic() > {begun_at + long_s} for _ in iter(int, 1))"
    custom(project, more=", whole_set=True", a=busy)
    context = CheckContext(frozenset({"text"}), {}, Project(project.path))
    (filter,) = FilterStage(name="f", filters=["custom"]).bind(context).filters
    judge = Judge("f", filter.entry, filter.make(), {"rows": 0, "measured": 0, "seconds": 0})

    async def main():
        task = asyncio.create_task(measured(judge, [texts("a")], Ledger(project.path / "ledger.sqlite3")))
        while not (project.path / "calls.txt").exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert time.monotonic() < begun_at + long_s


def test_what_it_depends_on_decides_what_is_measured_again(project, apply):
    custom(
        project,
        "[len(r.fields['text']) for r in records]",
        "None if n > threshold else f'{n} <= {threshold}'",
        ", depends_on={'a': a}",
    )

    def run(filters, records):
        async def opened():
            return Ledger(project.path / "ledger.sqlite3")

        return apply(filters, records, ledger=asyncio.run(opened()))

    first = run(["custom"], texts("a", "bb", "a"))
    assert calls(project) == ["a", "bb"] and [r.scores["custom"] for r in first] == [1, 2, 1]
    again = run([{"custom": {"threshold": 1.5}}], texts("a", "bb", "a"))
    assert calls(project) == [] and [r.dropped and r.dropped.reason for r in again] == [
        "1 <= 1.5",
        None,
        "1 <= 1.5",
    ]
    run(["custom"], texts("a", "ccc"))
    assert calls(project) == ["ccc"]
    run([{"custom": {"a": "y"}}], texts("a", "bb"))
    assert calls(project) == ["a", "bb"]
    run([{"custom": {"name": "renamed"}}], texts("a", "bb"))
    assert calls(project) == []
    custom(project, "[7 for r in records]", "None", ", depends_on={'a': a}", name="other")
    assert run([{"other": {"name": "custom"}}], texts("a"))[0].scores == {"custom": 7}


def test_a_costly_measure_runs_in_pieces_that_are_kept(project, apply):
    """No request waits for it, and what was measured before it failed is not measured again."""
    more, ledger = ", depends_on={}", project.path / "ledger.sqlite3"
    custom(project, "[1.0 for r in records]", more=more, a="import time; time.sleep(0.2)")

    async def main():
        async def tick():
            while True:
                ticks.append(time.monotonic())
                await asyncio.sleep(0.01)

        ticks, beside = [], asyncio.create_task(tick())
        await measured(
            Judge("f", filter.entry, filter.make(), {"rows": 0, "measured": 0, "seconds": 0}),
            [texts("a")],
            Ledger(ledger),
        )
        beside.cancel()
        return ticks

    context = CheckContext(frozenset({"text"}), {}, Project(project.path))
    (filter,) = FilterStage(name="f", filters=["custom"]).bind(context).filters
    assert len(asyncio.run(main())) > 5 and calls(project) == ["a"]
    tight = (
        "if __import__('os').path.exists('tight') and records[-1].fields['text'] == '79': "
        "raise ValueError('out of memory')"
    )
    custom(project, "[1.0 for r in records]", more=more, a=tight)
    (project.path / "tight").touch()
    with pytest.raises(UserCodeError, match="ValueError: out of memory"):
        apply(["custom"], texts(*map(str, range(80))), ledger=Ledger(ledger))
    calls(project)
    (project.path / "tight").unlink()
    assert len(apply(["custom"], texts(*map(str, range(80))), ledger=Ledger(ledger))) == 80
    assert calls(project) == [str(i) for i in range(64, 80)]


MEETING = threading.Barrier(2, timeout=60)


def test_costly_filters_run_concurrently_with_sequential_results(project, apply):
    """The first one listed is named where two would drop a record, the second measures what the first kept,
    scores are in order. The first meets the second: it measures the last record while that measures the
    first record.
    """
    for name, limit, met in (("first", 480, "599"), ("second", 360, "0")):
        custom(
            project,
            "[float(r.fields['text']) for r in records]",
            f"'over' if n >= {limit} else None",
            ", depends_on={}",
            name=name,
            a="from tests.stages.test_filter import MEETING\n"
            f"        if any(r.fields['text'] == '{met}' for r in records): MEETING.wait()",
        )
    records = texts(*map(str, range(600)))
    out = apply(["first", "second"], records, chunk=100, ledger=Ledger(project.path / "ledger.sqlite3"))
    assert [r.dropped and r.dropped.filter for r in out] == [None] * 360 + ["second"] * 120 + ["first"] * 120
    assert [[*r.scores] for r in out] == [["first", "second"]] * 480 + [["first"]] * 120
    assert [r.id for r in out] == [r.id for r in records] and calls(project).count("545") == 1


def test_records_that_arrive_meanwhile_are_measured_together(project, apply):
    custom(
        project,
        "[float(len(records)) for r in records]",
        more=", depends_on={}",
        a="import time; time.sleep(0.02)",
    )
    out = apply(
        ["custom"], texts(*map(str, range(100))), chunk=1, ledger=Ledger(project.path / "ledger.sqlite3")
    )
    assert max(r.scores["custom"] for r in out) == 32 and [r.fields["text"] for r in out] == [
        str(i) for i in range(100)
    ]


def test_what_each_filter_cost_is_told(project, monkeypatch):
    project.write("filters/length.py", LENGTH)
    clock = [0.0]
    monkeypatch.setattr(
        measuring, "time", SimpleNamespace(perf_counter=lambda: clock[0], monotonic=time.monotonic)
    )
    monkeypatch.setattr(measuring, "takes", clock, raising=False)
    takes = "from distillgen.flow import measuring; measuring.takes[0] += 5"
    custom(project, "[1.0 for r in records]", more=", depends_on={}", a=takes)
    project.rows("a.jsonl", [{"text": text} for text in ("a", "b", "a b c d", "c")])
    stages = [{"source": {"path": "a.jsonl"}}, {"filter": ["length", {"custom": {"threshold": 1}}]}]

    def costs():
        distillgen.run({"version": 1, "stages": stages}, out="out")
        return json.loads((project.path / "out/usage.json").read_text())["stages"][1]["costs"]

    first = costs()
    assert {name: (cost["rows"], cost["measured"]) for name, cost in first.items()} == {
        "length": (4, 4),
        "custom": (3, 3),
    }
    assert (first["length"]["seconds"], first["custom"]["seconds"]) == (0, 5)
    assert costs() == first  # nothing has changed: the stage is not carried out again
    stages[1]["filter"][1]["custom"]["threshold"] = 2
    assert costs()["custom"] == {"rows": 3, "measured": 0, "seconds": 0}
    assert "What the filters cost" in (project.path / "out/report.html").read_text()


def test_records_that_belong_together_are_measured_together(project, apply):
    custom(project, "[len(records)] * len(records)", more=", together=lambda r: r.fields['text'][0]")
    gone = Record.read({"text": "z"}, "x:9").drop("before", "f", "r")
    given = texts("a1", "a2", "b1", "c1", "c2", "c3")
    for chunk in (1, 2, 4, 9):
        out = apply(["custom"], [*given[:2], gone, *given[2:]], chunk=chunk)
        assert [r.scores.get("custom") for r in out] == [2, 2, None, 1, 3, 3, 3] and out[2] is gone


def test_only_a_changed_group_is_measured_again(project, apply):
    custom(
        project,
        "[len(records) + r.scores.get('before', 0) for r in records]",
        more=", depends_on={}, together=lambda r: r.fields['text'][0]",
    )
    before = [record.scored({"before": 1}) for record in texts("c")]

    def run(*records):
        async def opened():
            return Ledger(project.path / "ledger.sqlite3")

        return [r.scores["custom"] for r in apply(["custom"], records, ledger=asyncio.run(opened()), chunk=2)]

    assert run(*texts("a1", "a1", "b", "a1")) == [2, 2, 1, 1] and calls(project) == ["a1", "a1", "b", "a1"]
    assert run(*texts("a1", "a1", "b", "a1")) == [2, 2, 1, 1] and calls(project) == []
    assert run(*texts("a1", "a1", "a2", "b")) == [3, 3, 3, 1] and calls(project) == ["a1", "a1", "a2"]
    assert run(*texts("c")) == [1] and run(*before) == [2] and calls(project) == ["c", "c"]


def test_groups_stay_whole_across_chunks_and_drops(project, apply):
    project.write(
        "filters/custom.py",
        HEAD
        + """
from distillgen.flow.filter import siblings
def custom(*, by: list[FieldName] | None = None) -> Filter:
    return Filter(lambda records: [len(records)] * len(records), lambda n: None, together=siblings(by))
""",
    )
    records = [
        replace(r, parents=(r.fields["text"][0],)) for r in texts("a1", "a2", "a3", "b1", "c1", "c2", "a4")
    ]
    records[1] = records[1].drop("before", "f", "r")
    for chunk in (1, 2, 3, 7):
        out = apply(["custom"], records, chunk=chunk)
        assert [r.scores.get("custom") for r in out] == [2, None, 2, 1, 2, 2, 1] and [r.id for r in out] == [
            r.id for r in records
        ]
        assert [
            r.scores.get("custom") for r in apply([{"custom": {"by": ["text"]}}], records, chunk=chunk)
        ] == [1, None, 1, 1, 1, 1, 1]
    given = CheckContext(frozenset({"text"}), {}, Project(project.path))
    with pytest.raises(
        ConfigError,
        match=re.escape(
            "filter 'custom' (by) needs the field 'txt', which no earlier stage gives; did you mean 'text'?"
        ),
    ):
        FilterStage(name="filter", filters=[{"custom": {"by": ["txt"]}}]).bind(given)


def test_a_filter_that_waits_is_one_of_the_whole_set(project, apply):
    custom(project, more=", waits=lambda records, folder: False")
    with pytest.raises(ConfigError, match="filter 'custom': 'waits' is for a filter of the whole set"):
        apply(["custom"], texts("a"))


@pytest.mark.parametrize("more", ["asks=lambda r: []", "whole_set=True"])
def test_what_is_measured_together_is_measured_so_only(project, apply, more):
    custom(project, more=f", together=lambda r: 1, {more}")
    with pytest.raises(ConfigError, match="filter 'custom': 'together' excludes 'asks' and 'whole_set'"):
        apply(["custom"], texts("a"))


def test_without_depends_on_nothing_is_remembered(project, apply):
    custom(project)
    for _ in range(2):
        apply(["custom"], texts("a"), ledger=Ledger(project.path / "ledger.sqlite3"))
        assert calls(project) == ["a"]


@pytest.mark.parametrize(
    "measure, reason",
    [
        ("[1.0]", "filter 'custom' measured 1 of 2 records; return a number for each"),
        (
            "[float('nan') for r in records]",
            "filter 'custom' measured nan; a measurement must be a finite number",
        ),
        (
            "[{'a': 1, 'b': float('inf')} for r in records]",
            "filter 'custom' measured inf; a measurement must be a finite number",
        ),
        (
            "['high' for r in records]",
            "filter 'custom' measured 'high'; a measurement must be a finite number",
        ),
        ("[None for r in records]", "filter 'custom' measured None; a measurement must be a finite number"),
        ("None", "filter 'custom': measure gives a list of numbers, not None"),
    ],
)
def test_a_wrong_measure_is_told(project, apply, measure, reason):
    custom(project, measure)
    with pytest.raises(ConfigError, match=re.escape(reason)):
        apply(["custom"], texts("a", "b"))


@pytest.mark.parametrize("given", ["False", "''", "3"])
def test_a_drop_without_a_reason_cannot_be_expressed(project, apply, given):
    custom(project, decide=given)
    with pytest.raises(
        ConfigError,
        match=re.escape(
            f"filter 'custom' decided {eval(given)!r}; decide gives None to keep a record, or the reason"
        ),
    ):
        apply(["custom"], texts("a"))


@pytest.mark.parametrize(
    "filters, message",
    [
        (["lenth"], "there is no filter 'lenth'; did you mean 'length'?"),
        (
            [{"length": {"max_word": 1}}],
            "filter 'length' has no option 'max_word'; did you mean 'max_words'?",
        ),
        ([{"length": {"max_words": "many"}}], "filter 'length': 'max_words': must be a valid integer"),
        (
            [{"length": {"field": "txt"}}],
            "filter 'length' (field) needs the field 'txt', which no earlier stage gives; did "
            "you mean 'text'?",
        ),
        (["positional"], "'field' must be keyword-only: def positional(*, field: …)"),
        (["nothing"], "'nothing' gives NoneType, not a Filter"),
        (["picky"], "filter 'picky': max is below min"),
        (["empty"], "a filter file defines one function named as the file: def empty(*, ...) -> Filter"),
        (["broken"], "cannot be loaded: ZeroDivisionError"),
        (["needy"], "filter 'needy' needs 'least'"),
    ],
)
def test_filters_are_checked_before_anything_is_paid_for(project, filters, message):
    project.write("filters/length.py", LENGTH)
    project.write("filters/positional.py", HEAD + "def positional(field: str) -> Filter: ...\n")
    project.write("filters/nothing.py", HEAD + "def nothing(*, a: int = 1) -> Filter: ...\n")
    project.write(
        "filters/picky.py",
        HEAD + "def picky(*, a: int = 1) -> Filter:\n    raise ValueError('max is below min')\n",
    )
    project.write("filters/empty.py", HEAD)
    project.write("filters/broken.py", "1 / 0\n")
    project.write("filters/needy.py", HEAD + "def needy(*, least: int) -> Filter: ...\n")
    given = CheckContext(frozenset({"text"}), {}, Project(project.path))
    with pytest.raises(ConfigError, match=re.escape(message)):
        FilterStage(name="filter", filters=filters).bind(given)


def test_what_check_and_files_give(project):
    project.write("filters/length.py", LENGTH)
    stage = FilterStage(name="filter", filters=["length"])
    bound = stage.bind(CheckContext(frozenset({"text", "q"}), {}, Project(project.path)))
    assert bound.fields == {"text", "q"}
    assert bound.files == {"filters/length": project.path / "filters/length.py"}


@pytest.mark.parametrize(
    "filters, message",
    [
        (["a", "a"], "two filters have the name 'a'; rename one: a: {name: …}"),
        ([{"a": {"name": "x"}}, {"b": {"name": "x"}}], "two filters have the name 'x'"),
        ([{"a": 3}], "the options of filter 'a' are a mapping, not 3"),
        ([{"a": {}, "b": {}}], "each filter is a name, or a name with its options, not"),
        ([3], "each filter is a name, or a name with its options, not 3"),
        ("a", "filters are a list: [brevity: {max_words: 12}, unique]"),
        ([], "at least 1 item"),
    ],
)
def test_a_wrong_list_of_filters(filters, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        FilterStage(name="filter", filters=filters)


def test_labels_are_unique_in_a_pipeline_and_dropped_rows_say_why(project):
    project.write("filters/length.py", LENGTH)
    project.rows("a.jsonl", [{"text": "a"}, {"text": "a b c d"}])
    stages = [
        {"source": {"path": "a.jsonl"}},
        {"filter": ["length"]},
        {"filter": {"name": "second", "filters": ["length"]}},
    ]
    with pytest.raises(ConfigError, match="stages 'filter' and 'second' both have a filter 'length'"):
        distillgen.load({"version": 1, "stages": stages})
    distillgen.run({"version": 1, "stages": stages[:2]}, out="out")
    assert [row["meta"]["scores"] for row in project.read("out/corpus.jsonl")] == [{"length": 1.0}]
    (dropped,) = project.read("out/dropped.jsonl")
    assert dropped["meta"]["dropped"] == {"stage": "filter", "filter": "length", "reason": "4 words > 3"}
    assert dropped["meta"]["scores"] == {"length": 4.0} and dropped["text"] == "a b c d"


def says(score):
    return lambda request, sample: json.dumps({"reason": "r", "score": score})


def judged_by(model, least, name="judge"):
    return {"judge": {"model": model, "rubric": model, "fields": ["a"], "min_score": least, "name": name}}


@pytest.fixture
def judges(project):
    """Run stages over six rows, or over a source; `kind` always grades 8, `harsh` 2. Gives the run and who
    was asked, how often.
    """
    project.rows("s.jsonl", [{"a": f"answer {i}"} for i in range(6)])
    asked = []

    def grade(score):
        def script(request, sample):
            asked.append(score)
            return says(score)(request, sample)

        return script

    def run(*stages, source="s.jsonl", out="out", lineage=False):
        asked.clear()
        models = {name: {"provider": "scripted", "model": "echo"} for name in ("kind", "harsh")}
        stages = [{"source": {"path": source, "lineage": lineage}}, *stages]
        pipeline = {"version": 1, "models": models, "stages": stages}
        return distillgen.run(pipeline, out=out, teachers={"kind": grade(8), "harsh": grade(2)}), [*asked]

    return run


@pytest.mark.parametrize("name", ["judge", "another"])
def test_a_judge_is_asked_about_rows_scored_by_another_run(judges, project, name):
    judges({"filter": [judged_by("kind", 5)]}, out="a")
    run, asked = judges(
        {"filter": [judged_by("harsh", 9, name)]}, source="a/corpus.jsonl", out="b", lineage=True
    )
    assert len(asked) == 6 and run.state["dropped"] == {name: 6}
    scores = [record.scores for record in run.dropped]
    assert scores == [{"judge": 2.0} if name == "judge" else {"judge": 8.0, "another": 2.0}] * 6
    kept, asked = judges(source="a/corpus.jsonl", out="c", lineage=True)
    assert project.read("c/corpus.jsonl") == project.read("a/corpus.jsonl") and not asked


def test_scores_of_an_earlier_run_do_not_count(judges, project):
    project.write(
        "filters/noted.py",
        """from distillgen import Filter
def noted(*, n: int):
    return Filter(lambda rs: [n] * len(rs), lambda n: None, over_run=lambda ns: {"sum": sum(ns)})
""",
    )
    project.write(
        "filters/half.py",
        """from distillgen import Filter
def half():
    return Filter(lambda rs: [int(r.fields["a"][-1]) for r in rs], lambda n: "high" if n > 2 else None)
""",
    )
    project.write("prompts/odd.md", "---\noutput: {json: {grade: integer}}\n---\n{{ rubric }}")
    judges({"filter": [{"noted": {"n": 5}}, judged_by("kind", 5)]}, out="a")
    strict = {"judge": {**judged_by("harsh", 9)["judge"], "prompt": "odd"}}
    run, _ = judges(
        {"filter": ["half", {"noted": {"n": 7}}, strict]}, source="a/corpus.jsonl", out="b", lineage=True
    )
    assert run.state["stages"][-1]["measured"]["noted: sum"] == 3 * 7
    assert [r.dropped.filter for r in run.dropped] == ["failed"] * 3 + ["half"] * 3
    assert [[*r.scores] for r in run.dropped] == [["half", "noted"]] * 3 + [["half"]] * 3


def test_equal_labels_are_refused_across_nesting(judges):
    inner = {"filter": {"name": "inner", "filters": [judged_by("harsh", 9)]}}
    outer = {"filter": [judged_by("kind", 5)]}
    deep = {"rounds": {"name": "outside", "n": 1, "stages": [{"rounds": {"n": 1, "stages": [inner]}}]}}
    for stages, places in (
        ([outer, {"rounds": {"n": 1, "stages": [inner]}}], "'filter' and 'inner'"),
        ([{"rounds": {"n": 1, "stages": [inner]}}, outer], "'inner' and 'filter'"),
        ([outer, deep], "'filter' and 'inner'"),
    ):
        with pytest.raises(
            ConfigError, match=f"stages {places} both have a filter 'judge'; give one of them another"
        ):
            judges(*stages)
    named = {"filter": {"name": "inner", "filters": [judged_by("harsh", 9, "strict")]}}
    run, asked = judges(outer, {"rounds": {"n": 1, "stages": [named]}})
    assert asked == [8] * 6 + [2] * 6 and run.state["dropped"] == {"strict": 6}


JUDGE = """version: 1
models:
  judge: {{provider: openai, model: j, base_url: "{url}", max_tokens: 9, price: {{input: 1, output: 1}}}}
stages:
  - source: {{path: data/seeds.jsonl}}
  - filter: [judge: {{model: judge, rubric: 'Is it even?', fields: [n]}}]
"""


def test_a_filter_asks_a_model_and_keeps_what_it_says(project):
    def grade(body, times):
        n = int(body["messages"][-1]["content"].split("n: ")[1].split()[0])
        text = "I cannot." if n == 5 else json.dumps({"reason": "so", "score": 3 if n % 2 else 9})
        return completion(body, choices=[{"finish_reason": "stop", "message": {"content": text}}])

    project.rows("data/seeds.jsonl", [{"n": n} for n in range(6)])
    with Endpoint(grade) as endpoint:
        path = project.write("pipelines/j.yaml", JUDGE.format(url=endpoint.url))
        plan = json.loads(project.cli("plan", "j", "--json").stdout)
        assert (
            plan["totals"]["requests"] == 6
            and 0 < plan["totals"]["max_cost_usd"] < 0.01
            and not endpoint.bodies
        )
        assert "1 answer could not be used" in project.cli("run", "j", check=3).stderr
        assert endpoint.bodies[0]["model"] == "j" and endpoint.bodies[0]["response_format"]["json_schema"][
            "schema"
        ]["required"] == ["reason", "score"]
        assert [(r["n"], r["meta"]["scores"]) for r in project.read("runs/j/corpus.jsonl")] == [
            (n, {"judge": 9}) for n in (0, 2, 4)
        ]
        reasons = {r["n"]: r["meta"]["dropped"]["reason"] for r in project.read("runs/j/dropped.jsonl")}
        assert reasons[1] == "graded 3 of 10 < 7" and reasons[5].startswith(
            "not judged by judge: there is no JSON"
        )
        path.write_text(path.read_text().replace("fields: [n]", "fields: [n], min_score: 2"))
        project.cli("run", "j", check=3)
        assert len(endpoint.bodies) == 6 and len(project.read("runs/j/corpus.jsonl")) == 5
        stage = json.loads((project.path / "runs/j/usage.json").read_text())["stages"][1]
        assert stage["costs"]["judge"] == {"rows": 6, "measured": 0, "seconds": 0} and stage["dropped"] == {
            "failed": 1
        }
        (used,) = json.loads((project.path / "runs/j/usage.json").read_text())["usage"]
        assert (used["stage"], used["model"], used["requests"]) == ("filter/judge", "judge", 6) and used[
            "cost_usd"
        ] > 0
        path.write_text(path.read_text().replace("max_tokens: 9", "max_tokens: 8"))
        project.cli("run", "j", check=3)
        path.write_text(path.read_text().replace("Is it even?", "Is it so?"))
        project.cli("run", "j", check=3)
        assert len(endpoint.bodies) == 18  # another model or rubric gives other numbers
        path.write_text(path.read_text().replace("model: judge", "model: jugde"))
        told = project.cli("check", "j", check=2).stderr
        assert "pipelines/j.yaml:6" in told and "no model 'jugde'; did you mean 'judge'?" in told


def test_a_judges_numbers_are_kept_as_they_arrive(project):
    """Many rows: what is kept before the end is what a kill does not lose."""
    project.rows("s.jsonl", [{"a": f"answer {i}"} for i in range(600)])
    pipeline = {
        "version": 1,
        "models": {"kind": {"provider": "scripted", "model": "echo"}},
        "stages": [{"source": {"path": "s.jsonl"}}, {"filter": [judged_by("kind", 5)]}],
    }
    counts = []

    class Counted(Ledger):
        async def add_scores(self, scores):
            counts.append(len(scores))
            await super().add_scores(scores)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distillgen.runs.execute.Ledger", Counted)
        run = distillgen.run(pipeline, out="out", teachers={"kind": says(8)})
    assert sum(counts) == 600 and len(counts) > 1 and run.state["kept"] == 600
    distillgen.run({**pipeline, "seed": 1}, out="out", teachers={"kind": says(8)})
    assert (
        json.loads((project.path / "out/usage.json").read_text())["stages"][1]["costs"]["judge"]["measured"]
        == 0
    )


def test_kept_numbers_are_not_measured_again(project, apply, monkeypatch):
    monkeypatch.setattr("distillgen.flow.measuring.SAVE_EVERY_S", -1.0)
    custom(project, "[float(r.fields['text']) for r in records]", more=", depends_on={}")
    for measured_anew in (80, 0):
        out = apply(["custom"], texts(*map(str, range(80))), ledger=Ledger(project.path / "ledger.sqlite3"))
        assert [r.scores["custom"] for r in out] == [*range(80)] and len(calls(project)) == measured_anew


def test_whole_groups_leave_before_the_last_one_has_come():
    async def main():
        async def chunks():
            for i in range(9):
                arrived.append(i)
                yield texts(f"{i}a", f"{i}b")

        async for some in whole_groups(chunks(), lambda record: record.fields["text"][0]):
            left.append((len(arrived), [record.fields["text"] for record in some]))

    arrived, left = [], []
    asyncio.run(main())
    assert left == [(min(i + 2, 9), [f"{i}a", f"{i}b"]) for i in range(9)]
