"""Templates in a pipeline, which records fill: a text, or a condition."""

from __future__ import annotations

from typing import ClassVar

from distillgen.flow.stage import CheckContext
from distillgen.record import SCORES, Record, Unrenderable
from distillgen.text.template import compile_template

NO = ("", "false", "no", "0", "null")


class RecordTemplate:
    """A template in a pipeline, which a record fills. Raises ConfigError for a mistake in it."""

    negations: ClassVar[tuple[str, ...]] = NO
    """The texts, in lower case, for which the template does not hold."""

    def __init__(self, source: str) -> None:
        self._template = compile_template(source, "template")
        self.used, self.scores = self._template.used, self._template.scores

    def check(self, context: CheckContext, subject: str) -> None:
        """Raise ConfigError if a field that the template needs is missing."""
        for name in sorted(self._template.needed - {SCORES}):
            context.need(name, subject)
        context.need_scores(self.scores, subject)

    def render(self, record: Record) -> str:
        """Return the text of a record. Raise Unrenderable."""
        return self._template.render(record.variables(self.used))

    def say(self, record: Record) -> str:
        """Return the text of a record. Raise Unrenderable, also if the text is empty."""
        text = self.render(record)
        if nothing := self._template.empty(record.fields) or ("" if text.strip() else "the text is empty"):
            raise Unrenderable(nothing)
        return text

    def holds(self, record: Record) -> bool:
        """Return whether the text is neither empty nor false, no, 0 or null. Raise Unrenderable."""
        return self.render(record).strip().lower() not in self.negations

    def size(self, record: Record) -> int:
        """Return the bytes of the text, and 16 for the chat template."""
        return len(self.render(record).encode("utf-8", "replace")) + 16
