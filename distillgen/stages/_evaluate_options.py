"""The options of the stage `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from distillgen.answers.final_answer import Kind
from distillgen.flow.filter import Entries
from distillgen.flow.stage import EvaluationSet, Stage
from distillgen.inference.sampling import Sampling
from distillgen.project import Project
from distillgen.prompting.media import Media
from distillgen.prompting.prompt import Prompt
from distillgen.record import SCORES, TEST

FigureName = Literal["balanced_accuracy", "macro_f1", "ece"]


class EvaluateOptions(Stage, Sampling):
    """The options of `evaluate`: the models, the items, the question and the metrics."""

    asked: list[str] = Field(
        min_length=1,
        alias="models",
        description="models to ask: names of the pipeline's models, student, or base (the model that the "
        "student was made from)",
    )
    answer_fields: dict[str, str] = Field(
        default_factory=dict,
        alias="answers",
        description="answers that earlier stages wrote, judged beside those of the models: "
        "{name: field of an item}",
    )
    data: str | None = Field(
        None, description="JSONL file of items; default: the records that the source holds out"
    )
    about: Literal["trained"] | None = Field(
        None,
        description="with trained, the items ask about facts in the training records: records that repeat an "
        "item of `data` are counted, not dropped; without `data`, the items are the records of the source",
    )
    split: Literal["test", "validation"] | None = Field(
        None,
        description="held-out records that are the items: test, the default, or validation, by which a "
        "`search` chooses",
    )
    where: str | None = Field(
        None, description="template; items for which the result is empty, false, no, 0 or null are not asked"
    )
    prompt: str | None = Field(None, description="name of a prompt in prompts/ that asks the question")
    template: str | None = Field(None, description="template of the question, instead of a prompt")
    params: dict[str, Any] = Field(
        default_factory=dict, alias="with", description="values for the question, the same for all items"
    )
    images: list[str] = Field(
        [],
        description="fields with pictures, each one or a list, which the question shows besides those that "
        "the prompt names; rows of `data` may name them by their paths, as seen from the file or the project",
    )
    audio: list[str] = Field([], description="fields with sounds, in the same way")
    by: str | None = Field(
        None,
        description="field of an item, such as a domain; figures are also reported for each of its values",
    )
    gold: str | None = Field(
        None, description="field of an item with the right answer, or a list of right answers"
    )
    output: str = Field("answer", description="field that holds a model's answer when a metric judges it")
    n: int = Field(
        1, ge=1, description="number of answers to each item; with 2 or more, pass@k is reported too"
    )
    vote: Kind | None = Field(None, description="report majority@k too, by votes over answers of this kind")
    metrics: Entries = Field([], description="filters that judge the answers, each with its options")
    figures: list[FigureName] = Field(
        [],
        description="figures of all answers together, compared with `gold`: balanced_accuracy and macro_f1, "
        "over the classes that `gold` has; ece, the expected calibration error of the answers' "
        "probabilities, which needs `logprobs` or `options`",
    )
    options: str | None = Field(
        None,
        description="field of an item with the options of a question; the likeliest option counts as the "
        "model's choice",
    )
    perplexity: bool = Field(False, description="measure the perplexity of each model on the right answers")

    @model_validator(mode="after")
    def _complete(self) -> EvaluateOptions:
        if (self.prompt is None) == (self.template is None):
            raise ValueError("give either 'prompt' (a file) or 'template' (a question in place)")
        if not (self.metrics or self.figures or self.options or self.perplexity):
            raise ValueError("nothing to measure: give 'metrics', 'figures', 'options' or 'perplexity'")
        if (self.options or self.perplexity or self.figures) and not self.gold:
            raise ValueError(
                "'options', 'perplexity' and 'figures' need 'gold', the field with the right answer"
            )
        if self.split and (self.data or self.about):
            raise ValueError("'split' chooses among the held-out records: leave out 'data' and 'about'")
        if self.figures and self.n > 1:
            raise ValueError("'figures' are of one answer to each item: leave out n")
        if self.vote and self.n < 2:
            raise ValueError("a vote needs several samples: give n")
        if self.answer_fields and not self.generates:
            raise ValueError("'answers' are judged by 'metrics' or 'figures': give one")
        if self.answer_fields and self.n > 1:
            raise ValueError("'answers' holds one answer to each item: leave out n")
        for name in self.answer_fields:
            if name in self.asked:
                raise ValueError(f"'answers': '{name}' is one of the models; give another name")
        return self

    @property
    def file(self) -> str:
        """The name of the files that the stage writes, without the suffix."""
        return "evaluation" if self.name == self.kind else f"evaluation-{self.name}"

    def load_prompt(self, project: Project) -> Prompt:
        """Return the question. Raise ConfigError if it is wrong."""
        media = Media(tuple(self.images), tuple(self.audio))
        if self.template is not None:
            return Prompt.parse("", self.template, "template", project, media=media)
        return Prompt.load(str(self.prompt), project, media=media)

    @property
    def generates(self) -> bool:
        """Whether models write answers; with `options` alone they only say how likely these are."""
        return bool(self.metrics) or bool(self.figures) and not self.options

    def evaluation_set(self, project: Project) -> EvaluationSet:
        """Return the file of items and the fields in the question."""
        prompt = self.load_prompt(project)
        question = sorted(prompt.inputs.keys() - {SCORES})
        return EvaluationSet(self.data, question, self.about is not None, prompt.media, self.split or TEST)

    def sampling(self, model: Mapping[str, Any], prompt: Prompt) -> dict[str, Any]:
        """Return the sampling options. The stage's override the model's, which override the prompt's."""
        return {**prompt.front.sampling.sampling_options(), **model, **self.sampling_options()}
