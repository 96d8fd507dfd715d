"""The card: terms of teachers, limits, the transparency report, and statements of the pipeline."""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

import distillgen
from distillgen.pipeline.card_options import LICENSES
from distillgen.pipeline.transparency import ITEMS, RunFacts, points, report
from distillgen.runs.card import UNKNOWN, Census, _table, card, markdown, student_card, terms_of

CARD = {
    "license": "cc-by-4.0",
    "languages": ["en"],
    "tasks": ["question-answering"],
    "source_license": "CC0-1.0, written by hand",
    "limits": "Only weather | nothing <b>else</b>.",
    "citation": "@article{west2021,\n  title = {Symbolic ```knowledge```}\n}",
    "stated": {"benchmarks": "the only ones there are"},
}


def carry_out(project, *, card=None, models=None, system=None, rows=None, asks=None):
    project.rows("data/seeds.jsonl", rows or [{"question": f"q{i}"} for i in range(4)])
    asks = asks or {"template": "{{ question }}"}
    model, *_ = models = models or {"teacher": {"provider": "scripted", "model": "echo"}}
    recipe = {
        "version": 1,
        "models": models,
        "card": card or {},
        "system": system or {},
        "stages": [
            {"source": {"path": "data/seeds.jsonl"}},
            {"generate": {"model": model, **asks, "output": "answer"}},
        ],
    }
    project.write("pipelines/p.yaml", "# p.yaml: a demonstration\n" + yaml.safe_dump(recipe))
    run = distillgen.run("p", out="runs/p", teachers={name: lambda request, sample: "a" for name in models})
    _, front, body = (run.directory / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), body


def test_what_a_pipeline_states_stands_in_the_card_escaped(project):
    front, body = carry_out(project, card=CARD, system={"paper": "West et al. 2021"})
    assert (
        front["license"] == "cc-by-4.0"
        and front["language"] == ["en"]
        and front["task_categories"] == ["question-answering"]
    )
    assert "| source data/seeds.jsonl | | | CC0-1.0, written by hand | | |" in body
    assert r"- Only weather \| nothing \<b\>else\</b\>." in body
    assert (
        "````\n@article{west2021,\n  title = {Symbolic ```knowledge```}\n}\n````" in body
        and "It follows West et al. 2021." in body
    )
    assert "| Evaluation | Why these benchmarks | 4 | yes | the only ones there are |" in body


def test_what_nobody_states_is_unknown(project):
    front, body = carry_out(project)
    assert front["license"] == "unknown" and "language" not in front
    assert f"| source data/seeds.jsonl | | | {UNKNOWN} | | |" in body and "Licence: not stated" in body
    assert "## Citation" not in body


def test_the_self_report_stands_in_the_card_on_request_only(project):
    assert "self-report" not in carry_out(project)[1]
    body = carry_out(project, card={"self_report": True})[1]
    assert "| Evaluation | Why these benchmarks | 4 | unknown |  |" in body
    assert body.count("\n| ", body.index("## Transparency self-report")) == 1 + len(ITEMS)


def test_the_first_row_stands_in_the_card_with_the_beginning_of_long_values(project):
    long = {"question": "q" * 600, "list": [*range(20)], "inner": {"text": "```" + "t" * 600}, "none": None}
    body = carry_out(project, rows=[long, {"question": "second"}])[1]
    block = body.partition("The first row:\n\n````json\n")[2].partition("\n````\n")[0]
    assert json.loads(block) == {
        "question": "q" * 500 + "…",
        "list": [*range(12), "…"],
        "inner": {"text": "```" + "t" * 497 + "…"},
        "none": None,
        "answer": "a",
    }


def test_the_prompts_stand_in_the_card_until_their_files_change(project):
    text = "---\noutput: text\n---\nAnswer ```{{ question }}``` at once.\n"
    prompt = project.write("prompts/brief.md", text)
    body = carry_out(project, asks={"prompt": "brief"})[1]
    assert f"`brief`:\n\n````\n{text}````\n" in body
    census = Census()
    census.see({"answer": "a"})
    for change in (lambda: prompt.write_text(text + "Now."), prompt.unlink):
        change()
        later = card(project.path / "runs/p", census, {}, "p")
        assert "at once" not in later and "`brief` has changed since the run" in later


