"""The embedded teacher: weights joined from parts and verified; (slow) a real model that answers and can be
killed.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distillgen.errors import ConfigError
from distillgen.inference.weights import (
    KNOWN_MODELS,
    Weights,
    find_weights,
    identity_of,
    network_identity,
    weights_identity,
)


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Three installed packages that carry a file in parts, and whose code must never run."""
    site, content = tmp_path / "site", [os.urandom(1000) for _ in range(3)]
    for i, data in enumerate(content, 1):
        package = site / f"tiny_part{i}"
        (package / "data").mkdir(parents=True)
        (package / "data" / f"part{i:02d}.bin").write_bytes(data)
        (package / "__init__.py").write_text("raise SystemExit('the code of a package of weights was run')\n")
        info = site / f"tiny_part{i}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tiny-part{i}\nVersion: 1.0\n")
        (info / "RECORD").write_text(f"tiny_part{i}/__init__.py,,\ntiny_part{i}/data/part{i:02d}.bin,,\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    whole = b"".join(content)
    return whole, Weights("hub:o/r/tiny.gguf", hashlib.sha256(whole).hexdigest(), "tiny-part")


def test_parts_are_joined_once_in_order_and_never_imported(parts, monkeypatch, tmp_path):
    whole, weights = parts
    monkeypatch.setitem(KNOWN_MODELS, "tiny", weights)
    path = find_weights("tiny", tmp_path)
    assert path.read_bytes() == whole and path == tmp_path / "cache/distillgen/tiny.gguf"
    stamp = path.stat().st_mtime_ns
    assert find_weights("tiny", tmp_path) == path and path.stat().st_mtime_ns == stamp
    assert identity_of("tiny", tmp_path) == weights.sha256
    assert not [name for name in sys.modules if name.startswith("tiny_part")]


def test_unexpected_weight_parts_are_refused_and_leave_nothing(parts, monkeypatch, tmp_path):
    monkeypatch.setitem(KNOWN_MODELS, "tiny", Weights("hub:o/r/tiny.gguf", "0" * 64, "tiny-part"))
    with pytest.raises(ConfigError, match="not the expected ones.*were not used"):
        find_weights("tiny", tmp_path)
    assert not list((tmp_path / "cache/distillgen").iterdir())


def test_without_path_and_packages_the_hub_is_asked(parts, monkeypatch, tmp_path):
    monkeypatch.setitem(KNOWN_MODELS, "tiny", Weights("hub:o/r/tiny.gguf", "0" * 64, "absent-part"))
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda *given: asked.append(given) or str(tmp_path / "hub.gguf")
    )
    assert find_weights("tiny", tmp_path) == tmp_path / "hub.gguf" and asked == [("o/r", "tiny.gguf")]
    assert find_weights("hub:owner/repository/x.gguf", tmp_path) and asked[1] == (
        "owner/repository",
        "x.gguf",
    )

    class LocalEntryNotFoundError(Exception):
        """As the Hub's client raises it without a network."""

    def unreachable(*_):
        raise LocalEntryNotFoundError("An error happened\nand more")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    with pytest.raises(ConfigError, match="could not be fetched: the Hub cannot be reached, and no copy"):
        find_weights("hub:owner/repository/x.gguf", tmp_path)
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    assert find_weights("mine.gguf", tmp_path) == tmp_path / "mine.gguf"


def test_another_file_is_another_teacher(tmp_path):
    names = set()
    for content in (b"a" * 100, b"b" * 100, b"a" * 101):
        (tmp_path / "m.gguf").write_bytes(content)
        names.add(identity_of("m.gguf", tmp_path))
    assert len(names) == 3


@pytest.mark.parametrize("identity", [weights_identity, network_identity])
def test_a_folder_of_equal_weights_is_one_teacher_however_long_its_training_took(tmp_path, identity):
    def identity_with(name, content):
        (tmp_path / "m").mkdir(exist_ok=True)
        (tmp_path / "m" / name).write_text(content)
        return identity("m", tmp_path)

    first = identity_with("model.safetensors", "weights")
    assert identity_with("manifest.json", '{"seconds": 3.2}') == first
    assert identity_with("config.json", "{}") != first


