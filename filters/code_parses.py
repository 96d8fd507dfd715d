"""Code that its language's parser accepts; it is never run."""

import ast
import tomllib
import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import yaml

from distillgen import FieldName, Filter, Record
from distillgen.answers.final_answer import fenced as code_blocks
from distillgen.record import loads

ALIASES = {"py": "python", "python3": "python", "yml": "yaml", "": None}


def code_parses(
    *,
    field: FieldName = "response",
    language: Literal["python", "json", "yaml", "toml"] = "python",
    fenced: bool = False,
    min_blocks: int = 0,
) -> Filter:
    """Drop texts whose code does not parse as Python (of the running version), JSON, YAML or TOML. Costs nothing.

    The whole field is the code, or with `fenced` each of its Markdown code blocks: those of a language named here by its
    parser, those of no language as `language`, those of others unseen. Measures the blocks judged, and those broken.

    Options:
        field: the code, or the text with fenced code
        language: the language of the code, and of fenced blocks without a language
        fenced: whether to judge the Markdown code blocks of the text instead of all of it
        min_blocks: fewest fenced blocks that a kept text has
    """

    def judged(text: str) -> dict[str, float]:
        blocks = [(language, text)]
        if fenced:
            blocks = [(ALIASES.get(tag, tag) or language, code) for tag, code in code_blocks(text)]  # type: ignore[misc]
            blocks = [(tag, code) for tag, code in blocks if tag in PARSERS]
        return {"blocks": len(blocks), "broken": sum(not parses(tag, code) for tag, code in blocks)}

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [judged(r.text(field)) for r in records]

    def decide(found: dict[str, float]) -> str | None:
        blocks, broken = found["blocks"], found["broken"]
        if broken:
            return (
                f"{broken:.0f} of {blocks:.0f} blocks of code do not parse"
                if fenced
                else f"does not parse as {language}"
            )
        return f"{blocks:.0f} blocks of code < {min_blocks}" if blocks < min_blocks else None

    return Filter(measure, decide)


def read_yaml(text: str) -> None:
    """Go through all events, which builds nothing and expands no alias."""
    for _ in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        pass


def read_toml(text: str) -> None:
    """As tomllib does, but for keys of so many parts that it, whose time grows with their square, would take minutes."""
    if any(line.count(".") > 20_000 for line in text.split("\n")):
        raise ValueError("too many dots in a line")
    tomllib.loads(text)


PARSERS: dict[str, Callable[[str], object]] = {
    "python": ast.parse,
    "json": loads,
    "yaml": read_yaml,
    "toml": read_toml,
}


def parses(language: str, code: str) -> bool:
    """Whether the parser accepts the code; what is too deep for it counts as broken."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of Python about what it accepts
            PARSERS[language](code)
    except (SyntaxError, ValueError, yaml.YAMLError, RecursionError, MemoryError):
        return False
    return True
