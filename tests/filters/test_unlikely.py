"""Answers with a low probability under their teacher."""

import pytest

from tests.endpoint import Endpoint, completion

SCORES = {
    "x": "a",
    "meta": {
        "scores": {
            "generate.logprob": -12.0,
            "generate.mean_logprob": -0.5,
            "rate.logprob": -90.0,
            "rate.mean_logprob": -3.0,
        }
    },
}

CASES = [
    ({"min_logprob": -20}, SCORES, None),
    ({"min_logprob": -12}, SCORES, None),
    ({"min_logprob": -10}, SCORES, "logprob -12.00 < -10"),
    ({"min_mean_logprob": -0.4}, SCORES, "mean_logprob -0.50 < -0.4"),
    ({"min_logprob": -20, "min_mean_logprob": -0.4}, SCORES, "mean_logprob -0.50 < -0.4"),
    ({"stage": "rate", "min_mean_logprob": -2.5}, SCORES, "mean_logprob -3.00 < -2.5"),
    ({"min_logprob": -20}, {"x": "a"}, "the stage 'generate' recorded no log-probability"),
]


def test_it_needs_a_limit(reason):
    with pytest.raises(ValueError, match="give 'min_logprob' or 'min_mean_logprob'"):
        reason("unlikely", {}, SCORES)


def answered(body, times):
    """A token each for the question's number: the more, the less likely together."""
    number = int(body["messages"][0]["content"].split()[-1].strip("?"))
    content = [{"token": "x", "logprob": -0.5, "top_logprobs": []}] * (number + 1)
    made = completion(body)
    choice = made["choices"][0] | {"message": {"role": "assistant", "content": "x" * (number + 1)}}
    return made | {"choices": [choice | ({"logprobs": {"content": content}} if body.get("logprobs") else {})]}


@pytest.mark.parametrize(
    "asked, reasons",
    [
        (", logprobs: 0", ["logprob -1.50 < -1.2"]),
        ("", ["the stage 'generate' recorded no log-probability"] * 3),
    ],
)
def test_it_reads_what_a_generate_stage_recorded(project, asked, reasons):
    with Endpoint(answered) as endpoint:
        project.ask_pipeline(
            endpoint.url, 3, stage=asked, after="  - filter: [unlikely: {min_logprob: -1.2}]\n"
        )
        project.cli("run", "ask", check=0 if asked else 3)
    dropped = [row["meta"]["dropped"]["reason"] for row in project.read("runs/ask/dropped.jsonl")]
    assert len(dropped) == len(reasons) and all(
        found.startswith(reason) for found, reason in zip(dropped, reasons, strict=True)
    )
