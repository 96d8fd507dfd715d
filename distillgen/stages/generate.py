"""generate: ask a teacher about each record and turn its answers into records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from typing import Any

from distillgen.errors import ConfigError, did_you_mean, place_of
from distillgen.extras import need
from distillgen.flow.asking import ask_ahead, ask_each
from distillgen.flow.bounds import Ask, bounds, size_of
from distillgen.flow.mark import marked, marks
from distillgen.flow.measures import Measure
from distillgen.flow.record_template import RecordTemplate
from distillgen.flow.stage import BoundStage, CheckContext, Chunk, Chunks, Estimate, Job
from distillgen.inference.parts import KINDS, parts_in
from distillgen.inference.sampling import Sampling
from distillgen.project import Project
from distillgen.prompting.filler import Parts, parts_of
from distillgen.prompting.output_form import FIELD_SOURCES
from distillgen.prompting.prompt import Prompt
from distillgen.prompting.tools import size_of_tools
from distillgen.record import IDENTICAL, META, SCORES, Record
from distillgen.stages._asking import FAILURES, UNMET, Asking
from distillgen.stages._constraints import Constraints, files_of
from distillgen.stages._generate_options import GenerateOptions

_PLAIN = {
    *("name", "model", "pick", "author", "prompt", "template", "output", "n", "draws", "params", "reasoning"),
    *("grammar", "take_cut_off", "mark", "max_items", *Sampling.model_fields),
}
"""The options with which a stage reads no field but those of its prompt and `pick`."""
_OF_DRAWS = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty")


class Generate(GenerateOptions):
    """Ask one model or several for new fields, by a prompt.

    Each answer becomes a record, a child of the record that the prompt was about. An answer that failed,
    was refused, was cut off or does not fit the prompt's form is dropped, with the reason.

    With a list of models, the answers of the first model come first. Each model answers with its own
    sampling options. A model that is added to the list, or a larger `pick`, asks nothing again. A record is
    dropped if the template `pick` gives a name that is not in the list.

    With `history`, a request continues the dialogue in that field. The prompt's system turn is sent where the
    dialogue is empty. A record is dropped if the field holds no chat turns, or if the next turn cannot follow
    the last one.
    """

    kind = "generate"
    scope = "row"
    reads = "the fields in the prompt, and the field `history`"
    writes = (
        "the field `output`, or the fields that the prompt's form names; also the fields `author`, "
        "`history`, `reasoning`, `tool_calls` and `mark` where the options ask for them; one record for each "
        "answer"
    )

    def bind(self, context: CheckContext) -> BoundGenerate:
        """Load the prompt. Raise ConfigError if a field is missing, or a model lacks a capability."""
        project = context.project
        for model in self.model_names:
            context.able(model)
        prompt = self._prompt(context)
        samplings = {model: self.sampling(context.models[model], prompt) for model in self.model_names}
        if isinstance(self.tools, str):
            context.need(self.tools, "'tools'")
        constraints = self._constraints(project)
        for model, sampling in samplings.items():
            needs = {"logprobs": sampling.get("logprobs"), "tools": self.tools, "grammar": self.grammar}
            opens = ["user_turn"] if self.write == "user" else []
            if constraints:
                self._check_search(model, constraints, sampling, context)
            needed = [*(name for name, value in needs.items() if value is not None), *opens]
            needed += self._media(prompt, context)
            context.able(model, *needed, sampling=sampling)
            context.answers(model, [*prompt.sources, *([""] if self.dialogue is not None else [])])
        if constraints:
            constraints.check(context)
        pick = RecordTemplate(self.pick) if isinstance(self.pick, str) else None
        if pick and not pick.used:
            raise ConfigError("'pick' names the same model for every record; write a field: {{ field }}")
        if pick:
            pick.check(context, "'pick'")
        added = [
            *prompt.form.fields(self.answer_field),
            *filter(None, [self.reasoning, "tool_calls" if self.tools else None]),
        ]
        if self.author in (*added, *marks(self.mark)):
            raise ConfigError(f"'author' and the answer have the same field '{self.author}'; rename one")
        added += [self.author] if self.author else []
        if self.history in (*added, *marks(self.mark)):
            raise ConfigError(f"'history' and the answer have the same field '{self.history}'; rename one")
        added += [self.history] if self.history else []
        if META in added:
            raise ConfigError(f"the field '{META}' is distillgen's own; give the output another name")
        few_shot, files = prompt.front.few_shot, files_of(self.constraints or (), project)
        if self.prompt:
            files[f"prompts/{self.prompt}"] = project.find("prompts", self.prompt, ".md")
            if few_shot and isinstance(few_shot.examples, str):
                files[few_shot.examples] = project.file(few_shot.examples)
        output_fields = frozenset(added) | marks(self.mark)
        fields = context.fields | output_fields
        return BoundGenerate(
            self,
            context,
            fields,
            self.model_names,
            files,
            prompt=prompt,
            samplings=samplings,
            pick=pick,
            constraints=constraints,
            output_fields=output_fields,
        )

    def _media(self, prompt: Prompt, context: CheckContext) -> list[str]:
        """Return what a model needs for the pictures and sounds of the prompt and of the dialogue before it.

        Raise ConfigError where the model would write a user's turn after one.
        """
        before = parts_in([turn for turns in context.turns(self.history or "") for turn in turns])
        needed = {*prompt.media.capabilities, *(KINDS[part["type"]] for part in before)}
        if needed and self.write == "user":
            raise ConfigError("'write: user': a user's turn is opened after texts alone, not after pictures")
        return sorted(needed)

    def _constraints(self, project: Project) -> Constraints | None:
        """Return the constraints of the answers, if there are any. Raise ConfigError."""
        if not self.searches:
            return None
        return Constraints.read(self.constraints or (), self.ordered, self.search, project)

    def _check_search(
        self, model: str, constraints: Constraints, sampling: Mapping[str, Any], context: CheckContext
    ) -> None:
        """Raise ConfigError if a model has to search and cannot, or if a search has no use for an option."""
        capability = constraints.capability
        if self.fallback and capability not in context.models[model].capabilities:
            return
        context.able(model, capability)
        need("a search for answers", "numpy")
        of_stage = () if self.fallback else self.sampling_options()
        useless = [name for name in _OF_DRAWS if name in of_stage] + ["logprobs"] * ("logprobs" in sampling)
        if useless:
            raise ConfigError(
                f"model '{model}' searches for the likeliest answers, which has no use for '{useless[0]}'; "
                "leave it out"
            )

    def _prompt(self, context: CheckContext) -> Prompt:
        """Return the prompt. Raise ConfigError if it is broken, or a field that it needs is missing."""
        project, continues = context.project, self.dialogue is not None
        if self.prompt is None:
            template, subject = self.template or "", "'template'"
            prompt = Prompt.parse("", template, "template", project, continues=continues, media=self.media)
        else:
            prompt, subject = (
                Prompt.load(self.prompt, project, continues=continues, media=self.media),
                f"prompt '{self.prompt}'",
            )
        for name in sorted(self.params):
            if name not in prompt.inputs:
                raise ConfigError(
                    f"'with' gives '{name}', which {subject} does not use{did_you_mean(name, prompt.inputs)}"
                )
        for name in sorted(prompt.needed - self.params.keys() - {SCORES}):
            context.need(
                name, f"{subject} ({place_of(prompt.path, prompt.inputs[name])})" if self.prompt else subject
            )
        if SCORES in prompt.inputs.keys() - self.params.keys():
            context.need_scores(prompt.scores, subject)
        for name in prompt.front.few_shot.match:
            context.need(name, f"few_shot.match of {subject}")
        if self.output and prompt.form.kind in FIELD_SOURCES:
            raise ConfigError(
                f"'output' has no meaning with {subject}: its form '{prompt.form.kind}' names its own fields"
            )
        if self.dialogue:
            if self.history and not prompt.turns and self.write == "assistant":
                context.need(self.history, "'history' without a prompt")
            self.dialogue.check(prompt, context.turns(self.history or ""))
        return prompt


@dataclass(frozen=True)
class BoundGenerate(BoundStage):
    """The stage with its prompt."""

    stage: Generate
    prompt: Prompt = field(kw_only=True)
    samplings: Mapping[str, Mapping[str, Any]] = field(kw_only=True)
    """The sampling options of each model."""
    pick: RecordTemplate | None = field(kw_only=True)
    constraints: Constraints | None = field(kw_only=True)
    """The template that names the model that answers."""
    output_fields: frozenset[str] = field(kw_only=True)
    """The fields that the stage writes, new or not."""

    def uses_seed(self) -> bool:
        """Return whether the stage draws examples, values or models, or sends a seed."""
        front = self.prompt.front
        return (
            super().uses_seed()
            or bool(front.vary or self.prompt.examples and front.few_shot.shuffle)
            or isinstance(self.stage.pick, int)
            or any("seed" in sampling for sampling in self.samplings.values())
        )

    def output_names(self) -> frozenset[str]:
        """Return the fields of an answer."""
        return self.output_fields

    def records_logprobs(self) -> bool:
        """Return whether the stage, a model of it or its prompt asks for log-probabilities."""
        return any(sampling.get("logprobs") for sampling in self.samplings.values())

    def scores(self) -> list[str]:
        """Return the names of the scores that log-probabilities give."""
        names = ("logprob", "mean_logprob", "margin") if self.records_logprobs() else ()
        return [f"{self.name}.{name}" for name in names]

    def turns(self) -> dict[str, Sequence[list[dict[str, Any]]]]:
        """Return the roles of the dialogue after this stage, with a placeholder for each text."""
        dialogue, name = self.stage.dialogue, self.stage.history
        if dialogue is None or name is None:
            return {}
        before = self.context.turns(name)
        if self.stage.when is None:
            return {name: dialogue.after(self.prompt, before)}
        # a record that passes the stage by keeps its dialogue
        return {name: [*before, *dialogue.after(self.prompt, before)]} if before else {}

    def estimate(self, before: Estimate, samples: Sequence[Record]) -> Estimate:
        """Return bounds from bytes, because a token has at least one byte.

        A field that an earlier stage makes counts with its greatest length.
        """
        stage, prompt, models = self.stage, self.prompt, self.context.models
        limits = [sampling.get("max_tokens") for sampling in self.samplings.values()]
        most = max(filter(None, limits)) if all(limits) else None
        tokens = most and stage.n * most
        number = 1 if self.pick else stage.pick or len(limits)
        dialogue, longest, gathered = stage.dialogue, 0, list[Parts]()

        def requests(record: Record) -> list[Ask]:
            nonlocal longest
            variables = record.variables(prompt.inputs)
            messages = prompt.render(variables, prompt.typical(record.fields), stage.params)
            size = size_of(messages) + size_of_tools(record.fields, stage.tools)
            size += dialogue.size(record.fields) if dialogue else 0
            in_dialogue = parts_of(record.fields.get(stage.history)) if stage.history else Parts()
            parts = [
                *parts_in(messages),
                *({"type": kind} for kind in KINDS for _ in range(in_dialogue[kind])),
            ]
            gathered.append(Parts(part["type"] for part in parts))
            longest = max(longest, size if stage.history else 0)
            by_cost = sorted(self.samplings, key=lambda name: -models[name].most_usd(size, tokens or 1))
            schema = prompt.form.schema
            return [
                Ask(name, size, tokens, schema, parts=parts) for name in by_cost[: int(number)]
            ] * stage.draws

        estimate = bounds(before, samples, self.context, requests)
        answers = None if estimate.requests is None else estimate.requests * stage.n
        rows = None if answers is None else answers * (stage.max_items if prompt.form.many else 1)
        made_bytes = None
        if most is not None and before.made_bytes is not None:
            made_bytes = max(before.made_bytes, longest + 4 * most + (16 if stage.history else 0))
        made_parts = before.parts
        if stage.history:
            made_parts = {**made_parts, stage.history: reduce(or_, gathered, Parts())}
        return replace(estimate, rows=rows, made_bytes=made_bytes, made_parts=made_parts)

    def independent_of(self, earlier: BoundStage) -> bool:
        """Return whether the requests about a record do not depend on what the `earlier` stage makes of it.

        Draws depend on the id of the record, which the earlier stage changes.
        """
        front, stage = self.prompt.front, self.stage
        if not isinstance(earlier, BoundGenerate) or front.vary or isinstance(stage.pick, int):
            return False
        if self.prompt.examples and front.few_shot.shuffle:
            return False
        if (stage.model_fields_set | earlier.stage.model_fields_set) - _PLAIN:
            return False
        inputs = {*(self.prompt.inputs.keys() - stage.params.keys()), *front.few_shot.match}
        inputs |= self.pick.used.keys() if self.pick else set()
        return SCORES not in inputs and not earlier.output_fields & inputs

    def ahead(self, job: Job) -> Callable[[Chunk], None]:
        """Return a function that sends the requests about records that an earlier stage will replace."""
        asking = self._asking(job)
        teachers = list(asking.teachers.values())
        return lambda chunk: ask_ahead(chunk, teachers, self.name, asking.questions)

    def _asking(self, job: Job) -> Asking:
        teachers = {name: job.services.teachers[name] for name in self.models}
        return Asking(self.stage, self.prompt, teachers, job.context.seed, self.pick, self.constraints)

    def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Ask about every live record. Answers leave in source order, as soon as they have arrived."""
        stage = self.stage
        asking = self._asking(job)
        answered = ask_each(
            chunks,
            list(asking.teachers.values()),
            job,
            stage.name,
            questions=asking.questions,
            answered=asking.children,
            unusable=asking.unusable,
        )
        counted = self._counted(answered, asking, job)
        return marked(counted, stage.name, stage.mark, (*FAILURES, UNMET)) if stage.mark else counted

    async def _counted(self, chunks: Chunks, asking: Asking, job: Job) -> Chunks:
        """Count the requests that got the answer of an identical request instead of a new sample."""
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
        if same := len(asking.drawn) - len(set(asking.drawn)):
            job.services.measures[Measure(IDENTICAL)] = same
