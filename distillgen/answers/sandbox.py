"""Run untrusted Python code, such as a model's answer, in a process with almost no rights (Linux)."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from distillgen.confinement import EXITED, FINISHED, Limits, message, run

_CODE = Path(__file__).with_name("confined_code.py")


@dataclass(frozen=True)
class Outcome:
    """How a process ended, its output, and how many tests passed if it ran all of them."""

    ending: str
    output: str = ""
    passed: int = 0


class CallResult(NamedTuple):
    """What a call of a function returned, as text; or the error that it raised, else ""."""

    text: str = ""
    error: str = ""


def run_tests(
    code: str, tests: list[str], *, entry_point: str = "", limits: Limits, confined: bool = True
) -> Outcome:
    """Run `code`, then each of the `tests`: Python code with asserts, with functions test_…, or with a
    function `check`, which receives the object that `entry_point` names. Raise Unconfined if the process
    cannot be confined.

    The number of passed tests comes in a message with a secret of this run. An exit code or printed text does
    not count, so that code cannot cheat with these. Code and tests share an interpreter: code that searches
    the memory of the interpreter can find the secret.
    """
    secret = secrets.token_hex(16)
    job = {"code": code, "tests": tests, "entry_point": entry_point, "secret": secret}
    ending, _, report = run(_CODE, job, limits=limits, confined=confined)
    result = message(report[:10_000])
    if ending == FINISHED and result.get("secret") == secret:
        return Outcome(FINISHED, passed=int(result["passed"]))
    return Outcome(EXITED if ending == FINISHED else ending)


def run_program(code: str, *, stdin: str = "", limits: Limits, confined: bool = True) -> Outcome:
    """Run `code` as a program and return its output. Raise Unconfined if the process cannot be confined."""
    with tempfile.TemporaryFile() as file:
        file.write(stdin.encode("utf-8", "replace"))
        file.seek(0)
        ending, output, _ = run(_CODE, {"code": code}, limits=limits, stdin=file, confined=confined)
    return Outcome(ending, output)


def run_calls(
    code: str, calls: Sequence[tuple[str, Mapping[str, Any]]], *, limits: Limits, confined: bool = True
) -> list[CallResult]:
    """Run `code` as a module, then call its functions in order, each with arguments by name. Return a result
    for each call. Raise Unconfined if the process cannot be confined.

    A returned value that is no text becomes JSON. A call that ends the process, or reaches its limits, has
    the error that says so, and so have the calls after it. Sets have the same order in every process.
    """
    job = {"code": code, "calls": [[name, dict(arguments)] for name, arguments in calls]}
    environment = {"PYTHONHASHSEED": "0"}
    ending, _, report = run(_CODE, job, limits=limits, confined=confined, environment=environment)
    results = [CallResult(**result) for line in report.splitlines() if (result := message(line))]
    late = CallResult(error="the call left the process" if ending in (FINISHED, EXITED) else f"it {ending}")
    return [*results, *[late] * len(calls)][: len(calls)]
