"""Compare expressions by computer algebra (math-verify, on sympy) in a separate process.

The parser of sympy evaluates its input as Python and may never end. So the process is confined where the
machine supports that, and killed after a time limit.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from distillgen.answers.compare import Comparison, golds
from distillgen.answers.final_answer import announced, boxed
from distillgen.confinement import confine, lacking, limit_memory
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
_MOST_S = 1e6
_MOST_PAIRS = 1000  # compared by one process, which frees sympy's caches as it ends
_TAIL = 300  # characters at the end of a text that announces no answer


def compare_expressions(
    texts: Sequence[str], gold: Sequence[Any], *, lenient: bool = True, timeout_s: float = 5.0
) -> list[Comparison]:
    """Compare each text with its gold answers by computer algebra: its announced answer, or with `lenient`
    the end of a text that announces none. `also` holds the best verdict, as its index in VERDICTS. One
    process compares all texts.
    """
    gold_answers = [golds(gold_text) for gold_text in gold]
    answers = [announced(text) or (text.strip()[-_TAIL:] if lenient else "") for text in texts]
    both = list(zip(answers, gold_answers, strict=True))
    verdicts = iter(
        equality(
            [
                (text, boxed(gold_text) or gold_text)
                for text, gold_texts in both
                if text
                for gold_text in gold_texts
            ],
            timeout_s=timeout_s,
        )
    )
    results = [[next(verdicts) if text else UNREADABLE for _ in gold_texts] for text, gold_texts in both]
    return [_compared(text, gold_texts) for text, gold_texts in zip(answers, results, strict=True)]


def _compared(text: str, verdicts: Sequence[str]) -> Comparison:
    best = min(verdicts, key=VERDICTS.index, default=GOLD_UNREADABLE)
    usable = sum(verdict != GOLD_UNREADABLE for verdict in verdicts)
    return Comparison(
        usable, bool(text) and best != UNREADABLE, best == EQUAL, {"verdict": VERDICTS.index(best)}
    )


def equality(pairs: Sequence[tuple[str, str]], *, timeout_s: float = 5.0) -> list[str]:
    """Return one of VERDICTS for each pair (expression, gold), in LaTeX or plain notation, within `timeout_s`
    for each pair.
    """
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
    """A process that compares one pair after the other. It takes a second to start; it ends when this process
    ends.
    """

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
        """Return the verdict on a pair; LATE also if the process dies."""
        assert self._process.stdin
        self.asked += 1
        texts = [text[:_MOST_CHARACTERS] for text in pair]
        self._process.stdin.write(
            json.dumps([*texts, math.ceil(min(timeout_s, _MOST_S)) + 1]).encode() + b"\n"
        )
        answer = self._line(timeout_s).decode().strip()
        return answer if answer in VERDICTS else LATE

    def _line(self, timeout_s: float) -> bytes:
        assert self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        return self._process.stdout.readline() if ready else b""

    def end(self) -> None:
        """Kill the process and wait for it."""
        atexit.unregister(self.end)
        with self._process as process:  # closes its pipes and waits for it
            process.kill()


_waiting: list[_Process] = []  # started, and ready for the next pairs


def _ready() -> _Process:
    try:
        return _waiting.pop()
    except IndexError:
        return _Process()


def _serve() -> None:
    """Run inside the process: read one pair per line, print one verdict per line."""
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
        text, gold, most_s = json.loads(line)
        if not WINDOWS:
            signal.alarm(most_s)  # ends this process if the one that asks was killed, and cannot end it
        try:
            gold_expression = read(gold)
            expression = read(text) if gold_expression else []
            same = bool(expression) and verify(gold_expression, expression, timeout_seconds=None)
            print(  # noqa: T201
                GOLD_UNREADABLE
                if not gold_expression
                else UNREADABLE
                if not expression
                else EQUAL
                if same
                else UNEQUAL,
                flush=True,
            )
        except Exception:  # sympy raises errors of many types on malformed expressions
            print(UNREADABLE, flush=True)  # noqa: T201
        if not WINDOWS:
            signal.alarm(0)


if __name__ == "__main__":
    _serve()
