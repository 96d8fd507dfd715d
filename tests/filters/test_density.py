import pytest

from filters.density import entities

PLAIN = "The canal in Egypt is long, was built many years ago, and is of use to ships."  # 17 words, one name
DENSER = "The Suez Canal in Egypt, built by Lesseps by 1869, is long and of use to ships."  # 17 words
DENSEST = (
    "The Suez Canal in Egypt, opened by Ferdinand de Lesseps in 1869, joins the Red Sea and Mediterranean."
)

# 16 words, as many names
OTHERS = "The Panama Canal in America, built by Goethals by 1914, is long and of use to ships."

CASES = [
    ({}, {"steps": [PLAIN, DENSER]}, None),
    ({}, {"steps": [{"missing": "", "summary": PLAIN}, {"missing": "Suez", "summary": DENSER}]}, None),
    ({}, {"steps": [DENSER, DENSER]}, "a step adds 0 entities to those before it < 1"),
    ({"min_added": 0}, {"steps": [DENSER, DENSER]}, None),
    ({}, {"steps": [PLAIN, PLAIN, DENSER]}, "a step adds 0 entities"),
    ({}, {"steps": [DENSER, PLAIN]}, "a step leaves out 3 of the entities before it > 0"),
    ({}, {"steps": [DENSER, OTHERS]}, "a step leaves out 4 of the entities before it > 0"),
    ({}, {"steps": [PLAIN, DENSER, OTHERS]}, "a step leaves out 4 of the entities before it > 0"),
    ({"max_lost": 4}, {"steps": [DENSER, OTHERS]}, None),
    ({}, {"steps": [PLAIN, DENSEST]}, None),
    (
        {"max_length_change": 0.05},
        {"steps": [PLAIN, DENSEST]},
        "a step's length differs from the first one's by 6% > 5%",
    ),
    ({}, {"steps": [PLAIN, DENSEST + " It is in use now."]}, "differs from the first one's by 35% > 10%"),
    ({}, {"steps": [PLAIN]}, "no chain"),
    ({}, {"steps": "not a list"}, "no chain"),
    ({"key": "text"}, {"steps": [{"text": PLAIN}, {"text": DENSER}]}, None),
    # an entity that came back after a step without it was left out all the same
    (
        {"max_length_change": 1},
        {"steps": ["Rome and Paris", "Rome, Oslo", "Rome, Paris, Oslo, Kiev"]},
        "a step leaves out 1",
    ),
    # the same names in other words: a possessive, another place in the sentence, another spelling of a number
    (
        {"max_length_change": 1},
        {"steps": ["Ships use it: 1,642 of Frisch.", "Frisch's 1642 ships are in Egypt."]},
        None,
    ),
    (
        {"max_lost": 1, "max_length_change": 1},
        {"steps": ["Rome, Paris", "Rome, Oslo", "Oslo, Kiev"]},
        "a step leaves out 2",
    ),
    ({"max_length_change": 1}, {"steps": ["He sells iPhones.", "He sells iPhones in Rome."]}, None),
    # a sentence that follows a single letter begins with a common word, not with a name
    ({"max_length_change": 1}, {"steps": ["Rome sings in E. The end.", "Rome and Oslo sing in E."]}, None),
]


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "The bee danced. In 1973 Karl von Frisch's bees won 1,642 prizes.",
            {"1973", "karl", "frisch", "1642"},
        ),
        ("Paris, Paris and Rome. Rome fell.", {"paris", "rome"}),
        (
            "the mRNA of O’Brien in Austro-Hungarian Österreich, 1914–1918",
            {"mrna", "o’brien", "austro", "hungarian", "österreich", "1914", "1918"},
        ),
        ("nothing at all", set()),
    ],
)
def test_entities_are_names_and_numbers(text, expected):
    assert entities(text) == expected
