"""sft: the student learns the teacher's answers (sequence-level distillation, Kim and Rush 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext
from distillgen.inference.logprobs import Signal
from distillgen.record import Record
from distillgen.training.chat_template import marks_answers
from distillgen.training.dialogue import Dialogue, lengths
from distillgen.training.inputs import Prepared, TrainingInputs
from distillgen.training.rows import Assessment, Row, Unusable, fit, uncut
from distillgen.training.students import Outline


class Sft(Dialogue):
    """Cross-entropy on the tokens of the completion, of all assistant turns, or of everything."""

    packages = ("trl",)
    kinds = frozenset({"causal", "seq2seq"})

    loss: Literal["completion", "assistant", "all"] = Field(
        "completion",
        description="tokens to learn: the last answer's (completion), every assistant turn's (assistant), "
        "or all",
    )
    packing: bool = Field(
        False, description="put several rows into one sequence of max_length; a row cannot see another"
    )

    def check(self, context: CheckContext) -> None:
        """Raise ConfigError if the records lack the text; loss: assistant needs chat turns."""
        super().check(context)
        if self.loss == "assistant":
            context.need(self.messages, "loss: assistant")

    def check_student(self, student: Outline, context: CheckContext) -> None:
        """Raise ConfigError if the student cannot learn these tokens.

        An encoder-decoder learns completions only; loss: assistant needs a template that marks the
        assistant's text.
        """
        super().check_student(student, context)
        if student.kind == "seq2seq" and (self.loss != "completion" or self.packing):
            raise ConfigError(
                "an encoder-decoder learns the completion, unpacked: leave out 'loss' and 'packing'"
            )
        if self.loss == "assistant" and student.template:
            for turns in self.chats(context):
                if not marks_answers(student.template, turns, student.special):
                    remedy = "give one that does with chat_template: FILE.jinja, or use loss: completion"
                    message = "its chat template does not mark the assistant's text ({% generation %})"
                    raise ConfigError(f"loss: assistant: {message}; {remedy}")

    def answers(self) -> tuple[str, ...]:
        """Return the completion's column. Raises ConfigError for loss: assistant: it learns whole chats."""
        if self.loss == "assistant":
            raise ConfigError(
                "on: shuffled: loss: assistant learns whole chats, which have no single answer to exchange"
            )
        return super().answers()

    def row(self, record: Record, signals: Mapping[str, Signal]) -> Row:
        """Return the turns, or the prompt and its completion."""
        if self.loss != "assistant":
            return self.example(record) | self.offered(record)
        turns = self.turns(record)
        if all(turn["role"] != "assistant" for turn in turns):
            raise Unusable(f"no turn in '{self.messages}' is the assistant's")
        return {"messages": turns} | self.offered(record)

    def prepare(self, inputs: TrainingInputs) -> Prepared:
        """Prepare TRL's SFTTrainer; for an encoder-decoder transformers' own trainer."""
        from transformers import AutoConfig, AutoModelForCausalLM

        if AutoConfig.from_pretrained(inputs.student, revision=inputs.revision).is_encoder_decoder:
            return self._sequence_to_sequence(inputs)
        from trl import SFTConfig, SFTTrainer

        tokenizer, model, max_length = inputs.load(AutoModelForCausalLM)

        def assess(row: Row) -> Assessment:
            turns = row.get("messages") or []
            first = next((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), 0)
            before, after = (turns[:first], turns[first:]) if turns else (row["prompt"], row["completion"])
            return fit(*lengths(tokenizer, before, after, tools=row.get("tools")), max_length)

        rows = inputs.rows.select(assess)
        config = SFTConfig(
            **inputs.arguments,
            max_length=max_length,
            packing=self.packing,
            eval_packing=False,
            completion_only_loss=self.loss == "completion",
            assistant_only_loss=self.loss == "assistant",
        )
        trainer = SFTTrainer(
            model,
            config,
            train_dataset=rows.parts["train"],
            eval_dataset=rows.parts.get("held_out"),
            processing_class=tokenizer,
            peft_config=inputs.peft("CAUSAL_LM"),
        )
        return Prepared(trainer, rows.counts)

    def _sequence_to_sequence(self, inputs: TrainingInputs) -> Prepared:
        from transformers import (
            AutoModelForSeq2SeqLM,
            DataCollatorForSeq2Seq,
            Seq2SeqTrainer,
            Seq2SeqTrainingArguments,
        )

        if self.loss != "completion" or self.packing:
            raise ConfigError(
                "an encoder-decoder learns the completion, unpacked: leave out 'loss' and 'packing'"
            )
        tokenizer, model, max_length = inputs.load(AutoModelForSeq2SeqLM)

        def plain(text: Any) -> str:
            return text if isinstance(text, str) else "\n\n".join(turn["content"] for turn in text)

        def tokenised(row: Row) -> Row:
            prompt, target = tokenizer(plain(row["prompt"])), tokenizer(text_target=plain(row["completion"]))
            return {**prompt, "labels": target["input_ids"]}

        def assess(row: Row) -> Assessment:
            return uncut(max(len(row["input_ids"]), len(row["labels"])), max_length)

        rows = inputs.rows.map(tokenised).select(assess)
        model = inputs.adapted(model, "SEQ_2_SEQ_LM")
        trainer = Seq2SeqTrainer(
            model,
            Seq2SeqTrainingArguments(**inputs.arguments),
            train_dataset=rows.parts["train"],
            eval_dataset=rows.parts.get("held_out"),
            processing_class=tokenizer,
            data_collator=DataCollatorForSeq2Seq(tokenizer, model),
        )
        return Prepared(trainer, rows.counts)
