"""Stages that see every record: cluster, select and diversity, in real runs."""

import asyncio
import json
import math
import re
import sys
import time
from types import SimpleNamespace

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.flow.whole_set import in_blocks, number_of
from distillgen.record import Record

TOPICS = ["lake", "lake", "lake", "bee", "bee", "bread", "lake", "bee", "lake", "lake"]


@pytest.fixture
def carry_out(project):
    """carry_out(rows, *stages) -> (kept rows, {id or n of a dropped row: its reason})."""

    def carry_out(rows, *stages, **top):
        project.rows("rows.jsonl", rows)
        stages = [{"source": {"path": "rows.jsonl"}}, *stages]
        distillgen.run({"version": 1, **top, "stages": stages}, out="out")
        every = project.read(f"out/stages/{len(stages):02d}-{next(iter(stages[-1]))}.jsonl")
        assert [row["n"] for row in every] == [row["n"] for row in rows]
        return project.read("out/corpus.jsonl"), {
            row["n"]: row["meta"]["dropped"] for row in project.read("out/dropped.jsonl")
        }

    return carry_out


def numbered(count=10, **more):
    return [
        {
            "n": i,
            "text": f"number {i} of {count}",
            "topic": TOPICS[i % 10],
            **{k: f(i) for k, f in more.items()},
        }
        for i in range(count)
    ]


def angle(degrees):
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def chosen(kept):
    return [row["n"] for row in sorted(kept, key=lambda row: row["meta"]["scores"]["select.rank"])]


@pytest.mark.parametrize(
    "value, number",
    [
        (2, 2.0),
        (0.5, 0.5),
        ("0.652454", 0.652454),  # as a model that scores answers
        ("-1e-3", -0.001),
        ("", None),
        ("high", None),
        ("nan", None),
        ("inf", None),
        (float("nan"), None),
        (True, None),
        ([1], None),
        (None, None),
    ],
)
def test_a_number_or_the_text_of_one_is_a_number(value, number):
    record = Record.read({"grade": value}, "rows:1")
    assert number_of(record, "grade") == number and number_of(record, "other") is None


def test_cluster_keeps_the_best_of_each_and_says_what_for(project, carry_out):
    degrees, quality = [0, 90, 1, 2, 91, 200], [5, 1, 9, 7, 1, 3]
    rows = numbered(6, v=lambda i: angle(degrees[i]), quality=lambda i: quality[i])
    kept, dropped = carry_out(rows, {"cluster": {"vector": "v", "min_cosine": 0.99, "by": "quality"}})
    assert [(row["n"], row["meta"]["scores"]["cluster.size"]) for row in kept] == [(1, 2), (2, 3), (5, 1)]
    ids = {row["n"]: row["meta"]["id"] for row in [*kept, *project.read("out/dropped.jsonl")]}
    assert [row["meta"]["parents"] for row in kept] == [[ids[4]], [ids[0], ids[3]], []]
    assert dropped[0] == {"stage": "cluster", "filter": "near", "reason": f"cosine 1.00 to {ids[2]} >= 0.99"}
    assert {n: drop["reason"].split()[3] for n, drop in dropped.items()} == {0: ids[2], 3: ids[2], 4: ids[1]}


def test_cluster_keeps_the_first_where_nothing_ranks_them(carry_out):
    kept, _ = carry_out(numbered(4, v=lambda i: angle(i % 2 * 90)), {"cluster": {"vector": "v"}})
    assert [row["n"] for row in kept] == [0, 1]


