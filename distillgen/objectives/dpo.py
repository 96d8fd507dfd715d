"""dpo: the better of two answers becomes likelier (Rafailov et al. 2023); also the related losses of TRL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from distillgen.errors import ConfigError, did_you_mean
from distillgen.flow.stage import CheckContext
from distillgen.flow.whole_set import number_of
from distillgen.inference.logprobs import Signal
from distillgen.option_types import FieldName
from distillgen.record import Record
from distillgen.training.chat_template import Turns
from distillgen.training.dialogue import CHAT, api_of, lengths, turns_of
from distillgen.training.inputs import Api, Prepared, TrainingInputs
from distillgen.training.objective import Objective
from distillgen.training.rows import Row, Unusable, fit

LOSSES = (
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
)
"""The losses of DPOTrainer in TRL 1.16."""


class Dpo(Objective):
    """Learns from `prompt`, `chosen` and `rejected`, each a text or chat turns.

    The reference is the student before the training, or a teacher whose log-probabilities of both answers
    were recorded by two stages `score`.
    """

    packages = ("trl",)
    learning_rate = 1e-6

    prompt: FieldName = Field("prompt", description="field with a text or chat turns")
    chosen: FieldName = Field("chosen", description="field with the better answer")
    rejected: FieldName = Field("rejected", description="field with the worse answer")
    loss: str | list[str] = Field(
        "sigmoid", description="loss type of TRL, or several that are added up: [sigmoid, sft]"
    )
    loss_weights: list[float] | None = Field(None, description="weights of several losses; default: 1 each")
    beta: float = Field(0.1, gt=0, description="strength with which the student is held to the reference")
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="share of pairs in which chosen and rejected are assumed to be exchanged",
    )
    reference_chosen: str | None = Field(
        None,
        description="score or field with a teacher's log-probability of the chosen answer: the sum over "
        "its tokens, in nats",
    )
    reference_rejected: str | None = Field(
        None, description="score or field with a teacher's log-probability of the rejected answer, likewise"
    )

    @model_validator(mode="after")
    def _check_losses(self) -> Dpo:
        for loss in self.losses:
            if loss not in LOSSES:
                raise ValueError(f"there is no loss '{loss}'{did_you_mean(loss, LOSSES)}")
        if (self.reference_chosen is None) != (self.reference_rejected is None):
            raise ValueError("give both 'reference_chosen' and 'reference_rejected', or neither")
        if self.loss_weights and len(self.loss_weights) != len(self.losses):
            raise ValueError(
                f"'loss_weights' has {len(self.loss_weights)} numbers for {len(self.losses)} losses"
            )
        if "exo_pair" in self.losses and not self.label_smoothing:
            raise ValueError("loss: exo_pair needs a label_smoothing above 0")
        return self

    @property
    def losses(self) -> list[str]:
        """The losses as a list."""
        return [self.loss] if isinstance(self.loss, str) else [*self.loss]

    def check(self, context: CheckContext) -> None:
        """Raise ConfigError if one of the three fields, or a score of the reference, is missing."""
        for name in ("prompt", "chosen", "rejected"):
            context.need(getattr(self, name), f"'{name}'")
        scoring = {f"{stage.name}.logprob" for stage in context.stages}
        lineage = any(getattr(bound.stage, "lineage", False) for bound in context.stages)
        for option in ("reference_chosen", "reference_rejected"):
            name = getattr(self, option)
            if name and name not in context.fields | scoring and not lineage:
                names = {*context.fields, *scoring}
                raise ConfigError(
                    f"'{option}' names '{name}', which no earlier stage gives{did_you_mean(name, names)}"
                )

    def chats(self, context: CheckContext) -> Sequence[Turns]:
        """Return the turns of the prompt with an answer."""
        return [[*turns, CHAT[1]] for turns in context.turns(self.prompt)]

    def answers(self) -> tuple[str, ...]:
        """Return the columns of both answers."""
        if self.reference_chosen:
            raise ConfigError(
                "on: shuffled: the reference was recorded for the answers to their own prompts; leave it out"
            )
        return "chosen", "rejected"

    def api(self, row: Row) -> Api:
        """Return whether the prompt is a text or chat turns."""
        return api_of(row)

    def row(self, record: Record, signals: Mapping[str, Signal]) -> Row:
        """Return the prompt, both answers, and the reference's log-probabilities if they were recorded."""
        prompt, chosen, rejected = (
            record.fields.get(name) for name in (self.prompt, self.chosen, self.rejected)
        )
        if not all(isinstance(text, str) for text in (prompt, chosen, rejected)):
            prompt, chosen, rejected = (
                turns_of(prompt, self.prompt, "user"),
                *(
                    turns_of(answer, name, "assistant")
                    for answer, name in ((chosen, self.chosen), (rejected, self.rejected))
                ),
            )
        if chosen == rejected:
            raise Unusable("both answers are the same")
        row: Row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        for column, name in (
            ("ref_chosen_logps", self.reference_chosen),
            ("ref_rejected_logps", self.reference_rejected),
        ):
            if name:
                row[column] = number_of(record, name)
                if row[column] is None or row[column] > 0:
                    raise Unusable(f"'{name}' holds no log-probability")
        return row

    def prepare(self, inputs: TrainingInputs) -> Prepared:
        """Prepare TRL's DPOTrainer; with a recorded reference it computes none of its own."""
        from transformers import AutoModelForCausalLM
        from trl import DPOConfig, DPOTrainer

        class Recorded(DPOTrainer):  # type: ignore[misc]
            """Use the recorded columns: TRL 1.16 would compute the reference's log-probabilities again."""

            def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
                return dataset

        tokenizer, model, max_length = inputs.load(AutoModelForCausalLM)
        rows = inputs.rows.select(
            lambda row: fit(*lengths(tokenizer, row["prompt"], row["chosen"], row["rejected"]), max_length)
        )
        recorded = self.reference_chosen is not None
        config = DPOConfig(
            **inputs.arguments,
            max_length=max_length,
            beta=self.beta,
            loss_type=self.losses,
            loss_weights=self.loss_weights,
            label_smoothing=self.label_smoothing,
            precompute_ref_log_probs=recorded,
        )
        trainer = (Recorded if recorded else DPOTrainer)(
            model,
            args=config,
            train_dataset=rows.parts["train"],
            eval_dataset=rows.parts.get("held_out"),
            processing_class=tokenizer,
            peft_config=inputs.peft("CAUSAL_LM"),
        )
        return Prepared(trainer, rows.counts)
