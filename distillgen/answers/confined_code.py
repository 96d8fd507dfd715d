"""What the sandbox's process does: it runs a program, or its tests, or calls its functions.

The process runs this file on its own, so the file imports only the standard library.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any


def start(job: Mapping[str, Any]) -> Callable[[int], None]:
    """Return what the process does once it is confined."""
    if "calls" in job:
        return partial(_call, job["code"], job["calls"])
    return partial(_test, job) if "tests" in job else partial(_program, job["code"])


def _program(code: str, report_fd: int) -> None:
    os.close(report_fd)
    _module("__main__", code)


def _test(job: Mapping[str, Any], report_fd: int) -> None:
    passed = _passed(job["code"], job["tests"], job["entry_point"])
    os.write(report_fd, json.dumps({"secret": job["secret"], "passed": passed}).encode())
    os._exit(0)


def _module(name: str, code: str) -> dict[str, Any]:
    """Run code as a module of this name; the program `__main__` may exit with status 0."""
    module = type(sys)(name)
    sys.modules[name] = module
    try:
        exec(compile(code, f"<{name}>", "exec"), vars(module))
    except SystemExit as exit:
        if name != "__main__" or exit.code:
            raise
    return vars(module)


def _call(code: str, calls: Sequence[Any], report_fd: int) -> None:
    """Write the result of each call as a line of JSON, as soon as there is one."""
    functions: dict[str, Any] = {}
    for name, arguments in calls:
        try:
            functions = functions or _module("functions", code)
            value = functions[name](**arguments)
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
            result = {"text": text.encode("utf-8", "replace").decode()}
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"[:1000]}
        os.write(report_fd, json.dumps(result).encode() + b"\n")


def _passed(code: str, tests: list[str], entry_point: str) -> int:
    """Return how many tests passed; a test that raises any exception fails."""
    passed = 0
    try:
        solution = _module("solution", code)
    except BaseException:
        return 0
    for test in tests:
        names = dict(solution)
        try:
            exec(compile(test, "<test>", "exec"), names)
            if entry_point:
                names["check"](solution[entry_point])
            for name, value in names.items():
                if name.startswith("test_") and value is not solution.get(name):
                    value()
        except BaseException:
            continue
        passed += 1
    return passed
