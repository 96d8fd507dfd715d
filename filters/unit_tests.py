"""Programs that do not pass their tests (Codex, Chen et al. 2021, section 2.1)."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from distillgen import ConfigError, FieldName, Filter, Record
from distillgen.answers.final_answer import program as program_of
from distillgen.answers.sandbox import (
    FINISHED,
    LEFT,
    TIMED_OUT,
    WROTE_TOO_MUCH,
    Limits,
    Unconfined,
    lacking,
    run_program,
    run_tests,
)
from distillgen.record import text_of

WAYS = (FINISHED, LEFT, TIMED_OUT, WROTE_TOO_MUCH)


def unit_tests(
    *,
    field: FieldName = "answer",
    tests: FieldName = "tests",
    entry_point: FieldName | None = None,
    min_share: float = 1.0,
    timeout_s: float = 10.0,
    cpu_s: int = 5,
    memory_mb: int = 1024,
    unconfined: bool = False,
) -> Filter:
    """Drop Python programs that pass too small a share of their tests. Costs a process of 80 ms a record, or a case of output.

    The program is an answer's fenced code. `tests` is Python code, or a list of it (asserts, functions test_…, or
    `check(candidate)` with the name in `entry_point`), or a list of {input, output}: what the program reads and prints. The
    process has no network, environment, children or other files; where the machine cannot do that, `unconfined: true` runs it
    with limits of time and memory alone, which is safe only in a container. Measures tests, those passed, and how it ended.

    Options:
        field: the text with the program
        tests: the field with the tests
        entry_point: the field with the name of the function under test
        min_share: smallest share of tests that a kept program passes
        timeout_s: longest time for one program, in seconds
        cpu_s: most processor time for one program, in seconds
        memory_mb: most memory for one program, in MB
        unconfined: whether programs run without isolation where the machine offers none; safe only in
            a container
    """
    if not unconfined and (missing := lacking()):
        remedy = "mend that; or run in a container of its own, and give unconfined: true"
        raise ConfigError(
            f"this machine cannot confine strangers' code, for lack of {' and '.join(missing)}; {remedy}"
        )
    limits = Limits(timeout_s=timeout_s, cpu_s=cpu_s, memory_mb=memory_mb)

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return list(pool.map(tried, records))

    def tried(record: Record) -> dict[str, float]:
        program, given = program_of(record.text(field)), record.fields[tests]
        cases = given if isinstance(given, list) else [given] if given else []
        try:
            if cases and all(isinstance(case, Mapping) and "output" in case for case in cases):
                return talked(program, cases)
            name = record.text(entry_point) if entry_point else ""
            texts = [text_of(case) for case in cases]
            found = run_tests(program, texts, entry_point=name, limits=limits, confined=not unconfined)
        except Unconfined as error:
            raise ConfigError(f"unit_tests: the process could not be confined: {error}") from error
        return {"tests": len(cases), "passed": found.passed, "ended": WAYS.index(found.ended)}

    def talked(program: str, cases: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        passed, ended = 0, FINISHED
        for case in cases:
            found = run_program(
                program, stdin=text_of(case.get("input", "")), limits=limits, confined=not unconfined
            )
            passed += found.ended == FINISHED and lines(found.output) == lines(text_of(case["output"]))
            ended = ended if found.ended in (FINISHED, LEFT) else found.ended
        return {"tests": len(cases), "passed": passed, "ended": WAYS.index(ended)}

    def lines(text: str) -> list[str]:
        """Spaces at the ends of lines and empty lines at the end do not count."""
        return [line.rstrip() for line in text.rstrip().split("\n")]

    def decide(found: Mapping[str, Any]) -> str | None:
        if not found["tests"]:
            return "no tests"
        if found["passed"] >= min_share * found["tests"]:
            return None
        ended = WAYS[int(found["ended"])]
        return f"{found['passed']:.0f} of {found['tests']:.0f} tests passed" + (
            f"; it {ended}" if ended != FINISHED else ""
        )

    given = {
        "fields": [field, tests, entry_point],
        "limits": [timeout_s, cpu_s, memory_mb],
        "unconfined": unconfined,
    }
    return Filter(measure, decide, depends_on={"version": 1, **given})
