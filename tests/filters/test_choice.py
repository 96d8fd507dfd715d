"""Options by letter, then by content."""

OPTIONS = {"options": "o"}
PETS = {"o": ["a cat", "a dog", "the dog house"]}
LOGIC = {"o": "Is the argument valid or invalid?\nOptions:\n- valid\n- invalid"}

CASES = [
    ({}, {"answer": "So the answer is (B).", "gold": "B"}, None),
    ({}, {"answer": "So the answer is (B).", "gold": "(C)"}, "chooses another option"),
    ({}, {"answer": "I cannot tell.", "gold": "B"}, "chooses no option"),
    ({}, {"answer": "(A) is wrong, for it barks.\nSo it is (B).", "gold": "B"}, None),
    (
        {"lenient": False},
        {"answer": "(A) is wrong, for it barks.\nSo it is (B).", "gold": "B"},
        "chooses no option",
    ),
    ({}, {"answer": "B", "gold": "B"}, None),
    ({}, {"answer": "\\boxed{\\text{B}}", "gold": "B"}, None),
    ({}, {"answer": "A dog barks.", "gold": "A"}, "chooses no option"),
    (OPTIONS, {**PETS, "answer": "The answer is the dog house.", "gold": "C"}, None),
    (OPTIONS, {**PETS, "answer": "It must be the dog.", "gold": "a dog"}, None),
    (OPTIONS, {**PETS, "answer": "A cat or a dog.", "gold": "B"}, "chooses no option"),
    (OPTIONS, {**PETS, "answer": "B. a dog", "gold": 1}, None),
    (OPTIONS, {**PETS, "answer": "The answer is D.", "gold": "A"}, "chooses no option"),
    (OPTIONS, {**PETS, "answer": "B", "gold": "a fish"}, "the gold answer is none of the options"),
    (OPTIONS, {"o": {"A": "yes", "B": "no"}, "answer": "The answer is no.", "gold": "B"}, None),
    (OPTIONS, {"o": "Which? (A) yes (B) no", "answer": "The answer is no.", "gold": "(B)"}, None),
    (OPTIONS, {**LOGIC, "answer": "Therefore, the answer is invalid.", "gold": "invalid"}, None),
    (
        OPTIONS,
        {**LOGIC, "answer": "Therefore, the answer is valid.", "gold": "invalid"},
        "chooses another option",
    ),
    (OPTIONS, {"o": None, "answer": None, "gold": None}, "the gold answer is none of the options"),
]
