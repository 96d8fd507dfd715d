"""The contract of a score: each file in scores/ holds one, found by the file's name.

A score is a number for a student that nobody has trained, by which a stage `search` chooses, or which it
records. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from distillgen.errors import ConfigError
from distillgen.located_yaml import Places, validate
from distillgen.plugins import plugin_class
from distillgen.project import Project

if TYPE_CHECKING:
    from distillgen.training.untrained import Untrained


class Score(BaseModel):
    """A number for an untrained student. The attributes are its options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def models(self) -> Sequence[str]:
        """Return the names of the earlier students, networks, with which it compares."""
        return ()

    def rate(self, student: Untrained) -> Mapping[str, float]:
        """Return the score, under "", and its parts, each under its name.

        The same student and options have the same score. Raise ConfigError if it cannot be computed.
        """
        raise NotImplementedError


class ScoreEntry(NamedTuple):
    """A score as a pipeline lists it."""

    score: str
    label: str
    options: dict[str, Any]

    def of(self, project: Project) -> Score:
        """Return the score with its options. Raise ConfigError."""
        declaration = plugin_class("scores", self.score, Score, project)
        return validate(declaration, self.options, owner=f"score '{self.score}'", places=Places())


def entry_of(value: str | Mapping[str, Any]) -> ScoreEntry:
    """Return an entry, which is a name or `{name: options}`; the option `name` is what trials call it."""
    if isinstance(value, str):
        return ScoreEntry(value, value, {})
    if len(value) != 1:
        raise ConfigError(f"a score is a name or one name with its options, not {dict(value)}")
    ((score, options),) = value.items()
    options = dict(options or {})
    return ScoreEntry(score, str(options.pop("name", score)), options)