def test_a_changed_statement_alone_rewrites_the_card(project):
    def asked(request, sample):
        raise AssertionError("a statement is no reason to ask again")

    carry_out(project)
    path = project.path / "pipelines/p.yaml"
    path.write_text(path.read_text().replace("card: {}", "card: {license: mit}"))
    run = distillgen.run("p", out="runs/p", teachers={"teacher": asked})
    assert "license: mit" in (run.directory / "README.md").read_text()


@pytest.mark.parametrize(
    "card, says",
    [
        ("{license: apache-2}", "the Hub knows no license 'apache-2'; did you mean 'apache-2.0'?"),
        ("{licence: mit}", "no option 'licence'; did you mean 'license'?"),
        ("{license: mit, license_name: mine}", "say license: other"),
        ("{stated: {metric: x}}", "'stated' has no item 'metric'; did you mean 'metrics'?"),
        ("{languages: [English]}", "'English' is no language's code"),
    ],
)
def test_a_mistake_in_the_statement_is_told_with_its_line(project, endpoint, card, says):
    project.ask_pipeline(endpoint.url, 2)
    path = project.path / "pipelines/ask.yaml"
    path.write_text(path.read_text().replace("version: 1", f"version: 1\ncard: {card}"))
    with pytest.raises(distillgen.ConfigError, match="^pipelines/ask.yaml:3: ") as told:
        distillgen.load("ask")
    assert says in str(told.value)


