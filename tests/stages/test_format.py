"""format: draws of a template or prompt without a model, and turns that use the stage's own fields."""

import json
from collections import Counter

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.flow.stage import CHUNK

PROMPT = """---
vary: {greeting: [Hello, Goodbye], tone: {of: [calm, loud, odd], n: 2}}
---
{{ greeting }} {{ name }}, {{ tone | join(' and ') }}!
"""


@pytest.fixture
def carry_out(project):
    """carry_out(rows, *stages) -> (the kept rows, the pipeline)."""

    def carry_out(rows, *stages, **top):
        project.rows("rows.jsonl", rows)
        pipeline = {"version": 1, **top, "stages": [{"source": {"path": "rows.jsonl"}}, *stages]}
        distillgen.run(pipeline, out="out")
        return project.read("out/corpus.jsonl"), pipeline

    return carry_out


def test_each_draw_of_the_values_is_a_record(project, carry_out):
    draws = {"draws": 400, "vary": {"tone": ["plain", "odd"], "two": {"of": [1, 2, 3], "n": 2}}}
    stage = {
        "format": {
            **draws,
            "fields": {"text": "{{ name }} {{ tone }} {{ two | join(' ') }}", "tone": "{{ tone }}"},
        }
    }
    rows, _ = carry_out([{"name": "Ada"}, {"name": "Bo"}], stage)
    assert [row["name"] for row in rows] == ["Ada"] * 400 + ["Bo"] * 400
    assert len({row["meta"]["id"] for row in rows}) == 800
    assert {len(row["meta"]["parents"]) for row in rows} == {1} and len(
        {row["meta"]["parents"][0] for row in rows}
    ) == 2
    texts = Counter(row["text"].removeprefix(row["name"]) for row in rows)
    assert len(texts) == 12 and min(texts.values()) > 800 / 12 / 2
    assert all(row["tone"] in row["text"] for row in rows)
    again, _ = carry_out([{"name": "Ada"}, {"name": "Bo"}], {"format": {**stage["format"], "draws": 3}})
    assert again == [*rows[:3], *rows[400:403]]
    other, _ = carry_out([{"name": "Ada"}, {"name": "Bo"}], stage, seed=1)
    assert [row["text"] for row in other] != [row["text"] for row in rows]


def test_a_prompt_is_rendered_without_a_model(project, carry_out):
    project.write("prompts/greet.md", PROMPT)
    rows, pipeline = carry_out(
        [{"name": "Ada"}], {"format": {"prompt": "greet", "draws": 60, "output": "said"}}
    )
    assert len({row["said"] for row in rows}) == 12  # 2 greetings, 6 ordered pairs of tones
    assert all(row["said"].split(" ")[1] == "Ada," and row["said"].endswith("!") for row in rows)
    assert distillgen.load(pipeline).plan()[-1][1].rows == 60
    assert "prompts/greet" in distillgen.load(pipeline).files
    project.write("prompts/greet.md", PROMPT.replace("Hello", "Good day"))
    distillgen.run(pipeline, out="out")
    assert any("Good day" in row["said"] for row in project.read("out/corpus.jsonl"))


def test_many_draws_of_a_record_leave_in_small_chunks(project, carry_out, monkeypatch):
    from distillgen.stages.format import BoundFormat

    sizes, run = [], BoundFormat.run

    async def watched(self, chunks, job):
        async for chunk in run(self, chunks, job):
            sizes.append(len(chunk))
            yield chunk

    monkeypatch.setattr(BoundFormat, "run", watched)
    carry_out([{"a": 1}], {"format": {"draws": 1000, "vary": {"v": [1, 2]}, "fields": {"b": "{{ v }}"}}})
    assert sum(sizes) == 1000 and max(sizes) <= CHUNK


def test_a_draw_that_has_no_text_is_dropped_alone(project, carry_out):
    stage = {"format": {"draws": 50, "vary": {"v": ["x", None]}, "fields": {"b": "{{ v }}"}}}
    kept, _ = carry_out([{"a": 1}], stage)
    dropped = project.read("out/dropped.jsonl")
    assert len(kept) + len(dropped) == 50 and 10 < len(kept) < 40
    assert len({row["meta"]["id"] for row in [*kept, *dropped]}) == 50
    assert {row["meta"]["dropped"]["reason"] for row in dropped} == {"'v' is null"}


def test_turns_use_the_fields_of_their_stage(carry_out):
    stage = {
        "fields": {"question": "Q: {{ q }}", "q": "new {{ q }}"},
        "messages": [{"user": "{{ question }} ({{ q }})"}, {"assistant": "{{ a }}"}],
    }
    (row,), _ = carry_out([{"q": "old", "a": "yes"}], {"format": stage})
    # 'q' is a field of the record: turns see it as it arrives, as templates in 'fields' do
    assert [turn["content"] for turn in row["messages"]] == ["Q: old (old)", "yes"] and row["q"] == "new old"


def test_plan_counts_the_text_that_a_format_makes(project):
    project.rows("rows.jsonl", [{"a": "x" * 100}])
    models = {
        "m": {"provider": "openai", "model": "m", "base_url": "http://x", "price": {"input": 1, "output": 1}}
    }
    stages = [
        {"source": {"path": "rows.jsonl"}},
        {"format": {"fields": {"b": "{{ a }}" * 10}}},
        {"generate": {"model": "m", "template": "{{ b }}", "max_tokens": 1}},
    ]
    plan = distillgen.load({"version": 1, "models": models, "stages": stages}).plan()
    assert plan[-1][1].max_cost_usd >= 1001 / 1e6


MISTAKES = [
    ({"draws": 3, "fields": {"b": "{{ a }}"}}, "'draws' would make 3 equal records; give 'vary'"),
    ({"vary": {"v": [1]}, "fields": {"b": "{{ a }}"}}, "'vary' gives 'v', which no template uses"),
    ({"vary": {"a": [1]}, "fields": {"b": "{{ a }}"}}, "'vary' gives 'a', which the records have"),
    ({"vary": {"v": []}, "fields": {"b": "{{ v }}"}}, "'vary': 'v' has too few values"),
    ({"vary": {"v": {"of": [1], "n": 2}}, "fields": {"b": "{{ v }}"}}, "'vary': 'v' has too few values"),
    ({"prompt": "greet"}, "prompt 'greet' needs the field 'name', which no earlier stage gives"),
    ({"prompt": "chat"}, "prompt 'chat' makes several messages, and 'text' is one text"),
    ({"prompt": "shots"}, "prompt 'shots' makes several messages, and 'text' is one text"),
    ({"prompt": "none"}, "there is no prompt 'none'"),
    ({"prompt": "plain", "output": "meta"}, "the field 'meta' is distillgen's own"),
]


@pytest.mark.parametrize("options, message", MISTAKES, ids=[json.dumps(options) for options, _ in MISTAKES])
def test_a_mistake_is_an_error_at_check(project, options, message):
    project.write("prompts/greet.md", PROMPT)
    project.write("prompts/plain.md", "{{ a }}\n")
    project.write("prompts/chat.md", "@system\nBe brief.\n@user\n{{ a }}\n")
    project.write("prompts/shots.md", "---\nfew_shot: {examples: [{a: '1', answer: '2'}]}\n---\n{{ a }}\n")
    project.rows("rows.jsonl", [{"a": 1}])
    with pytest.raises(ConfigError) as error:
        distillgen.load({"version": 1, "stages": [{"source": {"path": "rows.jsonl"}}, {"format": options}]})
    assert message in str(error.value)
