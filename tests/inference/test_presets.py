"""Presets: a provider by name, with its address, its key's variable and what it lacks; and listed prices."""

import json

import pytest

from distillgen import ConfigError
from distillgen.inference.presets import presets, with_preset
from distillgen.pipeline.load import load
from distillgen.project import Project
from tests.endpoint import Endpoint
from tests.native_endpoint import cli

GROQ = "gsk-0123456789abcdef"


def ask(project, model, **files):
    project.rows("data/seeds.jsonl", [{"question": f"What is {i}?"} for i in range(30)])
    stage = files.get("stage", "")
    return project.write(
        "pipelines/ask.yaml",
        f"""version: 1
models: {{m: {{{model}}}}}
stages:
  - source: {{path: data/seeds.jsonl}}
  - generate: {{model: m, template: "{{{{ question }}}}", output: answer{stage}}}
""",
    )


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_is_a_model_that_check_accepts(project, monkeypatch, name):
    if variable := presets()[name].get("api_key"):
        monkeypatch.setenv(variable.strip("${}"), GROQ)
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://mine.openai.azure.com/")
    ask(project, f"provider: {name}, model: x{', region: eu-west-1, api_key: k' * (name == 'bedrock')}")
    spec = load("ask").models["m"]
    assert spec.base_url.startswith("http") and ".com//" not in spec.url("x")
    assert GROQ not in json.dumps(load("ask").lock(), default=str)
    assert spec.api_key == (GROQ if variable else "k" if name == "bedrock" else None)


def test_a_key_goes_to_its_own_host_only(tmp_path):
    project = Project(tmp_path)
    other = {"provider": "groq", "model": "x", "base_url": "https://elsewhere.example/v1"}
    assert "api_key" not in with_preset(other, project)
    assert "api_key" not in with_preset(
        {**other, "base_url": "https://api.groq.com.evil.example/openai/v1"}, project
    )
    assert "api_key" in with_preset({"provider": "groq", "model": "x"}, project)
    mine = {"provider": "azure", "model": "x", "base_url": "https://mine.openai.azure.com/openai/v1"}
    assert with_preset(mine, project)["api_key"] == "${AZURE_OPENAI_API_KEY}"
    assert "api_key" not in with_preset(
        {**mine, "base_url": "https://azure.com.evil.example/openai/v1"}, project
    )


def test_a_preset_is_the_same_as_its_options_and_is_hidden_by_a_file(project, monkeypatch):
    monkeypatch.setenv("GROQ_API_KEY", GROQ)
    ask(project, "provider: groq, model: x")
    short = load("ask").shown_models
    ask(
        project,
        "provider: openai, model: x, api_key: '${GROQ_API_KEY}', lacks: [n, logprobs], "
        "base_url: 'https://api.groq.com/openai/v1'",
    )
    assert load("ask").shown_models == short
    project.write("teachers/groq.py", "raise RuntimeError('mine')\n")
    ask(project, "provider: groq, model: x")
    with pytest.raises(ConfigError, match="mine"):
        load("ask")


def test_what_an_endpoint_lacks_is_not_asked_of_it(project):
    """One note for each, one request a sample, the schema in the prompt; check refuses logprobs."""
    project.write("prompts/f.md", "---\nabout: a\noutput: {json: {a: string}}\n---\n@user\n{{ question }}\n")
    with Endpoint(lambda body, times: None) as endpoint:
        lacks = "lacks: [n, response_format, seed, max_tokens, logprobs]"
        path = ask(
            project,
            f"provider: openai, model: x, base_url: '{endpoint.url}', {lacks}",
            stage=", n: 2, seed: 1, max_tokens: 9",
        )
        path.write_text(path.read_text().replace('template: "{{ question }}", output: answer', "prompt: f"))
        done = cli("run", "ask", "-n", "5", check=None)
        assert len(endpoint.bodies) == 10
        assert {*endpoint.bodies[0]} == {"model", "messages", "max_completion_tokens"}
        assert "JSON Schema" in endpoint.bodies[0]["messages"][-1]["content"]
    for name in ("response_format", "seed", "max_tokens"):
        assert done.stderr.count(f"does not take '{name}'") == 1
    ask(project, "provider: groq, model: x", stage=", logprobs: 2")
    assert "cannot do logprobs" in cli("check", "ask", check=2, env={"GROQ_API_KEY": GROQ}).stderr


def test_listed_prices_are_numbers_in_the_lock_and_can_be_overridden(project, monkeypatch):
    pytest.importorskip("genai_prices")
    monkeypatch.setenv("ANTHROPIC_API_KEY", GROQ)
    ask(project, "provider: anthropic, model: claude-haiku-4-5, price: list, cache: 1h")
    assert load("ask").lock()["models"]["m"]["price"] == {
        "input": 1.0, "output": 5.0, "cached_input": 0.1, "cache_write": 2.0,
    }  # fmt: skip
    assert load("ask", ["m.price={input: 7, output: 8}"]).models["m"].price.input == 7
    ask(project, "provider: anthropic, model: claude-haiku-4-6x, price: list")
    with pytest.raises(ConfigError, match="ask.yaml:2: .*no prices of 'claude-haiku-4-6x'.*price: {input"):
        load("ask")


def test_a_provider_that_is_not_there_names_the_nearest_preset(project):
    ask(project, "provider: grok, model: x")
    with pytest.raises(ConfigError, match="no provider 'grok'; did you mean 'groq'"):
        load("ask")


def test_help_shows_what_a_preset_fills_in(project):
    shown = " ".join(cli("help", "groq").stdout.split())
    assert "preset groq" in shown and "api_key: ${GROQ_API_KEY}" in shown and "lacks: [n, logprobs]" in shown
