"""standalone, responsive and answer_kind beside a person's judgement of 200 question-answer pairs of two
domains.

Passages and pairs were written for this test, as a small model writes them, and judged one by one:
`standalone`, whether the pair can be understood without the passage; `responsive`, whether the answer answers
the question. Every second passage is held out: the rules were made on the others.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from distillgen.record import Record
from filters.answer_kind import answer_kind
from filters.responsive import responsive
from filters.standalone import standalone

PAIRS = [json.loads(line) for line in Path(__file__).with_name("judged_pairs.jsonl").read_text().splitlines()]
FILTERS = {
    "standalone": [standalone(fields=["question", "answer"], subject="title")],
    "responsive": [responsive(sources=["title", "text"]), answer_kind()],
}


def dropped(pair, *names):
    record = Record.read(pair, "")
    return any(each.decide(each.measure([record])[0]) for name in names for each in FILTERS[name])


def errors(pairs, *names):
    """The share of right ones among the dropped, and of wrong ones among the kept."""
    found = Counter((dropped(pair, *names), all(pair[name] for name in names)) for pair in pairs)
    return found[True, True] / (found[True, True] + found[True, False]), found[False, False] / (
        found[False, False] + found[False, True]
    )


def half(name):
    return [pair for pair in PAIRS if pair["half"] == name]


def test_each_domain_has_a_hundred_pairs_in_disjoint_halves():
    assert Counter((pair["domain"], pair["half"]) for pair in PAIRS) == {
        (domain, part): 50 for domain in ("mechanics", "advice") for part in ("development", "held out")
    }
    assert not {pair["text"] for pair in half("development")} & {pair["text"] for pair in half("held out")}


def test_at_most_a_tenth_of_the_development_pairs_is_misjudged():
    both = errors(half("development"), "standalone", "responsive")
    alone = errors(half("development"), "standalone")
    print(both, alone, errors(half("development"), "responsive"))
    assert max(both) <= 0.1 and max(alone) <= 0.1


def test_few_held_out_pairs_are_misjudged():
    """Reached are 0.08 and 0.15 for both filters together, where the rules before these had 0.64 and 0.22."""
    right_among_dropped, wrong_among_kept = errors(half("held out"), "standalone", "responsive")
    print(
        right_among_dropped,
        wrong_among_kept,
        errors(half("held out"), "standalone"),
        errors(half("held out"), "responsive"),
    )
    assert right_among_dropped <= 0.1 and wrong_among_kept <= 0.16


@pytest.mark.parametrize("part", ["development", "held out"])
def test_answers_to_other_questions_are_dropped(part):
    """The control: the same answers, each beside the question of another passage."""
    right = [pair for pair in half(part) if pair["standalone"] and pair["responsive"]]
    others = [{**pair, "answer": right[(i + 11) % len(right)]["answer"]} for i, pair in enumerate(right)]
    lost = sum(dropped(pair, "responsive") for pair in right) / len(right)
    assert lost < 0.07 and sum(dropped(pair, "responsive") for pair in others) / len(others) > 0.9
