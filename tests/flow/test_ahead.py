"""Stages that ask by batch and do not depend on each other have their batches in flight at once."""

import json
import os
import signal
import sys

import pytest

import distillgen
from distillgen.pipeline.load import load
from tests.batch_endpoint import STATES, BatchEndpoint
from tests.command_process import ForkedCommand
from tests.endpoint import completion

ROWS = 12
MODEL = '{provider: openai, model: m, base_url: "URL", api_key: secret-key-123, mode: MODE, gather_s: 0.1}'
PIPELINE = """version: 1
models:
  one: MODEL
  two: MODEL
  three: MODEL
stages:
  - source: {path: seeds.jsonl}
"""
FIRST = "generate: {name: first, model: one, template: '{{ question }}?', output: answer}"
SECOND = "generate: {name: second, model: two, template: 'A word about {{ question }}', output: word}"
THIRD = "generate: {name: third, model: three, template: 'Other: {{ question }}', output: other}"
DEPENDENT = "generate: {name: second, model: two, template: 'A word about {{ answer }}', output: word}"


def write(project, *stages, url="http://localhost:9", mode="batch"):
    text = PIPELINE.replace("MODEL", MODEL.replace("URL", url).replace("MODE", mode))
    project.rows("seeds.jsonl", [{"question": f"q{i}", "who": "two"} for i in range(ROWS)])
    return project.write("ask.yaml", text + "".join(f"  - {stage}\n" for stage in stages))


def run(project, *stages, endpoint, out="run", **options):
    path = write(project, *stages, url=endpoint.url)
    if out == "online":
        options["sets"] = [f"{name}.mode=online" for name in ("one", "two", "three")]
    ledger = project.path / f"{out}.sqlite3"
    return distillgen.run(path, out=out, ledger=ledger, **options)


class Watched(BatchEndpoint):
    """No batch ends before `together` batches exist. It keeps the states of the batches at each creation."""

    def __init__(self, together, behave=None):
        super().__init__(behave, step=self.look)
        self.held, self.together, self.states = True, together, []

    def look(self, name):
        if name == "created":
            self.states.append([batch["status"] in STATES for batch in self.batches.values()])
        # the second condition lets a test fail that would wait for ever
        self.held = len(self.batches) < self.together and self.steps.count("retrieve") < 300
        return False


def test_independent_stages_have_their_batches_in_flight_at_once(project):
    with Watched(3) as endpoint:
        made = run(project, FIRST, SECOND, THIRD, endpoint=endpoint)
        assert endpoint.states == [[True], [True] * 2, [True] * 3]
        assert set(endpoint.lines.values()) == {1} and len(endpoint.lines) == 3 * ROWS
        assert made.state["totals"]["requests"] == 3 * ROWS and made.state["from_ledger"] == 0
        used = {row["stage"]: row["requests"] for row in made.state["usage"]}
        assert used == {"first": ROWS, "second": ROWS, "third": ROWS}
        run(project, FIRST, SECOND, THIRD, endpoint=endpoint, out="online")
        for name in ("corpus.jsonl", "dropped.jsonl", "stages/02-first.jsonl", "stages/03-second.jsonl"):
            assert project.path.joinpath("run", name).read_bytes() == (
                project.path.joinpath("online", name).read_bytes()
            ), name


def test_a_dependent_stage_waits_for_the_batch_before_it(project):
    with Watched(1) as endpoint:
        run(project, FIRST, DEPENDENT, THIRD.replace("question", "word"), endpoint=endpoint)
        assert endpoint.states == [[True], [False, True], [False, False, True]]


def test_a_stage_goes_no_further_ahead_than_to_the_stage_that_it_needs(project):
    with Watched(1) as endpoint:
        needs_first = THIRD.replace("question", "answer")
        run(project, FIRST, DEPENDENT, needs_first, endpoint=endpoint)
        assert endpoint.states == [[True], [False, True], [False, True, True]]


def test_a_failed_first_answer_drops_the_record_as_ever(project):
    def behave(body, times):
        return {"choices": []} if body["messages"][0]["content"] == "q3?" else None

    with Watched(2, behave) as endpoint:
        made = run(project, FIRST, SECOND, endpoint=endpoint, sets=["one.max_retries=0"])
        assert [(r.fields["question"], r.dropped.stage) for r in made.dropped] == [("q3", "first")]
        assert "word" not in made.dropped[0].fields
        endpoint.behave, before = None, endpoint.asked.total()
        again = run(project, FIRST, SECOND, endpoint=endpoint, retry_failed=True, sets=["one.max_retries=0"])
        # the second answer was paid for with the others
        assert not again.dropped and endpoint.asked.total() == before + 1


def test_with_retry_failed_nothing_is_asked_ahead_and_a_failure_is_asked_once(project):
    def behave(body, times):
        return {"choices": []} if body["messages"][0]["content"] == "A word about q3" else None

    with Watched(1, behave) as endpoint:
        run(project, FIRST, SECOND, endpoint=endpoint, retry_failed=True, sets=["two.max_retries=0"])
        assert endpoint.states == [[True], [False, True]] and set(endpoint.asked.values()) == {1}


