"""Damaged files beside the ledger, as a power loss leaves them: empty, truncated or full of zeros.

Every command ends without a traceback, and a run rebuilds the files from the ledger, to the same bytes,
without requests.
"""

import os
import re
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import distillgen
from distillgen.runs import resume
from distillgen.state_files import (
    Damaged,
    is_whole,
    load_state,
    remove_damaged,
    remove_folder,
    replace_link,
    whole_folder,
    write_shared,
)
from tests.endpoint import Endpoint
from tests.pipeline.test_mistakes import here

PIPELINE = """# ask.yaml: answers
version: 1
models:
  teacher: {provider: openai, model: m, base_url: "URL"}
stages:
  - source: {path: data/seeds.jsonl}
  - generate: {model: teacher, template: "{{ question }}", output: answer}
  - rounds: {name: loop, n: 2, repeat: true,\
 stages: [{filter: {name: inner, filters: [{brevity: {name: short, field: answer, max_words: 9}}]}}]}
  - filter: [{brevity: {field: answer, max_words: 9}}]
  - evaluate: {models: [teacher], template: "Again: {{ question }}", gold: answer, metrics: [exact]}
"""
STUDENT = "student/manifest.json"  # its training is not part of this
FILES = [
    "usage.json",
    "pipeline.lock.yaml",
    "corpus.jsonl",
    "dropped.jsonl",
    "evaluation.json",
    "run.lock",
    "README.md",
    "report.html",
    "stages/01-source.jsonl",
    "stages/02-generate.jsonl",
    "stages/03-loop.jsonl",
    "stages/04-filter.jsonl",
    "stages/05-evaluate.jsonl",
    "machine.json",
    "loop/rounds.json",
    "loop/00/round.json",
    "loop/01/round.json",
    "loop/00/records.jsonl",
    "evaluation.jsonl",
    STUDENT,
]
VERBS = [
    ("status", "ask"),
    ("show", "ask"),
    ("show", "ask", "--dropped"),
    ("report", "ask"),
    ("export", "ask", "-o", "out"),
    ("export", "ask", "--format", "csv", "-o", "out"),
    ("push", "ask", "me/it", "--dry-run"),
    ("push", "ask", "me/it", "--student", "--dry-run"),
    ("train", "ask", "--student", "tiny"),
    ("evaluate", "ask", "--template", "{{ question }}", "--gold", "answer", "--with", "exact"),
]
HARMS = {
    "zeros": lambda content: bytes(len(content) or 512),
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2 + 3],
}
MADE = [
    name
    for name in FILES
    if name not in ("run.lock", "machine.json", "usage.json", "README.md", "report.html", STUDENT)
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with what each kind of stage leaves."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch, Endpoint() as endpoint:
        patch.chdir(folder)
        (folder / "data").mkdir()
        (folder / "pipelines").mkdir()
        (folder / "data/seeds.jsonl").write_text(
            "".join(f'{{"question": "What is {i}?"}}\n' for i in range(3))
        )
        (folder / "pipelines/ask.yaml").write_text(PIPELINE.replace("URL", endpoint.url))
        distillgen.run("ask")
        yield folder, endpoint


def copied(finished, tmp_path, monkeypatch):
    folder, endpoint = finished
    shutil.copytree(folder, tmp_path / "own", symlinks=True)
    monkeypatch.chdir(tmp_path / "own")
    return tmp_path / "own/runs/ask", endpoint


def harm(file, how):
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(HARMS[how](file.read_bytes() if file.exists() else b'{"base": "base"}'))


def contents(run):
    """Of what is made, without the folder that the lock names, and that a round's fingerprint depends on."""
    return {name: re.sub(rb'path: /.*|"state":"\w+"', b"", (run / name).read_bytes()) for name in MADE}


def test_the_run_holds_each_file(finished):
    missing = [name for name in FILES if name != STUDENT and not (finished[0] / "runs/ask" / name).is_file()]
    assert not missing, (
        missing,
        sorted(str(p.relative_to(finished[0])) for p in finished[0].rglob("*.json*")),
    )


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_no_verb_ends_in_a_traceback(finished, tmp_path, monkeypatch, capfd, verb, name):
    run, _ = copied(finished, tmp_path, monkeypatch)
    harm(run / name, "zeros")
    code, out, err = here(capfd, *verb)
    assert code in (0, 2, 3) and "Traceback" not in out + err
    if name == "pipeline.lock.yaml" and verb[0] in ("report", "export", "push"):
        (run / name).unlink()
        shutil.rmtree("out", ignore_errors=True)
        code, out, err = here(capfd, *verb)
        assert code in (0, 2) and "Traceback" not in out + err and "'out'" not in err
        assert verb[0] != "report" or "pipeline.lock.yaml' is damaged (it is missing)" in err
    if name in ("corpus.jsonl", "usage.json") and verb[0] not in ("status",):
        assert code == 2 and "damaged" in err and "ledger" in err


@pytest.mark.parametrize("how", HARMS)
@pytest.mark.parametrize("name", FILES)
def test_running_again_makes_it_again_from_the_ledger(finished, tmp_path, monkeypatch, name, how):
    run, endpoint = copied(finished, tmp_path, monkeypatch)
    before, asked = contents(run), endpoint.asked.total()
    harm(run / name, how)
    again = distillgen.run("ask")
    assert again.state["state"] == "finished" and endpoint.asked.total() == asked
    assert contents(run) == before
    for page in ("README.md", "report.html"):
        assert how == "cut" or is_whole(run / page) and len((run / page).read_bytes()) > 500


@pytest.mark.parametrize(
    "name, sets", [("corpus.jsonl", []), ("stages/03-loop.jsonl", ["brevity.max_words=8"])]
)
def test_nonsense_of_as_many_lines_is_made_again_where_a_run_reads_it(
    finished, tmp_path, monkeypatch, name, sets
):
    run, endpoint = copied(finished, tmp_path, monkeypatch)
    before, asked = (run / name).read_bytes(), endpoint.asked.total()
    (run / name).write_bytes(re.sub(rb"[^\n]", b"?", before))
    assert distillgen.run("ask", sets=sets).state["state"] == "finished"
    assert (run / name).read_bytes() == before and endpoint.asked.total() == asked


def test_an_empty_ledger_holds_nothing_and_a_folder_is_none(finished, tmp_path, monkeypatch, capfd):
    run, _ = copied(finished, tmp_path, monkeypatch)
    ledger = run.parent / "ledger.sqlite3"
    for file in run.parent.glob("ledger.sqlite3*"):
        file.unlink()
    ledger.touch()
    for verb in (("plan", "ask"), ("show", "ask", "--id", next(iter(distillgen.Run(run).kept)).id)):
        assert here(capfd, *verb)[0] == 0
    ledger.unlink()
    ledger.mkdir()
    code, _, err = here(capfd, "run", "ask")
    assert code == 2 and "it is a folder. Choose another --ledger" in err


def test_what_an_export_cannot_read_is_not_what_it_cannot_write(finished, tmp_path, monkeypatch, capfd):
    run, _ = copied(finished, tmp_path, monkeypatch)
    (run / "pipeline.lock.yaml").unlink()
    (run / "pipeline.lock.yaml").mkdir()
    code, _, err = here(capfd, "export", "ask", "-o", "out")
    assert code == 2 and "cannot read 'runs/ask/pipeline.lock.yaml': is a directory" in err


def test_what_is_whole_and_what_is_not(tmp_path):
    file = tmp_path / "a.json"
    for content, whole in [
        (b'{"a": 1}', True),
        (b"[]\n", True),
        (b"", False),
        (b"\0\0", False),
        (b'{"a": "\0"}', False),
        (b'{"a": ', False),
    ]:
        file.write_bytes(content)
        assert is_whole(file) is whole
    rows = tmp_path / "a.jsonl"
    for content, count, whole in [
        (b"{}\n{}\n", 2, True),
        (b"{}\n", 2, False),
        (b"{}\n{}", 2, False),
        (b"", 0, True),
        (b"", 1, False),
        (b"\0\0\n\0\n", 2, False),
    ]:
        rows.write_bytes(content)
        assert is_whole(rows, count) is whole
    for content, how in [
        (b"", "empty"),
        (b"\0\0", "full of zeros"),
        (b"{", "not JSON"),
        (b"[1]", "no object"),
        (b"{}", "no 'a'"),
    ]:
        file.write_bytes(content)
        with pytest.raises(Damaged, match=how):
            load_state(file, "a")


def test_many_threads_write_one_file_that_is_named_by_its_content(tmp_path):
    """Two documents with the same picture are converted at the same time, and so are two pipelines' rows."""
    path, content = tmp_path / "data/pictures/abc.png", b"x" * 100_000
    start = threading.Barrier(8)

    def write(_):
        start.wait()
        for _ in range(50):
            write_shared(path, content)
            assert path.read_bytes() == content

    with ThreadPoolExecutor(8) as pool:
        [*pool.map(write, range(8))]
    assert [file.name for file in path.parent.iterdir()] == ["abc.png"]


def killed_in(owner, name, action, before=lambda *args: None):
    """Carry out an action in a process that dies by SIGKILL where it calls this function."""
    pid = os.fork()
    if not pid:
        setattr(owner, name, lambda *args, **_: (before(*args), os.kill(os.getpid(), signal.SIGKILL)))
        action()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_a_killed_run_that_had_removed_a_damaged_file_leaves_it_to_the_next(finished, tmp_path, monkeypatch):
    run, _ = copied(finished, tmp_path, monkeypatch)
    before = contents(run)
    harm(run / "evaluation.json", "zeros")
    killed_in(resume, "remove_damaged", lambda: distillgen.run("ask"), remove_damaged)
    assert not (run / "evaluation.json").exists()
    distillgen.run("ask")
    assert contents(run) == before


@pytest.mark.parametrize("call", ["rename", "unlink"])
def test_a_folder_that_is_half_removed_has_its_name_no_longer(tmp_path, call):
    folder = tmp_path / "student"
    for _ in range(2):
        folder.mkdir()
        for name in ("manifest.json", "model.safetensors"):
            (folder / name).write_text("{}")
        killed_in(os, call, lambda: remove_folder(folder))
        assert {file.name for file in folder.glob("*")} in (set(), {"manifest.json", "model.safetensors"})
        remove_folder(folder)
        remove_folder(folder)
        assert not folder.exists()
    folder.symlink_to(tmp_path / "elsewhere")
    remove_folder(folder)
    assert not folder.is_symlink()


def test_a_folder_that_is_half_written_is_written_again(tmp_path):
    def write(folder):
        folder.mkdir()
        (folder / "config.json").touch()
        os.sync()
        (folder / "model.safetensors").touch()

    folder = tmp_path / "base"
    killed_in(os, "sync", lambda: whole_folder(folder, write))
    assert not folder.exists()
    assert whole_folder(folder, write) == folder and len(list(folder.iterdir())) == 2
    assert whole_folder(folder, lambda folder: folder.joinpath("other").touch()) == folder
    assert len(list(folder.iterdir())) == 2 and list(tmp_path.iterdir()) == [folder]


def test_there_is_a_link_at_every_moment(tmp_path):
    link = tmp_path / "last"
    for number in range(3):
        replace_link(link, f"{number:02d}")
        assert os.readlink(link) == f"{number:02d}"
        killed_in(os, "replace", lambda: replace_link(link, "99"))
        assert os.readlink(link) == f"{number:02d}"
