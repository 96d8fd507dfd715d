"""gkd: on-policy distillation from a teacher on this machine, token by token (Agarwal et al. 2024, GKD)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext
from distillgen.inference.logprobs import Signal
from distillgen.record import Record
from distillgen.training import students
from distillgen.training.chat_template import Turns
from distillgen.training.dialogue import CHAT, Dialogue, lengths
from distillgen.training.inputs import Prepared, TrainingInputs
from distillgen.training.rows import Assessment, Row, uncut


class Gkd(Dialogue):
    """Divergence from the teacher's full distribution, on recorded answers and on the student's own.

    Student and teacher must have the same vocabulary. Texts become a user's turn and an assistant's turn.
    """

    packages = ("trl",)

    teacher: str = Field(
        description="model with all its weights: a folder, or owner/name on the Hugging Face Hub"
    )
    on_policy: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the steps that learn from answers that the student writes itself",
    )
    divergence: float = Field(
        0.5, ge=0, le=1, description="0: forward KL; 1: reverse KL; between: Jensen-Shannon"
    )
    temperature: float = Field(0.9, gt=0, description="temperature at which the student writes")
    max_new_tokens: int = Field(
        128, ge=1, description="largest number of tokens of an answer that the student writes"
    )

    def check(self, context: CheckContext) -> None:
        """Raise ConfigError if the records have no answers, or there is no such teacher."""
        super().check(context)
        if not students.is_weights(self.teacher, context.project.root):
            remedy = "give a model's folder, or owner/name on the Hugging Face Hub"
            raise ConfigError(f"there is no teacher '{self.teacher}'; {remedy}")

    def chats(self, context: CheckContext) -> Sequence[Turns]:
        """Return the chat turns; texts become turns, too."""
        return super().chats(context) or [CHAT]

    def check_student(self, student: students.Outline, context: CheckContext) -> None:
        """Raise ConfigError if the teacher has another vocabulary than the student."""
        super().check_student(student, context)
        teacher = students.outline(self.teacher, context.project.root, fetch=context.fetch)
        if teacher.kind and teacher.kind not in self.kinds:
            raise ConfigError(f"the teacher '{self.teacher}' is not a model that writes texts")
        if student.template == students.CHAT and student.vocabulary is None:
            raise ConfigError(
                "a tiny student gets a vocabulary of its own; give a model with the teacher's vocabulary"
            )
        if teacher.vocabulary and student.vocabulary and teacher.vocabulary != student.vocabulary:
            raise ConfigError(_vocabularies_differ(student.vocabulary, teacher.vocabulary))

    def models(self) -> Sequence[str]:
        """Return the teacher."""
        return [self.teacher]

    def answers(self) -> tuple[str, ...]:
        """Return the completion's column. Raises ConfigError if the student writes all answers itself."""
        if self.on_policy == 1:
            raise ConfigError(
                "on: shuffled: on_policy: 1 learns no recorded answer, so that the arm would not differ"
            )
        return super().answers()

    def row(self, record: Record, signals: Mapping[str, Signal]) -> Row:
        """Return the chat turns."""
        row = self.example(record)
        if isinstance(row["prompt"], str):
            row = {
                "prompt": [_turn("user", row["prompt"])],
                "completion": [_turn("assistant", row["completion"])],
            }
        return row

    def prepare(self, inputs: TrainingInputs) -> Prepared:
        """Prepare TRL's GKDTrainer."""
        from transformers import AutoModelForCausalLM
        from trl.experimental.gkd import GKDConfig, GKDTrainer

        tokenizer, model, max_length = inputs.load(AutoModelForCausalLM)
        try:
            model_path = str(students.local(self.teacher, inputs.project.root) or self.teacher)
            teacher = AutoModelForCausalLM.from_pretrained(model_path, dtype=model.dtype)
        except (OSError, ValueError) as error:
            raise ConfigError(f"the teacher '{self.teacher}' cannot be loaded: {error}") from error
        if teacher.config.vocab_size != model.config.vocab_size:
            raise ConfigError(_vocabularies_differ(model.config.vocab_size, teacher.config.vocab_size))

        def assess(row: Row) -> Assessment:
            _, length = lengths(tokenizer, row["prompt"], row["completion"])
            return uncut(length, max_length)

        rows = inputs.rows.select(assess).map(lambda row: {"messages": row["prompt"] + row["completion"]})
        config = GKDConfig(
            **inputs.arguments,
            max_length=max_length,
            lmbda=self.on_policy,
            beta=self.divergence,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
        )
        trainer = GKDTrainer(
            model,
            teacher,
            config,
            train_dataset=rows.parts["train"],
            eval_dataset=rows.parts.get("held_out"),
            processing_class=tokenizer,
            peft_config=inputs.peft("CAUSAL_LM"),
        )
        return Prepared(trainer, rows.counts)


def _vocabularies_differ(student: int, teacher: int) -> str:
    remedy = "take a teacher of the student's family, or objective 'sft', which needs no common vocabulary"
    return f"student and teacher have different vocabularies ({student:,} and {teacher:,} tokens); {remedy}"


def _turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}
