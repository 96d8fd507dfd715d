"""The sentences of an answer, and the passages of a source that could support them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from distillgen.local_models import embedder
from distillgen.local_models.nli import entailment
from distillgen.project import Project
from distillgen.rows.readers import contents
from distillgen.text.chunks import pieces
from distillgen.text.words import content

PASSAGE_WORDS = 150  # with a statement, about 250 tokens, which NLI models and small encoders read at once


class Passages:
    """Passages that are searched for statements.

    BM25 compares content words (Robertson and Zaragoza 2009); an embedder, if one is named, compares vectors.
    """

    def __init__(self, texts: Iterable[str], *, embedder: str | None = None) -> None:
        """Cut the texts into passages, between sentences."""
        self.texts = [piece.text for text in texts for piece in pieces(text, PASSAGE_WORDS)]
        self._embedder = embedder

    @classmethod
    def read(cls, path: str, project: Project, *, embedder: str | None = None) -> Passages:
        """Read a knowledge base: any source; of rows, the field `text`, or all fields if there is none."""
        rows = contents(path, project)
        values = ([row["text"]] if "text" in row else row.values() for row in rows)
        return cls(
            ("\n\n".join(text for text in row if isinstance(text, str)) for row in values), embedder=embedder
        )

    def about(self, statements: Sequence[str], n: int) -> list[list[str]]:
        """Return, for each statement, the `n` best passages of each search.

        BM25 finds no passage without a common word.
        """
        if len(self.texts) <= n or not statements:
            return [self.texts for _ in statements]
        queries = [sorted(content(statement)) for statement in statements]
        places, scores = self._index.retrieve(queries, k=n, show_progress=False)
        best = [
            [int(i) for i, score in zip(*row, strict=True) if score > 0]
            for row in zip(places, scores, strict=True)
        ]
        if self._embedder:
            near = embedder.embed(statements, model=self._embedder) @ self._vectors.T
            best = [
                [*by_words, *map(int, row.argsort()[::-1][:n])]
                for by_words, row in zip(best, near, strict=True)
            ]
        return [[self.texts[i] for i in dict.fromkeys(row)] for row in best]

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
    """Return the NLI probabilities of each passage of each statement, by record."""
    statement_passages = zip(chain.from_iterable(statements), chain.from_iterable(passages), strict=True)
    pairs = [(passage, statement) for statement, texts in statement_passages for passage in texts]
    verdicts = iter(entailment(pairs, model=model))
    return [[[next(verdicts) for _ in texts] for texts in record] for record in passages]
