"""The language of a text."""

import pytest

ENGLISH = "The lake lies in Siberia, and it is the deepest one on Earth."
GERMAN = "Der See liegt in Sibirien und ist der tiefste See der Erde."

CASES = [
    ({"field": "x", "languages": ["en"]}, {"x": ENGLISH}, None),
    ({"field": "x", "languages": ["en"]}, {"x": GERMAN}, "en with confidence 0.0"),
    ({"field": "x", "languages": ["en", "de"]}, {"x": GERMAN}, None),
    ({"field": "x", "languages": ["zh"]}, {"x": "贝加尔湖是世界上最深的湖。"}, None),
    ({"field": "x", "languages": ["en"], "min_confidence": 0.9}, {"x": "Ja, OK."}, "< 0.9"),
    (
        {"field": "x", "languages": ["en"], "min_confidence": 0.7},
        {"x": (ENGLISH + " ") * 4 + (GERMAN + " ") * 4},
        "< 0.7",
    ),
    (
        {"field": "x", "languages": ["en"], "min_confidence": 0.3},
        {"x": (ENGLISH + " ") * 4 + (GERMAN + " ") * 4},
        None,
    ),
    ({"field": "x", "languages": ["en"]}, {"x": "12345 !!"}, "en with confidence 0.00 < 0.5"),
    ({"field": "x", "languages": ["en"], "max_characters": len(ENGLISH)}, {"x": ENGLISH + GERMAN * 20}, None),
]


def test_an_unknown_code_is_told(reason):
    with pytest.raises(ValueError, match="does not know english; it takes codes such as en, de, zh"):
        reason("language", {"languages": ["en", "english"]}, {"response": ENGLISH})
