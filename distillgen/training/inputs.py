"""The inputs from which an objective prepares its trainer, and the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from distillgen.project import Project
from distillgen.training.options import Lora
from distillgen.training.rows import RowSelection

Api = Literal["chat", "completions"]


class LoadedStudent(NamedTuple):
    """A student's tokenizer and weights, and the most tokens of a row that both take."""

    tokenizer: Any
    model: Any
    max_length: int


@dataclass(frozen=True)
class Prepared:
    """A `transformers.Trainer` that is ready to train, and the counts of cut and omitted rows."""

    trainer: Any
    counts: Mapping[str, int]
    classes: Sequence[str] = ()
    """The names of the student's outcomes, which the folder of an adapter does not tell."""
    student: Any = None
    """The student's model, if the trainer trains more than it."""


@dataclass(frozen=True)
class TrainingInputs:
    """The student, the rows and the options of a training. They do not change while it is prepared."""

    student: str
    """The folder or name that `from_pretrained` takes."""
    rows: RowSelection
    arguments: Mapping[str, Any]
    """Arguments of every `TrainingArguments`."""
    max_length: int
    """The most tokens of a row, as the option says; a student may take fewer."""
    revision: str | None = None
    dtype: str | None = None
    lora: Lora | None = None
    chat_template: str | None = None
    project: Project = field(default_factory=lambda: Project(Path()))
    """The project; local models are named from its folder."""
    network: Mapping[str, Any] | None = None
    """The student as a mapping, if it is a network that begins with random weights."""
    models: Mapping[str, Path] = field(default_factory=dict)
    """The folders of the earlier students that the training needs, by name."""
    shuffled: bool = False
    """Whether what live teachers say goes to another row: a control arm."""
    api: Api = "chat"
    """Whether prompts are chat turns or texts, in the training and when the student is asked later."""

    def tokenizer(self) -> Any:
        """Load the student's tokenizer, with the given chat template instead of its own.

        A student that learns from texts gets no chat template, so that it is asked with texts later.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.student, revision=self.revision)
        template = self.chat_template or tokenizer.chat_template
        tokenizer.chat_template = template if self.api == "chat" else None
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return tokenizer

    def processor(self, tokenizer: Any) -> Any:
        """Load what makes tokens and pixels of a row, around the student's tokenizer.

        Return the tokenizer if the student has no such files.
        """
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(self.student, revision=self.revision)
        if not hasattr(processor, "tokenizer"):
            return tokenizer
        if self.api == "chat" and self.chat_template is None and processor.chat_template:
            tokenizer.chat_template = (
                processor.chat_template
            )  # older folders keep it with the processor alone
        processor.tokenizer, processor.chat_template = tokenizer, tokenizer.chat_template
        return processor

    def row_length(self, tokenizer: Any, limit: int | None = None) -> int:
        """Return the most tokens of a row that `max_length`, the tokenizer and the model allow."""
        length: int = min(self.max_length, tokenizer.model_max_length, limit or self.max_length)
        return length

    def load(self, model_class: Any, **options: Any) -> LoadedStudent:
        """Load the tokenizer and the weights, into a model class of transformers.

        The weights are float32, or as `dtype` says; 4-bit for QLoRA.
        """
        tokenizer = self.tokenizer()
        if self.lora and self.lora.bits:
            from transformers import BitsAndBytesConfig

            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype="bfloat16",
            )
        model = model_class.from_pretrained(
            self.student, revision=self.revision, dtype=self.dtype or "float32", **options
        )
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        return LoadedStudent(tokenizer, model, self.row_length(tokenizer, limit))

    def peft(self, task: str) -> Any:
        """Return the adapter's configuration for a task type of PEFT; None if all weights are trained."""
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
        """Return the model, with an adapter if the options ask for one.

        It is for trainers that do not add an adapter themselves.
        """
        if self.lora is None:
            return model
        from peft import get_peft_model, prepare_model_for_kbit_training

        return get_peft_model(
            prepare_model_for_kbit_training(model) if self.lora.bits else model, self.peft(task)
        )
