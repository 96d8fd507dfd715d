"""What works where fcntl, resource and uvloop are missing, as on Windows; and the locks of both kinds."""

import json
import os
import signal
import subprocess
import sys
import time
import types

import pytest

from distillgen import platforms, state_files

AS_ON_WINDOWS = """
import asyncio, errno, os, runpy, signal, sys, types
for name in ("fcntl", "resource", "uvloop"):
    sys.modules[name] = None
msvcrt = types.ModuleType("msvcrt")
msvcrt.LK_NBLCK = 2
msvcrt.locking = lambda file, mode, size: None
sys.modules["msvcrt"] = msvcrt
for module, names in {
    os: ("uname", "sched_getaffinity", "getloadavg", "sysconf", "killpg", "fork", "getuid"),
    signal: ("SIGHUP", "SIGKILL"),
    errno: ("EDQUOT",),
}.items():
    for name in names:
        delattr(module, name)
def kill(process, number):
    raise AssertionError("os.kill ends a process on Windows")
os.kill = kill
def add_signal_handler(self, *arguments):
    raise NotImplementedError
asyncio.SelectorEventLoop.add_signal_handler = add_signal_handler
sys.argv = ["distillgen", *sys.argv[1:]]
runpy.run_module("distillgen", run_name="__main__")
"""

PIPELINE = """
version: 1
models: {teacher: {provider: scripted, model: echo}}
stages:
  - source: {path: data/rows.jsonl}
  - generate: {model: teacher, template: "{{ question }}", output: answer, max_tokens: 50}
"""


def command(*arguments):
    return [sys.executable, "-c", AS_ON_WINDOWS, *arguments]


@pytest.fixture
def questions(project):
    project.write("pipelines/small.yaml", PIPELINE)
    project.write("data/rows.jsonl", "".join(json.dumps({"question": f"Why {i}?"}) + "\n" for i in range(3)))
    return project


def distillgen(project, *arguments):
    return subprocess.run(
        command(*arguments), cwd=project.path, env=project.env(), capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--help"], "Usage: distillgen"),
        (["--version"], "distillgen, version 0"),
        (["check", "small"], "ok"),
        (["plan", "small"], "at most"),
        (["list", "filters"], "word_count"),
    ],
)
def test_a_command_on_windows(questions, arguments, text):
    done = distillgen(questions, *arguments)
    assert (done.returncode, done.stderr) == (0, "") and text in done.stdout, done


def test_a_run_on_windows_gives_the_same_rows(questions):
    done = distillgen(questions, "run", "small", "-o", "windows")
    assert done.returncode == 0, done.stderr
    assert (
        distillgen(questions, "run", "small", "-o", "windows").returncode == 0
    )  # the same ledger, opened again
    for arguments in (["export", "windows", "-o", "rows.jsonl"], ["status", "windows"], ["show", "windows"]):
        done = distillgen(questions, *arguments)
        assert done.returncode == 0, done.stderr
    questions.cli("run", "small", "-o", "here")
    assert questions.read("windows/corpus.jsonl") and (
        (questions.path / "windows/corpus.jsonl").read_bytes()
        == (questions.path / "here/corpus.jsonl").read_bytes()
    )


def test_the_sandbox_is_refused_on_windows(questions):
    questions.write(
        "pipelines/small.yaml", PIPELINE + "  - filter: [unit_tests: {field: answer, tests: question}]\n"
    )
    code = AS_ON_WINDOWS.replace(
        "runpy.run", "import platform; platform.system = lambda: 'Windows'\nrunpy.run"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "check", "small"],
        cwd=questions.path,
        env=questions.env(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "for lack of Linux (this is Windows)" in done.stderr, done


def test_ctrl_c_on_windows_stops_cleanly(questions):
    script = "import time\n\ndef late(request, sample):\n    time.sleep(0.3)\n    return 'late'\n"
    questions.write("data/late.py", script)
    questions.write(
        "pipelines/small.yaml",
        PIPELINE.replace("model: echo", "model: data/late.py:late, max_concurrency: 1"),
    )
    questions.write(
        "data/rows.jsonl", "".join(json.dumps({"question": f"Why {i}?"}) + "\n" for i in range(500))
    )
    process = subprocess.Popen(
        command("run", "small"),
        cwd=questions.path,
        env=questions.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    state = questions.path / "runs/small/usage.json"
    until = time.monotonic() + 30
    while not (state.exists() and json.loads(state.read_text())["totals"]["answers"]):
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=30)
    assert process.returncode == 130 and "answers are safe" in shown, shown


def test_a_lock_excludes_another_one_until_its_file_is_closed(tmp_path):
    path = tmp_path / "lock"
    with path.open("a+") as first, path.open("a+") as second:
        platforms.lock(first.fileno())
        with pytest.raises(BlockingIOError):
            platforms.lock(second.fileno(), shared=True)
        first.close()
        platforms.lock(second.fileno(), shared=True)


def test_a_lock_on_windows_is_on_a_byte_behind_the_content(tmp_path, monkeypatch):
    asked, free = [], [False, False, True]

    def locking(file, mode, size):
        asked.append((os.lseek(file, 0, os.SEEK_CUR), mode, size))
        if not free.pop(0):
            raise PermissionError(13, "Permission denied")

    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2))
    monkeypatch.setattr(platforms, "WINDOWS", True)
    with (tmp_path / "lock").open("a+") as stream:
        with pytest.raises(BlockingIOError):
            platforms.lock(stream.fileno())
        platforms.lock(stream.fileno(), wait=True)
    assert asked == [(1 << 30, 2, 1)] * 3
    with platforms.open_folder(tmp_path) as folder:
        platforms.lock(folder)
    assert len(asked) == 3, "a folder is not locked there"


def test_a_file_is_closed_before_it_is_renamed(tmp_path, monkeypatch):
    renamed = []
    monkeypatch.setattr(state_files.os, "replace", lambda *paths: renamed.append(stream.closed))
    with state_files.partial_file(tmp_path / "rows.jsonl") as stream:
        stream.write(b"{}")
    assert renamed == [True], "Windows renames no open file"


def test_a_process_that_has_ended(monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert platforms.has_ended(ended.pid) and not platforms.has_ended(os.getpid())
    monkeypatch.setattr(platforms, "WINDOWS", True)
    monkeypatch.setattr(os, "kill", None)
    assert not platforms.has_ended(os.getpid())


def test_a_lack_of_memory_is_told_from_a_crash(monkeypatch):
    assert platforms.kills_for_memory("nr_free_pages 7\noom_kill 3\n") == 3
    assert platforms.kills_for_memory("nr_free_pages 7\n") is None
    told = {}
    for kills in (3, 4, None):
        monkeypatch.setattr(platforms, "kills_for_memory", lambda kills=kills: kills)
        told[kills] = platforms.how_ended(-9, 3)
    assert "by somebody" in told[3] and "because memory ran out" in told[4] and "enough memory?" in told[None]
    assert platforms.how_ended(-11, 3) == "crashed (SIGSEGV)" and platforms.how_ended(2, 3).endswith("code 2")
    assert platforms.how_ended(-63, 3) == "crashed (signal 63)"
