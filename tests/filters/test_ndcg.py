"""NDCG: lists of scores, rankings, and records that have neither."""

CASES = [
    ({}, {"answer": [0.9, 0.1, 0.5], "relevance": [2, 0, 1]}, None),
    ({"min_ndcg": 1.0}, {"answer": "[0.9, 0.1, 0.5]", "relevance": [2, 0, 1]}, None),
    ({"min_ndcg": 0.9}, {"answer": [0.1, 0.9, 0.5], "relevance": [2, 0, 1]}, "NDCG 0.620 < 0.9"),
    ({"scores": None, "min_ndcg": 1.0}, {"relevance": [2, 1, 0]}, None),
    ({"scores": None, "k": 1, "min_ndcg": 0.4}, {"relevance": [0, 2, 1]}, "NDCG 0.000 < 0.4"),
    ({"scores": "cosines"}, {"cosines": ["0.2", "0.1"], "relevance": [1, 0]}, None),
    ({}, {"answer": "0.9, 0.1", "relevance": [1, 0]}, "'answer' holds no list of as many scores"),
    ({}, {"answer": [0.9], "relevance": [1, 0]}, "'answer' holds no list of as many scores"),
    ({}, {"answer": [0.9, float("nan")], "relevance": [1, 0]}, "'answer' holds no list of as many scores"),
    ({}, {"answer": [True, 0.1], "relevance": [1, 0]}, "'answer' holds no list of as many scores"),
    ({}, {"answer": [0.9, 0.1], "relevance": [0, 0]}, "'relevance' holds no relevant document"),
    ({}, {"answer": [0.9, 0.1], "relevance": "high"}, "'relevance' holds no relevant document"),
]
