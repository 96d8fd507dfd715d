"""Hostile programs: every attack fails, and only passing the tests gives a good verdict."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from distillgen.answers.sandbox import run_program, run_tests
from distillgen.confinement import EXITED, FINISHED, TIMED_OUT, WROTE_TOO_MUCH, Limits, lacking

pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"lacks {lacking()}")

LIMITS = Limits(timeout_s=3, cpu_s=1, memory_mb=256, written_mb=8)
TEST = ["assert answer() == 4"]


def run(body, tests=TEST, before=""):
    """`answer` does what it does, and then gives the right answer."""
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    return run_tests(f"import os, sys\n{before}\ndef answer():\n{lines}    return 4\n", tests, limits=LIMITS)


def test_a_limit_may_be_larger_than_the_system_takes():
    limits = Limits(timeout_s=1e30, cpu_s=10**30, memory_mb=10**18)
    assert run_tests("def answer(): return 4", TEST, limits=limits).passed == 1


def test_good_code_passes_and_wrong_code_does_not():
    assert run("pass").passed == 1
    assert run("return 5").passed == 0
    assert run("pass", ["assert answer() == 4", "assert answer() == 5", "assert answer() > 3"]).passed == 2


ALLOWED = {
    "a file of its own": "open('a', 'w').write('x' * 1000)\n"
    "assert open('a').read() == 'x' * 1000\nos.remove('a')",
    "a folder of its own": "os.mkdir('b')\nos.rename('b', 'c')\nos.rmdir('c')",
    "threads": "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()",
    "asyncio": "import asyncio\nasyncio.run(asyncio.sleep(0))",
    "the library": "import collections, dataclasses, datetime, decimal, heapq, json, math, random, re, "
    "statistics, typing, zoneinfo",
    "/dev/null": "open('/dev/null', 'w').write('x')",
    "dataclasses": "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\nassert A(1) == A(1)",
    "an empty folder, no environment": "assert os.listdir() == [] and not set(os.environ) - {'LC_CTYPE'}",
    "caught refusals": "try:\n    os.fork()\nexcept PermissionError:\n    pass",
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_honest_code_needs_works(name):
    assert run(ALLOWED[name]).passed == 1


REFUSED = {
    "a fork bomb": "while True: os.fork()",
    "fork by number": "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "if libc.syscall(57 if os.uname().machine == 'x86_64' else 220, 17, 0, 0, 0, 0) < 0: "
    "raise OSError",
    "a child": "import subprocess\nsubprocess.run(['true'])",
    "another program": "os.execv(sys.executable, [sys.executable, '-c', ''])",
    "a memory hog": "x = 'a' * (1 << 30)",
    "a slow memory hog": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "memory without an address": "os.memfd_create('a')",
    "reading a file outside": "open('/etc/passwd').read()",
    "reading this file": f"open({__file__!r}).read()",
    "listing a folder outside": "os.listdir('/')",
    "its parent's environment": "open(f'/proc/{os.getppid()}/environ', 'rb').read()",
    "its own command": "open('/proc/self/cmdline').read()",
    "writing outside": "open('/tmp/distillgen-evil', 'w')",
    "a link out": "os.symlink('/etc/passwd', 'p')\nopen('p').read()",
    "a hard link out": f"os.link({__file__!r}, 'p')",
    "a device": "open('/dev/zero', 'rb').read(1)",
    "a socket": "import socket\nsocket.create_connection(('127.0.0.1', 80), 1)",
    "an unbound socket": "import socket\nsocket.socket()",
    "a local socket": "import socket\nsocket.socket(socket.AF_UNIX)",
    "killing its parent": "os.kill(os.getppid(), 9)",
    "killing all": "os.kill(-1, 9)",
    "killing by descriptor": "import fcntl\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())",
    "its parent's limits": "import resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
    "more time": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (100, 100))",
    "the mode of a file outside": f"os.chmod({__file__!r}, 0o777)",
    "the times of a file outside": f"os.utime({__file__!r})",
    "the length of a file outside": "os.truncate('/etc/hostname', 0)",
    "many threads": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,), "
    "daemon=True).start()",
    "many files open": "x = [open('/dev/null') for _ in range(100)]",
    "namespaces": "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000): raise PermissionError",
    "sys.exit": "sys.exit(0)",
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_code_is_stopped(name):
    before = os.stat(__file__)
    found = run(REFUSED[name])
    assert (found.ending, found.passed) == (FINISHED, 0)
    after = os.stat(__file__)
    assert (before.st_mode, before.st_mtime, before.st_nlink) == (
        after.st_mode,
        after.st_mtime,
        after.st_nlink,
    )
    assert not os.path.exists("/tmp/distillgen-evil")


LEAVING = {
    "os._exit": "os._exit(0)",
    "a printed verdict": "print('{\"passed\": 1}', flush=True)\nos._exit(0)",
    "a verdict written everywhere": "for i in range(64):\n"
    '  try: os.write(i, b\'{"secret": "", "passed": 1}\')\n'
    "  except OSError: pass\nos._exit(0)",
    "a crash": "import ctypes\nctypes.string_at(0)",
}


@pytest.mark.parametrize("when", ["in the test", "at import"])
@pytest.mark.parametrize("name", LEAVING)
def test_leaving_is_no_verdict(name, when):
    found = run(LEAVING[name]) if when == "in the test" else run("pass", before=LEAVING[name])
    assert (found.ending, found.passed) == (EXITED, 0)


@pytest.mark.parametrize(
    "body", ["while True: pass", "import time\ntime.sleep(60)", "import threading\nthreading.Event().wait()"]
)
def test_endless_code_is_ended(body):
    started = time.monotonic()
    assert run(body).ending == TIMED_OUT and time.monotonic() - started < 30


def children(pid):
    return [int(n) for path in Path(f"/proc/{pid}/task").glob("*/children") for n in path.read_text().split()]


def runs(pid):
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    return False


def test_endless_code_ends_when_the_process_that_would_end_it_is_killed():
    endless = "run_program('import time; time.sleep(600)', limits=Limits(timeout_s=600))"
    code = f"from distillgen.answers.sandbox import Limits, run_program\n{endless}"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        until = time.monotonic() + 60
        while not (ids := children(process.pid)):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        process.kill()
    until = time.monotonic() + 60
    while runs(ids[0]):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_deep_recursion_ends():
    assert run("sys.setrecursionlimit(10**9)\nf = lambda: f()\nf()").passed == 0


def test_a_large_file_is_not_written():
    found = run("open('a', 'w').write('x' * (9 << 20))")
    assert found.passed == 0 and found.ending in (
        FINISHED,
        WROTE_TOO_MUCH,
    )  # the refusal, or the watch that saw the file fill up


def test_many_files_are_too_much_and_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert run("for i in range(100_000): open(str(i), 'wb').write(b'x' * 1_000_000)").ending == WROTE_TOO_MUCH
    assert list(tmp_path.iterdir()) == []


def test_a_program_is_judged_by_what_it_prints():
    assert run_program("print(int(input()) * 2)", stdin="21\n", limits=LIMITS).output == "42\n"
    assert run_program("import sys\nprint('x')\nsys.exit(0)", limits=LIMITS).ending == FINISHED
    assert run_program("if __name__ == '__main__': print('main')", limits=LIMITS).output == "main\n"
    assert run_program("raise ValueError", limits=LIMITS).ending == EXITED
    flood = run_program("while True: print('x' * 1000)", limits=LIMITS)
    assert flood.ending != FINISHED and len(flood.output) <= LIMITS.written_mb << 20


def test_without_confinement_there_are_still_limits():
    code = "def answer():\n    while True: pass\n"
    assert run_tests(code, TEST, limits=LIMITS, confined=False).ending == TIMED_OUT
    assert (
        run_tests(
            "def answer(): return len('x' * (1 << 30)) and 4", TEST, limits=LIMITS, confined=False
        ).passed
        == 0
    )
    assert run_tests("def answer(): return 4", TEST, limits=LIMITS, confined=False).passed == 1
