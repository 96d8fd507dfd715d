"""Published files say nothing about the machine, and are byte for byte the same on another."""

import importlib.util
import json
import re
import struct
from pathlib import Path

import pytest

import distillgen
from distillgen.cli.main import main
from distillgen.inference.request import Completion
from distillgen.privacy import Guard, name_of, public, public_address
from distillgen.project import KINDS, home
from distillgen.runs import hub
from distillgen.teachers.embedded import Embedded
from tests.endpoint import Endpoint, completion

ONLY_HERE = {"machine.json", "run.log", "run.lock"}  # with the ledger, what stays on the machine
SHAPES = [
    ("jsonl", ()),
    ("jsonl", ("--dropped",)),
    ("csv", ("--keep", "q,a,b")),
    ("jsonl", ("--shape", "prompt_completion:prompt=q,completion=a")),
    ("jsonl", ("--shape", "messages:user=q,assistant=a")),
    ("jsonl", ("--shape", "sharegpt:user=q,assistant=a")),
    ("jsonl", ("--shape", "alpaca:instruction=q,output=a")),
    ("jsonl", ("--shape", "preference:chosen=a,rejected=b")),
    ("jsonl", ("--shape", "labelled:text=q,label=a")),
    ("graphml", ("--shape", "triples:head=q,relation=a,tail=b")),
    ("ntriples", ("--shape", "triples:head=q,relation=a,tail=b")),
    ("turtle", ("--shape", "triples:head=q,relation=a,tail=b")),
    ("parquet", ()),
    ("arrow", ()),
]


@pytest.fixture
def gguf(monkeypatch):
    """Weights in a file, and a server that names the model by its path, as llama.cpp's does."""

    async def answer(self, request, samples, attempt):
        return [
            Completion(text="Short.", model=str(self.services.root / self.spec.model), output_tokens=1)
            for _ in samples
        ]

    import distillgen.teachers.embedded as module

    monkeypatch.setattr(module, "need", lambda *what: None)
    monkeypatch.setattr(Embedded, "answer", answer)