def test_cluster_compares_within_groups_that_need_not_be_adjacent(project, carry_out):
    degrees, quality = [0, 0, 90, 1, 1, 91], [1, 5, 1, 4, 3, 2]
    rows = numbered(
        6,
        v=lambda i: angle(degrees[i]),
        quality=lambda i: quality[i],
        pair=lambda i: "ab"[i % 2],
        side=lambda i: ["left", ["right"]][i == 4],
    )
    options = {"vector": "v", "min_cosine": 0.99, "by": "quality"}
    kept, dropped = carry_out(rows, {"cluster": {**options, "per": ["pair"]}})
    assert [(row["n"], row["meta"]["scores"]["cluster.size"]) for row in kept] == [
        *((1, 2), (2, 1), (4, 2), (5, 1))
    ]
    ids = {row["n"]: row["meta"]["id"] for row in [*kept, *project.read("out/dropped.jsonl")]}
    assert {n: drop["reason"].split()[3] for n, drop in dropped.items()} == {0: ids[4], 3: ids[1]}
    kept, _ = carry_out(rows, {"cluster": {**options, "per": ["side", "pair"]}})
    assert [row["n"] for row in kept] == [0, 1, 2, 4, 5]
    kept, _ = carry_out(rows, {"cluster": options})
    assert [row["n"] for row in kept] == [1, 5]
    rows = numbered(600, v=lambda i: [1], pair=lambda i: i < 300)  # more than one chunk
    kept, _ = carry_out(rows, {"cluster": {"vector": "v", "per": ["pair"]}})
    assert [(row["n"], row["meta"]["scores"]["cluster.size"]) for row in kept] == [(0, 300), (300, 300)]


def test_cluster_needs_the_fields_of_its_groups(project):
    project.write("rows.jsonl", '{"pair": 1, "v": [1]}\n')
    stages = "  - source: {path: rows.jsonl}\n  - cluster: {vector: v, per: [pairs]}\n"
    project.write("p.yaml", f"version: 1\nstages:\n{stages}")
    message = project.cli("check", "p.yaml", check=2).stderr
    assert "p.yaml:4: stage 'cluster': 'per' needs the field 'pairs'" in message
    assert "did you mean 'pair'?" in message


def test_cluster_may_only_number_the_clusters_for_a_selection_in_turn(carry_out):
    rows = numbered(6, v=lambda i: angle([0, 0, 0, 90, 0, 90][i]))
    stages = (
        {"cluster": {"vector": "v", "keep": "all"}},
        {"select": {"by": "round_robin", "group": "cluster.id", "n": 4}},
    )
    kept, dropped = carry_out(rows, *stages)
    assert sorted(row["meta"]["scores"]["cluster.id"] for row in kept) == [0, 0, 3, 3] and len(dropped) == 2
    assert {row["meta"]["scores"]["cluster.size"] for row in kept} == {4, 2}


def test_cluster_makes_a_number_of_clusters_with_numbers_from_0_on(carry_out):
    degrees = [90, 0, 100, 10, 200, 95]
    kept, dropped = carry_out(
        numbered(6, v=lambda i: angle(degrees[i])), {"cluster": {"vector": "v", "k": 3, "keep": "all"}}
    )
    assert [row["meta"]["scores"]["cluster.id"] for row in kept] == [0, 1, 0, 1, 2, 0] and not dropped
    assert [row["meta"]["scores"]["cluster.size"] for row in kept] == [3, 2, 3, 2, 1, 3]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"k": 3}, "give 'keep: all'"),
        ({"k": 3, "keep": "all", "by": "n"}, "leave out 'by'"),
        ({"k": 3, "keep": "all", "min_cosine": 0.9}, "leave out 'min_cosine' and 'per'"),
        ({"k": 3, "keep": "all", "per": ["n"]}, "leave out 'min_cosine' and 'per'"),
    ],
)
def test_clusters_of_a_number_have_no_best_record_and_no_least_cosine(carry_out, options, message):
    with pytest.raises(ConfigError, match=message):
        carry_out(numbered(3, v=angle), {"cluster": {"vector": "v", **options}})


def test_rows_without_a_vector_are_dropped_and_others_go_on(carry_out):
    vectors = [[1, 0], "none", [1], None, [0, 2], [], [0.5, "x"], [0, 0]]
    kept, dropped = carry_out(numbered(8, v=lambda i: vectors[i]), {"cluster": {"vector": "v"}})
    assert [row["n"] for row in kept] == [0, 4, 7]
    assert dropped[2]["reason"] == "'v' holds 1 numbers, that of the first record 2"
    assert {drop["reason"] for n, drop in dropped.items() if n != 2} == {
        "'v' holds no list of numbers"
    } and len(dropped) == 5


