"""The command line in a process of its own. Most tests fork it from a process that has imported the program
already, because the import takes longer than most commands.
"""

import atexit
import io
import multiprocessing
import os
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
        *("distillgen.stages.generate", "distillgen.stages.filter", "distillgen.teachers.openai"),
    ]
)


def forked_command(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout_s: float
) -> subprocess.CompletedProcess:
    """Do what `new_command` does, in a fork of a process that has imported the program."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        files = [DupFd(file.fileno()) for file in (output, errors)]
        process = _FORKS.Process(target=_run, args=(arguments, folder, environment, files))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, timeout_s)
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read())
    return subprocess.CompletedProcess(arguments, process.exitcode, *texts)


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


def _run(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], files: Sequence[DupFd]
) -> None:
    """Be the program, as `python -m` starts it."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, file in enumerate(files, start=1):
        os.dup2(file.detach(), number)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(open(number, "wb", closefd=False), "utf-8", errors, write_through=number == 2)
        for number, errors in ((1, "strict"), (2, "backslashreplace"))
    )
    warnings.simplefilter("error", RuntimeWarning)
    sys.argv = ["distillgen", *arguments]
    sys.path.insert(0, str(folder))
    from distillgen.cli.main import main

    try:
        main()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
