"""gather makes one record of several, and unfold takes a list apart: no record disappears, whatever the
order in which records arrive, and both ask nobody.
"""

import asyncio
import json
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import distillgen
from distillgen.cli import show
from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext, Job, RunContext, WorkerServices
from distillgen.inference.ledger import Ledger
from distillgen.project import Project
from distillgen.record import Record
from distillgen.runs.directory import furthest, read_records
from distillgen.runs.report import _read
from distillgen.stages.gather import Gather
from distillgen.stages.unfold import Unfold

FIELDS = frozenset({"question", "answer", "author", "grade", "right", "split"})


def records_of(rows, source="rows.jsonl#{question}"):
    return [
        Record(f"r{i}", dict(row), (f"p{i}",), source.format(**row), made=({"stage": "s", "key": f"{i}"},))
        for i, row in enumerate(rows)
    ]


@pytest.fixture
def carried(tmp_path):
    """Carry out stages on records, in chunks of `size`; the records that leave."""

    def carried(stages, records, *, size=256, earlier=()):
        async def source():
            for start in range(0, len(records), size):
                yield records[start : start + size]

        async def main():
            ledger = Ledger(tmp_path / "ledger.sqlite3")
            context = CheckContext(FIELDS, {}, Project(tmp_path))
            chunks = source()
            for stage in stages:
                bound = stage.bind(context)
                context = context.after(bound)
                job = Job(
                    RunContext(Project(tmp_path), tmp_path, earlier=earlier), WorkerServices({}, ledger)
                )
                chunks = bound.run(chunks, job)
            leaving = [record async for chunk in chunks for record in chunk]
            await ledger.close()
            return leaving

        return asyncio.run(main())

    return carried


def reasons(records):
    return [record.dropped and (record.dropped.filter, record.dropped.reason) for record in records]


ROWS = [
    {"question": "a", "answer": "a0", "grade": 2},
    {"question": "a", "answer": "a1", "grade": 9},
    {"question": "a", "answer": "a2", "grade": 2},
    {"question": "b", "answer": "b0", "grade": 5},
]


def test_the_best_record_goes_on_with_the_list_and_the_others_say_where_they_went(carried):
    left = carried([Gather(into="answers", keep=["answer", "grade"], best="grade")], records_of(ROWS))
    first, best, third, alone = left
    assert best.fields == ROWS[1] | {
        "answers": [{"answer": "a1", "grade": 9}, {"answer": "a0", "grade": 2}, {"answer": "a2", "grade": 2}]
    }, "the largest first, equal ones in order"
    assert reasons(left) == [("gathered", f"gathered into {best.id}"), None] + [
        ("gathered", f"gathered into {best.id}"),
        None,
    ]
    assert best.parents == ("r1", "r0", "r2") and best.id not in ("r0", "r1", "r2")
    assert [answer["key"] for answer in best.made] == ["2", "0", "1"], "the best one's last"
    assert alone.fields["answers"] == [{"answer": "b0", "grade": 5}] and alone.parents == ("r3",)
    assert (first.fields, third.fields) == (ROWS[0], ROWS[2]), "what leaves keeps its fields"


def test_the_id_depends_on_the_parts_alone(carried):
    stage = Gather(into="answers", keep=["answer"], best="grade")
    ids = {
        carried([stage], records_of(rows))[1].id for rows in (ROWS, [{**row, "author": "x"} for row in ROWS])
    }
    assert len(ids) == 1
    for other in (
        Gather(keep=["answer"], best="grade", k=2),
        Gather(name="n", keep=["answer"], best="grade"),
    ):
        assert carried([other], records_of(ROWS))[1].id not in ids, "other parts, or another stage"


def test_without_best_the_order_stays(carried):
    best, *others = carried([Gather(keep=["answer"])], records_of(ROWS))
    assert [part["answer"] for part in best.fields["gathered"]] == ["a0", "a1", "a2"]
    assert best.dropped is None and all(other.dropped for other in others[:2])