def test_select_the_largest_and_the_smallest(carry_out):
    rows = numbered(10, quality=lambda i: [3, 9, 9, 1, 5, 2, 8, 0, 7, 9][i])
    kept, dropped = carry_out(rows, {"select": {"by": "top", "score": "quality", "n": 4}})
    assert chosen(kept) == [1, 2, 9, 6]
    assert (
        dropped[0] == {"stage": "select", "filter": "top", "reason": "not among the 4 selected by top"}
        and len(dropped) == 6
    )
    assert chosen(carry_out(rows, {"select": {"by": "bottom", "score": "quality", "share": 0.2}})[0]) == [
        7,
        3,
    ]
    kept, _ = carry_out(rows, {"select": {"by": "top", "score": "quality", "share": 0.8}})
    assert {row["n"] for row in kept} == set(range(10)) - {7, 3}


def test_select_by_a_score_of_a_filter_and_by_a_ratio(carry_out):
    stages = (
        {"filter": ["word_count", {"word_count": {"name": "topic_words", "field": "topic"}}]},
        {"select": {"by": "top", "score": "word_count", "over": "topic_words", "n": 3}},
    )
    rows = [
        {"n": i, "response": "word " * count, "topic": topic}
        for i, (count, topic) in enumerate([(6, "a b c"), (3, "a"), (8, "a b"), (0, "a"), (5, "")])
    ]
    kept, dropped = carry_out(rows, *stages)
    assert chosen(kept) == [2, 1, 0]
    assert (
        dropped[4]["reason"] == "has no number 'word_count/topic_words'"
        and "not among the 3" in dropped[3]["reason"]
    )


def test_select_by_chance_is_that_of_the_seed(carry_out):
    stage = {"select": {"by": "random", "n": 5}}
    first = chosen(carry_out(numbered(40), stage)[0])
    assert first == chosen(carry_out(numbered(40), stage)[0]) and first != chosen(
        carry_out(numbered(40), stage, seed=1)[0]
    )
    counts = [0] * 10
    for seed in range(60):
        for n in chosen(carry_out(numbered(10), {"select": {"by": "random", "n": 5}}, seed=seed)[0]):
            counts[n] += 1
    assert min(counts) >= 15 and max(counts) <= 45


@pytest.mark.parametrize(
    "by, taken",
    [("stratified", {"lake": 3, "bee": 2, "bread": 0}), ("round_robin", {"lake": 2, "bee": 2, "bread": 1})],
)
def test_select_by_groups(carry_out, by, taken):
    kept, dropped = carry_out(numbered(10), {"select": {"by": by, "group": "topic", "n": 5}})
    assert {topic: sum(row["topic"] == topic for row in kept) for topic in taken} == taken and len(
        dropped
    ) == 5
    kept, _ = carry_out(
        numbered(10, quality=lambda i: i),
        {"select": {"by": by, "group": "topic", "n": 2, "score": "quality"}},
    )
    assert [row["n"] for row in kept] == [7, 9]


def test_select_what_fits_a_budget(carry_out):
    rows = numbered(6, quality=lambda i: -i, tokens=lambda i: [10, 20, 30, 25, 5, 1][i])
    kept, _ = carry_out(rows, {"select": {"by": "top", "score": "quality", "budget": 60, "cost": "tokens"}})
    assert chosen(kept) == [0, 1, 2]
    kept, _ = carry_out(
        rows, {"select": {"by": "top", "score": "quality", "budget": 12}}
    )  # "number 0 of 6", "lake": five words each
    assert chosen(kept) == [0, 1]


@pytest.mark.parametrize("by, inner", [("k_center", 1), ("herding", 2), ("facility_location", 1)])
def test_select_by_vectors(carry_out, by, inner):
    degrees = [0, 1, 2, 120, 240]
    kept, dropped = carry_out(
        numbered(5, v=lambda i: angle(degrees[i])), {"select": {"by": by, "vector": "v", "n": 3}}
    )
    assert (
        sum(row["n"] < 3 for row in kept) == inner
        and sum(row["n"] > 2 for row in kept) == 3 - inner
        and len(dropped) == 2
    )
    assert {drop["reason"] for drop in dropped.values()} == {f"not among the 3 selected by {by}"}


