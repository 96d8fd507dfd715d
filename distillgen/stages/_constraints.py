"""The constraints of the answers about a record: clauses whose phrases are templates or lines of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.flow.record_template import RecordTemplate
from distillgen.flow.stage import CheckContext
from distillgen.inference.constraints import ClauseOptions, SearchOptions
from distillgen.project import Project, read_text
from distillgen.record import Record

SEARCH, REJECTION = "neurologic", "rejection"
"""The values of `constrained_by` in the lineage of a row."""


@dataclass(frozen=True)
class Constraints:
    """The clauses of a stage, and the settings of the search for answers that meet them."""

    clauses: Sequence[tuple[ClauseOptions, Sequence[RecordTemplate | str]]]
    ordered: bool
    search: Mapping[str, Any]

    @property
    def capability(self) -> str:
        """The capability that a model needs for the search."""
        return "constraints" if self.search["prune"] is None else "pruned_constraints"

    @classmethod
    def read(
        cls, clauses: Sequence[ClauseOptions], ordered: bool, search: SearchOptions | None, project: Project
    ) -> Constraints:
        """Return the constraints with the lines of their files. Raise ConfigError."""
        phrases: list[Sequence[RecordTemplate | str]] = [
            _lines(clause.any, project) if isinstance(clause.any, str) else [*map(RecordTemplate, clause.any)]
            for clause in clauses
        ]
        settings = (search or SearchOptions()).model_dump(exclude={"setting"})
        return cls([*zip(clauses, phrases, strict=True)], ordered, settings)

    def check(self, context: CheckContext) -> None:
        """Raise ConfigError if a field of a phrase is missing."""
        for number, (_, phrases) in enumerate(self.clauses):
            for phrase in phrases:
                if isinstance(phrase, RecordTemplate):
                    phrase.check(context, f"clause {number + 1} of 'constraints'")

    def of(self, record: Record) -> dict[str, Any]:
        """Return the constraints of a request about a record. Raise Unrenderable."""
        clauses = []
        for clause, templates in self.clauses:
            texts = (t if isinstance(t, str) else t.render(record) for t in templates)
            phrases = [phrase for text in texts if (phrase := " ".join(text.split()))]
            options = clause.model_dump(exclude={"any"}, exclude_defaults=True)
            if phrases:
                clauses.append({"any": phrases, **options})
        return {"clauses": clauses, "search": self.search} | ({"ordered": True} if self.ordered else {})


def files_of(clauses: Sequence[ClauseOptions], project: Project) -> dict[str, Path]:
    """Return the files of phrases, by name. Raise ConfigError."""
    return {clause.any: project.file(clause.any) for clause in clauses if isinstance(clause.any, str)}


def _lines(name: str, project: Project) -> list[str]:
    """Return the phrases in a file, one a line. Raise ConfigError."""
    if not name.endswith(".txt"):
        raise ConfigError(
            f"constraints: 'any' is a list of phrases, any: [{name}], or the name of a text file that ends "
            "in .txt, with one phrase a line"
        )
    phrases = [line.strip() for line in read_text(project.file(name)).split("\n") if line.strip()]
    if not phrases:
        raise ConfigError(f"constraints: the file '{name}' has no phrases; put one a line")
    return phrases
