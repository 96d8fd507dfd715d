"""Answers that pass over their question."""

CASES = [
    ({"field": "a", "to": "q"}, {"q": "How deep is Lake Baikal?", "a": "Lake Baikal is 1,642 metres deep."}, None),
    ({"field": "a", "to": "q"}, {"q": "How deep is Lake Baikal?", "a": "Bread rises slowly."}, "takes up 0% of the q < 50%"),
    ({"field": "a", "to": "q"}, {"q": "Is Lake Baikal deep?", "a": "Lake Baikal is deep."}, "only repeats the q"),
    ({"field": "a", "to": "q"}, {"q": "Deep lake?", "a": "A lake with 1 seal."}, None),
]  # fmt: skip