def test_children_share_the_answer_that_was_asked_ahead(project):
    with Watched(2, lambda body, times: completion({**body, "n": body.get("n", 1)})) as endpoint:
        first = FIRST.replace("output: answer", "output: answer, n: 2, temperature: 1")
        run(project, first, SECOND, endpoint=endpoint)
        assert set(endpoint.lines.values()) == {1} and len(endpoint.lines) == 2 * ROWS
        assert len(project.read("run/corpus.jsonl")) == 2 * ROWS


@pytest.mark.parametrize("step", ["uploaded", "created", "download"])
def test_a_killed_run_goes_on_and_pays_nothing_twice(project, step):
    with BatchEndpoint() as endpoint:
        run(project, FIRST, SECOND, endpoint=endpoint, out="online")
        command = [sys.executable, "-m", "distillgen", "run", "ask.yaml", "--out", "run"]
        process = ForkedCommand(command, project.path, project.env(), start_new_session=True)
        dead = []

        def kill(name):
            if name != step or dead or endpoint.steps.count(step) < 2:
                return False
            os.killpg(process.pid, signal.SIGKILL)
            dead.append(name)
            return True

        endpoint.step = kill
        assert process.wait(timeout=60) == -signal.SIGKILL
        project.cli("run", "ask.yaml", "--out", "run")
        assert set(endpoint.lines.values()) == {1} and len(endpoint.lines) == 2 * ROWS
    corpora = [project.path.joinpath(out, "corpus.jsonl").read_bytes() for out in ("run", "online")]
    assert corpora[0] == corpora[1]
    assert json.loads(project.path.joinpath("run/usage.json").read_text())["totals"]["requests"] == 2 * ROWS


def test_the_stages_of_a_round_are_submitted_side_by_side(project):
    rounds = f"rounds: {{n: 1, stages: [{{{FIRST}}}, {{{SECOND}}}]}}"
    with Watched(2) as endpoint:
        run(project, rounds, endpoint=endpoint)
        assert endpoint.states == [[True], [True] * 2]


def test_a_cost_cap_holds_for_what_is_asked_ahead(project):
    sets = [f"{name}.price={{input: 0, output: 1000}}" for name in ("one", "two")]
    sets += [f"{name}.max_tokens=10" for name in ("one", "two")]
    with BatchEndpoint() as endpoint, pytest.raises(distillgen.DistillgenError, match="max-cost-usd"):
        run(project, FIRST, SECOND, endpoint=endpoint, sets=sets, max_cost_usd=0.1)
    usage = json.loads(project.path.joinpath("run/usage.json").read_text())
    assert 0 < usage["totals"]["cost_usd"] <= 0.1


@pytest.mark.parametrize(
    ("first", "second", "independent"),
    [
        ("", "", True),
        ("n=3", "n=2, draws=2", True),
        ("", "model=[two,three], pick='{{ who }}'", True),
        ("author=who", "", True),
        ("", "template='{{ answer }}'", False),
        ("output=question", "", False),
        ("mark=fit", "template='{{ fit_why }} {{ question }}'", False),
        ("author=by", "template='{{ by }} {{ question }}'", False),
        ("author=who", "model=[two,three], pick='{{ who }}'", False),
        ("", "model=[two,three], pick=1", False),
        ("", "template=null, prompt=varied", False),
        ("", "template=null, prompt=shuffled", False),
        ("", "template=null, prompt=fixed", True),
        ("output=topic", "template=null, prompt=fixed", False),
        ("", "tools=question", False),
        ("", "when='{{ question }}'", False),
        ("logprobs=1", "template='{{ scores[\"first.logprob\"] }} {{ question }}'", False),
    ],
    ids=str,
)
def test_what_a_stage_needs_decides_whether_it_is_independent(project, first, second, independent):
    examples = "few_shot: {examples: [{question: a, answer: b, topic: c}], match: [topic], shuffle: FLAG}"
    project.write("prompts/varied.md", "---\nvary: {tone: [a, b]}\n---\n{{ tone }} {{ question }}")
    for name, flag in (("shuffled", "true"), ("fixed", "false")):
        project.write(f"prompts/{name}.md", f"---\n{examples.replace('FLAG', flag)}\n---\n{{{{ question }}}}")
    path = write(project, FIRST, SECOND)
    project.rows("seeds.jsonl", [{"question": "q", "who": "two", "topic": "c"}])
    sets = [f"first.{pair}" for pair in first.split(", ") if pair]
    sets += [f"second.{pair}" for pair in second.split(", ") if pair]
    _, one, two = load(path, sets).bound_stages
    assert two.independent_of(one) is independent
    assert one.independent_of(load(path, sets).bound_stages[0]) is False
