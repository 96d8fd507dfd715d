"""text-search: which prompt gives better labels, what the search chooses, what scores of other rows do."""

import json
from statistics import mean

import pytest

import distillgen
from data.tickets import THINGS, name_topic, tickets
from distillgen.inference.request import Request
from distillgen.located_yaml import read_yaml
from distillgen.project import home
from tests.recipes.harness import train_here

PROMPTS = ("plain", "role", "examples", "complaint")


def labels(prompt, rows):
    """The answers to the tickets, and how sure the teacher was."""
    text = (home("prompts") / f"tickets/{prompt}.md").read_text(encoding="utf-8").rpartition("---\n")[2]
    asked = [text.replace("{{ text }}", row["text"]) for row in rows]
    said = [name_topic(Request("m", [{"role": "user", "content": content}]), 0) for content in asked]
    return [(answer.text, answer.logprobs[0][1]) for answer in said]


def test_the_planted_prompt_is_the_best_and_sure_labels_are_right():
    rows = [row for row in tickets(seed=5, train=600, validation=1, test=1) if row["split"] == "train"]
    right, gains = {}, []
    for prompt in PROMPTS:
        said = labels(prompt, rows)
        hits = [answer == row["gold"] for (answer, _), row in zip(said, rows, strict=True)]
        sure = [hit for hit, (_, logprob) in zip(hits, said, strict=True) if logprob >= -0.4]
        right[prompt] = mean(hits)
        gains.append(mean(sure) - mean(hits))
    assert right["complaint"] > 0.9 > 0.85 > right["examples"] > right["plain"] + 0.03 > 0.6, right
    assert abs(right["role"] - right["plain"]) < 0.05, "the role alone helps"
    assert min(gains) > 0.02, gains
    others = [row["other"] == row["gold"] for row in rows]
    assert abs(mean(others) - 1 / len(THINGS)) < 0.06, "the control's topics are not those of other tickets"


def recipe(space, **options):
    file = home("pipelines") / "text-search.yaml"
    pipeline = read_yaml(file.read_text(encoding="utf-8"), file)[0]
    pipeline["stages"][1]["search"] |= {"space": space, "strategy": "all", **options}
    return pipeline


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_search_finds_what_is_planted_and_scores_of_other_rows_do_not(project, monkeypatch):
    for package in ("torch", "accelerate", "datasets"):
        pytest.importorskip(package)
    monkeypatch.chdir(project.path)
    train_here(monkeypatch)
    space = {
        "says.prompt": ["tickets/plain", "tickets/complaint"],
        "filter.filters.unlikely.min_logprob": [-10, -0.1],
    }
    values = {}
    for gold in ("gold", "other"):
        run = distillgen.run(recipe({**space, "validation.gold": [gold]}), out=gold)
        rows = map(json.loads, (run.directory / "search/trials.jsonl").read_text().splitlines())
        values[gold] = {tuple(row["choices"].values())[:2]: row["value"] for row in rows}
        assert run.state["totals"]["cost_usd"] <= 0.07
    true = values["gold"]
    assert max(true, key=true.__getitem__) == ("tickets/complaint", -10)
    assert true["tickets/complaint", -10] > true["tickets/plain", -10] + 0.05
    assert max(values["other"].values()) < 0.4, "scores of other rows tell the trials apart"
