"""Under a cap, rows are finished before others begin; the final message says which cap would be enough."""

import json
import re
from collections import Counter

import pytest

import distillgen
from distillgen.errors import BudgetStop
from distillgen.flow.stage import WorkerServices
from distillgen.inference.limits import Outlook
from distillgen.runs import execute, pacing
from tests.endpoint import Endpoint, completion

# An answer costs 10 * 10 + 5 * 30 = $0.00025 here, its worst case up to ten times as much.
PRICE = ", price: {input: 10, output: 30}"
STAGE = ", max_tokens: 20"
AFTER = "".join(
    (
        f'  - generate: {{name: s{i}, model: teacher, template: "{i}: {{{{ {before} }}}}", output: '
        f"f{i}, max_tokens: 20}}\n"
    )
    for i, before in [(2, "answer"), (3, "f2"), (4, "f3")]
)


def run(project, cap, out="ask", **options):
    with pytest.raises(BudgetStop) as stop:
        distillgen.run(
            project.path / "pipelines/ask.yaml", out=project.path / "runs" / out, max_cost_usd=cap, **options
        )
    return str(stop.value)


def totals(project, out="ask"):
    return json.loads((project.path / "runs" / out / "usage.json").read_text())["totals"]


@pytest.mark.parametrize("latency_s, model", [(0.0, ""), (0.02, ""), (0.02, ", max_concurrency: 3")])
def test_a_capped_run_finishes_rows_and_names_a_sufficient_cap(project, latency_s, model):
    with Endpoint(latency_s=latency_s) as endpoint:
        project.ask_pipeline(endpoint.url, 300, model=PRICE + model, stage=STAGE, after=AFTER)
        said = run(project, 0.06)
        spent = totals(project)
        rows = project.read("runs/ask/corpus.jsonl")
        assert spent["cost_usd"] <= 0.06 and spent["answers"] == endpoint.asked.total()
        assert len(rows) >= 0.8 * spent["answers"] / 4 and len(rows) >= 40, (
            "what was paid for was not finished"
        )
        assert [row["number"] for row in rows] == list(range(len(rows)))
        finished, total, likely, enough = re.search(
            r"(\d+) of (\d+) rows are finished, all take about \$([\d.]+), and --max-cost-usd ([\d.]+)", said
        ).groups()
        assert (int(finished), total) == (len(rows), "300") and float(likely) == pytest.approx(0.3, rel=0.2)
        done = distillgen.run(
            project.path / "pipelines/ask.yaml", out=project.path / "runs/ask", max_cost_usd=float(enough)
        )
        assert done.state["kept"] == 300 and max(endpoint.asked.values()) == 1


def test_judges_and_samples_count(project):
    """Each row takes one answer of three samples, and a judge of each."""
    filters = "  - filter: [judge: {model: teacher, rubric: good, fields: [answer], min_score: 1}]\n"
    with Endpoint(
        lambda body, times: (
            completion(body)
            if body.get("n")
            else completion(
                body,
                choices=[
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"content": '{"reason": "r", "score": 8}'},
                    }
                ],
            )
        )
    ) as endpoint:
        project.ask_pipeline(
            endpoint.url, 200, model=PRICE + ", max_tokens: 20", stage=", n: 3", after=filters
        )
        run(project, 0.05)
        asked = Counter("n" in body for body in endpoint.bodies)
        assert len(project.read("runs/ask/corpus.jsonl")) >= 0.8 * 3 * asked[True] >= 30


class Deaf(set):
    def add(self, _):
        """It is not told which stages see all rows first."""


@pytest.mark.parametrize("whole", [set, Deaf])
def test_a_stage_that_sees_all_rows_first_holds_nothing_up_for_ever(project, whole, monkeypatch):
    """Nothing is finished before it; a cap that is enough for all still finishes all."""
    select = "  - select: {n: 60, by: random}\n"
    monkeypatch.setattr(
        execute, "WorkerServices", lambda *given, **more: WorkerServices(*given, whole=whole(), **more)
    )
    monkeypatch.setattr(pacing, "STALL_S", 0.2)
    with Endpoint() as endpoint:
        after = AFTER.replace("  - generate: {name: s3", select + "  - generate: {name: s3")
        project.ask_pipeline(endpoint.url, 60, model=PRICE, stage=STAGE, after=after)
        done = distillgen.run(
            project.path / "pipelines/ask.yaml", out=project.path / "runs/ask", max_cost_usd=0.08
        )
        assert done.state["kept"] == 60 and endpoint.asked.total() == 240
    assert ("nothing moves" in (project.path / "runs/ask/run.log").read_text()) == (whole is Deaf)


def test_a_cap_that_is_enough_in_any_case_holds_nothing_back(project):
    with Endpoint(latency_s=0.4) as endpoint:
        project.ask_pipeline(
            endpoint.url, 100, model=PRICE + ", max_concurrency: 50", stage=STAGE, after=AFTER
        )
        distillgen.run(project.path / "pipelines/ask.yaml", out=project.path / "runs/ask", max_cost_usd=100)
        assert endpoint.most_in_flight == 50


def test_a_replay_and_a_later_stage_that_changed_are_not_held_up(project):
    with Endpoint() as endpoint:
        path = project.ask_pipeline(endpoint.url, 40, model=PRICE, stage=STAGE, after=AFTER)
        distillgen.run(path, out=project.path / "runs/ask", max_cost_usd=10)
        path.write_text(path.read_text().replace("4: {{", "four: {{"))
        done = distillgen.run(path, out=project.path / "runs/ask", max_cost_usd=0.058)
        assert done.state["kept"] == 40 and endpoint.asked.total() == 200


def test_what_rows_will_cost():
    finished, paid = [6, 5, 0], [6.0, 10.0, 0.0]
    outlook = Outlook([2.0, 4.0, 8.0], 100, lambda: finished, lambda: paid)
    assert outlook.likely() == [1.0, 2.0, 8.0]
    assert outlook.rest(outlook.worst, 7, 3) == 1 * 2 + 2 * 4 + 7 * 8
    assert outlook.affords(66, 7, 3) and not outlook.affords(65.9, 7, 3), (
        "only the first two have been measured"
    )
    assert outlook.affords(1 * 1 + 2 * 2 + 4, 7, 2) and not outlook.affords(8.9, 7, 2)
    assert Outlook([None, 4.0], 9, lambda: [0, 0], lambda: [0.0, 0.0]).text(1.0) == ""
