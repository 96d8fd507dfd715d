"""A figure for "how many", a name for "who"."""

CASES = [
    ({"field": "a", "to": "q"}, {"q": "When did it open?", "a": "In November 1869."}, None),
    (
        {"field": "a", "to": "q"},
        {"q": "When did it open?", "a": "After a long while."},
        "not the kind of answer asked for",
    ),
    (
        {"field": "a", "to": "q"},
        {"q": "Why is it deep?", "a": "It is a valley."},
        "not the kind of answer asked for",
    ),
    ({"field": "a", "to": "q"}, {"q": "How do bees dance?", "a": "On the comb."}, None),
    (
        {"field": "a", "to": "q"},
        {"q": "How fast does it move?", "a": "Almost a metre in a single day."},
        None,
    ),
    ({"field": "a", "to": "q"}, {"q": "How fast does it move?", "a": "Ice is white."}, "not the kind"),
    ({"field": "a", "to": "q"}, {"q": "How many sheets?", "a": "Between thirteen and forty-two."}, None),
    (
        {"field": "a", "to": "q"},
        {"q": "When does a spring not return?", "a": "Once it is stretched too far."},
        None,
    ),
    ({"field": "a", "to": "q"}, {"q": "Why are dams thick?", "a": "Water pressure grows with depth."}, None),
    ({"field": "a", "to": "q"}, {"q": "Who signs it?", "a": "The employee."}, None),
    ({"field": "a", "to": "q"}, {"q": "Who signs it?", "a": "much paper"}, "not the kind"),
]