@pytest.mark.parametrize("adjacent", [True, False])
def test_k_and_at_least_and_a_record_without_a_number(carried, adjacent):
    rows = [*ROWS, {"question": "c", "answer": "c0"}, {"question": "c", "answer": "c1", "grade": "nan"}]
    stage = Gather(keep=["answer"], by=["question"], adjacent=adjacent, best="grade", k=2, at_least=2)
    a0, a1, a2, b0, c0, c1 = carried([stage], records_of(rows))
    assert a0.dropped.reason == f"gathered into {a1.id}"
    assert (a2.dropped.filter, a2.dropped.reason) == ("k", "place 3 of 3 in its group; 2 are gathered")
    assert a1.parents == ("r1", "r0") and [answer["key"] for answer in a1.made] == ["0", "1"]
    assert reasons([b0, c0, c1]) == [
        ("at_least", "1 record in its group, fewer than 2"),
        ("best", "has no number 'grade'"),
        ("best", "has no number 'grade'"),
    ]


def test_a_score_goes_before_a_field_and_texts_and_truths_are_numbers(carried):
    rows = [{"question": "a", "answer": str(i), "grade": g} for i, g in enumerate(["1.5", True, 1.25])]
    parts = [r for r in carried([Gather(keep=["answer"], best="grade")], records_of(rows)) if not r.dropped]
    assert [part["answer"] for part in parts[0].fields["gathered"]] == ["0", "2", "1"]
    scored = [replace(r, scores={"grade": -float(r.fields["answer"])}) for r in records_of(rows)]
    best = next(r for r in carried([Gather(keep=["answer"], best="grade")], scored) if not r.dropped)
    assert [part["answer"] for part in best.fields["gathered"]] == ["0", "1", "2"]


def test_a_missing_field_is_null_so_that_all_parts_have_the_same_fields(carried):
    best, _ = carried([Gather(keep=["answer", "author"])], records_of([{"question": "a", "answer": "x"}] * 2))
    assert best.fields["gathered"] == [{"answer": "x", "author": None}] * 2


def test_equal_fields_anywhere_are_one_group_and_adjacent_ones_alone_are_not(carried):
    rows = [{"question": "ab"[i % 2], "answer": str(i)} for i in range(6)]
    anywhere = carried([Gather(keep=["answer"], by=["question"])], records_of(rows, "s#{answer}"))
    assert [[part["answer"] for part in r.fields["gathered"]] for r in anywhere if not r.dropped] == [
        ["0", "2", "4"],
        ["1", "3", "5"],
    ]
    adjacent = carried([Gather(keep=["answer"], by=["question"], adjacent=True)], records_of(rows, "s"))
    assert not any(r.dropped for r in adjacent)
    by_row = carried([Gather(keep=["answer"])], records_of(rows, "s#{answer}"))
    assert not any(r.dropped for r in by_row), "records of different rows are no group"


def test_both_ways_agree_whatever_the_chunks(carried):
    for seed in range(30):
        chance = random.Random(seed)
        rows = sorted(
            (
                {"question": chance.choice("abcdef"), "answer": i, "grade": chance.randrange(3)}
                for i in range(40)
            ),
            key=lambda row: row["question"],
        )
        records = [r.drop("before", "bad", "no") if chance.random() < 0.2 else r for r in records_of(rows)]
        options = {"keep": ["answer", "grade"], "best": "grade", "k": chance.choice([None, 3])}
        options["at_least"] = chance.choice([1, 2])
        ways = [
            carried([Gather(**options, **by)], records, size=size)
            for by in ({}, {"by": ["question"]}, {"by": ["question"], "adjacent": True})
            for size in (1, 7, 256)
        ]
        assert all(way == ways[0] for way in ways)
        assert len(ways[0]) == len(records), "every record leaves once"
        parts = {parent for r in ways[0] if not r.dropped for parent in r.parents}
        into = {r.id for r in ways[0] if not r.dropped}
        assert all(
            r.dropped.reason.removeprefix("gathered into ") in into
            for r in ways[0]
            if r.dropped and r.dropped.filter == "gathered"
        )
        assert parts <= {r.id for r in records if not r.dropped}
        assert [r for r in ways[0] if r.dropped and r.dropped.stage == "before"] == [
            r for r in records if r.dropped
        ], "dropped records pass unchanged"


