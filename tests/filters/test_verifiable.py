"""Problems that no program can check."""

ASK = "A rope of 17 m is cut into pieces of 3 m. How many metres are left?"

CASES = [
    ({}, {"question": ASK, "gold": "2"}, None),
    ({}, {"question": ASK, "gold": 2}, None),
    ({}, {"question": ASK, "gold": r"So it is \boxed{\frac{1}{2}}."}, None),
    ({}, {"question": ASK, "gold": ["$-1,000.5$", "other"]}, None),
    ({}, {"question": "In the figure below, how long is AB?", "gold": "2"}, "needs an image"),
    ({}, {"question": "![](a.png) How long is AB?", "gold": "2"}, "needs an image"),
    (
        {},
        {"question": "Three pictures hang on a wall. How many figures are on a 3 by 3 map?", "gold": "2"},
        None,
    ),
    ({}, {"question": "Prove that the square root of 2 is irrational.", "gold": "2"}, "asks for a proof"),
    ({}, {"question": "Let n be odd. Show that n^2 - 1 is divisible by 8.", "gold": ""}, "asks for a proof"),
    (
        {},
        {
            "question": "A show that lasts 2 hours begins at 8. They prove a claim an hour; how many in all?",
            "gold": "2",
        },
        None,
    ),
    ({}, {"question": ASK, "gold": None}, "has no gold answer"),
    ({}, {"question": ASK, "gold": " "}, "has no gold answer"),
    ({}, {"question": ASK, "gold": "x + 1"}, "its gold answer is not a number"),
    ({"answer": "any"}, {"question": ASK, "gold": "x + 1"}, None),
]