def made(folder: Path, monkeypatch, secret: str) -> distillgen.Run:
    """A run of the same project, in this folder, with weights, source, tokenizer and endpoint in places of
    its own.
    """
    private = folder / "private-place"
    (folder / "work/pipelines").mkdir(parents=True)
    private.mkdir()
    (private / "some.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + b"x" * 100)
    (private / "tokenizer.json").write_text("{}")
    (private / "rows.jsonl").write_text("".join(json.dumps({"q": f"Who is {i}?"}) + "\n" for i in range(6)))
    (folder / "work/pipelines/p.yaml").write_text("""# p.yaml: private things
version: 1
models:
  local: {provider: embedded, model: x.gguf}
  remote: {provider: openai, model: /srv/models/served.gguf, base_url: "http://localhost:1/v1",\
 api_key: "${MY_OWN_KEY}", max_retries: 0}
stages:
  - source: {path: rows.jsonl}
  - generate: {name: one, model: local, template: "{{ q }}", output: a}
  - generate: {name: two, model: remote, template: "{{ a }} {{ q }}", output: b}
  - filter: [brevity: {field: b, max_words: 50}]
""")
    monkeypatch.chdir(folder / "work")
    monkeypatch.setenv("MY_OWN_KEY", secret)

    def behave(body, times):
        asked = body["messages"][0]["content"]
        if "5" in asked:
            error = {"message": f"nothing at {endpoint.url} for {endpoint.url.split('/')[2]}, key {secret}"}
            from aiohttp import web

            return web.json_response({"error": error}, status=400)
        return completion(body, model=str(private / "served.gguf"))

    with Endpoint(behave) as endpoint:
        sets = [
            f"local.model={private / 'some.gguf'}",
            f"local.tokenizer={private / 'tokenizer.json'}",
            f"source.path={private / 'rows.jsonl'}",
            f"remote.base_url={endpoint.url}",
            "brevity.max_words=40",
        ]
        return distillgen.run("pipelines/p.yaml", sets=sets, limit=6)


def published(run: distillgen.Run) -> dict[str, bytes]:
    """Everything of a run that others may get: what is pushed, the report, the rows of all stages, exports of
    all kinds.
    """
    files = {
        f"push/{file.name}": file.content if isinstance(file.content, bytes) else file.content.read_bytes()
        for file in hub.data_files(run)
    }
    for path in run.directory.rglob("*"):
        if path.is_file() and path.name not in ONLY_HERE:
            files[str(path.relative_to(run.directory))] = path.read_bytes()
    return files


def test_artefacts_do_not_depend_on_the_machine(tmp_path, monkeypatch, gguf):
    runs, told = [], []
    for name, secret in (("somebody", "secret-of-one"), ("else-where", "secret-of-two")):
        run = made(tmp_path / name, monkeypatch, secret)
        state, absolute = json.loads((run.directory / "usage.json").read_text()), run.directory.resolve()
        assert state["kept"] == 5 and state["dropped"] == {"failed": 1}
        for i, (form, options) in enumerate(SHAPES):
            if form not in ("parquet", "arrow") or importlib.util.find_spec("pyarrow"):
                if form != "arrow" or importlib.util.find_spec("datasets"):
                    main(
                        [
                            "export",
                            str(absolute),
                            "--format",
                            form,
                            *options,
                            "-o",
                            str(absolute / f"exports/{i}"),
                        ],
                        standalone_mode=False,
                    )
        files = published(distillgen.Run(absolute))
        assert {
            "report.html",
            "README.md",
            "pipeline.lock.yaml",
            "dropped.jsonl",
            "push/corpus.jsonl",
            "exports/0/README.md",
        } <= files.keys()
        address = json.loads((run.directory / "machine.json").read_text())["addresses"][0]
        private = [
            str(tmp_path),
            name,
            "private-place",
            "served.gguf/",
            address,
            address.split("/")[2],
            secret,
            "/srv/models",
        ]
        for file, content in files.items():
            shown = content if file != "usage.json" else content.replace(b"../ledger.sqlite3", b"")
            assert not [word for word in private if word.encode() in shown], file
        runs.append(files), told.append(private)
    one, two = runs
    same = [
        "push/corpus.jsonl",
        "push/pipeline.lock.yaml",
        "exports/0/train-00000-of-00001.jsonl",
        "exports/1/train-00000-of-00001.jsonl",
    ]
    assert {name: one[name] == two[name] for name in same} == dict.fromkeys(same, True)
    cards = [re.sub(rb" on .+ UTC\.", b"", files["push/README.md"]) for files in runs]
    assert cards[0] == cards[1] and b"--set remote.base_url=" in cards[0]
    row = json.loads(one["push/corpus.jsonl"].splitlines()[0])
    assert [each["model"].partition("@")[0] for each in row["meta"]["made"]] == ["some.gguf", "served.gguf"]
    assert (
        re.fullmatch(r"some\.gguf@[0-9a-f]{12}", row["meta"]["made"][0]["model"])
        and row["meta"]["source"] == "rows.jsonl:1"
    )


def test_a_copied_run_is_not_asked_again_for_what_lies_elsewhere(tmp_path, monkeypatch, gguf):
    """The weights are known by what they hold: moved, they give the answers that are kept."""
    run = made(tmp_path / "here", monkeypatch, "some-secret")
    before = run.state["totals"]["answers"]
    (tmp_path / "here/moved").mkdir()
    (tmp_path / "here/private-place/some.gguf").rename(tmp_path / "here/moved/other.gguf")
    (tmp_path / "here/moved/other.gguf").rename(tmp_path / "here/moved/some.gguf")
    sets = [
        f"local.model={tmp_path / 'here/moved/some.gguf'}",
        f"source.path={tmp_path / 'here/private-place/rows.jsonl'}",
    ]
    again = distillgen.run("pipelines/p.yaml", sets=sets, limit=6, until="one")
    assert again.state["totals"]["answers"] == before


@pytest.mark.parametrize(
    "word, what",
    [
        ("{home}/thesis.txt", "a path of this machine"),
        ("{run}/x", "a path of this machine"),
        ("see http://models.corp:8000/v1/chat", "the address of an endpoint"),
        ("at models.corp:8000.", "the address of an endpoint"),
        ("key {secret}", "the value of SOME_API_KEY"),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_push_refuses_what_a_text_has_brought_along(project, monkeypatch, word, what, form):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setenv("SOME_API_KEY", "sk-0123456789")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/somebody"))
    text = word.format(home="/home/somebody", run=project.path / "runs/p", secret="sk-0123456789")
    project.rows("rows.jsonl", [{"q": "fine"}, {"q": text}])
    models = {"m": {"provider": "openai", "model": "m", "base_url": "http://models.corp:8000/v1"}}
    run = distillgen.run(
        {"version": 1, "models": models, "stages": [{"source": {"path": "rows.jsonl"}}]}, out="runs/p"
    )
    with pytest.raises(distillgen.ConfigError, match=f"corpus.jsonl:2: here stands {what}"):
        hub.check(hub.data_files(run), run.directory, as_it_is=False)
    if "SOME_API_KEY" not in what:
        hub.check(hub.data_files(run), run.directory, as_it_is=True)
    else:
        with pytest.raises(distillgen.ConfigError, match="SOME_API_KEY"):
            hub.check(hub.data_files(run), run.directory, as_it_is=True)
    main(["export", "p", "--format", form, "-o", "out"], standalone_mode=False)
    if "address" not in what:  # an exported folder does not know its run
        with pytest.raises(distillgen.ConfigError, match=f": here stands {what}"):
            hub.check(hub.data_files("out"), Path("out"), as_it_is=False)


def test_what_everybody_has_is_no_finding(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/root"))
    guard = Guard(["/tmp", "/srv/work/mine"], ["http://me:1/v1"])
    for text in (
        "/root/.bashrc",
        "/tmp/x",
        "/srv/work/miner",
        "x/srv/work/mine-not",
        "see me:1 there",
        "/srv/work",
    ):
        assert not guard.finding(text.encode()), text
    assert guard.finding(b'{"a": "/srv/work/mine/rows"}') and guard.finding(b"at http://me:1/v1.")


def test_names_and_addresses_as_they_are_shown(tmp_path):
    shown = {
        name: name_of(name)
        for name in (
            "gpt-4.1",
            "Qwen/Qwen2.5",
            "/a/b/x.gguf",
            "~/x.gguf",
            "../x/y.gguf",
            "./student",
            r"C:\m\x.gguf",
            "/x",
            "hub:o/r/f.gguf",
            "data/hello.py:f",
        )
    }
    assert list(shown.values()) == [
        "gpt-4.1",
        "Qwen/Qwen2.5",
        "x.gguf",
        "x.gguf",
        "y.gguf",
        "student",
        "x.gguf",
        "x",
        "hub:o/r/f.gguf",
        "data/hello.py:f",
    ]
    assert public_address("https://api.openai.com/v1") == "https://api.openai.com/v1"
    for own in (
        "http://localhost:8000/v1",
        "http://10.0.0.7/v1",
        "https://llm.company.com/v1",
        "https://api.openai.com.evil.org/v1",
    ):
        assert public_address(own) == "(withheld)"
    (tmp_path / "in").mkdir()
    value = {
        "a": str(tmp_path / "in"),
        "b": [str(tmp_path), "/no_think", "/nowhere/at/all"],
        "c": f"see {tmp_path}/in/x",
    }
    assert public(value, tmp_path) == {"a": "in", "b": [".", "/no_think", "/nowhere/at/all"], "c": "see in/x"}
    assert public(value)["a"] == "in"


def test_what_describes_a_student_does_not_say_where_its_base_lies(project):
    project.rows("rows.jsonl", [{"q": "fine"}])
    run = distillgen.run({"version": 1, "stages": [{"source": {"path": "rows.jsonl"}}]}, out="runs/p")
    base = project.path / "secret-base"
    base.mkdir()
    project.write(
        "runs/p/student/adapter_config.json", json.dumps({"base_model_name_or_path": str(base), "r": 8})
    )
    project.write("runs/p/student/config.json", json.dumps({"_name_or_path": str(base)}))
    project.write(
        "runs/p/student/manifest.json",
        json.dumps({"base": str(base), "student": str(base), "kind": "adapter", "loss_curve": []}),
    )
    project.write("runs/p/student/adapter_model.safetensors", "weights")
    files = hub.student_files(run)
    hub.check(files, run.directory, as_it_is=False)
    contents = {
        file.name: file.content if isinstance(file.content, bytes) else file.content.read_bytes()
        for file in files
    }
    assert set(contents) == {
        "README.md",
        "adapter_config.json",
        "config.json",
        "manifest.json",
        "adapter_model.safetensors",
    }
    assert not any(str(project.path).encode() in content for content in contents.values())
    assert json.loads(contents["adapter_config.json"]) == {"base_model_name_or_path": "secret-base", "r": 8}


def test_what_ships_names_no_machine():
    for kind in KINDS:
        for path in home(kind).rglob("*"):
            if path.is_file() and path.suffix in (".yaml", ".md", ".py", ".json", ".jsonl", ".txt", ".csv"):
                assert not re.search(
                    r"/(?:root|home|work|Users)/\w|(?:10|192\.168)(?:\.\d+){2,3}",
                    path.read_text(encoding="utf-8"),
                ), path
