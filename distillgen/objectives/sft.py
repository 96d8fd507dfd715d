"""sft: the student learns the teacher's answers (sequence-level distillation, Kim and Rush 2016)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from distillgen.errors import ConfigError
from distillgen.extras import need
from distillgen.flow.stage import CheckContext
from distillgen.inference.logprobs import Signal
from distillgen.inference.model_class import model_class, sees
from distillgen.inference.opening import text_start
from distillgen.option_types import FieldName
from distillgen.record import Record
from distillgen.training.chat_template import Turns, marks_answers, rendered
from distillgen.training.dialogue import CHAT, Dialogue, lengths, turns_of
from distillgen.training.inputs import Api, Prepared, TrainingInputs
from distillgen.training.pictures import IMAGES, fitting, pixel_rows, references, with_pictures
from distillgen.training.rows import Assessment, Row, RowSelection, Unusable, cut, fit, uncut
from distillgen.training.students import Outline


class Sft(Dialogue):
    """Cross-entropy on the tokens of the completion, of all assistant turns, or of everything.

    With `text` the student learns plain texts, each between end tokens, so that it also learns their first
    tokens. Its tokenizer then writes the token before every text, if it did not.

    With `images` the student sees the pictures to which fields refer, before the text of the user's last
    turn, as a model sees them that a stage asks with `images`.
    """

    packages = ("trl",)
    kinds = frozenset({"causal", "seq2seq", "vision"})

    loss: Literal["completion", "assistant", "all"] = Field(
        "completion",
        description="tokens to learn: the last answer's (completion), every assistant turn's (assistant), "
        "or all",
    )
    packing: bool = Field(
        False, description="put several rows into one sequence of max_length; a row cannot see another"
    )
    text: FieldName | None = Field(
        None, description="field with a plain text, which is learnt whole instead of messages or a completion"
    )
    pack: int | None = Field(
        None,
        ge=8,
        description="put several texts of `text` into one sequence of this many tokens, and at most of "
        "max_length; a text cannot see another",
    )

    images: list[FieldName] = Field(
        [],
        description="fields with pictures, each with a reference or a list of references, for a student that "
        "sees; a text as the prompt is then a turn of the user",
    )

    @model_validator(mode="after")
    def _plain(self) -> Self:
        if self.text and (self.loss != "completion" or self.packing):
            raise ValueError("a text is learnt whole: leave out 'loss', and give 'pack' instead of 'packing'")
        if self.pack and not self.text:
            raise ValueError("'pack' is for plain texts, which 'text' names; give packing: true")
        if self.images and (self.text or self.packing or self.loss == "all"):
            option = "text" if self.text else "packing" if self.packing else "loss: all"
            raise ValueError(f"pictures belong to a prompt with its answer: leave out '{option}' or 'images'")
        return self

    def check(self, context: CheckContext) -> None:
        """Raise ConfigError if the records lack the text; loss: assistant needs chat turns."""
        if self.text:
            context.need(self.text, "text")
            return
        super().check(context)
        if self.loss == "assistant":
            context.need(self.messages, "loss: assistant")
        for name in self.images:
            context.need(name, "images")
        if self.images and self.tools in context.fields:
            raise ConfigError(f"a dialogue with '{self.tools}' has no pictures: leave out 'images'")
        if self.images:
            need("'images' of objective 'sft'", "PIL")

    def check_student(self, student: Outline, context: CheckContext) -> None:
        """Raise ConfigError if the student cannot learn these tokens.

        An encoder-decoder learns completions only; loss: assistant needs a template that marks the
        assistant's text.
        """
        if self.images and student.sees is False:
            remedy = "give one that does: {tiny: {kind: vision}}, or a vision-language model"
            raise ConfigError(f"it sees no pictures; {remedy}, or leave out 'images'")
        super().check_student(student, context)
        if self.images and student.template:
            self._check_pictures(student, context)
        if (self.pack or self.packing) and not student.packs:
            name = "pack" if self.pack else "packing"
            raise ConfigError(
                f"{name}: the student's convolutions would mix the texts of a sequence; leave it out"
            )
        if student.kind == "seq2seq" and self.text:
            raise ConfigError("an encoder-decoder learns a prompt and its completion, no plain text")
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

    def _check_pictures(self, student: Outline, context: CheckContext) -> None:
        """Raise ConfigError if the student's chat template writes the same with and without a picture."""
        for turns in super().chats(context) or [CHAT]:
            texts = {
                rendered(str(student.template), with_pictures(turns, count), student.special)[0]
                for count in (0, 1)
            }
            if len(texts) == 1:
                remedy = "give one that does with chat_template: FILE.jinja"
                raise ConfigError(f"its chat template has no place for pictures; {remedy}")

    def chats(self, context: CheckContext) -> Sequence[Turns]:
        """Return no turns for plain texts, and turns with pictures where the student sees some."""
        if self.text:
            return ()
        chats = super().chats(context)
        return [with_pictures(turns, 1) for turns in chats or [CHAT]] if self.images else chats

    def api(self, row: Row) -> Api:
        """Return whether the prompt is a text or chat turns; a plain text is continued."""
        return "chat" if self.images else "completions" if self.text else super().api(row)

    def answers(self) -> tuple[str, ...]:
        """Return the completion's column. Raises ConfigError for a plain text, and for loss: assistant."""
        if self.text:
            raise ConfigError("on: shuffled: a plain text has no answer to exchange")
        if self.loss == "assistant":
            raise ConfigError(
                "on: shuffled: loss: assistant learns whole chats, which have no single answer to exchange"
            )
        return super().answers()

    def row(self, record: Record, signals: Mapping[str, Signal]) -> Row:
        """Return the turns, or the prompt and its completion, or the plain text."""
        if self.text:
            return {"text": self._text(record)}
        if self.images:
            return self._with_images(record)
        if self.loss != "assistant":
            return self.example(record) | self.offered(record)
        turns = self.turns(record)
        if all(turn["role"] != "assistant" for turn in turns):
            raise Unusable(f"no turn in '{self.messages}' is the assistant's")
        return {"messages": turns} | self.offered(record)

    def _with_images(self, record: Record) -> Row:
        """Return chat turns with the references to their pictures. Raises Unusable."""
        pictures = {IMAGES: references(record, self.images)}
        if self.loss == "assistant":
            return {"messages": self.turns(record), **pictures}
        example = self.example(record)
        roles = {"prompt": "user", "completion": "assistant"}
        turns = {name: turns_of(example[name], name, role) for name, role in roles.items()}
        return turns | pictures

    def _text(self, record: Record) -> str:
        text = record.fields.get(str(self.text))
        if not isinstance(text, str) or not text:
            raise Unusable(f"'{self.text}' holds no text")
        return text

    def prepare(self, inputs: TrainingInputs) -> Prepared:
        """Prepare TRL's SFTTrainer; for an encoder-decoder transformers' own trainer."""
        from transformers import AutoConfig

        configuration = AutoConfig.from_pretrained(inputs.student, revision=inputs.revision)
        if configuration.is_encoder_decoder:
            return self._sequence_to_sequence(inputs)
        from trl import SFTConfig, SFTTrainer

        tokenizer, model, max_length = inputs.load(model_class(configuration))
        processor = inputs.processor(tokenizer) if sees(configuration) else tokenizer
        max_length = min(self.pack or max_length, max_length)
        root = inputs.project.root
        if self.images:
            rows = fitting(inputs.rows, processor, root, max_length)
        else:
            rows = (_whole_texts if self.text else _examples)(inputs.rows, tokenizer, max_length)
        parts = pixel_rows(rows, root) if self.images else rows.parts
        config = SFTConfig(
            **(_one_by_one(inputs.arguments) if self.pack else inputs.arguments),
            max_length=max_length,
            packing=self.packing or self.pack is not None,
            eval_packing=False,
            completion_only_loss=self.loss == "completion",
            assistant_only_loss=self.loss == "assistant",
        )
        trainer = SFTTrainer(
            model,
            config,
            train_dataset=parts["train"],
            eval_dataset=parts.get("held_out"),
            processing_class=processor,
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


def _examples(rows: RowSelection, tokenizer: Any, max_length: int) -> RowSelection:
    """Return the rows of chat turns, or of a prompt and its completion, that fit."""

    def assess(row: Row) -> Assessment:
        turns = row.get("messages") or []
        first = next((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), 0)
        before, after = (turns[:first], turns[first:]) if turns else (row["prompt"], row["completion"])
        return fit(*lengths(tokenizer, before, after, tools=row.get("tools")), max_length)

    return rows.select(assess)


def _one_by_one(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments by which a processor computes the packed sequences of a batch one after the other.

    The gradients are the same. TRL puts a batch into one sequence, whose attention costs its square: with 8
    sequences of 512 tokens three times as long. A GPU has the room.
    """
    size = arguments["per_device_train_batch_size"] if arguments["use_cpu"] else 1
    return {
        **arguments,
        "per_device_train_batch_size": arguments["per_device_train_batch_size"] // size,
        "gradient_accumulation_steps": arguments["gradient_accumulation_steps"] * size,
    }


def _whole_texts(rows: RowSelection, tokenizer: Any, max_length: int) -> RowSelection:
    """Return the tokens of plain texts, each behind what begins a text and before the end token.

    From then on the tokenizer itself writes what begins a text, as it is saved with the student: the student
    never saw a text that begins otherwise.
    """
    from tokenizers.processors import TemplateProcessing

    if tokenizer.eos_token_id is None:
        raise ConfigError("text: the student's tokenizer has no end token, between which texts are learnt")
    start = text_start(tokenizer)
    if start and not tokenizer.encode(""):
        names = tokenizer.convert_ids_to_tokens(start)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=[*names, "$A"], special_tokens=[*zip(names, start, strict=True)]
        )

    def tokenised(row: Row) -> Row:
        ids = tokenizer.encode(row["text"], add_special_tokens=False)
        return {"input_ids": [*start, *ids, tokenizer.eos_token_id]}

    return rows.map(tokenised).select(lambda row: cut(len(row["input_ids"]), max_length))
