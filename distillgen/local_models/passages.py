"""Statements and what could support them: an answer's sentences, and the passages of a source that speak of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from distillgen.local_models import embedder
from distillgen.local_models.nli import entailment
from distillgen.project import Project
from distillgen.rows.readers import contents
from distillgen.text.chunks import chunks
from distillgen.text.words import content

PASSAGE_WORDS = 150  # with a statement, about 250 tokens: what NLI models and small encoders read at once
_BOUNDARY = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]]*+\s++(?![a-z])|[。！？]++[”’」』)]*+|\n")
_ABBREVIATION = re.compile(r"\b(?:[A-Z]|[Dd]r|Mrs?|Ms|Prof|St|Jr|Sr|No|vs|etc|e\.g|i\.e|cf|ca|approx)\.\s+$")


def sentences(text: str) -> list[str]:
    """What a text states, one by one: its sentences, and its lines; those without a letter or figure are none."""
    found, begin = [], 0
    for end in [*(match.end() for match in _BOUNDARY.finditer(text)), len(text)]:
        if end == len(text) or not _ABBREVIATION.search(text, max(begin, end - 9), end):
            found.append(text[begin:end].strip())
            begin = end
    return [sentence for sentence in found if any(map(str.isalnum, sentence))]


class Passages:
    """Passages in which statements are looked up: by BM25 over their content words (Robertson and Zaragoza 2009), and
    by the embedder where one is named.
    """

    def __init__(self, texts: Iterable[str], *, embedder: str | None = None) -> None:
        """Texts are cut between sentences into passages."""
        self.texts = [piece for text in texts for piece in chunks(text, PASSAGE_WORDS)]
        self._embedder = embedder

    @classmethod
    def read(cls, path: str, project: Project, *, embedder: str | None = None) -> Passages:
        """Those of a knowledge base: a folder of texts, or whatever else a source can be; of rows, the field `text` or all."""
        rows = contents(path, project)
        shown = ([row["text"]] if "text" in row else row.values() for row in rows)
        return cls(
            ("\n\n".join(text for text in some if isinstance(text, str)) for some in shown), embedder=embedder
        )

    def about(self, statements: Sequence[str], n: int) -> list[list[str]]:
        """For each statement the `n` passages that are closest to it, by each way of looking it up; none that shares no word."""
        if len(self.texts) <= n or not statements:
            return [self.texts for _ in statements]
        looked_up = [sorted(content(statement)) for statement in statements]
        found, scores = self._index.retrieve(looked_up, k=n, show_progress=False)
        best = [
            [int(i) for i, score in zip(*row, strict=True) if score > 0]
            for row in zip(found, scores, strict=True)
        ]
        if self._embedder:
            near = embedder.embed(statements, model=self._embedder) @ self._vectors.T
            best = [[*own, *map(int, row.argsort()[::-1][:n])] for own, row in zip(best, near, strict=True)]
        return [[self.texts[i] for i in dict.fromkeys(own)] for own in best]

    @cached_property
    def _index(self) -> Any:
        from bm25s import BM25

        index = BM25()
        index.index([sorted(content(text)) or ["\0"] for text in self.texts], show_progress=False)
        return index

    @cached_property
    def _vectors(self) -> Any:
        return embedder.embed(self.texts, model=self._embedder or "")


def probabilities(
    statements: Sequence[Sequence[str]], passages: Sequence[Sequence[Sequence[str]]], *, model: str
) -> list[list[list[tuple[float, float, float]]]]:
    """For each record's statements, what each of its passages makes of it: all pairs go to the NLI model together."""
    together = zip(chain.from_iterable(statements), chain.from_iterable(passages), strict=True)
    given = iter(
        entailment([(passage, statement) for statement, own in together for passage in own], model=model)
    )
    return [[[next(given) for _ in own] for own in found] for found in passages]