@pytest.mark.parametrize("by", [None, ["question"]])
def test_held_out_records_have_groups_of_their_own(carried, by):
    rows = [{"question": "a", "answer": str(i), "split": s} for i, s in enumerate(["train", "test"] * 2)]
    left = carried(
        [Gather(keep=["answer"], by=by)], sorted(records_of(rows), key=lambda r: r.fields["split"])
    )
    lists = {r.fields["split"]: [p["answer"] for p in r.fields["gathered"]] for r in left if not r.dropped}
    assert lists == {"train": ["0", "2"], "test": ["1", "3"]}


def test_in_a_loop_a_round_gathers_its_own_records(carried, tmp_path):
    rows = [{"question": "a", "answer": str(i), "round": i % 2} for i in range(4)]
    records, stage = records_of(rows), Gather(keep=["answer"], by=["question"])
    lists = [r.fields["gathered"] for r in carried([stage], records, earlier=(tmp_path,)) if not r.dropped]
    assert [[part["answer"] for part in parts] for parts in lists] == [["0", "2"], ["1", "3"]]
    assert len([r for r in carried([stage], records) if not r.dropped]) == 1, "outside, the round is a field"


def test_a_group_leaves_before_the_source_ends(tmp_path):
    read = []

    async def source():
        for i in range(1_000):
            read.append(i)
            yield records_of([{"question": str(i), "answer": j} for j in range(2)])

    async def first(stage):
        read.clear()
        ledger = Ledger(tmp_path / "ledger.sqlite3")
        bound = stage.bind(CheckContext(FIELDS, {}, Project(tmp_path)))
        job = Job(RunContext(Project(tmp_path), tmp_path), WorkerServices({}, ledger))
        chunks = bound.run(source(), job)
        await anext(chunks)
        await chunks.aclose()
        await ledger.close()
        assert job.services.whole == ({0} if bound.scope == "set" else set()), "the budget waits for these"
        return len(read)

    assert asyncio.run(first(Gather(keep=["answer"]))) == 2
    assert asyncio.run(first(Gather(keep=["answer"], by=["question"], adjacent=True))) == 2
    assert asyncio.run(first(Gather(keep=["answer"], by=["question"]))) == 1_000, "it waits for all"


def test_unfold_after_gather_is_the_identity_on_fields(carried):
    for seed in range(200):
        chance = random.Random(seed)
        keep = chance.sample(["answer", "author", "grade"], chance.randint(1, 3))
        shared = [name for name in ("answer", "author", "grade") if name not in keep]

        def values(names, chance=chance):
            return {
                name: chance.choice([None, "", "ü", 3, 0.5, True, ["x"], {"y": [1]}, []]) for name in names
            }

        groups = {q: {"question": q, **values(shared)} for q in "abcd"}
        rows = [groups[q] | values(keep) for q in groups for _ in range(chance.randint(1, 5))]
        by = chance.choice([None, ["question"]])
        if by:
            chance.shuffle(rows)
        records = records_of(rows)
        stages = [Gather(into="parts", keep=keep, by=by), Unfold(field="parts", into=keep)]
        left = carried(stages, records)
        apart = [dict(r.fields) for r in left if not r.dropped]
        gathered = [r for r in left if r.dropped]
        assert all(r.dropped.filter == "gathered" for r in gathered)
        in_groups = sorted(rows, key=lambda row: [r["question"] for r in rows].index(row["question"]))
        assert apart == in_groups, "in the order of the groups"
        assert len(gathered) == len(rows) - len({row["question"] for row in rows})