def test_select_by_gradients_takes_from_every_class(carry_out):
    degrees = [0, 2, 4, 6, 8, 10, 12, 180, 90, 94]
    rows = numbered(
        10, v=lambda i: angle(degrees[i]), kind=lambda i: "b" if i == 7 else "c" if i > 7 else "a"
    )
    stage = {"by": "gradient_matching", "vector": "v", "group": "kind", "n": 3}
    assert {row["kind"] for row in carry_out(rows, {"select": stage})[0]} == {"a", "b", "c"}
    with pytest.raises(ConfigError, match="'n' has one value; classes need two or more"):
        carry_out(rows[:1], {"select": {**stage, "group": "n"}})


def test_what_was_dropped_before_stays_in_its_place_and_is_not_counted(carry_out):
    rows = [{"n": i, "response": "word " * i, "v": angle(10 * i)} for i in range(8)]
    short = {"filter": [{"word_count": {"min_words": 4}}]}
    kept, dropped = carry_out(rows, short, {"select": {"by": "k_center", "vector": "v", "share": 0.5}})
    assert {n: drop["filter"] for n, drop in dropped.items() if n < 4} == dict.fromkeys(
        range(4), "word_count"
    ) and len(kept) == 2
    kept, dropped = carry_out(rows, short, {"cluster": {"vector": "v", "min_cosine": 0.98}})
    assert [row["n"] for row in kept] == [4, 6] and len(dropped) == 6


@pytest.mark.parametrize(
    "stage",
    [
        {"cluster": {"vector": "v"}},
        {"select": {"by": "herding", "vector": "v", "n": 3}},
        {"select": {"by": "top", "score": "n", "n": 3}},
        {"select": {"by": "gradient_matching", "vector": "v", "group": "n", "n": 3}},
        {"diversity": {"field": "response"}},
    ],
)
def test_nothing_left_to_see(carry_out, stage):
    rows = [{"n": i, "response": "", "v": [1]} for i in range(3)]
    assert carry_out(rows, {"filter": [{"word_count": {"min_words": 4}}]}, stage)[0] == []


def test_a_kill_leaves_no_files_and_the_rerun_is_identical(project):
    project.rows("rows.jsonl", numbered(6_000, v=lambda i: angle(i * 0.7), quality=lambda i: i * 7 % 100))
    project.write(
        "pipelines/all.yaml",
        """# all.yaml: the whole set
version: 1
stages:
  - source: {path: rows.jsonl}
  - cluster: {vector: v, min_cosine: 0.999999, by: quality}
  - select: {by: facility_location, vector: v, n: 20}
""",
    )
    begin = time.monotonic()
    project.cli("run", "all", "--out", "whole")
    run_s = time.monotonic() - begin
    before = {path.name for path in (project.path / "whole").iterdir()}
    command = [
        sys.executable,
        "-m",
        "distillgen",
        "run",
        "all",
        "--out",
        "killed",
        "--ledger",
        "killed.sqlite3",
    ]
    project.kill_after((run_s * share for share in (0.5, 0.65, 0.8, 0.95)), command)
    project.cli("run", "all", "--out", "killed", "--ledger", "killed.sqlite3")
    for name in ("corpus.jsonl", "dropped.jsonl"):
        assert (project.path / "killed" / name).read_bytes() == (project.path / "whole" / name).read_bytes()
    assert len(project.read("killed/corpus.jsonl")) == 20
    assert {path.name for path in (project.path / "killed").iterdir()} == before


