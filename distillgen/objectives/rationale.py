"""rationale: label and rationale as two tasks of one student (Hsieh et al. 2023, Distilling Step-by-Step)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from distillgen.flow.stage import CheckContext
from distillgen.inference.logprobs import Signal
from distillgen.option_types import FieldName
from distillgen.record import Record, text_of
from distillgen.training.chat_template import Turns
from distillgen.training.dialogue import CHAT
from distillgen.training.inputs import Prepared, TrainingInputs
from distillgen.training.objective import Objective
from distillgen.training.part import Weight
from distillgen.training.rows import Assessment, Row, RowSelection, Unusable

if TYPE_CHECKING:
    from distillgen.training.step import Step

TASKS = ("label", "rationale")
WEIGHT = "weight"  # the column of a row's weight, which is that of its task


class Rationale(Objective):
    """Loss of the label plus `weight` times that of the rationale; a prompt's prefix names the task.

    Asked with `label_prefix`, the student answers with the label alone, and writes no rationale.
    """

    kinds = frozenset({"causal", "seq2seq"})
    templated = False

    prompt: FieldName = Field(
        "prompt",
        description="field with the question, a text; a student with a chat template gets it as a turn",
    )
    rationale: FieldName = Field("rationale", description="field with the teacher's rationale")
    label: FieldName = Field("label", description="field with the answer alone")
    weight: float = Field(
        1.0, ge=0, description="weight of the rationale's loss; the label's loss has weight 1"
    )
    label_prefix: str = Field("[label] ", description="text before a prompt that asks for the label")
    rationale_prefix: str = Field(
        "[rationale] ", description="text before a prompt that asks for the rationale"
    )

    def check(self, context: CheckContext) -> None:
        """Raise ConfigError if one of the three fields is missing."""
        for name in ("prompt", "rationale", "label"):
            context.need(getattr(self, name), f"'{name}'")

    def chats(self, context: CheckContext) -> Sequence[Turns]:
        """Return a question and its answer."""
        return [CHAT]

    def answers(self) -> tuple[str, ...]:
        """Return the columns of the rationale and the label."""
        return "rationale", "label"

    def row(self, record: Record, signals: Mapping[str, Signal]) -> Row:
        """Return the three texts."""
        fields = {name: record.fields.get(getattr(self, name)) for name in ("prompt", "rationale", "label")}
        for name, value in fields.items():
            if not isinstance(value, str | int | float) or not str(value).strip():
                raise Unusable(f"'{getattr(self, name)}' holds no text")
        return {name: text_of(value) for name, value in fields.items()}

    def prepare(self, inputs: TrainingInputs) -> Prepared:
        """Prepare two rows of each record, of different weight."""
        from datasets import concatenate_datasets
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

        from distillgen.losses.cross_entropy import CrossEntropy
        from distillgen.training.language import Language
        from distillgen.training.language_loop import assessment, columns, token_loop
        from distillgen.training.learner import Teachers

        both = AutoConfig.from_pretrained(inputs.student, revision=inputs.revision).is_encoder_decoder
        tokenizer, model, max_length = inputs.load(AutoModelForSeq2SeqLM if both else AutoModelForCausalLM)

        def dialogue(row: Row, task: str) -> tuple[Any, Any]:
            prompt = getattr(self, f"{task}_prefix") + row["prompt"]
            if both or not tokenizer.chat_template:
                return prompt, row[task]
            return [{"role": "user", "content": prompt}], [{"role": "assistant", "content": row[task]}]

        def tokenised(row: Row, task: str) -> Row:
            weight = 1.0 if task == "label" else self.weight
            return {**columns(tokenizer, *dialogue(row, task), max_length, both=both), WEIGHT: weight}

        def assess(row: Row) -> Assessment:
            return assessment(tokenizer, [dialogue(row, task) for task in TASKS], max_length, both=both)

        chosen = inputs.rows.select(assess)
        tasks = [chosen.map(tokenised, task=task).parts for task in TASKS]
        parts = {name: concatenate_datasets([rows[name] for rows in tasks]) for name in chosen.parts}
        student = Language(inputs.adapted(model, "SEQ_2_SEQ_LM" if both else "CAUSAL_LM"), tokenizer)
        rows = RowSelection(parts, chosen.counts)
        weights = {WEIGHT: _OfTask()}
        return token_loop(student, rows, [CrossEntropy(weight=WEIGHT)], weights, Teachers(), inputs)


class _OfTask(Weight):
    """The weight of the task that a row teaches."""

    def rows(self, step: Step, module: Any) -> Any:
        """Return the column [rows]."""
        return step.batch[WEIGHT]
