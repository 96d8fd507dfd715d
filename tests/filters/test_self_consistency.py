"""The share of samples that agree."""

from tests.filters.groups import judged, reasons, samples

CASES = [
    ({}, {"answer": "Rome"}, None),
    ({"kind": "number"}, {"answer": "no number"}, None),
    ({"kind": "number", "min_share": 0.5}, {"answer": "no number"}, "0% of the samples agree < 50%"),
]


def test_the_share_is_a_score_and_a_threshold_drops():
    records = samples(["A", "(B)", "The answer is B.", "B", "cannot say"], "a") + samples(["C"], "b")
    out = judged(records, [{"self_consistency": {"kind": "choice"}}])
    assert [r.scores["self_consistency"] for r in out] == [0.2, 0.6, 0.6, 0.6, 0.0, 1.0] and not any(
        reasons(out)
    )
    out = judged(records, [{"self_consistency": {"kind": "choice", "min_share": 0.6}}])
    assert [r is None for r in reasons(out)] == [False, True, True, True, False, True]
