"""Answers that ignore their question."""

BEARING = {
    "t": "A cage holds nine steel balls apart. The balls roll between two rings. Grease is put in "
    "once a year. "
    "Most bearings fail when dirt scratches the rings."
}

CASES = [
    (
        {"field": "a", "to": "q"},
        {"q": "How deep is Lake Baikal?", "a": "Lake Baikal is 1,642 metres deep."},
        None,
    ),
    (
        {"field": "a", "to": "q"},
        {"q": "How deep is Lake Baikal?", "a": "Bread rises slowly."},
        "takes up 0% of the q < 50%",
    ),
    (
        {"field": "a", "to": "q"},
        {"q": "Is Lake Baikal deep?", "a": "Lake Baikal is deep."},
        "only repeats the q",
    ),
    ({"field": "a", "to": "q"}, {"q": "Deep lake?", "a": "A lake with 1 seal."}, None),
    (
        {"field": "a", "to": "q"},
        {"q": "How fast do glaciers move?", "a": "Almost a metre in a single day."},
        None,
    ),
    ({"field": "a", "to": "q"}, {"q": "How fast do glaciers move?", "a": "Ice is white."}, "takes up 0%"),
    ({"field": "a", "to": "q"}, {"q": "How many sheets are there?", "a": "Thirteen."}, None),
    ({"field": "a", "to": "q"}, {"q": "Does asking lower a score?", "a": "No, it does not."}, None),
    ({"field": "a", "to": "q"}, {"q": "Why do bearings fail?", "a": "From bad lubrication."}, None),
    (
        {"field": "a", "to": "q"},
        {"q": "Why do bearings fail?", "a": "In welding, two pieces are melted together."},
        "takes up 0%",
    ),
    (
        {"field": "a", "to": "q"},
        {"q": "Why do pumps break?", "a": "Because pumps break."},
        "only repeats the q",
    ),
    (
        {"field": "a", "to": "q", "sources": ["t"]},
        {**BEARING, "q": "Why do bearings fail?", "a": "Dirt scratches the rings."},
        None,
    ),
    (
        {"field": "a", "to": "q", "sources": ["t"]},
        {**BEARING, "q": "Why do bearings fail?", "a": "A cage holds nine steel balls."},
        "takes up 0%",
    ),
    (
        {"field": "a", "to": "q", "sources": ["t"]},
        {**BEARING, "q": "Why do bearings fail?", "a": "By flooding of the harbour."},
        "takes up 0%",
    ),
    (
        {"field": "a", "to": "q", "sources": ["t"]},
        {**BEARING, "q": "How many balls are there?", "a": "Forty euros."},
        "takes up 0%",
    ),
]
