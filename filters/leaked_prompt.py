"""Texts that repeat the instructions, examples or fields that they were made from."""

import re
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from distillgen import FieldName, Filter, Project, Prompt, PromptName, Record
from distillgen.project import read_text
from distillgen.record import text_of
from distillgen.text.words import words

TAGS = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}|^@\w+[ \t]*$", re.S | re.M)


def leaked_prompt(
    *,
    field: FieldName = "response",
    prompts: list[PromptName] = [],
    fields: list[FieldName] = [],
    texts: list[str] = [],
    n: int = 8,
    max_share: float = 0.0,
    project: Project,
) -> Filter:
    """Drop texts that share runs of `n` words with the instructions and worked examples of `prompts`, with other `fields` of
    the record, or with given `texts`. Measures the share of their words in such runs. Costs nothing.

    Options:
        field: the text to search
        prompts: prompts whose instructions and examples must not be repeated
        fields: other fields that must not be repeated
        texts: texts of your own that must not be repeated
        n: words in a row that count as repeated
        max_share: largest share of repeated words in a kept text
    """
    if not (prompts or fields or texts):
        raise ValueError("give at least one of 'prompts', 'fields' and 'texts'")
    pieces = [piece for name in prompts for piece in instructions(Prompt.load(name, project))]
    known = runs(chain(pieces, texts), n)

    def share(record: Record) -> float:
        said, here = words(record.text(field)), known | runs((record.text(name) for name in fields), n)
        shared, end = 0, 0
        for i in range(len(said) - n + 1):
            if tuple(said[i : i + n]) in here:
                shared += i + n - max(i, end)
                end = i + n
        return shared / max(1, len(said))

    def measure(records: Sequence[Record]) -> list[float]:
        return [share(record) for record in records]

    def decide(found: float) -> str | None:
        return f"{found:.0%} of its words repeat its prompt > {max_share:.0%}" if found > max_share else None

    return Filter(measure, decide)


def instructions(prompt: Prompt) -> Iterable[str]:
    """What a prompt's file says whatever the record: its text between the tags, and its examples."""
    yield from TAGS.split(read_text(Path(prompt.path)))
    yield from (text_of(value) for example in prompt.examples for value in example.values())


def runs(texts: Iterable[str], n: int) -> set[tuple[str, ...]]:
    """All runs of `n` words."""
    return {tuple(said[i : i + n]) for said in map(words, texts) for i in range(len(said) - n + 1)}
