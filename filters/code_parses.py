"""Code that the parser of its language accepts. The code never runs."""

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
    """Drop texts whose code does not parse as Python (of the running version), JSON, YAML or TOML. Costs
    nothing.

    By default the whole field is code. With `fenced`, only its Markdown code blocks are: blocks marked with
    one of these languages are parsed as that, blocks without a mark as `language`, and blocks in other
    languages are skipped. Measures the number of parsed blocks, and of broken ones.

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

    def decide(numbers: dict[str, float]) -> str | None:
        blocks, broken = numbers["blocks"], numbers["broken"]
        if broken:
            return (
                f"{broken:.0f} of {blocks:.0f} blocks of code do not parse"
                if fenced
                else f"does not parse as {language}"
            )
        return f"{blocks:.0f} blocks of code < {min_blocks}" if blocks < min_blocks else None

    return Filter(measure, decide)


def read_yaml(text: str) -> None:
    """Parse into events only: builds no objects and expands no aliases."""
    for _ in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        pass


def read_toml(text: str) -> None:
    """Parse TOML; refuse lines with very many dots.

    The time of tomllib grows with the square of the parts of a dotted key, so that one line could take
    minutes.
    """
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
    """Return whether the parser accepts the code. Code nested too deeply for the parser counts as broken."""
    try:
        with warnings.catch_warnings(action="ignore"):  # Python warns about odd code that it accepts
            PARSERS[language](code)
    except (SyntaxError, ValueError, yaml.YAMLError, RecursionError, MemoryError):
        return False
    return True
