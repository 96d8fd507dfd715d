"""A figure for "how many", a name for "who"."""

CASES = [
    ({"field": "a", "to": "q"}, {"q": "When did it open?", "a": "In November 1869."}, None),
    ({"field": "a", "to": "q"}, {"q": "When did it open?", "a": "After a long while."}, "not the kind of answer asked for"),
    ({"field": "a", "to": "q"}, {"q": "Why is it deep?", "a": "It is a valley."}, "not the kind of answer asked for"),
    ({"field": "a", "to": "q"}, {"q": "How do bees dance?", "a": "On the comb."}, None),
]  # fmt: skip
