"""The options of the stage `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, StrictInt, model_validator

from distillgen.flow.stage import Stage
from distillgen.inference.constraints import ClauseOptions, SearchOptions
from distillgen.inference.sampling import Sampling
from distillgen.inference.spec import Spec
from distillgen.prompting.history import History, Writer
from distillgen.prompting.media import Media
from distillgen.prompting.prompt import Prompt
from distillgen.prompting.tools import Tools


class GenerateOptions(Stage, Sampling):
    """The options of `generate`: which models answer, to which prompt, and what the answers become."""

    model: str | list[str] = Field(
        description="name of one of the pipeline's models, or a list of names: each model answers, to the "
        "same draws"
    )
    pick: StrictInt | str | None = Field(
        None,
        description="which of the listed models answer about a record: a number of them, drawn for each "
        "record, or a template that gives the name of one; default: all",
    )
    author: str | None = Field(None, description="field that receives the name of the model that answered")
    prompt: str | None = Field(None, description="name of a prompt in prompts/")
    template: str | None = Field(None, description="template of the prompt, instead of a prompt file")
    images: list[str] = Field(
        [],
        description="fields with pictures, each one or a list, which the last turn shows besides those that "
        "the prompt names",
    )
    audio: list[str] = Field([], description="fields with sounds, in the same way")
    history: str | None = Field(
        None,
        description="field that holds a dialogue as chat turns: they come before the prompt's turns, and the "
        "field then holds these and the answer, too",
    )
    write: Writer = Field(
        "assistant",
        description="whose next turn the model writes: the assistant's, or the user's, which the chat "
        "template of the model opens; then, and with a history, there need not be a prompt",
    )
    output: str | None = Field(
        None,
        description="field that receives the text; default: response, or instruction where the model writes "
        "the user's turn",
    )
    n: int = Field(1, ge=1, description="number of answers to each request")
    draws: int = Field(
        1,
        ge=1,
        description="number of requests for each record, each with new draws of examples and nuisance "
        "variables",
    )
    params: dict[str, Any] = Field(
        default_factory=dict, alias="with", description="values for the prompt, the same for all records"
    )
    reasoning: str | None = Field(
        None, description="field that receives the model's reasoning, where it gives any"
    )
    tools: Tools = Field(
        None,
        description="tools that the model may call, or the field that holds the tools of each record; the "
        "calls go to the field tool_calls",
    )
    grammar: str | None = Field(None, description="GBNF grammar that the answer must follow")
    constraints: list[ClauseOptions] | None = Field(
        None,
        min_length=1,
        description="clauses about the phrases of the answer, which are all met: the model searches for the "
        "likeliest answers that meet them",
    )
    ordered: bool = Field(
        False,
        description="clauses with at_least are met in the order of the list: a phrase counts only after the "
        "clauses before its own are met",
    )
    search: SearchOptions | None = Field(
        None, description="how the model searches; without constraints, a beam search"
    )
    fallback: Literal["rejection"] | None = Field(
        None,
        description="rejection: a model that cannot search is asked for n answers, and those that do not "
        "meet the constraints are dropped; default: check refuses such a model",
    )
    take_cut_off: bool = Field(False, description="keep answers that were cut off at max_tokens")
    mark: str | None = Field(
        None,
        description="field that says whether an answer could be used, with the reason in `<mark>_why`; no "
        "record is dropped then",
    )
    max_items: int = Field(50, ge=1, description="largest number of records from one answer of a list form")

    @model_validator(mode="after")
    def _one_prompt(self) -> GenerateOptions:
        prompts = (self.prompt, self.template).count(None)
        if prompts == 0 or prompts == 2 and self.dialogue is None:
            raise ValueError("give either 'prompt' (a file) or 'template' (a prompt in place)")
        if self.write == "user" and self.tools:
            raise ValueError(
                "'tools' are the assistant's to call, not the user's: leave out 'write' or 'tools'"
            )
        return self

    @model_validator(mode="after")
    def _possible_search(self) -> GenerateOptions:
        for option in ("ordered", "fallback"):
            if getattr(self, option) and not self.constraints:
                raise ValueError(f"'{option}' is about the clauses in 'constraints'; add some")
        if not self.searches:
            return self
        if self.grammar is not None or self.tools:
            raise ValueError("an answer has constraints, or else a grammar or tools; leave out one of them")
        if self.n > (beam := (self.search or SearchOptions()).beam):
            raise ValueError(f"'n' is {self.n}, and a search has {beam} answers at most; raise search.beam")
        return self

    @model_validator(mode="after")
    def _pick_of_models(self) -> GenerateOptions:
        names = self.model_names
        if not names or len(set(names)) < len(names):
            raise ValueError(f"'model' names {'a model twice' if names else 'no model'}")
        if self.pick is not None and isinstance(self.model, str):
            raise ValueError("'pick' chooses among several models; give 'model' a list: model: [a, b]")
        if isinstance(self.pick, int) and not 1 <= self.pick <= len(names):
            raise ValueError(f"'pick' is at least 1 and at most the number of models, {len(names)}")
        return self

    @property
    def model_names(self) -> Sequence[str]:
        """The names of the models that answer."""
        return [self.model] if isinstance(self.model, str) else self.model

    @property
    def media(self) -> Media:
        """The fields whose pictures and sounds a request shows besides those that the prompt names."""
        return Media(tuple(self.images), tuple(self.audio))

    @property
    def searches(self) -> bool:
        """Whether the models search for answers, those that can."""
        return bool(self.constraints or self.search)

    @property
    def dialogue(self) -> History | None:
        """The dialogue that a request continues, if the stage has the option `history` or `write: user`."""
        return History(self.history, self.write) if self.history or self.write == "user" else None

    @property
    def answer_field(self) -> str | None:
        """The field that receives the text, if the form names no fields; None for the form's default."""
        return self.output or ("instruction" if self.write == "user" else None)

    def sampling(self, spec: Spec, prompt: Prompt) -> dict[str, Any]:
        """Return the sampling options. The stage's override the model's, which override the prompt's."""
        return {
            **prompt.front.sampling.sampling_options(),
            **spec.sampling_options(),
            **self.sampling_options(),
        }
