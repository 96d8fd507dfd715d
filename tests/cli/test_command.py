"""The command in card, report and lock reproduces the rows; secrets are withheld, and the text says so."""

import json
import re
import shlex

import pytest
import yaml

from tests.endpoint import Endpoint, completion


def told(project, run="runs/ask"):
    """The commands of the card, of which report and lock have the same."""
    card, page = ((project.path / run / name).read_text() for name in ("README.md", "report.html"))
    commands = re.search(r"## How it was made\n\n`+\n(.*?)\n`+", card, re.DOTALL)[1].split("\n")
    lock = yaml.safe_load((project.path / run / "pipeline.lock.yaml").read_text())
    assert lock["commands"] == commands
    shown = page.replace("&#39;", "'").replace("&#34;", '"').replace("&lt;", "<")
    assert "<pre>" + "\n".join(commands) + "</pre>" in shown
    return commands


def test_the_command_of_the_card_gives_the_same_bytes(project, endpoint):
    project.ask_pipeline(endpoint.url, 12)
    sets = ("--set", "generate.template='It is {{ question }} \"now\"'", "--set", "teacher.temperature=0.3")
    project.cli("run", "ask", "-n", 5, *sets, "--until", "generate")
    project.cli(
        "run",
        "ask",
        "-n",
        4,
        *sets,
        "--max-cost-usd",
        "9",
        "--set",
        "teacher.price={input: 1, output: 1}",
        "--set",
        "teacher.max_tokens=9",
        "--concurrency",
        2,
    )
    (command,) = told(project)
    assert "-n 4" in command and "--until" not in command and "--concurrency" not in command
    corpus, asked = (project.path / "runs/ask/corpus.jsonl").read_bytes(), len(endpoint.bodies)
    program, *args = shlex.split(command)
    project.cli(*[word.replace("runs/ask", "runs/again") for word in args])
    assert program == "distillgen" and len(endpoint.bodies) == asked
    assert (project.path / "runs/again/corpus.jsonl").read_bytes() == corpus


def test_a_pipeline_outside_of_pipelines_is_named_by_its_file(project, endpoint):
    file = project.ask_pipeline(endpoint.url, 3)
    (project.path / "more").mkdir()
    file.rename(project.path / "more" / "ask.yaml")
    project.cli("run", "more/ask.yaml", "-n", 2, "--out", "runs/ask")
    (command,) = told(project)
    assert command == "distillgen run more/ask.yaml --out runs/ask -n 2"
    project.cli(*shlex.split(command)[1:])


@pytest.mark.parametrize(
    "given",
    [
        "teacher.api_key=sk-of-mine-123",
        "teacher.headers={x-key: sk-of-mine-123}",
        "teacher.headers.x-key=sk-of-mine-123",
        "teacher={provider: openai, model: m, base_url: URL, api_key: sk-of-mine-123}",
        "teacher.also=[{base_url: URL, api_key: sk-of-mine-123}]",
        "teacher.base_url=URL",
    ],
)
def test_what_is_secret_is_withheld_and_said_to_be(project, endpoint, given):
    project.ask_pipeline(endpoint.url, 2)
    project.cli("run", "ask", "--set", given.replace("URL", f'"{endpoint.url}"'))
    (command,) = told(project)
    for name in ("README.md", "report.html", "pipeline.lock.yaml", "corpus.jsonl"):
        text = (project.path / "runs/ask" / name).read_text()
        assert "sk-of-mine" not in text and endpoint.url not in text, name
    assert command.endswith(f"--set {given.partition('=')[0]}=…")
    assert all(
        "withheld" in (project.path / "runs/ask" / name).read_text() for name in ("README.md", "report.html")
    )


def test_without_anything_withheld_nothing_is_said_of_it(project, endpoint):
    project.ask_pipeline(endpoint.url, 2)
    project.cli("run", "ask")
    assert told(project) == ["distillgen run ask --out runs/ask"]
    assert "is withheld" not in (project.path / "runs/ask/README.md").read_text()


def test_what_was_asked_again_is_a_command_of_its_own(project):
    def behave(body, times):
        reason = "length" if body.get("max_tokens", 0) < 50 else "stop"
        return completion(body, choices=[{"index": 0, "finish_reason": reason, "message": {"content": "x"}}])

    with Endpoint(behave) as endpoint:
        project.ask_pipeline(endpoint.url, 2, stage=", max_tokens: 5")
        project.cli("run", "ask", check=3)
        again = ("run", "ask", "--retry-failed", "--retry-with", "max_tokens=80")
        project.cli(*again)
        expected = [
            "distillgen run ask --out runs/ask",
            "distillgen run ask --out runs/ask --retry-failed --retry-with max_tokens=80",
        ]
        assert told(project) == expected
        project.cli("run", "ask")
        assert told(project) == expected, "what was asked again is part of what stands in the rows"
        project.cli(*again)
        assert told(project) == expected
        project.cli("run", "ask", "-n", 1)
        assert told(project) == ["distillgen run ask --out runs/ask -n 1"], "another command begins anew"
    assert json.loads((project.path / "runs/ask/usage.json").read_text())["kept"] == 1
