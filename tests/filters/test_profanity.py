"""Swear words."""

import pytest

CASES = [
    ({"fields": ["x"]}, {"x": "The class in Scunthorpe assessed Dickens and a cockpit."}, None),
    (
        {"fields": ["q", "x"]},
        {"q": "What?", "x": "What is this Shit, you bastard? Shit!"},
        "2 profane words > 0",
    ),
    ({"fields": ["x"]}, {"x": "What is this sh1t?"}, "1 profane words > 0"),
    ({"fields": ["x"], "max_words": 1}, {"x": "What is this shit?"}, None),
    ({"fields": ["x"], "allow": ["bastard"]}, {"x": "William the bastard took the throne."}, None),
    ({"fields": ["x"], "also": ["frobnicate"]}, {"x": "We frobnicate."}, "1 profane words > 0"),
    ({"fields": ["x"], "languages": ["german"]}, {"x": "So eine Scheiße."}, "1 profane words > 0"),
]


def test_an_unknown_list_is_told(reason):
    with pytest.raises(ValueError, match="there is no list 'englisch'; did you mean 'english'"):
        reason("profanity", {"fields": ["x"], "languages": ["englisch"]}, {"x": ""})
