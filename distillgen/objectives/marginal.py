"""marginal: an answer learnt from several prompts at once, one for each retrieved demonstration.

Mueller et al. 2023, Meta-training with Demonstration Retrieval for Efficient Few-shot Learning. The loss is
that of RAG (Lewis et al. 2020): −log Σ_z p(z|x) p(y|x,z).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from distillgen.flow.record_template import RecordTemplate
from distillgen.flow.stage import CheckContext
from distillgen.inference.logprobs import Signal
from distillgen.option_types import FieldName
from distillgen.record import Record, Unrenderable, text_of
from distillgen.training.inputs import Api, Prepared, TrainingInputs
from distillgen.training.objective import Objective
from distillgen.training.part import Loss
from distillgen.training.rows import Assessment, Row, Unusable

if TYPE_CHECKING:
    from distillgen.training.step import Step

DEMONSTRATION = "demonstration"
SCORES, GROUP = "scores", "group"  # the scores of the prompts, and in a batch the place of their record


class Marginal(Objective):
    """A record has several prompts, such as its question behind each of its retrieved demonstrations z.

    The loss is −log Σ_z p(z|x) p(y|x,z), where p(z|x) is the softmax of the demonstrations' scores, which
    stay as they were retrieved, and p(y|x,z) the probability of the whole completion and its end behind the
    prompt. So the student need not use a demonstration that does not help.
    """

    learning_rate = 1e-4
    kinds = frozenset({"causal", "seq2seq"})

    demonstrations: FieldName = Field(
        "demonstrations", description="field with the list of a record's demonstrations, as of `retrieve`"
    )
    template: str = Field(
        description="template of a prompt, in which `demonstration` is one element of the list"
    )
    score: str | None = Field(
        None, description="name of the score in an element, such as cosine; default: all count alike"
    )
    temperature: float = Field(
        1.0, gt=0, description="number by which scores are divided before the softmax; for cosines, take 0.05"
    )
    completion: FieldName = Field("completion", description="field with the answer, as a text")

    def check(self, context: CheckContext) -> None:
        """Raise ConfigError if a field is missing."""
        context.need(self.demonstrations, "'demonstrations'")
        context.need(self.completion, "'completion'")
        of_prompt = replace(context, fields=context.fields | {DEMONSTRATION})
        RecordTemplate(self.template).check(of_prompt, "'template'")

    def answers(self) -> tuple[str, ...]:
        """Return the completion's column."""
        return ("completion",)

    def api(self, row: Row) -> Api:
        """Return that the student is asked with a text."""
        return "completions"

    def row(self, record: Record, signals: Mapping[str, Signal]) -> Row:
        """Return the prompts with their scores by the temperature, and the completion. Raises Unusable."""
        elements = record.fields.get(self.demonstrations)
        completion = record.fields.get(self.completion)
        if not isinstance(elements, list) or not elements:
            raise Unusable(f"'{self.demonstrations}' holds no demonstrations")
        if not isinstance(completion, str | int | float) or not text_of(completion).strip():
            raise Unusable(f"'{self.completion}' holds no text")
        template = RecordTemplate(self.template)
        try:
            prompts = [
                template.say(replace(record, fields={**record.fields, DEMONSTRATION: element}))
                for element in elements
            ]
        except Unrenderable as error:
            raise Unusable(f"a prompt has no text: {error}") from error
        scores = [self._score(element) for element in elements]
        return {"prompts": prompts, SCORES: scores, "completion": text_of(completion)}

    def _score(self, element: Any) -> float:
        if self.score is None:
            return 0.0
        score = element.get(self.score) if isinstance(element, dict) else None
        if not isinstance(score, int | float):
            raise Unusable(f"a demonstration in '{self.demonstrations}' has no number '{self.score}'")
        return score / self.temperature

    # in the training's process

    def prepare(self, inputs: TrainingInputs) -> Prepared:
        """Prepare the loop, in which a row has a sequence of tokens for each of its prompts."""
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

        from distillgen.training.language import Language
        from distillgen.training.language_loop import assessment, columns, token_loop
        from distillgen.training.learner import Teachers

        both = AutoConfig.from_pretrained(inputs.student, revision=inputs.revision).is_encoder_decoder
        tokenizer, model, max_length = inputs.load(AutoModelForSeq2SeqLM if both else AutoModelForCausalLM)

        def assess(row: Row) -> Assessment:
            dialogues = [(prompt, row["completion"]) for prompt in row["prompts"]]
            return assessment(tokenizer, dialogues, max_length, both=both)

        def tokenised(row: Row) -> Row:
            sequences = [
                columns(tokenizer, prompt, row["completion"], max_length, both=both)
                for prompt in row["prompts"]
            ]
            return {**{name: [s[name] for s in sequences] for name in sequences[0]}, SCORES: row[SCORES]}

        rows = inputs.rows.select(assess).map(tokenised)
        student = Language(inputs.adapted(model, "SEQ_2_SEQ_LM" if both else "CAUSAL_LM"), tokenizer)
        return token_loop(student, rows, [OverPrompts()], {}, Teachers(), inputs, in_sequence)


class OverPrompts(Loss):
    """The loss of a batch in which several sequences belong to a record."""

    needs: ClassVar = {}
    teaching = False

    def rows(self, step: Step, module: Any) -> Any:
        """Return the mean of the records' losses, one number."""
        import torch

        likelihood = step.logits(self).log_softmax(-1).gather(-1, step.label[:, None])[:, 0]
        place = step.out(self.of).place
        sums = likelihood.new_zeros(step.size).index_add(0, place, likelihood)
        losses = [
            marginal(sums[group], step.batch[SCORES][group])
            for group in (step.batch[GROUP] == i for i in step.batch[GROUP].unique())
        ]
        return torch.stack(losses).mean()


def in_sequence(rows: list[Row]) -> list[Row]:
    """Return the sequences of a batch's rows one behind the other, each with the place of its row."""
    return [
        {**{name: row[name][i] for name in row if name != "row"}, "row": row["row"], GROUP: place}
        for place, row in enumerate(rows)
        for i in range(len(row[SCORES]))
    ]


def marginal(likelihood: Any, scores: Any) -> Any:
    """Return −log Σ_z p(z|x) p(y|x,z), in nats.

    `likelihood` holds log p(y|x,z) for each z, and `scores` the numbers whose softmax is p(z|x).
    """
    return -(scores.log_softmax(0) + likelihood).logsumexp(0)
