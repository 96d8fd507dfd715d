"""Texts that repeat the instructions, examples or fields of their prompt."""

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
    """Drop texts that share runs of `n` words with their prompt.

    The prompt is: the instructions and worked examples of `prompts`, other `fields` of the record, and
    `texts` of your own. Measures the share of the text's words that are part of such runs. Costs nothing.

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
    prompt_runs = runs(chain(pieces, texts), n)

    def share(record: Record) -> float:
        text_words, forbidden = (
            words(record.text(field)),
            prompt_runs | runs((record.text(name) for name in fields), n),
        )
        shared, end = 0, 0
        for i in range(len(text_words) - n + 1):
            if tuple(text_words[i : i + n]) in forbidden:
                shared += i + n - max(i, end)
                end = i + n
        return shared / max(1, len(text_words))

    def measure(records: Sequence[Record]) -> list[float]:
        return [share(record) for record in records]

    def decide(repeated: float) -> str | None:
        return (
            f"{repeated:.0%} of its words repeat its prompt > {max_share:.0%}"
            if repeated > max_share
            else None
        )

    return Filter(measure, decide)


def instructions(prompt: Prompt) -> Iterable[str]:
    """Yield the fixed texts of a prompt: the text of its file between the tags, and the values of its
    examples.
    """
    yield from TAGS.split(read_text(Path(prompt.path)))
    yield from (text_of(value) for example in prompt.examples for value in example.values())


def runs(texts: Iterable[str], n: int) -> set[tuple[str, ...]]:
    """Return all runs of `n` words of the texts."""
    return {
        tuple(text_words[i : i + n])
        for text_words in map(words, texts)
        for i in range(len(text_words) - n + 1)
    }