def test_unfold_makes_a_record_of_each_element(carried):
    record = replace(records_of([{"question": ["x", {"a": 1}, None], "answer": "z"}])[0], scores={"s": 1.0})
    left = carried([Unfold(field="question", into="answer")], [record])
    assert [r.fields for r in left] == [{"answer": "x"}, {"answer": {"a": 1}}, {"answer": None}]
    assert len({r.id for r in left}) == 3 and all(
        r.parents == ("r0",) and r.scores == {"s": 1.0} for r in left
    )
    assert all(r.made == record.made and r.source == record.source for r in left)
    over = carried([Unfold(field="question", into="answer", max_items=2)], [record])
    assert reasons(over) == [None, None, ("max_items", "one of 3 elements, 2 are taken")]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("text", "'question' is no list"),
        ({"a": 1}, "'question' is no list"),
        ([], "'question' is empty"),
        (None, "'question' is empty"),
    ],
)
def test_what_is_no_list_says_so(carried, value, reason):
    (left,) = carried([Unfold(field="question", into="answer")], records_of([{"question": value}], "s"))
    assert left.dropped.reason == reason and left.fields == {"question": value}


def test_an_element_without_the_fields_leaves_alone(carried):
    rows = [{"question": [{"answer": 1, "author": 2}, {"answer": 1}, "text"]}]
    whole, part, text = carried([Unfold(field="question", into=["answer", "author"])], records_of(rows, "s"))
    assert whole.fields == {"answer": 1, "author": 2}
    assert part.dropped.reason == "an element of 'question' has no 'author'"
    assert text.dropped.reason == "an element of 'question' is no mapping with answer, author"
    stage = Unfold(field="question", into=["answer", "author"], max_items=1)
    assert [r and r[0] for r in reasons(carried([stage], records_of(rows, "s")))] == [
        None,
        "element",
        "element",
    ]


def test_unfold_takes_a_mapping_apart_and_may_leave_the_list(carried):
    asked = {"easy": {"prompt": "a?", "answer": 1}, "hard": {"prompt": "b?", "answer": ["x", "y"]}, "odd": {}}
    stage = Unfold(field="question", key="author", into=["prompt", "answer"])
    left = carried([stage], records_of([{"question": asked, "right": "z"}], "s"))
    assert [r.fields for r in left[:2]] == [
        {"right": "z", "author": "easy", "prompt": "a?", "answer": 1},
        {"right": "z", "author": "hard", "prompt": "b?", "answer": ["x", "y"]},
    ]
    assert left[2].dropped.reason == "an element of 'question' has no 'prompt'"
    assert left[2].fields["author"] == "odd" and len({r.id for r in left}) == 3
    (listed,) = carried([stage], records_of([{"question": [asked]}], "s"))
    assert listed.dropped.reason == "'question' is no mapping"
    kept = carried(
        [Unfold(field="question", into="answer", keep=True)], records_of([{"question": [1, 2]}], "s")
    )
    assert [r.fields for r in kept] == [{"question": [1, 2], "answer": 1}, {"question": [1, 2], "answer": 2}]


ASK = {"generate": {"model": "t", "template": "{{ q }}", "output": "answer", "n": 3, "max_tokens": 10}}
LENGTH = {"filter": [{"length": {"field": "answer"}}]}


def pipeline(*stages, rows=5, **models):
    t = {"provider": "scripted", "model": "echo", **models}
    return {
        "version": 1,
        "models": {"t": t},
        "stages": [{"source": {"path": "rows.jsonl"}}, ASK, LENGTH, *stages],
    }


def run(project, *stages, rows=5, out="run"):
    project.rows("rows.jsonl", [{"q": f"q{i}"} for i in range(rows)])
    asked = []

    def teacher(request, sample):
        asked.append(request)
        return "word " * (1 + sample)

    return distillgen.run(pipeline(*stages), out=out, teachers={"t": teacher}), asked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": ["anser"]}, "'keep' names 'anser', which is no field and no score; did you mean 'answer'?"),
        ({"keep": ["answer"], "best": "lenght"}, "'best' names 'lenght'.*did you mean 'length'"),
        ({"keep": ["answer"], "by": ["w"]}, "'by' needs the field 'w'"),
        ({"keep": ["answer"], "adjacent": True}, "'adjacent' has no use without 'by'"),
        ({"keep": ["answer"], "into": "meta"}, "'meta' is distillgen's own"),
        ({"keep": ["answer"], "by": ["q"], "into": "q"}, "'into' is 'q', which 'by' reads"),
        ({"keep": ["answer"], "k": 1, "at_least": 2}, "no group could have both"),
    ],
)
def test_mistakes_are_seen_before_anything_is_asked(project, options, message):
    project.rows("rows.jsonl", [{"q": "x"}])
    with pytest.raises(ConfigError, match=message):
        distillgen.load(pipeline({"gather": options}), need_env=False)


