"""Completion, as real shells ask for it."""

import os
import shutil
import subprocess
import sys

import pytest

from distillgen.cli.main import main

PIPELINE = """# mine.yaml: an answer a row
version: 1
models: {writer: {provider: scripted, model: echo}}
stages:
  - source: {path: rows.jsonl}
  - generate: {name: ask, model: writer, template: "{{ question }}", output: answer}
"""


@pytest.fixture
def shell(project):
    """The words that a shell offers for a line, with `distillgen` on its path."""
    project.write("pipelines/mine.yaml", PIPELINE)
    project.write("filters/shouting.py", '"""A filter."""\n')
    for name in ("first", "second"):
        project.write(f"runs/{name}/usage.json", "{}")
    project.write("runs/unfinished/notes.txt", "")
    program = project.write("bin/distillgen", f'#!/bin/sh\nexec {sys.executable} -m distillgen "$@"\n')
    program.chmod(0o755)

    def offers(line, name="bash"):
        words = line.split(" ")
        script = {
            "bash": f"""
                eval "$(distillgen completion bash)"
                COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}
                COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}
                function=$(complete -p distillgen | sed 's/.*-F \\([^ ]*\\).*/\\1/')
                compopt() {{ :; }}
                $function distillgen "${{COMP_WORDS[COMP_CWORD]}}" ''
                printf '%s\\n' "${{COMPREPLY[@]}}"
            """,
            "fish": f"distillgen completion fish | source; complete -C '{line}'",
        }[name]
        env = project.env() | {"PATH": f"{project.path / 'bin'}:{os.environ['PATH']}"}
        done = subprocess.run(
            [name, "-c", script], cwd=project.path, env=env, capture_output=True, text=True, timeout=60
        )
        assert not done.stderr, done.stderr
        return [offer.split("\t")[0] for offer in done.stdout.splitlines()]

    return offers


@pytest.mark.parametrize("name", ["bash", pytest.param("fish", marks=pytest.mark.slow)])
def test_verbs_options_pipelines_runs_and_models(shell, name):
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    assert {"run", "report"} == set(shell("distillgen r", name))
    assert "--max-cost-usd" in shell("distillgen run --m", name)
    assert shell("distillgen run min", name) == ["mine"]
    assert shell("distillgen show ", name) == ["first", "second"]
    assert shell("distillgen run mine --set wr", name)[0].startswith("writer.")
    assert "ask" in shell("distillgen run mine --until ", name)


def offers(*words):
    """What the program offers for the last word."""
    from click.shell_completion import ShellComplete

    return [
        item.value
        for item in ShellComplete(main, {}, "distillgen", "X").get_completions([*words[:-1]], words[-1])
    ]


def test_values(shell):
    assert offers("run", "quickst") == ["quickstart"] and "mine" in offers("check", "")
    assert offers("run", "mine", "--set", "ask.templ") == ["ask.template="]
    assert {"writer.", "ask.", "source."} == set(offers("run", "mine", "--set", ""))
    assert offers("run", "mine", "--set", "nosuch.") == [] and offers("run", "nosuch", "--set", "") == []
    assert offers("run", "mine", "--from", "") == ["source", "ask"]
    assert offers("filter", "x", "--with", "shout") == ["shouting"]
    assert {"generate", "grounded", "openai", "plan"} <= set(offers("help", ""))
    assert offers("completion", "") == ["bash", "zsh", "fish"]
    assert offers("list", "obj") == ["objectives"]
    assert offers("show", "./") == [""], "the shell completes paths itself"


def test_a_broken_pipeline_offers_nothing_and_says_nothing(shell, project):
    for text in ("a: [", "models: 3", "stages: [3]", "models: {a: 1}\nstages: []", ""):
        project.write("pipelines/mine.yaml", text)
        assert offers("run", "mine", "--set", "") == []


@pytest.mark.slow
def test_zsh(shell, project):
    """zsh completes in a terminal only: what the key lists is read from one."""
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    script = """
        zmodload zsh/zpty
        zpty z zsh -f -i
        zpty -w z 'autoload -U compinit; compinit -u; eval "$(distillgen completion zsh)"; PS1=; echo re""ady'
        zpty -r z out '*ready*'
        zpty -w -n z $'distillgen run quickst\\t'
        zpty -r z out '*quickstart*' && print -r -- $out
    """
    env = project.env() | {"PATH": f"{project.path / 'bin'}:{os.environ['PATH']}", "TERM": "dumb"}
    done = subprocess.run(
        ["zsh", "-f", "-c", script], cwd=project.path, env=env, capture_output=True, text=True, timeout=60
    )
    assert "quickstart" in done.stdout, done
