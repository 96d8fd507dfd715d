"""A plan bounds the pictures that gather in requests over stages and rounds: what a server bills is at most
the plan, and not far below it.
"""

import json

import pytest

import distillgen
from distillgen.prompting.filler import Filler, Parts, parts_of
from tests.endpoint import Endpoint, completion
from tests.pictures import folder_of, pixels_in

PICTURE = {"path": "a.png", "sha256": "a"}
TOKENS = 100_000  # of a picture; those of the texts count little beside it


def billed(body, times=0):
    answer = completion(body)
    answer["choices"][0]["message"]["content"] = '{"reason": "r", "score": 9}'
    tokens = TOKENS * len(pixels_in(body)) + 20
    answer["usage"] = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
    return answer


@pytest.fixture
def costs(project):
    """costs(*stages) -> the dollars of the plan and those of the run, at a price of 1 for a picture."""
    folder_of(project.path / "photos", [(i, i, i) for i in range(4)])
    photos = [f"photos/000{i}.png" for i in range(4)]
    project.rows("one.jsonl", [{"photo": photo} for photo in photos])
    project.rows("two.jsonl", [{"photo": [photos[i - 1], photos[i]], "id": i} for i in range(4)])

    def costs(*stages):
        with Endpoint(billed) as endpoint:
            model = {"provider": "openai", "model": "m", "base_url": endpoint.url, "api_key": "k"}
            model |= {"price": {"input": 1e6 / TOKENS}, "image_tokens": TOKENS, "max_tokens": 4}
            stages = [{"source": {"path": "photos"}}, *stages]
            pipeline = {"version": 1, "models": {"m": model}, "stages": stages}
            plan = sum(estimate.max_cost_usd for _, estimate in distillgen.load(pipeline).plan())
            run = distillgen.run(pipeline, out="out")
            usage = json.loads((run.directory / "usage.json").read_text())
            spent = sum(model["cost_usd"] for model in usage["models"].values())
            reasons = {row["meta"]["dropped"]["filter"] for row in project.read("out/dropped.jsonl")}
            assert spent > 1 and reasons <= {"gathered"}
            return plan, spent

    return costs


def ask(**options):
    return {"generate": {"model": "m", "template": "What is in {{ file }}?", "output": "said", **options}}


def rounds(*stages, n=4, **options):
    return {"rounds": {"stages": [*stages], "n": n, "repeat": True, **options}}


TALK = ask(history="talk", images=["image"])
ROUND = ask(history="talk", images=["image"], template="What is in {{ file }} ({{ round }})?")
AGAIN = ask(name="again", history="talk")
HERE = {"retrieve": {"from": "here", "by": "random", "k": 3, "into": "found", "keep": "image"}}
FILE = {"from": "one.jsonl", "by": "random", "k": 2, "into": "found", "keep": "photo", "images": ["photo"]}
TWO = {"retrieve": FILE | {"from": "two.jsonl"}}
UNFOLD = {"unfold": {"field": "found", "into": "pair"}}
OTHER = {"format": {"fields": {"other": "x"}}}
GATHER = {"gather": {"by": ["other"], "keep": "image", "k": 4, "at_least": 4, "into": "found"}}
CROSS = {"cross": {"rows": [{"photo": ["photos/0001.png"] * 3}], "images": ["photo"]}}
ADD = {"add": {"path": "two.jsonl", "images": ["image"], "fields": {"image": "photo", "file": "id"}}}
JUDGE = {"judge": {"model": "m", "rubric": "r", "fields": ["file"], "images": ["found"]}}

STAGES = {
    "a dialogue": [TALK, AGAIN],
    "a carried dialogue": [rounds(TALK, carry=["talk"])],
    "one that grows twice a round": [rounds(TALK, AGAIN, n=3, carry=["talk"])],
    "one that begins anew": [rounds(ROUND)],
    "one that begins anew beside a carried field": [rounds(ROUND, carry=["said"])],
    "records that grow": [rounds(TALK, n=3, repeat=False, offer="kept", guard={"kept": 1.0})],
    "entries of the records": [HERE, ask(images=["found"])],
    "entries of a file": [{"retrieve": FILE}, OTHER, ask(images=["image", "found"])],
    "a cross": [CROSS, ask(images=["photo"])],
    "parts of a group": [OTHER, GATHER, ask(images=["found"])],
    "a judge": [HERE, {"filter": [JUDGE]}],
}


@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)
def test_a_run_costs_what_the_plan_allows(costs, stages):
    plan, spent = costs(*stages)
    assert spent <= plan <= 1.1 * spent


def test_where_a_plan_knows_less_it_allows_more(costs):
    plan, spent = costs(ADD, ask(images=["image"]))
    assert spent <= plan <= 1.1 * spent * 16 / 12  # as if each record had as many as an added row
    plan, spent = costs(TWO, UNFOLD, ask(images=["pair"]))
    assert spent <= plan <= 1.1 * 4 * 50 * 4  # 50 elements of a list, and each has the pictures of all


def test_the_parts_of_a_value_are_those_of_its_turns_and_references():
    turn = {"role": "user", "content": [{"type": "image", **PICTURE}, {"type": "audio", **PICTURE}]}
    assert parts_of([turn, turn]) == {"image": 2, "audio": 2}
    assert (
        parts_of([PICTURE, {"a": PICTURE}]) == {"file": 2}
        and parts_of(Filler("x", Parts(image=3)))["image"] == 3
    )
    assert not parts_of([{"role": "user", "content": "text"}]) and not parts_of("text") and not parts_of(None)
