"""Texts off their subject, by a planted embedder and by the real one."""

import socket

import pytest

from tests.filters.models import embedder

TINY = {"field": "a", "embedder": embedder()}
NEAR, FAR = "Nairobi lies 150 km away.", "Buy cheap tyres!"

CASES = [
    ({**TINY, "to": "q"}, {"q": "How far is Nairobi?", "a": NEAR}, None),
    ({**TINY, "to": "q"}, {"q": "How far is Nairobi?", "a": FAR}, "cosine 0.00 to q < 0.35"),
    ({**TINY, "to": "q", "min_cosine": 0.7}, {"q": "Nairobi", "a": "Nairobi tyres"}, None),  # 0.707
    (
        {**TINY, "to": "q", "min_cosine": 0.71},
        {"q": "Nairobi", "a": "Nairobi tyres"},
        "cosine 0.71 to q < 0.71",
    ),
    ({**TINY, "topic": "bread and yeast"}, {"a": "Dough with flour"}, None),
    ({**TINY, "topic": "bread and yeast"}, {"a": "Bees"}, "to 'bread and yeast' < 0.35"),
    ({**TINY, "to": "q"}, {"q": "How far is Nairobi?", "a": None}, "cosine 0.00"),
    ({**TINY, "to": "q"}, {"q": "How far is Nairobi?", "a": ""}, "cosine 0.00"),
    ({**TINY, "to": "q"}, {"q": "Nairobi", "a": "so " * 9000 + NEAR}, None),
]


def test_either_a_field_or_a_topic(reason):
    for both in ({}, {"to": "q", "topic": "t"}):
        with pytest.raises(ValueError, match="give either 'to', a field, or 'topic', a text"):
            reason("relevance", {**TINY, **both}, {"a": "", "q": ""})


PAIRS = [
    ("How deep is Lake Baikal?", "At 1,642 metres it is the deepest lake on Earth."),
    ("What makes bread rise?", "Yeast gives off a gas that fills the dough with bubbles."),
    (
        "How do honey bees tell where flowers are?",
        "They dance on the comb, and its angle gives the direction.",
    ),
    (
        "Who built the Colosseum?",
        "The emperor Vespasian began the great amphitheatre of Rome, and his son finished it.",
    ),
    ("Why is the sky blue?", "Air scatters short waves of light more than long ones."),
]


@pytest.mark.slow
def test_real_encoder_separates_answers_to_other_questions(reason, monkeypatch):
    pytest.importorskip("sentence_transformers", reason="needs the extra 'filters'")
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *given, **more: pytest.fail(f"a network look-up: {given}")
    )
    options = {"field": "a", "to": "q"}
    assert [reason("relevance", options, {"q": q, "a": a}) for q, a in PAIRS] == [None] * 5
    shuffled = [
        reason("relevance", options, {"q": q, "a": PAIRS[i - 1][1]}) for i, (q, _) in enumerate(PAIRS)
    ]
    assert all(shuffled), shuffled
    assert "cosine 0.0" in reason("relevance", options, {"q": "How far is Nairobi?", "a": FAR})
