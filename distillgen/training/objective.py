"""What a student can learn by, one file an objective, found by the file's name.

In the run's process an objective checks fields and writes what a record has to teach as a row, and imports nothing heavy; in
the training's process it builds the trainer, one of TRL's, sentence-transformers' or transformers' own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from distillgen.errors import ConfigError
from distillgen.flow.stage import Checking
from distillgen.inference.logprobs import Logprobs
from distillgen.plugins import plugin_class
from distillgen.project import Project
from distillgen.record import Record
from distillgen.training import students
from distillgen.training.chat_template import Turns, rendered
from distillgen.training.options import Lora

Row: TypeAlias = dict[str, Any]
"""What a record teaches, of one shape in all rows of a training."""

MODELS: Mapping[students.Kind, str] = {
    "causal": "a model that writes texts (causal)",
    "seq2seq": "an encoder-decoder",
    "encoder": "an encoder",
}
NO_TEMPLATE = "give one with chat_template: FILE.jinja, or train on texts: prompt and completion"
Api = Literal["chat", "completions"]

PARTS = ("train", "held_out")


class Unusable(Exception):
    """Why a record teaches nothing."""


@dataclass
class Training:
    """What an objective builds its trainer from, and where it says which rows cannot be used."""

    student: str
    folder: Path
    rows: dict[str, Any]
    """A `datasets.Dataset` for each of PARTS; the held-out one is missing where there are no such rows."""
    arguments: dict[str, Any]
    """Of every `TrainingArguments`."""
    max_length: int
    revision: str | None = None
    dtype: str | None = None
    lora: Lora | None = None
    chat_template: str | None = None
    root: Path = Path()
    """The project's, where local models are named from."""
    api: Api = "chat"
    """How its prompts are read, and so how the student is asked later."""
    counts: Counter[str] = field(default_factory=Counter)
    """How many rows were cut or left out, by the reason."""

    def tokenizer(self) -> Any:
        """The student's, with the chat template that was given; without one where it learns texts, so that whoever loads the
        student asks it with texts, too.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.student, revision=self.revision)
        tokenizer.chat_template = (
            (self.chat_template or tokenizer.chat_template) if self.api == "chat" else None
        )
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        self.max_length = min(self.max_length, tokenizer.model_max_length)
        return tokenizer

    def model(self, kind: Any, **options: Any) -> Any:
        """The student's weights in a model class of transformers: float32, or as `dtype` says; in 4 bits for QLoRA."""
        if self.lora and self.lora.bits:
            from transformers import BitsAndBytesConfig

            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype="bfloat16",
            )
        model = kind.from_pretrained(
            self.student, revision=self.revision, dtype=self.dtype or "float32", **options
        )
        self.max_length = min(
            self.max_length, getattr(model.config, "max_position_embeddings", None) or self.max_length
        )
        return model

    def peft(self, task: str) -> Any:
        """The adapter's configuration, for a task type of PEFT; None where all weights are trained."""
        if self.lora is None:
            return None
        from peft import LoraConfig

        return LoraConfig(
            r=self.lora.r,
            lora_alpha=self.lora.alpha or 2 * self.lora.r,
            lora_dropout=self.lora.dropout,
            target_modules=self.lora.target,
            task_type=task,
        )

    def adapted(self, model: Any, task: str) -> Any:
        """The model with an adapter where one is wanted, for trainers that know nothing of PEFT."""
        if self.lora is None:
            return model
        from peft import get_peft_model, prepare_model_for_kbit_training

        return get_peft_model(
            prepare_model_for_kbit_training(model) if self.lora.bits else model, self.peft(task)
        )

    def fitting(self, lengths: Callable[[Row], tuple[int, int]]) -> dict[str, Any]:
        """The rows that have something to learn within `max_length`, by the tokens of their prompt and of the whole; the
        rest is counted. Trainers would drop them silently.
        """
        return self.usable(lambda row: self._place(*lengths(row)))

    def usable(self, why_not: Callable[[Row], str | None]) -> dict[str, Any]:
        """The rows for which there is no reason against them. Raises ConfigError where none is left to train on."""
        parts = {}
        for name, rows in self.rows.items():
            reasons = [why_not(row) for row in rows]
            self.counts.update(f"left out: {why}" for why in reasons if why)
            parts[name] = rows.select([i for i, why in enumerate(reasons) if why is None])
        if not len(parts["train"]):
            raise ConfigError(
                f"no row is left to train on: {', '.join(f'{n} {why}' for why, n in self.counts.items())}"
            )
        return {name: rows for name, rows in parts.items() if len(rows)}

    def _place(self, prompt: int, whole: int) -> str | None:
        if whole <= prompt:
            return "nothing to learn: no token after the prompt"
        if prompt >= self.max_length:
            return f"the prompt alone has max_length ({self.max_length}) tokens or more"
        if whole > self.max_length:
            self.counts[f"cut at max_length ({self.max_length}) tokens"] += 1
        return None


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

    def trainer(self, training: Training) -> Any:
        """A `transformers.Trainer`, ready to train."""
        raise NotImplementedError


def objective_class(name: str, project: Project) -> type[Objective]:
    """Return the objective of a name. Raise ConfigError where there is none, or its file is broken."""
    return plugin_class("objectives", name, Objective, project)
