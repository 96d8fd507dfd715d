"""Exact match, with and without normalisation."""

CASES = [
    ({}, {"answer": "The Eiffel Tower!", "gold": "eiffel tower"}, None),
    (
        {"normalise": False},
        {"answer": "The Eiffel Tower!", "gold": "eiffel tower"},
        "not the gold answer to the letter",
    ),
    ({"normalise": False}, {"answer": " Rome\n", "gold": "Rome"}, None),
    ({}, {"answer": "Milan", "gold": "Rome"}, "not the gold answer"),
    ({}, {"answer": "Milan", "gold": ["Rome", "milan"]}, None),
    ({}, {"answer": "The answer is Rome.", "gold": "Rome"}, "not the gold answer"),
    (
        {"part": "announced"},
        {"answer": "It was built there. The answer is Rome. It is old.", "gold": "Rome"},
        None,
    ),
    ({"part": "announced"}, {"answer": "Rome", "gold": "Rome"}, "announces no answer"),
    ({"min_f1": 0.5}, {"answer": "Rome, in Italy", "gold": "Rome"}, None),
    (
        {"min_f1": 0.6},
        {"answer": "Rome, in Italy", "gold": ["Milan", "Rome"]},
        "F1 0.50 with the gold answer < 0.6",
    ),
    ({}, {"answer": 7, "gold": 7}, None),
    ({}, {"answer": None, "gold": None}, "no gold answer"),
]
