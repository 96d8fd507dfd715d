"""Names in a text are replaced as whole words only."""

import json

import pytest

from distillgen.prompting.prompt import Prompt
from distillgen.text.words import rename, words

PEOPLE = {"Alex": "PersonX", "Chris": "PersonY"}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Chris thanks Alex.", "PersonY thanks PersonX."),
        ("to buy Christmas presents for Alexander", "to buy Christmas presents for Alexander"),
        ("Christian, Christina and Alexa", "Christian, Christina and Alexa"),
        ("Alex's dog, Chris’s cat and Chris' hat", "PersonX's dog, PersonY’s cat and PersonY' hat"),
        ("'Alex' said (Chris), “Alex”", "'PersonX' said (PersonY), “PersonX”"),
        ("an Alex-proof lock", "an PersonX-proof lock"),
        ("Jean-Chris and Chris-Anne and O'Chris", "Jean-Chris and Chris-Anne and O'Chris"),
        ("the Alex-Chris pact, ex-Alex", "the PersonX-PersonY pact, ex-PersonX"),
        ("d'Alex", "d'PersonX"),
        ("alex, ALEX, Alex_2, Alex2", "alex, ALEX, Alex_2, Alex2"),
        ("Chrisé, éAlex, Alex\u0301", "Chrisé, éAlex, Alex\u0301"),
        ("", ""),
    ],
)
def test_a_name_is_a_whole_word(text, expected):
    assert rename(text, PEOPLE) == expected


def test_names_with_prefixes_signs_and_swaps():
    assert rename("Jo, Jo Ann and Joanna", {"Jo": "A", "Jo Ann": "B"}) == "A, B and Joanna"
    assert (
        rename("José met Zoë, not Jos or Zo", {"José": "A", "Zoë": "B", "Jos": "C"}) == "A met B, not C or Zo"
    )
    assert rename("J.R. (Bob) met C+", {"J.R": "A", "(Bob)": "B", "C+": r"\1"}) == r"A. B met \1"
    assert rename("Kim saw Lee", {"Kim": "Lee", "Lee": "Kim"}) == "Lee saw Kim"
    assert rename("Kim", {}) == rename("Kim", {"": "Lee"}) == "Kim"


def test_a_template_renames(project):
    from distillgen.project import Project

    prompt = Prompt.parse(
        "", "{{ text | rename({'Alex': first, 'Chris': 'Kim'}) }}", "template", Project(project.path)
    )
    shown = prompt.render({"text": "Alex gives Chris a Christmas card", "first": "Lee"})
    assert shown[0]["content"] == "Lee gives Kim a Christmas card", json.dumps(shown)


def test_possessives_and_quotation_marks_are_no_part_of_a_word():
    assert (
        words("Hooke's law, the boss’s 'safe' ‘start’ and it's 1980's")
        == "hooke law the boss safe start and it 1980".split()
    )
