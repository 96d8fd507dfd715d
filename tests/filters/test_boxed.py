r"""The last \boxed{…}, in any spelling."""

CASES = [
    ({}, {"answer": "First \\boxed{3}, no: \\boxed{\\frac{1}{2}}.", "gold": "\\boxed{0.5}"}, None),
    ({}, {"answer": "\\boxed{\\dfrac12}", "gold": "1/2"}, None),
    ({}, {"answer": "\\boxed{5\\text{ cm}}", "gold": "5"}, None),
    ({}, {"answer": "\\boxed{x = 1{,}000}", "gold": "1000"}, None),
    (
        {},
        {"answer": "\\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}", "gold": "(3,\\frac\\pi2)"},
        "another \\boxed{…} than the gold answer",
    ),
    ({}, {"answer": "\\boxed{\\left( 3, \\dfrac{\\pi}{2} \\right)}", "gold": "(3,\\frac{\\pi}{2})"}, None),
    ({}, {"answer": "\\boxed{7}", "gold": ["6", "7"]}, None),
    ({}, {"answer": "\\boxed{8}", "gold": "7"}, "another \\boxed{…} than the gold answer"),
    ({}, {"answer": "It is 7.", "gold": "7"}, "no \\boxed{…} in it"),
    ({}, {"answer": "So \\boxed{7", "gold": "7"}, "no \\boxed{…} in it"),
    ({}, {"answer": "\\boxed{}", "gold": ""}, "the gold answer is empty"),
    ({}, {"answer": ["\\boxed{7}"], "gold": 7}, None),
]
