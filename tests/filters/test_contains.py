"""The gold answer stands in the answer, letter for letter."""

CASES = [
    ({}, {"answer": "It was the Amber Heron, I think.", "gold": "Amber Heron"}, None),
    ({}, {"answer": "the amber heron", "gold": "Amber Heron"}, "the gold answer is not in it"),
    ({}, {"answer": "Amber", "gold": "Amber Heron"}, "the gold answer is not in it"),
    ({}, {"answer": "in 1819", "gold": [1820, 1819]}, None),
    ({}, {"answer": "", "gold": "Amber Heron"}, "the gold answer is not in it"),
    ({}, {"answer": "anything", "gold": ""}, "no gold answer"),
    ({}, {"answer": "anything", "gold": None}, "no gold answer"),
    ({}, {"answer": "anything", "gold": ["", "thing"]}, None),
    ({"field": "said", "gold": "right"}, {"said": "noon", "right": "no"}, None),
]
