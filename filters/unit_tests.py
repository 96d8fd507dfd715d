"""Programs that pass their tests (Codex, Chen et al. 2021, section 2.1)."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from distillgen import ConfigError, FieldName, Filter, Record
from distillgen.answers.final_answer import program as program_of
from distillgen.answers.sandbox import run_program, run_tests
from distillgen.confinement import EXITED, FINISHED, TIMED_OUT, WROTE_TOO_MUCH, Limits, Unconfined, lacking
from distillgen.platforms import cores
from distillgen.record import text_of

WAYS = (FINISHED, EXITED, TIMED_OUT, WROTE_TOO_MUCH)


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
    """Drop Python programs that pass too small a share of their tests. Costs a process of 80 ms a record, or
    a case of output.

    The program is the fenced code of the answer. `tests` is Python code or a list of it (asserts, functions
    test_…, or `check(candidate)` with the function's name in `entry_point`), or a list of {input, output}:
    what the program reads and prints. The process has no network, no environment, no children and no other
    files. On a machine that cannot isolate it, `unconfined: true` runs it with limits of time and memory
    only, which is safe only inside a container. Measures the number of tests, the number passed, and how the
    program ended.

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
        with ThreadPoolExecutor(cores()) as pool:
            return list(pool.map(tried, records))

    def tried(record: Record) -> dict[str, float]:
        program, test_value = program_of(record.text(field)), record.fields[tests]
        cases = test_value if isinstance(test_value, list) else [test_value] if test_value else []
        try:
            if cases and all(isinstance(case, Mapping) and "output" in case for case in cases):
                return talked(program, cases)
            name = record.text(entry_point) if entry_point else ""
            texts = [text_of(case) for case in cases]
            outcome = run_tests(program, texts, entry_point=name, limits=limits, confined=not unconfined)
        except Unconfined as error:
            raise ConfigError(f"unit_tests: the process could not be confined: {error}") from error
        return {"tests": len(cases), "passed": outcome.passed, "ended": WAYS.index(outcome.ending)}

    def talked(program: str, cases: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        passed, ending = 0, FINISHED
        for case in cases:
            outcome = run_program(
                program, stdin=text_of(case.get("input", "")), limits=limits, confined=not unconfined
            )
            passed += outcome.ending == FINISHED and lines(outcome.output) == lines(text_of(case["output"]))
            ending = ending if outcome.ending in (FINISHED, EXITED) else outcome.ending
        return {"tests": len(cases), "passed": passed, "ended": WAYS.index(ending)}

    def lines(text: str) -> list[str]:
        """Split into lines; ignore trailing spaces and empty lines at the end."""
        return [line.rstrip() for line in text.rstrip().split("\n")]

    def decide(numbers: Mapping[str, Any]) -> str | None:
        if not numbers["tests"]:
            return "no tests"
        if numbers["passed"] >= min_share * numbers["tests"]:
            return None
        ending = WAYS[int(numbers["ended"])]
        return f"{numbers['passed']:.0f} of {numbers['tests']:.0f} tests passed" + (
            f"; it {ending}" if ending != FINISHED else ""
        )

    settings = {
        "fields": [field, tests, entry_point],
        "limits": [timeout_s, cpu_s, memory_mb],
        "unconfined": unconfined,
    }
    return Filter(measure, decide, depends_on={"version": 1, **settings})
