"""The bounds of a search's trials: what they share counts once, and never more than the costliest count."""

from dataclasses import dataclass, field

import pytest

from distillgen.flow.stage import Estimate
from distillgen.stages._trial_bounds import of_trials


@dataclass
class Step:
    """A stage with its bounds: it asks `asks` requests of a dollar, and keeps `keeps` of the rows."""

    asks: int | None = 0
    keeps: int | None = None
    trains: bool = False
    kind: str = "step"
    when: None = None
    name: str = field(default="", compare=False)

    @property
    def stage(self):
        return self

    def model_dump(self):
        return {"asks": self.asks, "keeps": self.keeps, "name": self.name}

    def makes(self, directory):
        return {"student": None} if self.trains else {}

    def estimate(self, before, samples):
        cost = None if self.asks is None else float(self.asks)
        return Estimate(self.keeps or before.rows, self.asks, 0, 0, cost)


ASK, TRAIN, JUDGE = Step(10, name="ask"), Step(trains=True, name="train"), Step(3, name="judge")


@pytest.mark.parametrize(
    ("trials", "most", "requests"),
    [
        ([[ASK, JUDGE], [ASK, JUDGE]], 2, 13),  # nothing differs
        ([[ASK, Step(1)], [ASK, Step(2)]], 2, 10 + 1 + 2),
        ([[ASK, TRAIN, JUDGE], [ASK, TRAIN, JUDGE]], 2, 10 + 3 + 3),  # two students are asked
        ([[ASK, TRAIN, JUDGE], [ASK, TRAIN, JUDGE]], 1, 13),
        ([[Step(10)], [Step(30)], [Step(20)]], 1, 30),
        ([[Step(10)], [Step(30)], [Step(20)]], 2, 50),
        ([[Step(1), ASK], [Step(2), ASK]], 2, 1 + 2 + 10 + 10),  # other answers may come before it
        ([[ASK], [Step(None)]], 1, None),
        ([], 2, 0),
    ],
)
def test_requests_that_trials_share_count_once(trials, most, requests):
    bounds = of_trials(trials, most, Estimate(7), [])
    assert bounds.requests == requests
    assert bounds.max_cost_usd == requests


@pytest.mark.parametrize(("keeps", "rows"), [((3, 5, 4), 5), ((3, None, 4), 7)])
def test_rows_are_those_of_the_largest_trial(keeps, rows):
    assert of_trials([[Step(keeps=n)] for n in keeps], 3, Estimate(7), []).rows == rows
    assert of_trials([[Step()]], 1, Estimate(None), []).rows is None
