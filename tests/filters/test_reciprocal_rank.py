"""The reciprocal rank: lists of scores, rankings, and records that have neither."""

CASES = [
    ({}, {"answer": [0.9, 0.1, 0.5], "relevance": [0, 0, 3]}, None),
    ({"min_rank": 0.5}, {"answer": [0.9, 0.1, 0.5], "relevance": [0, 0, 3]}, None),
    ({"min_rank": 0.6}, {"answer": "[0.9, 0.1, 0.5]", "relevance": [0, 0, 3]}, "rank 0.500 < 0.6"),
    ({"k": 1, "min_rank": 0.1}, {"answer": [0.9, 0.1, 0.5], "relevance": [0, 0, 3]}, "rank 0.000 < 0.1"),
    ({"scores": None, "min_rank": 0.3}, {"relevance": [0, 0, 1]}, None),
    ({}, {"answer": None, "relevance": [1, 0]}, "'answer' holds no list of as many scores"),
    ({}, {"answer": [1, 2], "relevance": [0, -1]}, "'relevance' holds no relevant document"),
]