def test_diversity_stays_in_the_report_of_a_replayed_run(project, carry_out):
    rows = [
        {"n": i, "response": text, "v": v}
        for i, (text, v) in enumerate([("a b a b", [1, 0]), ("b a", [0, 1]), ("c", [0, 1])])
    ]
    stages = (
        {"filter": [{"word_count": {"min_words": 2}}]},
        {
            "diversity": {
                "field": "response",
                "vector": "v",
                "measures": ["distinct_1", "distinct_2", "self_bleu", "vendi", "coverage"],
            }
        },
    )
    for _ in range(2):
        kept, _ = carry_out(rows, *stages)
        assert [row["n"] for row in kept] == [0, 1]
        measured = json.loads((project.path / "out/usage.json").read_text())["stages"][-1]["measured"]
        assert measured == {
            "texts": 2,
            "distinct_1": 2 / 6,
            "distinct_2": 0.5,
            "self_bleu": pytest.approx(measured["self_bleu"]),
            "vendi": pytest.approx(2),
            "coverage": pytest.approx(1),
        }
        assert 0 < measured["self_bleu"] < 1
        assert re.search(r"vendi 2<.*coverage 1<", (project.path / "out/report.html").read_text())
    assert "vendi 2, coverage 1" in project.cli("status", "out").stdout


def test_coverage_falls_with_what_was_dropped(project, carry_out):
    rows = [{"n": i, "response": "word " * (1 + i), "v": angle(i * 60)} for i in range(4)]
    carry_out(
        rows,
        {"filter": [{"word_count": {"min_words": 2}}]},
        {"diversity": {"field": "response", "vector": "v", "measures": ["coverage"]}},
    )
    assert json.loads((project.path / "out/usage.json").read_text())["stages"][-1]["measured"][
        "coverage"
    ] == pytest.approx(3.5 / 4)


@pytest.mark.parametrize(
    "stage, message",
    [
        ({"cluster": {}}, "give 'field', a text to embed, or 'vector', a field that holds numbers"),
        ({"cluster": {"vector": "w"}}, "'vector' needs the field 'w', which no earlier stage gives"),
        ({"cluster": {"vector": "v", "min_cosine": 2}}, "less than or equal to 1"),
        ({"select": {"by": "random"}}, "give one of 'n', 'share' and 'budget'"),
        ({"select": {"by": "random", "n": 1, "share": 0.5}}, "give one of 'n', 'share' and 'budget'"),
        ({"select": {"by": "top", "n": 1}}, "'by: top' needs 'score'"),
        ({"select": {"by": "stratified", "n": 1}}, "'by: stratified' needs 'group'"),
        ({"select": {"by": "random", "n": 1, "vector": "v"}}, "'vector' has no use with 'by: random'"),
        ({"select": {"by": "k_center", "n": 1}}, "give 'field', a text to embed"),
        ({"select": {"by": "gradient_matching", "vector": "v", "n": 1}}, "needs 'group'"),
        ({"select": {"by": "best", "n": 1}}, "'by'"),
        ({"diversity": {"field": "w"}}, "'field' needs the field 'w'"),
        ({"diversity": {"field": "text", "measures": ["variety"]}}, "measures"),
    ],
)
def test_mistakes_are_told_before_the_run(project, stage, message):
    project.rows("rows.jsonl", numbered(2, v=lambda i: [1]))
    with pytest.raises(ConfigError, match=re.escape(message)):
        distillgen.load({"version": 1, "stages": [{"source": {"path": "rows.jsonl"}}, stage]})


def test_a_score_that_no_record_has_is_told_with_the_nearest(carry_out):
    stages = {"filter": ["word_count"]}, {"select": {"by": "top", "score": "word_cout", "n": 1}}
    with pytest.raises(
        ConfigError, match="stage 'select': no record has 'word_cout'; did you mean 'word_count'?"
    ):
        carry_out([{"n": 1, "response": "a b"}], *stages)


def test_plan_counts_what_a_selection_leaves(project):
    project.rows("rows.jsonl", numbered(10))
    for amount, rows in ({"n": 4}, 4), ({"n": 40}, 10), ({"share": 0.25}, 2), ({"budget": 9}, 10):
        stages = [{"source": {"path": "rows.jsonl"}}, {"select": {"by": "random", **amount}}]
        assert distillgen.load({"version": 1, "stages": stages}).plan()[-1][1].rows == rows


