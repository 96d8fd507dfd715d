"""A grade by a rubric: what the judge says is planted."""

OPTIONS = {"model": "judge", "rubric": "Is it true?", "fields": ["answer"], "min_score": 6}

CASES = [
    (OPTIONS, {"answer": "Two."}, None, ['{"reason": "so", "score": 9}']),
    (OPTIONS, {"answer": "Two."}, None, ['Well: {"reason": "so", "score": 6}']),
    (OPTIONS, {"answer": "Two."}, "graded 5 of 10 < 6", ['{"reason": "so", "score": 5}']),
    (OPTIONS, {"answer": "Two."}, "not judged: the grade 11 is not between 1 and 10", ['{"reason": "so", "score": 11}']),
    (OPTIONS, {"answer": "Two."}, "not judged: there is no JSON", ["nine"]),
]  # fmt: skip
