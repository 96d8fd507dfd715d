"""What a student can learn by, one file an objective, found by the file's name.

In the run's process an objective checks fields and writes what a record has to teach as a row, and imports nothing heavy; in
the training's process it builds the trainer, one of TRL's, sentence-transformers' or transformers' own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from distillgen.errors import ConfigError
from distillgen.flow.stage import Checking
from distillgen.inference.logprobs import Logprobs
from distillgen.plugins import plugin_class
from distillgen.project import Project
from distillgen.record import Record
from distillgen.training import students
from distillgen.training.chat_template import Turns, rendered
from distillgen.training.inputs import Api, Prepared, TrainingInputs
from distillgen.training.rows import Row

MODELS: Mapping[students.Kind, str] = {
    "causal": "a model that writes texts (causal)",
    "seq2seq": "an encoder-decoder",
    "encoder": "an encoder",
}
NO_TEMPLATE = "give one with chat_template: FILE.jinja, or train on texts: prompt and completion"


class Objective(BaseModel):
    """A way to learn. Its attributes are its options; options typed FieldName are fields that it reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    packages: ClassVar[tuple[str, ...]] = ()
    """Modules that it needs besides torch, transformers, datasets and accelerate."""
    writes: ClassVar[bool] = True
    """Whether its students write texts, so that they can be asked as teachers are."""
    learning_rate: ClassVar[float] = 2e-5
    """Its default for whole models; an adapter's is ten times that."""
    adapters: ClassVar[bool] = True
    """Whether it can train an adapter."""
    kinds: ClassVar[frozenset[students.Kind]] = frozenset({"causal"})
    """The models that it can train."""
    templated: ClassVar[bool] = True
    """Whether its chats need a chat template: else they are learnt as texts where there is none."""
    signals: ClassVar[bool] = False
    """Whether a row is made from log-probabilities in the ledger."""

    def check(self, given: Checking) -> None:
        """Raise ConfigError where the fields or signals that it learns from are not there."""
        raise NotImplementedError

    def chats(self, given: Checking) -> Sequence[Turns]:
        """Chat turns as the student will see them in its template; none where it learns texts."""
        return ()

    def check_student(self, known: students.Outline, given: Checking) -> None:
        """Raise ConfigError where it cannot train a student of which this is known."""
        if known.kind and known.kind not in self.kinds:
            able = " or ".join(MODELS[kind] for kind in sorted(self.kinds))
            raise ConfigError(f"it trains {able}, and this is {MODELS[known.kind]}")
        chats = self.chats(given)
        if not chats or known.kind == "seq2seq":
            return
        if known.template is None:
            if known.read and self.templated:
                raise ConfigError(f"the student has no chat template to put messages into; {NO_TEMPLATE}")
            return
        for turns in chats:
            try:
                rendered(known.template, turns[:-1], known.special, opened=True)
                rendered(known.template, turns, known.special)
            except ValueError as error:
                roles = ", ".join(str(turn["role"]) for turn in turns)
                remedy = "leave such turns out, or give another template with chat_template: FILE.jinja"
                raise ConfigError(
                    f"its chat template does not take the turns {roles}: {error}; {remedy}"
                ) from error

    def answers(self) -> tuple[str, ...]:
        """The columns of a row that a control arm takes from another row. Raises ConfigError where no arm can."""
        raise NotImplementedError

    def row(self, record: Record, signals: Mapping[str, Logprobs]) -> Row:
        """What the record teaches; `signals` are the log-probabilities of its answers, by stage. Raises Unusable."""
        raise NotImplementedError

    def api(self, row: Row) -> Api:
        """How a student of such rows is to be asked: with chat turns, or with a text that it goes on with."""
        return "chat"

    def prepare(self, inputs: TrainingInputs) -> Prepared:
        """Build the trainer: choose the rows that fit the student, and load the student."""
        raise NotImplementedError


def objective_class(name: str, project: Project) -> type[Objective]:
    """Return the objective of a name. Raise ConfigError where there is none, or its file is broken."""
    return plugin_class("objectives", name, Objective, project)
