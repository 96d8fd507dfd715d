"""Pushes with the Hub's real client to a local server that speaks its protocol, and loads from there."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from aiohttp import web

import distillgen
from distillgen.runs.hub import NOT_PUSHED, student_files
from tests.command_process import ForkedCommand
from tests.hub import Hub
from tests.pictures import colour_of, folder_of
from tests.pipeline.test_mistakes import here

TOKEN = "hf_write"
pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=:DeprecationWarning"
)  # how the Hub's client uses its own


@pytest.fixture
def hub():
    with Hub() as running:
        yield running


@pytest.fixture
def run(project):
    return again(project, [{"question": f"What is {i}?", "text": f"{i} " * 100} for i in range(40)])


def again(project, rows):
    """Carry the run out, or go on with it, on these rows."""
    project.rows("data/seeds.jsonl", rows)
    stages = [
        {"source": {"path": "data/seeds.jsonl"}},
        {"generate": {"model": "t", "template": "{{ question }}", "output": "answer"}},
    ]
    pipeline = {"version": 1, "models": {"t": {"provider": "scripted", "model": "echo"}}, "stages": stages}
    return distillgen.run(pipeline, out="runs/r", teachers={"t": lambda request, sample: "An answer"})


def environment(project, url):
    kept = {
        "HF_ENDPOINT": url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(project.path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return kept | {"HF_TOKEN": TOKEN}


@pytest.fixture
def push(project, monkeypatch, capfd):
    """`distillgen push` in this process, with the client told of another Hub than its own."""

    def push(url, *args, check=0, token=TOKEN):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(project.path / "hf/token"))
        monkeypatch.setenv("HF_TOKEN", token)
        code, out, err = here(capfd, "push", *args)
        assert code == check, out + err
        return SimpleNamespace(stdout=out, stderr=err)

    return push


def load(project, hub, name):
    """What `datasets.load_dataset` makes of a repository, in a process that knows it: rows by split."""
    code = (
        "import datasets, json, sys; loaded = datasets.load_dataset(sys.argv[1]);"
        "print(json.dumps({split: list(rows) for split, rows in loaded.items()}))"
    )
    env = project.env() | environment(project, hub.url) | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", code, name],
        cwd=project.path,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def leaks(project):
    """Files in the project, but for what the client keeps of its own, in which the token stands."""
    return [
        p
        for p in project.path.rglob("*")
        if p.is_file() and "hf" not in p.parts and TOKEN.encode() in p.read_bytes()
    ]


def test_a_run_goes_up_private_and_is_loaded_by_datasets(run, project, hub, push):
    done = push(hub.url, "r", "hello")
    assert (
        f"{hub.url}/datasets/me/hello" in done.stdout and hub.repositories["dataset", "me/hello"]["private"]
    )
    files = hub.files("me/hello")
    assert files.keys() == {"README.md", "corpus.jsonl", "pipeline.lock.yaml", "usage.json"}
    corpus = (run.directory / "corpus.jsonl").read_bytes()
    assert (
        files["corpus.jsonl"] == re.sub(rb'"key":"\w+",', b"", corpus) and hub.uploaded.total() == 2
    )  # the card and the rows
    assert b"path: pipeline\n" in files["pipeline.lock.yaml"] and str(project.path).encode() not in b"".join(
        files.values()
    )
    assert b'\nrows = load_dataset("me/hello")\n' in files["README.md"]
    assert b'\nrows = load_dataset("r")  # this folder\n' in (run.directory / "README.md").read_bytes()
    rows = load(project, hub, "me/hello")["train"]
    corpus = [json.loads(line) for line in (run.directory / "corpus.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in rows] == ["An answer"] * 40 and [r["meta"]["id"] for r in rows] == [
        r["meta"]["id"] for r in corpus
    ]
    assert not leaks(project) and TOKEN not in done.stdout + done.stderr


def test_a_run_with_pictures_goes_up_as_a_folder_of_pictures(project, hub, push):
    pixels = [(i, 0, 0) for i in range(3)]
    folder_of(project.path / "photos", pixels)
    distillgen.run({"version": 1, "stages": [{"source": {"path": "photos"}}]}, out="runs/r")
    push(hub.url, "r", "photos")
    files = hub.files("me/photos")
    rows = [json.loads(line) for line in files["metadata.jsonl"].splitlines()]
    assert [colour_of(files[row["file_name"]]) for row in rows] == pixels
    assert b'load_dataset("me/photos")' in files["README.md"] and str(project.path) not in str(files)
    uploaded = hub.uploaded.total()
    push(hub.url, "r", "photos")
    assert hub.uploaded.total() == uploaded  # nothing twice
    message = push(hub.url, "r", "photos", "--while-running", check=2).stderr
    assert "when it is finished, distillgen push runs/r uploads them, too" in message


@pytest.mark.slow
def test_an_export_with_splits_goes_up_and_is_loaded_by_datasets(run, project, hub, push):
    project.cli(
        "export",
        "r",
        "--format",
        "parquet",
        "--shape",
        "prompt_completion",
        "--split",
        "train=0.8,test=0.2",
        "--shard-rows",
        "15",
        "-o",
        "out",
    )
    push(hub.url, "out", "me/out", "--public")
    assert not hub.repositories["dataset", "me/out"]["private"]
    loaded = load(project, hub, "me/out")
    assert loaded.keys() == {"train", "test"} and sum(map(len, loaded.values())) == 40
    assert loaded["train"][0].keys() == {"id", "prompt", "completion"} and len(loaded["train"]) > 20


def test_what_is_there_is_not_uploaded_again_and_what_changed_is(run, project, hub, push):
    push(hub.url, "r", "me/hello")
    push(hub.url, "r", "me/hello")
    assert set(hub.uploaded.values()) == {1} and set(hub.sent.values()) == {1}
    assert len(hub.repositories["dataset", "me/hello"]["commits"]) == 2
    more = [{"question": f"What is {i}?", "text": f"{i} " * 100} for i in range(41)]
    again(project, more)
    push(hub.url, "r", "me/hello")
    assert hub.uploaded.total() == 4 and hub.files("me/hello")["corpus.jsonl"].count(b"\n") == 41


@pytest.mark.slow
def test_a_killed_push_goes_on_and_uploads_nothing_twice(run, project, push):
    """Killed with files uploaded and nothing committed, then killed in the commit."""
    project.cli("export", "r", "--shard-rows", "4", "--format", "parquet", "-o", "out")
    held = asyncio.Event()
    kills = []

    async def behave(request):
        last = request.method == "PUT" and hub.uploaded.total() >= 6 and not kills
        if last or (request.path.endswith("/commit/main") and len(kills) < 2):
            await held.wait()

    with Hub(behave) as hub:
        env = project.env() | environment(project, hub.url)
        command = [sys.executable, "-m", "distillgen", "push", "out", "me/out"]
        for reached in ("PUT", "commit"):
            hub.requests.clear()
            process = ForkedCommand(command, project.path, env)
            limit = time.monotonic() + 60
            while time.monotonic() < limit and process.poll() is None:
                if hub.uploaded.total() >= 6 and any(reached in request for request in hub.requests):
                    break
                time.sleep(0.01)
            time.sleep(0.2)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait(30) == -signal.SIGKILL
            kills.append(reached)
            assert not hub.files("me/out")
        push(hub.url, "out", "me/out")
        assert set(hub.uploaded.values()) == {1} and len(hub.files("me/out")) == 11
        assert len(hub.repositories["dataset", "me/out"]["commits"]) == 2
        hub._loop.call_soon_threadsafe(held.set)


def test_a_dry_run_shows_the_files_and_touches_no_network(run, project, push):
    done = push("http://127.0.0.1:9", "r", "me/hello", "--dry-run", token="")
    for name in ("README.md", "corpus.jsonl", "pipeline.lock.yaml", "usage.json"):
        assert f"{name}\n" in done.stdout
    size = (run.directory / ".published.jsonl").stat().st_size
    assert (
        f"{size:,}  corpus.jsonl" in done.stdout
        and "for the private dataset repository me/hello" in done.stdout
    )
    told = json.loads(
        push("http://127.0.0.1:9", "r", "me/hello", "--dry-run", "--public", "--json", token="").stdout
    )
    assert {"name": "corpus.jsonl", "bytes": size} in told["files"] and told["private"] is False
    assert not (project.path / "hf").exists()


def student(run, *, kind):
    folder = run.directory / "student"
    names = {
        "adapter": ["adapter_config.json", "adapter_model.safetensors"],
        "model": ["config.json", "model.safetensors", "base/config.json"],
    }[kind]
    for name in [
        *names,
        "tokenizer.json",
        "README.md",
        "checkpoint-4/model.safetensors",
        "checkpoint-4/optimizer.pt",
        "optimizer.pt",
        "trainer_state.json",
        "training_args.bin",
        ".cache/x",
    ]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{kind} {name}")
    (folder / "manifest.json").write_text(
        json.dumps({"base": "Qwen/Qwen2.5-0.5B", "kind": kind, "objective": "sft"})
    )
    return {*names, "tokenizer.json", "README.md", "manifest.json"}


@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_a_student_goes_up_without_its_checkpoints_and_with_a_card(run, project, hub, kind, push):
    names = student(run, kind=kind)
    assert {file.name for file in student_files(run)} == names and "checkpoint-*" in NOT_PUSHED
    push(hub.url, "r", "me/student", "--student")
    files = hub.files("me/student", "model")
    assert (
        files.keys() == names
        and b"Objective: sft" in files["README.md"]
        and ("model", "me/student") in hub.repositories
    )
    assert (b"library_name: peft" in files["README.md"]) == (kind == "adapter")
    assert files["tokenizer.json"] == f"{kind} tokenizer.json".encode()


@pytest.mark.slow
def test_a_student_is_downloaded_again_by_the_hubs_client(run, project, hub, push):
    names = student(run, kind="adapter")
    push(hub.url, "r", "me/student", "--student")
    code = "import huggingface_hub, sys; huggingface_hub.snapshot_download(sys.argv[1], local_dir='got')"
    env = project.env() | environment(project, hub.url) | {"PYTHONWARNINGS": "ignore"}
    subprocess.run(
        [sys.executable, "-c", code, "me/student"], cwd=project.path, env=env, check=True, timeout=120
    )
    got = {
        p.relative_to(project.path / "got").as_posix(): p.read_bytes()
        for p in (project.path / "got").rglob("*")
        if p.is_file() and ".cache" not in p.parts
    }
    assert got == hub.files("me/student", "model") and got.keys() == names


# mistakes, each one line with what to do


@pytest.mark.parametrize(
    "args, token, says",
    [
        (("r", "me/x"), "", "there is no Hugging Face token"),
        (("r", "me/x"), "hf_wrong", "does not accept the token; make a new one with write permission"),
        (("r", "me/x"), "hf_read", "does not let this token write to 'me/x'"),
        (("r", "me/there"), "hf_read", "does not let this token write to 'me/there'"),
        (("r", "others/x"), TOKEN, "does not let this token write to 'others/x'"),
        (("r", "me/a b"), TOKEN, "'me/a b' is not a name of a repository"),
        (("r", "me/a/b"), TOKEN, "'me/a/b' is not a name of a repository"),
        (
            ("r", "me/model"),
            TOKEN,
            "'me/model' is a model repository on the Hub; give the dataset a name of its own",
        ),
        (("r", "me/open"), TOKEN, "'me/open' is public already; give --public"),
        (("r", "me/x", "--student"), TOKEN, "has no student; train one first"),
        (("data", "me/x"), TOKEN, "'data' is neither a run nor a folder that 'distillgen export RUN' wrote"),
        (("data", "me/x", "--student"), TOKEN, "--student needs a run"),
        (("rr", "me/x"), TOKEN, "'rr' is not a run directory; did you mean 'r'?"),
    ],
)
def test_a_mistake_is_one_line_with_what_to_do(run, project, hub, args, token, says, push):
    hub.repository("me/there")
    hub.repository("me/model", "model")
    hub.repository("me/open", private=False)
    done = push(hub.url, *args, check=2, token=token)
    assert (
        says in done.stderr
        and done.stderr.count("\n") == 1
        and (not token or token not in done.stderr + done.stdout)
    )
    assert not hub.uploaded and not hub.sent and not leaks(project)


def test_no_network_is_told(run, project, push):
    done = push("http://127.0.0.1:9", "r", "me/x", check=2)
    assert (
        "cannot reach http://127.0.0.1:9 (" in done.stderr
        and "look at the network, then run the same command again" in done.stderr
    )
    assert done.stderr.count("\n") == 1 and TOKEN not in done.stderr


@pytest.mark.slow  # the client tries for half a minute
def test_an_interrupted_upload_resumes_with_the_same_command(run, project, push):
    def behave(request):
        if request.method == "PUT" and gone and request.path != gone.setdefault("first", request.path):
            request.transport.abort()
            return web.Response()

    gone = {"all": ""}
    with Hub(behave) as hub:
        done = push(hub.url, "r", "me/x", check=2)
        assert f"cannot reach {hub.url} (" in done.stderr and done.stderr.splitlines()[-1].startswith(
            "cannot reach"
        )
        assert hub.uploaded.total() == 1 and not hub.files("me/x")
        gone.clear()
        push(hub.url, "r", "me/x")
        assert set(hub.uploaded.values()) == {1} and len(hub.files("me/x")) == 4


def test_a_refused_upload_tells_no_token_and_no_signature(run, project, push):
    def behave(request):
        if request.method == "PUT":
            return web.Response(
                status=403, text=f"no {TOKEN} s3cret", headers={"X-Error-Message": f"{TOKEN} s3cret"}
            )

    with Hub(behave) as hub:
        done = push(hub.url, "r", "me/x", check=2)
    assert (
        "does not let this token write" in done.stderr
        and "s3cret" not in done.stderr
        and TOKEN not in done.stderr
    )
    assert done.stderr.count("\n") == 1 and not leaks(project)


def test_a_card_that_the_hub_refuses_is_told(run, project, hub, push):
    card = run.directory / "README.md"
    card.write_text(card.read_text().replace("license: unknown", "license: nonsense"))
    done = push(hub.url, "r", "me/x", check=2)
    assert (
        "the Hub refuses it (400)" in done.stderr
        and "license must be one of the known ones" in done.stderr
        and not hub.uploaded
    )


def test_a_login_of_the_hub_serves_as_the_token(run, project, hub, push):
    (project.path / "hf").mkdir()
    (project.path / "hf/token").write_text(TOKEN)
    push(hub.url, "r", "me/x", token="")
    assert hub.files("me/x") and TOKEN in hub.tokens


def test_foreign_files_are_named_and_private_repositories_stay_so(run, project, hub, push):
    hub.repository("me/x")["files"]["old.jsonl"] = b"{}\n"
    done = push(hub.url, "r", "me/x", "--public")
    assert "it also holds old.jsonl" in done.stdout and "private before and still is" in done.stdout
