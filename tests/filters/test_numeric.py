"""The number of an answer, in any notation."""

import distillgen

UNITS = {"units": True}

CASES = [
    ({}, {"answer": "3 + 4 = 7, so the answer is 7.", "gold": "7"}, None),
    ({}, {"answer": "3 + 4 = 8, so the answer is 8.", "gold": "7"}, "8 is not 7"),
    ({}, {"answer": "They have 7 left.", "gold": 7}, None),
    ({"lenient": False}, {"answer": "They have 7 left.", "gold": 7}, "announces no number"),
    ({}, {"answer": "She pays $1,234.50 in all.", "gold": "#### 1234.5"}, None),
    ({}, {"answer": "The answer is \\boxed{\\frac{3}{4}}.", "gold": "0.75"}, None),
    ({}, {"answer": "Answer: 1.5 × 10^3", "gold": "1,500"}, None),
    ({}, {"answer": "It fell by 50%.", "gold": "0.5"}, None),
    ({}, {"answer": "It fell by 50%.", "gold": "50"}, None),
    ({}, {"answer": "It fell by 0.5%.", "gold": "0.5%"}, None),
    ({}, {"answer": "It fell by 5%.", "gold": "50%"}, "5 is not 50"),
    ({}, {"answer": "Twenty-one of them.", "gold": "21"}, None),
    ({}, {"answer": "0.333", "gold": "1/3"}, "0.333 is not 0.333333333333333"),
    ({"rel_tol": 0.001}, {"answer": "0.333", "gold": "1/3"}, None),
    ({"abs_tol": 1.0}, {"answer": "9", "gold": "10"}, None),
    ({"abs_tol": 1.0}, {"answer": "8.9", "gold": "10"}, "8.9 is not 10"),
    ({}, {"answer": "3", "gold": ["2", "3"]}, None),
    ({}, {"answer": "nothing at all", "gold": "7"}, "no number in it"),
    ({}, {"answer": "7", "gold": "seventh heaven"}, "the gold answer holds no number"),
    ({}, {"answer": "7", "gold": None}, "the gold answer holds no number"),
    ({}, {"answer": None, "gold": "7"}, "no number in it"),
    ({}, {"answer": 7.0, "gold": 7}, None),
    (UNITS, {"answer": "It is 1.5 km away.", "gold": "1500 m"}, None),
    (UNITS, {"answer": "It is 1.5 miles away.", "gold": "1500 m"}, "1.5 is not 1500"),
    (UNITS, {"answer": "It is 1500 kg.", "gold": "1500 m"}, "not in a unit of the gold answer's kind"),
    (UNITS, {"answer": "It is 1500.", "gold": "1500 m"}, "not in a unit of the gold answer's kind"),
    (UNITS, {"answer": "5 apples", "gold": "5"}, None),
    (UNITS, {"answer": "The answer is 25 °C.", "gold": "298.15 K"}, None),
    (UNITS, {"answer": "36 km/h", "gold": "10 meters per second"}, None),
]


TEACHER = """
import random, re

def chain(request, sample):
    a, b = map(int, re.findall("[0-9]+", request.messages[-1]["content"]))
    draw = random.Random(f"{a} {b} {sample}")
    answer = a * b + (draw.random() < 0.25) * draw.choice([-10, 1, 10])
    return f"{a} times {b}: first {a} times {b // 2}, no, wait, all of it. The answer is {answer}."
"""


def test_rejection_sampling_keeps_exactly_the_right_answers(project):
    """systems.md, 6 (e): a teacher that is wrong in 25 % of long chains; no wrong final answer is kept."""
    project.write("teacher.py", TEACHER)
    project.rows(
        "sums.jsonl",
        [{"question": f"{a} * {b}?", "gold": str(a * b)} for a in range(10, 30) for b in range(10, 20)],
    )
    stages = [
        {"source": {"path": "sums.jsonl"}},
        {"generate": {"model": "t", "template": "{{ question }}", "output": "answer", "n": 4}},
        {"filter": [{"numeric": {"lenient": False}}]},
    ]
    models = {"t": {"provider": "scripted", "model": "teacher.py:chain"}}
    distillgen.run({"version": 1, "models": models, "stages": stages}, out="out")

    def right(row):
        return row["answer"].endswith(f"answer is {row['gold']}.")

    kept, dropped = project.read("out/corpus.jsonl"), project.read("out/dropped.jsonl")
    assert all(map(right, kept)) and not any(map(right, dropped)) and len(kept) + len(dropped) == 800
    assert 0.2 < len(dropped) / 800 < 0.3
    assert dropped[0]["meta"]["dropped"]["reason"].endswith(f" is not {dropped[0]['gold']}")
