"""The estimate of the time left, on readings of real runs whose stages have answers of very different length.

`real` is a model of 1.5 B parameters on a busy CPU that writes stories of a hundred words and judges each in
one word: twelve rows, four at once, each story most of a minute. In the others, Python functions answer after
a time that grows with the answer: `one` and `two` are models for stories and verdicts that stream; in `late`,
all the verdicts come before the first story.
"""

import json
from pathlib import Path

import pytest

from distillgen.flow.stage import Estimate
from distillgen.runs.time_left import Requests, StageWork, TimeLeft

TRACES = Path(__file__).parent / "traces"


def readings(name):
    """The end of the run, and its readings: seconds, stages, requests in flight."""
    head, *lines = map(json.loads, (TRACES / f"{name}.jsonl").read_text().splitlines())
    stages = [
        [
            StageWork(sources, kept, {k: Requests(*v) for k, v in asked.items()})
            for sources, kept, asked in work
        ]
        for _, work, _ in lines
    ]
    times = [line[0] for line in lines]
    return head, list(zip(times, stages, [line[2] for line in lines], strict=True))


def estimates(name):
    """Seconds since the start, and the estimate of the seconds left."""
    head, lines = readings(name)
    time_left = TimeLeft(head["total"], [Estimate(*plan) for plan in head["plan"]], head["models"])
    return [(now, left) for now, *rest in lines if (left := time_left.read(now, *rest)) is not None]


def estimates_by_rows(name):
    """What was shown before: the rows of the last stage at their rate of the last 30 seconds."""
    head, lines = readings(name)
    rows = [(now, stages[-1].sources) for now, stages, _ in lines]
    pairs = [(next(r for r in rows if r[0] >= now - 30), (now, done)) for now, done in rows]
    return [
        (now, (head["total"] - done) * (now - before) / (done - done_before))
        for (before, done_before), (now, done) in pairs
        if done > done_before
    ]


def largest_error(estimated, end):
    """The largest factor between an estimate and the truth, until a tenth of the time is left."""
    pairs = [(max(1e-9, left), end - now) for now, left in estimated if end - now > end / 10]
    return max(max(left / true, true / left) for left, true in pairs)


@pytest.mark.parametrize("name, most", [("real", 4), ("one", 2), ("two", 2), ("late", 2)])
def test_the_time_left_never_jumps_by_a_factor_of_four(name, most):
    estimated, end = estimates(name), readings(name)[1][-1][0]
    expected_ends = [now + left for now, left in estimated]
    steps = [max(a, b) / min(a, b) for a, b in zip(expected_ends, expected_ends[1:], strict=False)]
    assert len(estimated) > 8 and estimated[0][0] < end / 2, "an estimate is there for half of the time"
    assert max(steps) < 1.5 and largest_error(estimated, end) < most


@pytest.mark.parametrize("name", ["one", "two", "late"])
def test_by_rows_it_would_jump(name):
    assert largest_error(estimates_by_rows(name), readings(name)[1][-1][0]) > 4


def test_what_no_answer_tells_of_is_not_estimated():
    """Verdicts are asked of one model, stories of another that has not begun: most would be a guess."""
    _, lines = readings("late")
    first_story = next(now for now, stages, _ in lines if stages[-1].requests)
    assert min(now for now, _ in estimates("late")) >= first_story


def test_answers_from_the_ledger_are_no_pace():
    """Half of the rows come from the ledger at once; the others take a second each."""
    time_left = TimeLeft(100, [Estimate(100), Estimate(100, 100, 1000, 10_000)], [[], ["m"]])
    source = StageWork(100, 100, {})
    assert time_left.read(0, [source, StageWork(50, 50, {})], {"m": 1}) is None
    for second in range(1, 6):
        stage = StageWork(50 + second, 50 + second, {"m": Requests(second, 10 * second, 50 * second)})
        left = time_left.read(second, [source, stage], {"m": 1})
    assert left == pytest.approx(45, rel=0.05)


def test_a_pipeline_that_asks_nothing_goes_by_rows():
    time_left = TimeLeft(100, [Estimate(100), Estimate(100)], [[], []])
    for second in range(5):
        done = StageWork(10 * second, 10 * second, {})
        left = time_left.read(second, [done, done], {})
    assert left == pytest.approx(6, rel=0.05)
    assert TimeLeft(None, [Estimate(None)], [[]]).read(1, [StageWork(5, 5, {})], {}) is None


def test_while_long_answers_are_awaited_the_time_left_runs_down():
    """Two answers a minute: the pace is no slower in the half minute before the next one."""
    time_left = TimeLeft(6, [Estimate(6), Estimate(6, 6, 60, 6000)], [[], ["m"]])
    source, two = StageWork(6, 6, {}), StageWork(2, 2, {"m": Requests(2, 20, 1000)})
    time_left.read(0, [source, StageWork(0, 0, {})], {"m": 2})
    left = [time_left.read(second, [source, two], {"m": 2}) for second in (60, 75, 90, 105)]
    assert left == pytest.approx([120, 105, 90, 75])