def test_a_plan_counts_requests_about_the_list_and_bounds_them(project):
    part = "{{ a.answer }} has {{ a.length }}, " + "and so on " * 100
    about = "{{ q }}{% for a in answers %}" + part + "{% endfor %}{{ answers[0].answer }}"
    ask = {"generate": {"name": "about", "model": "t", "template": about, "output": "o", "max_tokens": 4}}
    project.rows("rows.jsonl", [{"q": f"q{i}"} for i in range(8)])
    gather = {"gather": {"into": "answers", "keep": ["answer", "length"], "at_least": 2}}
    for k, bounded in ((3, True), (None, False)):
        gather["gather"]["k"] = k
        planned = distillgen.load(
            pipeline(gather, ask, price={"input": 1.0, "output": 1.0}), need_env=False
        ).plan()
        estimates = {stage.name: estimate for stage, estimate in planned}
        assert estimates["gather"].rows == 12, "24 answers, two at least in a group"
        assert estimates["about"].requests == 12
        assert (estimates["about"].max_cost_usd is not None) == bounded
        longest = 3 * [{"answer": "x" * 40, "length": 12.0}]  # ten tokens of four bytes
        assert not bounded or estimates["gather"].made_bytes >= len(
            json.dumps(longest, separators=(",", ":"))
        )
    done, asked = run(project, gather, ask, rows=8)
    texts = [r.messages[-1]["content"] for r in asked if "has" in r.messages[-1]["content"]]
    assert len(texts) == 8 <= 12 and done.state["kept"] == 8
    gather["gather"]["k"] = 3
    planned = dict(
        (stage.name, estimate)
        for stage, estimate in distillgen.load(
            pipeline(gather, ask, price={"input": 1.0, "output": 0.0}), need_env=False
        ).plan()
    )
    most = planned["about"].max_cost_usd * 1e6 / planned["about"].requests
    assert most >= max(len(text.encode()) for text in texts)


def test_an_unfolded_plan_counts_every_element(project):
    stages = {"gather": {"into": "as", "keep": ["answer"]}}, {"unfold": {"field": "as", "into": "a"}}
    project.rows("rows.jsonl", [{"q": "x"}] * 2)
    planned = distillgen.load(pipeline(*stages), need_env=False).plan()
    assert [estimate.rows for _, estimate in planned][-2:] == [6, 300]
    assert "as" not in distillgen.load(pipeline(*stages), need_env=False).bound_stages[-1].fields


def test_a_changed_list_asks_nothing_and_a_run_again_gives_the_same_bytes(project):
    gather = {"gather": {"into": "answers", "keep": ["answer"], "best": "length"}}
    first, asked = run(project, gather)
    assert len(asked) == 15
    corpus = (first.directory / "corpus.jsonl").read_bytes()
    gather["gather"] |= {"best": None, "by": ["q"], "k": 2}
    other, asked = run(project, gather)
    assert asked == [] and (other.directory / "corpus.jsonl").read_bytes() != corpus
    gather["gather"] = {"into": "answers", "keep": ["answer"], "best": "length"}
    again, asked = run(project, gather)
    assert asked == [] and (again.directory / "corpus.jsonl").read_bytes() == corpus


