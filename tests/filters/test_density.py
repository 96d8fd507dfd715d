import pytest

from filters.density import entities

PLAIN = "The canal in Egypt is long, was built many years ago, and is of use to ships."  # 17 words, one name
DENSER = "The Suez Canal in Egypt, built by Lesseps by 1869, is long and of use to ships."  # 17 words
DENSEST = "The Suez Canal in Egypt, opened by Ferdinand de Lesseps in 1869, joins the Red Sea and Mediterranean."

CASES = [
    ({}, {"steps": [PLAIN, DENSER]}, None),
    ({}, {"steps": [{"missing": "", "summary": PLAIN}, {"missing": "Suez", "summary": DENSER}]}, None),
    ({}, {"steps": [DENSER, DENSER]}, "the last step names no more entities than the first, 5"),
    ({}, {"steps": [PLAIN, PLAIN, DENSER]}, None),
    ({}, {"steps": [DENSER, PLAIN]}, "a step names 4 entities fewer than the one before"),
    ({}, {"steps": [PLAIN, DENSEST]}, None),
    ({"max_length_change": 0.05}, {"steps": [PLAIN, DENSEST]}, "a step's length differs from the first one's by 6% > 5%"),
    ({}, {"steps": [PLAIN, DENSEST + " It is in use now."]}, "differs from the first one's by 35% > 10%"),
    ({}, {"steps": [PLAIN]}, "no chain"),
    ({}, {"steps": "not a list"}, "no chain"),
    ({"key": "text"}, {"steps": [{"text": PLAIN}, {"text": DENSER}]}, None),
]


@pytest.mark.parametrize("text, expected", [
    ("The bee danced. In 1973 Karl von Frisch's bees won 1,642 prizes.", {"1973", "Karl", "Frisch", "1,642"}),
    ("Paris, Paris and Rome. Rome fell.", {"Paris", "Rome"}),
    ("nothing at all", set()),
])  # fmt: skip
def test_entities_are_names_and_numbers(text, expected):
    assert entities(text) == expected
