"""The command line in a process of its own. Most tests fork it from a process that has imported the program
already, because the import takes longer than most commands.
"""

import atexit
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        *("tests.command_process", "distillgen.cli.main", "distillgen.pipeline.catalog"),
        *("distillgen.runs.run", "distillgen.runs.execute", "distillgen.runs.directory"),
        *("distillgen.runs.progress_lines", "distillgen.runs.ray_executor"),
        *("rich.live", "uvloop", "jsonlines"),
        *("distillgen.stages.generate", "distillgen.stages.filter", "distillgen.teachers.openai"),
    ]
)


class ForkedCommand:
    """What tests need of subprocess.Popen, for a fork of a process that has imported the program.

    The command is `[sys.executable, "-m", "distillgen", …]` or `[sys.executable, "-c", code, …]`. `hang_up`
    is what SIGHUP does at the start. What the command prints goes to files, so it never waits for a reader.
    """

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        *,
        text: bool = False,
        start_new_session: bool = False,
        hang_up: signal.Handlers = signal.SIG_DFL,
    ) -> None:
        assert command[0] == sys.executable
        self.args, self._text = command, text
        self._files = [tempfile.TemporaryFile() for _ in range(2)]
        inherited = [_Inherited(file.fileno()) for file in self._files]
        words = [*map(str, command[1:])]
        self._process = _FORKS.Process(
            target=_run, args=(words, cwd, dict(env), inherited, start_new_session, hang_up)
        )
        self._process.start()
        self.pid = self._process.pid
        self._printed: list[bytes] = []

    def __enter__(self) -> "ForkedCommand":
        return self

    def __exit__(self, *_) -> None:
        self.wait()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        for file in self._files:
            file.seek(0)
            self._printed.append(file.read())
            file.close()
        self._files.clear()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple:
        """Return what was printed on stdout and stderr."""
        self.wait(timeout)
        if not self._text:
            return tuple(self._printed)
        return tuple(printed.decode().replace("\r\n", "\n").replace("\r", "\n") for printed in self._printed)

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def forked(
    command: Sequence[str], cwd: Path, env: Mapping[str, str], *, text: bool = True, timeout: float = 120
) -> subprocess.CompletedProcess:
    """Do what subprocess.run does, by a ForkedCommand."""
    with ForkedCommand(command, cwd, env, text=text) as process:
        try:
            printed = process.communicate(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, *printed)


def new_command(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout_s: float
) -> subprocess.CompletedProcess:
    """Run `python -m distillgen ARGUMENTS` in a folder; raise TimeoutExpired if it takes longer."""
    return subprocess.run(
        [sys.executable, "-m", "distillgen", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment,
    )


class _Inherited:
    """A file's number, which becomes the number that the forked process has for the file."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple:
        return _detached, (DupFd(self.number),)


def _detached(duplicate) -> int:
    return duplicate.detach()


def _run(
    words: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    files: Sequence[int],
    new_session: bool,
    hang_up: signal.Handlers,
) -> None:
    """Be the program, as `python -m` starts it, or code, as `python -c` does."""
    if new_session:
        os.setsid()
    signal.signal(signal.SIGHUP, hang_up)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal, even in the background
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, file in enumerate(files, start=1):
        os.dup2(file, number)
        os.close(file)
    encoding, _, strictness = environment.get("PYTHONIOENCODING", "utf-8").partition(":")
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(open(number, "wb", closefd=False), encoding, errors, write_through=number == 2)
        for number, errors in ((1, strictness or "strict"), (2, "backslashreplace"))
    )
    warnings.simplefilter("error", RuntimeWarning)
    sys.path.insert(0, str(folder))
    try:
        if words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            assert words[:2] == ["-m", "distillgen"]
            sys.argv = words[1:]
            from distillgen.cli.main import main

            main()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
