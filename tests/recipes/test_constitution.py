"""The recipe constitution: who is asked, the order of the pairs, and that no verdict is lost."""

import json
import re

import pytest

from distillgen.project import home
from tests.recipes.harness import Teacher, chance, teach

FIRST = "What a careless reply says"


def number_of(text):
    return int(re.search(r"request (\d+)\b", text)[1])


def critique(text, sample):
    fine = chance(0.4, "fine", number_of(text))
    return json.dumps({"critique": "It is blunt.", "verdict": "fine" if fine else "revise"})


def truth(n):
    """The planted truth: which reply is better, or neither."""
    return "revised" if chance(0.5, "better", n) else "first" if chance(0.7, "worse", n) else "neither"


def judge(biased=False):
    def verdict(text, sample):
        shown = text.index("REVISED") < text.index(FIRST)  # the revised reply is shown first
        better = {"revised": "first" if shown else "second", "first": "second" if shown else "first"}
        answer = "first" if biased else better.get(truth(number_of(text)), "neither")
        return json.dumps({"reason": "", "better": answer})

    return verdict


def teacher(verdict):
    return Teacher(
        {
            "You compare two answers": verdict,
            "You review replies": critique,
            "You improve replies": lambda text, sample: f"REVISED for request {number_of(text)}",
            "request": lambda text, sample: f"{FIRST} to request {number_of(text)}",
        }
    )


@pytest.fixture
def carried_out(project):
    def carried_out(verdict, out="run", n=40, **options):
        project.rows("requests.jsonl", [{"instruction": f"This is request {i} of many."} for i in range(n)])
        asked = teacher(verdict)
        run = teach("constitution", asked, ["source.path=requests.jsonl"], out=out, **options)
        return (
            asked,
            [row | {"n": number_of(row["instruction"])} for row in project.read(f"{out}/corpus.jsonl")],
            run,
        )

    return carried_out


def test_a_fine_reply_passes_by_and_a_pair_goes_the_way_that_the_judge_said(carried_out):
    asked, rows, run = carried_out(judge())
    fine = {n for n in range(40) if chance(0.4, "fine", n)}
    assert 10 < len(fine) < 30 and len(rows) == 40
    assert {number_of(text) for text in asked.asked("You improve")} == set(range(40)) - fine
    assert len(asked.asked("You compare")) == 2 * (40 - len(fine)), "both orders, and nobody else"
    for row in rows:
        better = "first" if row["n"] in fine else truth(row["n"])
        assert row["chosen"].startswith("REVISED" if better == "revised" else FIRST)
        if row["n"] in fine or better == "neither":
            assert row["rejected"] is None
        else:
            assert row["rejected"].startswith(FIRST if better == "revised" else "REVISED")
        assert row["messages"][-1]["content"] == row["chosen"]
    directions = {truth(row["n"]) for row in rows if row["rejected"]}
    assert directions == {"revised", "first"}, "a verdict against the revision is a pair, too"
    assert {len(row["principle"]) for row in rows} == {1}
    assert len({row["principle"][0]["principle"] for row in rows}) > 5
    revise = next(stage for stage in run.state["stages"] if stage["name"] == "revise")
    assert revise["measured"] == {"condition met": 40 - len(fine), "passed by": len(fine)}


def test_the_export_of_pairs_leaves_out_rows_without_one(carried_out, project):
    _, rows, _ = carried_out(judge())
    project.cli("export", "run", "--shape", "preference", "-o", "pairs.jsonl", check=3)  # rows were left out
    pairs = project.read("pairs.jsonl")
    assert len(pairs) == sum(row["rejected"] is not None for row in rows) > 10
    assert {"prompt", "chosen", "rejected"} <= pairs[0].keys()


def test_a_judge_that_follows_the_order_makes_no_pair(carried_out):
    _, rows, _ = carried_out(judge(biased=True))
    assert len(rows) == 40 and not any(row["rejected"] for row in rows)


def test_a_plain_filter_in_the_place_of_the_mark_loses_verdicts(carried_out, project):
    _, rows, _ = carried_out(judge())
    text = (home("pipelines") / "constitution.yaml").read_text(encoding="utf-8")
    assert text.count("      mark: improved\n") == 1
    project.write("pipelines/constitution.yaml", text.replace("      mark: improved\n", ""))
    _, fewer, _ = carried_out(judge(), out="plain")
    lost = [row for row in rows if row["rejected"] and row["rejected"].startswith("REVISED")]
    assert len(lost) >= 3 and not any((row["rejected"] or "").startswith("REVISED") for row in fewer)