def planted_meanings():
    same = [
        ("The lake is very deep.", "This lake has a great depth."),
        ("Bees dance to show where flowers are.", "A bee tells its hive about flowers by dancing."),
    ]
    texts = [
        "Bread rises because yeast gives off gas.",
        *(text for pair in same for text in pair),
        "The parliament passed the budget on Friday.",
    ]
    return [{"n": i, "text": text} for i, text in enumerate(texts)]


@pytest.mark.slow
def test_meanings_with_the_small_embedder(project, carry_out):
    pytest.importorskip("sentence_transformers", reason="needs the extra 'filters'")
    kept, dropped = carry_out(planted_meanings(), {"cluster": {"field": "text", "min_cosine": 0.6}})
    assert [row["n"] for row in kept] == [0, 1, 3, 5] and set(dropped) == {2, 4}
    kept, _ = carry_out(planted_meanings(), {"select": {"by": "k_center", "field": "text", "n": 4}})
    assert len({row["n"] for row in kept} & {1, 2}) == len({row["n"] for row in kept} & {3, 4}) == 1


@pytest.mark.slow
def test_an_embedding_is_made_once(project, carry_out, monkeypatch):
    pytest.importorskip("sentence_transformers", reason="needs the extra 'filters'")
    from distillgen.flow import whole_set as _whole_set

    made, embed = [], _whole_set.embed
    monkeypatch.setattr(
        _whole_set, "embed", lambda texts, **options: made.extend(texts) or embed(texts, **options)
    )
    for min_cosine in (0.6, 0.99):
        carry_out(planted_meanings(), {"cluster": {"field": "text", "min_cosine": min_cosine}})
    assert len(made) == 6


@pytest.mark.parametrize(
    "waits, order",
    [
        ("0000", "aAbBcCdD"),
        ("1110", "abcdABCD"),
        ("1100", "abcABCdD"),
        ("0111", "aAbcdBCD"),
        ("1010", "abABcdCD"),
    ],
)
def test_chunks_wait_on_disk_and_leave_in_order(waits, order, tmp_path):
    """A small letter: `waits` got the chunk; a capital one: the chunk left."""
    events, answers = [], iter(waits)
    chunks = [
        [Record.read({"n": name}, name), Record.read({"n": "x"}, "x").drop("s", "f", "r")] for name in "abcd"
    ]

    def asked(live):
        assert len(live) == 1
        events.append(live[0].fields["n"])
        return next(answers) == "1"

    async def carry_out():
        async for chunk in in_blocks(source(), asked, job(tmp_path)):
            events.extend(record.fields["n"].upper() for record in chunk if not record.dropped)
            left.extend(chunk)

    async def source():
        for chunk in chunks:
            yield chunk

    left = []
    asyncio.run(carry_out())
    assert "".join(events) == order and left == [record for chunk in chunks for record in chunk]
    assert list(tmp_path.iterdir()) == []


def test_chunks_without_live_records_stay_in_their_place(tmp_path):
    chunks = [[Record.read({"n": n}, str(n))] for n in range(4)]
    chunks[0] = [chunks[0][0].drop("s", "f", "r")]
    chunks[2] = [chunks[2][0].drop("s", "f", "r")]

    async def source():
        for chunk in chunks:
            yield chunk

    async def carry_out():
        waiting = in_blocks(source(), lambda live: asked.append(live[0].fields["n"]) or True, job(tmp_path))
        return [(record, len(asked)) async for chunk in waiting for record in chunk]

    asked = []
    assert asyncio.run(carry_out()) == [
        (record, 2 if at else 0) for at, (record,) in enumerate(chunks)
    ]  # the first one leaves at once, as no record waits


def job(folder):
    """As much of a job as a spool needs."""
    ledger = SimpleNamespace(path=folder / "ledger.sqlite3")
    return SimpleNamespace(
        services=SimpleNamespace(whole=set(), ledger=ledger),
        context=SimpleNamespace(stages=[], directory=folder),
    )
