"""The objective contract: each file in objectives/ holds one objective, found by the file's name.

In the run's process an objective checks fields and turns records into rows, and imports nothing heavy. In the
training's process it builds a trainer of TRL, sentence-transformers or transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict

from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext
from distillgen.inference.logprobs import Signal
from distillgen.networks.spec import NetworkSpec
from distillgen.plugins import names, plugin_class
from distillgen.project import Project
from distillgen.record import Record
from distillgen.training import students
from distillgen.training.chat_template import Turns, rendered
from distillgen.training.inputs import Api, Prepared, TrainingInputs
from distillgen.training.rows import Row
from distillgen.training.sources import Source

MODELS: Mapping[students.Kind, str] = {
    "causal": "a model that writes texts (causal)",
    "seq2seq": "an encoder-decoder",
    "vision": "one that sees pictures",
    "encoder": "an encoder",
}
Gives = Literal["text", "demonstrated", "classes", "scores", "vectors"]
"""`demonstrated`: texts, for a prompt that is a pair of demonstrations and a query."""
NO_TEMPLATE = "give one with chat_template: FILE.jinja, or train on texts: prompt and completion"


class Objective(BaseModel):
    """A way to learn: the rows and the loss. The attributes are the options.

    An option of type FieldName names a field of the records.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    packages: ClassVar[tuple[str, ...]] = ()
    """The modules that it needs besides torch, transformers, datasets and accelerate."""
    learning_rate: ClassVar[float] = 2e-5
    """The default learning rate of whole models; the default of an adapter is ten times that."""
    adapters: ClassVar[bool] = True
    """Whether it can train an adapter."""
    kinds: ClassVar[frozenset[students.Kind]] = frozenset({"causal"})
    """The kinds of models that it can train."""
    templated: ClassVar[bool] = True
    """Whether chats need a chat template; if not, a student without one learns them as texts."""
    smallest_batch: ClassVar[int] = 1
    """The fewest rows in a batch that it can learn from."""
    signals: ClassVar[bool] = False
    """Whether a row contains answers, log-probabilities or embeddings from the ledger."""

    def bound(self, context: CheckContext, earlier: Mapping[str, Sequence[str] | None]) -> Self:
        """Return the objective with what it takes from the pipeline. Raise ConfigError.

        `earlier` holds the fields that each student of an earlier stage reads; None for a language model.
        """
        return self

    def gives(self) -> Gives:
        """Return what its students answer when later stages ask them."""
        return "text"

    def check(self, context: CheckContext) -> None:
        """Raise ConfigError if the records lack a field or signal that it learns from."""
        raise NotImplementedError

    def chats(self, context: CheckContext) -> Sequence[Turns]:
        """Return an example of each order of chat turns that the student learns; () for texts."""
        return ()

    def check_student(self, student: students.Outline, context: CheckContext) -> None:
        """Raise ConfigError if it cannot train a student with this outline."""
        if student.kind and student.kind not in self.kinds:
            able = " or ".join(MODELS[kind] for kind in sorted(self.kinds))
            raise ConfigError(f"it trains {able}, and this is {MODELS[student.kind]}")
        if student.distiller and self.gives() != "demonstrated":
            raise ConfigError("the student reads demonstrations as vectors, and only 'mend' goes on with it")
        chats = self.chats(context)
        if not chats or student.kind == "seq2seq":
            return
        if student.template is None:
            if student.read and self.templated:
                raise ConfigError(f"the student has no chat template to put messages into; {NO_TEMPLATE}")
            return
        for turns in chats:
            try:
                rendered(student.template, turns[:-1], student.special, opened=True)
                rendered(student.template, turns, student.special)
            except ValueError as error:
                roles = ", ".join(str(turn["role"]) for turn in turns)
                remedy = "leave such turns out, or give another template with chat_template: FILE.jinja"
                raise ConfigError(
                    f"its chat template does not take the turns {roles}: {error}; {remedy}"
                ) from error

    def check_network(
        self, spec: NetworkSpec, context: CheckContext, earlier: Mapping[str, NetworkSpec]
    ) -> None:
        """Raise ConfigError if it cannot train a network.

        `earlier` holds the earlier students that teach or are a part of a network, by name.
        """
        raise ConfigError("it trains language models, not networks; give objective: distil")

    def names_classes(self) -> bool:
        """Return whether labels or teachers may name the classes of a network that begins anew."""
        return True

    def network_inputs(self, peer: str = "") -> list[str] | None:
        """Return the fields that its student, or a peer, reads; None for a language model."""
        return None

    def rate(self) -> float:
        """Return the default learning rate of whole models."""
        return self.learning_rate

    def check_adapter(self) -> None:
        """Raise ConfigError if it cannot train an adapter with these options."""

    def models(self) -> Sequence[str]:
        """Return the models that it loads besides the student: names, folders, or earlier students."""
        return ()

    def peers(self) -> Mapping[str, Source]:
        """Return the networks that are trained along with the student, by name."""
        return {}

    def files(self, project: Project) -> dict[str, Path]:
        """Return the files of the project's own code that it uses, by name."""
        return {}

    def answers(self) -> tuple[str, ...]:
        """Return the columns with the teacher's output: the arm `shuffled` exchanges them between rows.

        Raises ConfigError if the objective has no such columns.
        """
        raise NotImplementedError

    def learns_all_parts(self) -> bool:
        """Return whether it learns the teacher's output of validation and held-out records, too."""
        return False

    def row(self, record: Record, signals: Mapping[str, Signal]) -> Row:
        """Return the row of a record. Raises Unusable if the record teaches nothing.

        `signals` holds the record's answers with their log-probabilities and embeddings, by stage.
        """
        raise NotImplementedError

    def api(self, row: Row) -> Api:
        """Return how a student of such rows is asked: with chat turns, or with a text to be continued."""
        return "chat"

    def prepare(self, inputs: TrainingInputs) -> Prepared:
        """Build the trainer: choose the rows that fit the student, and load the student."""
        raise NotImplementedError


REPLACED = {
    "logits": "objective: distil with losses: [divergence: {teacher: STAGE, weight: 0.5}, cross_entropy: "
    "{weight: 0.5}]"
}
"""What is now said instead of an objective that was deleted."""


def objective_class(name: str, project: Project) -> type[Objective]:
    """Return the objective of a name. Raise ConfigError if there is none, or its file is broken."""
    if name in REPLACED and name not in names("objectives", project):
        raise ConfigError(f"objective '{name}' is now {REPLACED[name]}")
    return plugin_class("objectives", name, Objective, project)
