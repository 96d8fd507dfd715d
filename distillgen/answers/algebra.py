"""Whether expressions are equal by computer algebra (math-verify, on sympy), in a process of its own: its parser runs what it
reads as Python and may never end, so that the process is confined where the machine can do that, and killed when it is late.
"""

from __future__ import annotations

import atexit
import json
import logging
import select
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from distillgen.answers.compare import Comparison, golds
from distillgen.answers.final_answer import announced, boxed
from distillgen.answers.sandbox import confine, lacking, limit_memory
from distillgen.errors import ConfigError
from distillgen.platforms import WINDOWS

EQUAL, UNEQUAL, UNREADABLE, GOLD_UNREADABLE, LATE = (
    "equal",
    "unequal",
    "unreadable",
    "gold unreadable",
    "late",
)
VERDICTS = (EQUAL, UNEQUAL, UNREADABLE, GOLD_UNREADABLE, LATE)
_START_S, _MEMORY_MB, _MOST_CHARACTERS = 60, 2048, 1000
_MOST_PAIRS = 1000  # of one process: what sympy remembers goes with it
_TAIL = 300  # characters of an answer that announces none


def compare_expressions(
    texts: Sequence[str], gold: Sequence[Any], *, lenient: bool = True, timeout_s: float = 5.0
) -> list[Comparison]:
    """Answers beside their gold ones by computer algebra: what each announces, or, in lenient reading, its end. Also: the best
    verdict, by its place among VERDICTS. All of them go to one process.
    """
    wanted = [golds(each) for each in gold]
    said = [announced(text) or (text.strip()[-_TAIL:] if lenient else "") for text in texts]
    both = list(zip(said, wanted, strict=True))
    verdicts = iter(
        equality(
            [(text, boxed(each) or each) for text, own in both if text for each in own], timeout_s=timeout_s
        )
    )
    found = [[next(verdicts) if text else UNREADABLE for _ in own] for text, own in both]
    return [_compared(text, own) for text, own in zip(said, found, strict=True)]


def _compared(text: str, verdicts: Sequence[str]) -> Comparison:
    best = min(verdicts, key=VERDICTS.index, default=GOLD_UNREADABLE)
    usable = sum(verdict != GOLD_UNREADABLE for verdict in verdicts)
    return Comparison(
        usable, bool(text) and best != UNREADABLE, best == EQUAL, {"verdict": VERDICTS.index(best)}
    )


def equality(pairs: Sequence[tuple[str, str]], *, timeout_s: float = 5.0) -> list[str]:
    """For each (expression, gold), in LaTeX or plain notation: a verdict, one of VERDICTS; `timeout_s` is for one pair."""
    verdicts: list[str] = []
    process: _Process | None = None
    try:
        for pair in pairs:
            if process is None:
                process = _ready()
            verdicts.append(process.ask(pair, timeout_s))
            if verdicts[-1] == LATE or process.asked >= _MOST_PAIRS:
                process.end()
                process = None
    except BaseException:
        if process:
            process.end()
        raise
    if process:
        _waiting.append(process)
    return verdicts


class _Process:
    """Compares pair after pair. It takes a second to start, and ends with this process, whatever ends that."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-m", "distillgen.answers.algebra"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}, bufsize=0
        )
        self.asked = 0
        atexit.register(self.end)
        if self._line(_START_S) != b"ready\n":
            self.end()
            raise ConfigError("math-verify does not start; try: python -m distillgen.answers.algebra")

    def ask(self, pair: tuple[str, str], timeout_s: float) -> str:
        """A verdict. A process that dies of an expression is as good as late."""
        assert self._process.stdin
        self.asked += 1
        self._process.stdin.write(json.dumps([text[:_MOST_CHARACTERS] for text in pair]).encode() + b"\n")
        answer = self._line(timeout_s).decode().strip()
        return answer if answer in VERDICTS else LATE

    def _line(self, timeout_s: float) -> bytes:
        assert self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        return self._process.stdout.readline() if ready else b""

    def end(self) -> None:
        """End it now."""
        atexit.unregister(self.end)
        with self._process as process:  # closes its pipes and waits for it
            process.kill()


_waiting: list[_Process] = []  # for the next pairs


def _ready() -> _Process:
    try:
        return _waiting.pop()
    except IndexError:
        return _Process()


def _serve() -> None:
    """Inside: a pair a line in, a verdict a line out."""
    if not WINDOWS:
        limit_memory(_MEMORY_MB)
    if not lacking():
        confine()
    from math_verify import parse, verify

    logging.disable()

    def read(text: str) -> list[object]:
        formula = text.strip().strip("$")
        return parse(f"${formula}$", parsing_timeout=None) or parse(formula, parsing_timeout=None)  # type: ignore[no-any-return]

    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        text, gold = json.loads(line)
        try:
            wanted = read(gold)
            said = read(text) if wanted else []
            same = bool(said) and verify(wanted, said, timeout_seconds=None)
            print(  # noqa: T201
                GOLD_UNREADABLE if not wanted else UNREADABLE if not said else EQUAL if same else UNEQUAL,
                flush=True,
            )
        except Exception:  # whatever sympy raises, it could not compare the two
            print(UNREADABLE, flush=True)  # noqa: T201


if __name__ == "__main__":
    _serve()