@pytest.mark.parametrize(
    "model, teacher, restricts",
    [
        ({"provider": "openai", "model": "gpt-4.1-mini"}, "OpenAI", "yes"),
        (
            {"provider": "openai", "model": "gpt-4.1-mini", "base_url": "http://proxy.local/v1"},
            "OpenAI",
            "yes",
        ),
        (
            {"provider": "openai", "model": "anything", "base_url": "https://api.openai.com/v1"},
            "OpenAI",
            "yes",
        ),
        (
            {"provider": "openai", "model": "openai/gpt-oss-120b", "base_url": "http://localhost/v1"},
            "OpenAI (weights)",
            "no",
        ),
        (
            {"provider": "openai", "model": "claude-sonnet-4-5", "base_url": "https://api.anthropic.com/v1"},
            "Anthropic",
            "yes",
        ),
        ({"provider": "vllm", "model": "meta-llama/Meta-Llama-3-8B-Instruct"}, "Meta Llama 2 and 3", "yes"),
        (
            {"provider": "vllm", "model": "meta-llama/Llama-3.1-8B-Instruct"},
            "Meta Llama 3.1 and later",
            "conditions",
        ),
        ({"provider": "vllm", "model": "meta-llama/Llama-2-7b-chat-hf"}, "Meta Llama 2 and 3", "yes"),
        (
            {"provider": "vllm", "model": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"},
            "DeepSeek R1, distilled into Llama",
            "conditions",
        ),
        ({"provider": "vllm", "model": "deepseek-ai/DeepSeek-R1"}, "DeepSeek (weights)", "no"),
        ({"provider": "embedded", "model": "qwen2.5-coder-1.5b-instruct"}, "Qwen 2.5, other sizes", "no"),
        ({"provider": "embedded", "model": "/models/Qwen2.5-3B-Instruct-Q4_K_M.gguf"}, "Qwen 2.5, 3B", "yes"),
        ({"provider": "vllm", "model": "google/gemma-3-4b-it"}, "Google Gemma, up to 3", "conditions"),
        ({"provider": "vllm", "model": "google/gemma-4-e4b"}, "Google Gemma 4", "no"),
        ({"provider": "vllm", "model": "somebody/unheard-of"}, UNKNOWN, "unknown"),
        ({"provider": "scripted", "model": "echo"}, "a script", "no"),
    ],
    ids=lambda value: value["model"] if isinstance(value, dict) else None,
)
def test_a_teacher_is_known_by_its_host_or_its_name(model, teacher, restricts):
    terms = terms_of(model)
    assert [(t["teacher"], t["restricts"]) for t in terms] == [(teacher, restricts)]


def test_every_entry_of_the_terms_has_a_date_and_an_address():
    for entry in _table():
        assert entry["restricts"] in ("yes", "no", "conditions") and entry["address"].startswith("https://")
        assert (
            re.search(r"\b20\d\d-\d\d\b", entry["version"])
            and entry["says"].endswith(".")
            and {"host", "model"} & entry.keys()
        )


def test_a_card_warns_of_terms_that_restrict_training(project, monkeypatch):
    openai = {"provider": "openai", "model": "gpt-4.1-mini", "api_key": "sk-secret-key"}
    _, body = carry_out(
        project,
        models={
            "teacher": openai,
            "local": {"provider": "openai", "model": "unheard-of", "base_url": "http://localhost:1"},
        },
    )
    assert "**Restricted**: the terms of teacher restrict training other models" in body
    assert (
        "| model teacher | OpenAI | restricted | " in body
        and "https://openai.com/policies/services-agreement/" in body
    )
    assert f"| model local | {UNKNOWN} | {UNKNOWN} | {UNKNOWN} |" in body and "sk-secret-key" not in body
    _, body = carry_out(project)
    assert "Restricted" not in body


def test_the_index_is_that_of_the_paper():
    parts = {
        part: sum(item.points for item in ITEMS if item.part == part)
        for part in ("Data", "Method", "Evaluation", "Open source")
    }
    assert parts == {"Data": 14, "Method": 33, "Evaluation": 24, "Open source": 29} and len(ITEMS) == 25
    assert len({item.key for item in ITEMS}) == 25


PARTS = ("Data", "Method", "Evaluation", "Open source")
LEADERBOARD = {
    "Open-O1": ((0, 8, 20, 5), 33),
    "O1 Journey, part 1": ((10, 33, 24, 9), 76),
    "LLaMA-O1": ((0, 6, 0, 5), 11),
    "K0Math": ((0, 0, 16, 0), 16),
    "Skywork O1": ((0, 0, 0, 0), 0),
    "DeepSeek R1-Lite": ((0, 0, 20, 0), 20),
    "O1 Journey, part 2": ((10, 33, 24, 12), 79),
}
"""Of the paper: the points of each part, and of all. Which items a system got is not published."""


def answered(part, wanted):
    """The items of a part, of which some that make up the wanted points are answered with yes; fails where
    none do.
    """
    items = [item for item in ITEMS if item.part == part]
    chosen = next(
        some
        for n in range(len(items) + 1)
        for some in combinations(items, n)
        if sum(item.points for item in some) == wanted
    )
    return [(item, "yes" if item in chosen else "unknown", "") for item in items]


@pytest.mark.parametrize("system", LEADERBOARD)
def test_the_papers_leaderboard_totals_are_reachable(system):
    sums, total = LEADERBOARD[system]
    answers = [answer for part, wanted in zip(PARTS, sums, strict=True) for answer in answered(part, wanted)]
    assert len(answers) == 25 and points(answers) == total
    assert [points([a for a in answers if a[0].part == part]) for part in PARTS] == [*sums]


def test_item_weights_match_the_paper():
    weights = {part: sorted(item.points for item in ITEMS if item.part == part) for part in PARTS}
    assert weights == {
        "Data": [3, 3, 4, 4],
        "Method": [2, 2, 3, 4, 4, 6, 6, 6],
        "Evaluation": [4] * 6,
        "Open source": [3, 4, 4, 4, 4, 5, 5],
    }
    with pytest.raises(StopIteration):
        answered("Evaluation", 33)


def lock(stages=(), **more):
    stages = [{"source": {"name": "source", "path": "a.jsonl"}}, *stages]
    return {"stages": stages, "files": {"a.jsonl": "f" * 64}, "models": {}, "distillgen": "0", **more}


def test_the_self_report_says_yes_only_where_something_is_written_down():
    state = {"stages": [{"name": "source", "measured": {}}]}
    alone = dict(
        zip(
            [item.key for item in ITEMS],
            [answer for _, answer, _ in report(RunFacts(lock(), state, {}, {}, "data"))],
            strict=True,
        )
    )
    assert {key for key, answer in alone.items() if answer == "yes"} == {
        "data_sources",
        "data_selection",
        "data_synthesis",
        "search",
        "training_stages",
        "post_training_data",
        "synthetic_data",
        "guidance",
    }
    student = {
        "base": "Qwen/Qwen2.5-0.5B",
        "objective": "sft",
        "options": {"epochs": 1},
        "hardware": {"cpu": "x"},
        "seconds": 3,
    }
    asked = [{"evaluate": {"name": "evaluate", "models": ["student", "base"]}}]
    trained = report(RunFacts(lock(asked), state, student, {"metrics": {}}, "student"))
    said = {item.key: evidence for item, answer, evidence in trained if answer == "yes"}
    assert (
        said["base_model"] == "Qwen/Qwen2.5-0.5B"
        and said["reinforcement_learning"] == "none: the objective is sft"
    )
    assert (
        said["compute"] == "cpu x; 3 s, energy unknown J"
        and said["consistency"] == "student, base answer the same items"
    )
    assert "weights" in said and "synthetic_data" not in said and "ablations" not in said
    everything = {"stated": {item.key: "told elsewhere" for item in ITEMS}}
    assert points(report(RunFacts(lock(card=everything), state, {}, {}, "data"))) == 100


def test_a_students_card_names_its_base_and_teachers_terms(project):
    openai = {"provider": "openai", "model": "gpt-4.1-mini", "api_key": "sk-secret-key"}
    carry_out(project, models={"teacher": openai}, card={"license": "mit"})
    manifest = {
        "base": "Qwen/Qwen2.5-0.5B",
        "kind": "adapter",
        "objective": "sft",
        "steps": 7,
        "seconds": 1.5,
        "held_out": {"base": {"loss": 2.5}, "student": {"loss": 1.5}},
    }
    project.write("runs/p/student/manifest.json", json.dumps(manifest))
    _, front, body = student_card(project.path / "runs/p").split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "mit",
        "base_model": "Qwen/Qwen2.5-0.5B",
        "library_name": "peft",
        "tags": ["distillgen", "distillation"],
    }
    assert (
        "Base: Qwen/Qwen2.5-0.5B, as an adapter" in body
        and "Objective: sft" in body
        and "Steps: 7; time: 1.5 s; energy: unknown J" in body
    )
    assert (
        'base {"loss": 2.5}; student {"loss": 1.5}'.replace("{", r"\{").replace("}", r"\}") in body
        and "**Restricted**" in body
    )


def test_markdown_shows_any_line_as_it_is():
    assert markdown("a|b <i>*x*</i>\n# [y](z)") == r"a\|b \<i\>\*x\*\</i\> \# \[y\]\(z\)"


def test_the_schema_for_editors_knows_the_card():
    from distillgen.pipeline.catalog import json_schema
    from distillgen.project import Project

    schema = json_schema(Project(Path.cwd()))
    errors = [
        e.message
        for e in Draft202012Validator(schema).iter_errors(
            {"version": 1, "stages": [{"source": {"path": "a"}}], "card": {"licence": 1}}
        )
    ]
    assert any("licence" in message for message in errors)


def test_the_licences_are_whole_names():
    assert {"apache-2.0", "cc-by-nc-sa-4.0", "bigscience-bloom-rail-1.0"} <= LICENSES
    assert not [name for name in LICENSES if name.startswith("-") or name.endswith("-")]