def test_gathered_records_are_counted_apart_from_dropped_ones(project, capsys):
    gather = {"gather": {"into": "answers", "keep": ["answer"], "best": "length", "k": 2}}
    done, _ = run(project, gather)
    stage = done.state["stages"][-1]
    assert (stage["kept"], stage["gathered"], stage["dropped"]) == (5, 5, {"k": 5})
    assert done.state["dropped"] == {"k": 5} and "5 kept, 5 gathered, 5 k" in str(done)
    rows = list(read_records(done.directory / "dropped.jsonl"))
    assert len(rows) == 10, "what was gathered can be read, too"
    report = re.sub(r"<[^>]+>|\s+", " ", (done.directory / "report.html").read_text())
    assert re.search(r"Gathered\s+5\s+into others", report) and re.search(r"Dropped\s+5\s+33.3%", report)
    (part, *_) = [row.dropped.reason for row in rows if row.dropped.filter == "gathered"]
    assert part not in report, "no example of a dropped record"
    sample, kept, dropped = _read(furthest(done.directory, done.state["stages"]))
    assert Counter(drop and drop["filter"] for drop, _ in sample) == {None: 10, "k": 5}
    assert (len(kept), {record.dropped.filter for record in dropped}) == (5, {"k"})
    show.summary(done)
    summary = capsys.readouterr().out
    assert (
        "5 kept, 5 gathered into others, dropped 5 (k 5)" in summary and "gathered: gathered" not in summary
    )
    card = (done.directory / "README.md").read_text()
    assert "| Stage | Records in | Kept | Gathered | Dropped | By |" in card
    assert "| gather | 15 | 5 | 5 | 5 | k 5 |" in card
    status = project.cli("status", "run").stdout
    assert "gathered 5, dropped 5 (k 5)" in status
    shown = project.cli("show", "run", "--filter", "gathered", "-n", "1").stdout
    assert "gather/gathered: gathered into" in shown and "dropped by" not in shown
    lineage = json.loads(project.cli("show", "run", "--id", done_id(done), "--json").stdout)
    assert len(lineage["parents"]) >= 2 and len(lineage["answers"]) == 2


def done_id(done):
    return next(read_records(done.directory / "corpus.jsonl")).id


def test_a_card_without_gathered_records_is_as_before(project):
    done, _ = run(project)
    assert "| Stage | Records in | Kept | Dropped | By |" in (done.directory / "README.md").read_text()
    assert "Gathered" not in (done.directory / "report.html").read_text()


def test_a_loop_carries_what_the_gathered_record_has(project):
    project.rows("rows.jsonl", [{"q": f"q{i}"} for i in range(3)])
    rounds = {
        "rounds": {
            "n": 3,
            "repeat": True,
            "carry": ["notes"],
            "stages": [
                {"generate": {"model": "t", "template": "{{ q }} {{ notes }}", "output": "answer", "n": 2}},
                {"gather": {"into": "answers", "keep": ["answer"]}},
                {"format": {"fields": {"notes": "{{ notes }}{{ answers | length }}"}}},
            ],
        }
    }
    done = distillgen.run(
        {
            "version": 1,
            "models": {"t": {"provider": "scripted", "model": "echo"}},
            "stages": [{"source": {"path": "rows.jsonl"}}, rounds],
        },
        out="run",
        teachers={"t": lambda request, sample: f"{sample}: {request.messages[-1]['content']}"},
    )
    notes = [record.fields["notes"] for record in read_records(done.directory / "corpus.jsonl")]
    assert notes == ["2"] * 3 + ["22"] * 3 + ["222"] * 3


def test_the_parts_are_the_values_themselves_if_one_name_is_kept(carried):
    rows = [{"question": "a", "answer": answer, "grade": grade} for answer, grade in (("x", 1), ("y", 2))]
    kept = carried([Gather(name="g", keep="answer", best="grade", into="answers")], records_of(rows))
    assert [r.fields["answers"] for r in kept if not r.dropped] == [["y", "x"]]
    scores = [replace(r, scores={"judge.score": float(i)}) for i, r in enumerate(records_of(rows))]
    context = CheckContext(FIELDS, {}, Project(Path()), scores=frozenset({"judge.score"}))
    assert Gather(name="g", keep="judge.score").bind(context).stage.gathered(scores).fields["gathered"] == [
        0,
        1,
    ]
    with pytest.raises(ConfigError, match="'keep' names 'answr'.*did you mean 'answer'"):
        carried([Gather(name="g", keep="answr")], [])
    with pytest.raises(ValueError, match="at least 1"):
        Gather(name="g", keep=[])