QUESTIONS = """# ask.yaml: real answers
version: 1
models:
  teacher: {provider: embedded, model: qwen2.5-coder-1.5b-instruct, context: 256, max_concurrency: 2}
stages:
  - source: {path: data/seeds.jsonl}
  - generate: {model: teacher, prompt: capital}
"""
PROMPT = """---
output: {json: {capital: {type: string, maxLength: 20}}}
sampling: {temperature: 0, max_tokens: 30, logprobs: 2}
---
What is the capital of {{ country }}? Answer as JSON: {"capital": "..."}
"""


@pytest.mark.slow
def test_a_real_model_answers_in_the_schema_and_a_replay_loads_none(project):
    project.rows("data/seeds.jsonl", [{"country": name} for name in ("France", "Italy", "Japan")])
    project.write("pipelines/ask.yaml", QUESTIONS)
    project.write("prompts/capital.md", PROMPT)
    project.cli("run", "ask")
    rows = project.read("runs/ask/corpus.jsonl")
    assert [row["capital"] for row in rows] == ["Paris", "Rome", "Tokyo"]
    assert all(row["meta"]["scores"]["generate.logprob"] < 0 for row in rows)
    begun = time.monotonic()
    project.cli("run", "ask")
    assert time.monotonic() - begun < 5
    assert project.read("runs/ask/corpus.jsonl") == rows


@pytest.mark.slow
def test_the_model_stops_with_the_run_however_that_ends(project):
    project.rows("data/seeds.jsonl", [{"country": f"number {i}"} for i in range(200)])
    project.write("pipelines/ask.yaml", QUESTIONS)
    project.write(
        "prompts/capital.md",
        PROMPT.replace("max_tokens: 30", "max_tokens: 200").replace("maxLength: 20", "maxLength: 900"),
    )
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        process = subprocess.Popen(
            [sys.executable, "-m", "distillgen", "run", "ask"],
            cwd=project.path,
            env=project.env(),
            stderr=subprocess.PIPE,
        )
        limit = time.monotonic() + 120
        while time.monotonic() < limit and not _servers(process.pid):
            time.sleep(0.2)
        time.sleep(3)
        assert (servers := _servers(process.pid)), "no server was started"
        process.send_signal(number)
        begun = time.monotonic()
        process.communicate(timeout=30)
        assert process.returncode == code and time.monotonic() - begun < 10
        time.sleep(2)
        assert not [pid for pid in servers if _alive(pid)], "the model's process outlived the run"


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _servers(parent: int) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True
    ).stdout.split()
    return [int(pid) for pid in found if "embedded" in Path(f"/proc/{pid}/cmdline").read_text()]


@pytest.mark.slow
def test_a_file_that_is_no_model_is_a_clear_error(project):
    project.rows("data/seeds.jsonl", [{"country": "France"}])
    project.write("bad.gguf", "this is no model")
    project.write("pipelines/ask.yaml", QUESTIONS.replace("qwen2.5-coder-1.5b-instruct", "bad.gguf"))
    project.write("prompts/capital.md", PROMPT)
    done = project.cli("run", "ask", check=2)
    assert "'bad.gguf' is not GGUF: it begins with b'this'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_quickstart_as_a_newcomer_runs_it(project):
    """The README's main job, on its first six passages."""
    done = project.cli("run", "quickstart", "-n", 6, check=None, timeout=900)
    assert done.returncode in (0, 3), done.stderr
    state = json.loads((project.path / "runs/quickstart/usage.json").read_text())
    assert state["kept"] >= 4 and state["kept"] + sum(state["dropped"].values()) == 12
    row = project.read("runs/quickstart/corpus.jsonl")[0]
    assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"] and row["question"].endswith(
        "?"
    )
    assert (
        "first kept row" in done.stderr
        and (project.path / "runs/quickstart/report.html").stat().st_size > 5000
    )
