"""format: give records the form of a corpus, such as the messages that a trainer reads."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from distillgen.errors import ConfigError
from distillgen.flow.bounds import full_record
from distillgen.flow.record_template import RecordTemplate
from distillgen.flow.stage import CHUNK, BoundStage, CheckContext, Chunks, Estimate, Job, Stage
from distillgen.project import Project
from distillgen.prompting.prompt import Pick, Prompt, drawn
from distillgen.record import META, SCORES, Record, Unrenderable, digest, dumps
from distillgen.rows.shapes import Shaper, shaper

SIZED_DRAWS = 10  # draws of a record from which a plan estimates sizes


class Format(Stage):
    """Make fields from templates, and choose the fields that a row keeps.

    The templates in `fields` see the record as it arrives. Those in `messages` also see the fields that this
    stage makes and the record lacks. With `draws`, each record becomes several, with new values of the
    variables in `vary` and of those of the prompt; no model is asked.
    """

    kind = "format"
    scope = "row"
    reads = "the fields in the templates, in the prompt, in `messages` and in the parts of `shape`"
    writes = (
        "the fields that it makes; removes the fields that `keep` does not name; one record for each draw"
    )

    fields: dict[str, str] = Field(
        default_factory=dict, description="fields to make, each with the template of its text"
    )
    prompt: str | None = Field(
        None, description="name of a prompt in prompts/, whose text goes to the field `output`"
    )
    output: str = Field("text", description="field that receives the text of `prompt`")
    vary: dict[str, list[Any] | Pick] = Field(
        default_factory=dict,
        description="variables of the templates with their values; each draw takes one of each, or several "
        "with {of: […], n: 2}",
    )
    draws: int = Field(1, ge=1, description="number of records from each record, each with a new draw")
    messages: list[dict[str, str]] | dict[str, list[dict[str, str]]] | None = Field(
        None,
        description="templates of chat turns, [{user: …}, {assistant: …}], for the field messages; or "
        "such lists by field",
    )
    shape: str | dict[str, dict[str, str]] | None = Field(
        None,
        description="shape of the row: a name (alpaca, sharegpt, …), or {name: {part: field or template}}",
    )
    keep: list[str] | None = Field(
        None, description="fields to keep besides the fields that this stage makes; default: all"
    )

    @model_validator(mode="after")
    def _turns(self) -> Format:
        for turn in chain.from_iterable(self.dialogues.values()):
            if len(turn) != 1 or not set(turn) <= {"system", "user", "assistant"}:
                raise ValueError(f"a turn is one of system, user, assistant with its template, not {turn!r}")
        makes = (self.fields, self.messages, self.prompt, self.shape)
        if not any(makes) and self.keep is None:
            raise ValueError("nothing to do: give 'fields', 'messages', 'prompt' or 'keep', or a shape")
        for name, options in self.vary.items():
            if not options or isinstance(options, Pick) and options.n > len(options.of):
                raise ValueError(f"'vary': '{name}' has too few values")
        if isinstance(self.shape, dict) and len(self.shape) != 1:
            raise ValueError("'shape' names one shape: {name: {part: field or template}}")
        return self

    def uses_seed(self) -> bool:
        """Return whether it can draw: values of variables, or what its prompt draws."""
        return bool(self.vary or self.prompt)

    @property
    def dialogues(self) -> dict[str, list[dict[str, str]]]:
        """The chat turns by field."""
        return (
            self.messages
            if isinstance(self.messages, dict)
            else {"messages": self.messages}
            if self.messages
            else {}
        )

    def texts(self) -> list[tuple[str, RecordTemplate]]:
        """Return the templates by field or role: first those in `fields`, then the chat turns."""
        turns = [pair for turn in chain.from_iterable(self.dialogues.values()) for pair in turn.items()]
        templates = []
        for name, source in (*self.fields.items(), *turns):
            try:
                templates.append((name, RecordTemplate(source)))
            except ConfigError as error:
                raise ConfigError(
                    f"the template of '{name}': {error.message.removeprefix('template: ')}"
                ) from error
        return templates

    def shaper(self, fields: Collection[str]) -> Shaper:
        """Return an object that makes rows of `shape` from records with `fields`."""
        name, parts = (
            next(iter(self.shape.items())) if isinstance(self.shape, dict) else (self.shape or "", {})
        )
        return shaper(name, parts, fields)

    def files(self, project: Project) -> dict[str, Path]:
        """Return the prompt's file, if there is one, and the file of its examples."""
        if self.prompt is None:
            return {}
        files = {f"prompts/{self.prompt}": project.find("prompts", self.prompt, ".md")}
        examples = Prompt.load(self.prompt, project).front.few_shot.examples
        return files | ({examples: project.file(examples)} if isinstance(examples, str) else {})

    def bind(self, context: CheckContext) -> BoundFormat:
        """Compile the templates. Raise ConfigError if a field in a template, `shape` or `keep` is missing."""
        texts, prompt = self.texts(), self._prompt(context)
        makes = frozenset(self.fields.keys() | ({self.output} if prompt else set()))
        for name in self.vary:
            if name in context.fields:
                raise ConfigError(f"'vary' gives '{name}', which the records have; give it another name")
            if not any(name in text.used for _, text in texts) and not (prompt and name in prompt.inputs):
                raise ConfigError(f"'vary' gives '{name}', which no template uses")
        if self.draws > 1 and not self.vary and not (prompt and (prompt.front.vary or prompt.examples)):
            raise ConfigError(f"'draws' would make {self.draws} equal records; give 'vary'")
        before = replace(context, fields=context.fields | self.vary.keys())
        in_turn = replace(before, fields=before.fields | makes)
        for i, (name, text) in enumerate(texts):
            text.check(before if i < len(self.fields) else in_turn, f"the template of '{name}'")
        for name in sorted(prompt.needed - {SCORES}) if prompt else ():
            before.need(name, f"prompt '{self.prompt}'")
        before.need_scores(prompt.scores if prompt else (), f"prompt '{self.prompt}'")
        for name in self.keep or ():
            context.need(name, "'keep'")
        names = {*makes, *self.dialogues}
        shaper = self.shaper(context.fields) if self.shape else None
        for part, source in shaper.sources.items() if shaper and shaper.reads else ():
            if "{" in source:
                RecordTemplate(source).check(context, f"the template of '{part}'")
        names |= set(shaper.columns) if shaper else set()
        if META in names:
            raise ConfigError(f"the field '{META}' is distillgen's own")
        fields = frozenset(names | (set(context.fields) if self.keep is None else set(self.keep)))
        bound = partial(BoundFormat, self, context, fields, files=self.files(context.project))
        return bound(texts=texts, prompt=prompt, outputs=frozenset(names), new=makes - context.fields)

    def _prompt(self, context: CheckContext) -> Prompt | None:
        """Return the prompt. Raise ConfigError if its messages are more than one text."""
        if self.prompt is None:
            return None
        prompt = Prompt.load(self.prompt, context.project)
        if [role for role, _ in prompt.turns] != ["user"] or prompt.examples and not prompt.lays_out_examples:
            message = f"prompt '{self.prompt}' makes several messages, and '{self.output}' is one text"
            raise ConfigError(f"{message}; leave out its other turns, and write its examples into its text")
        return prompt


@dataclass(frozen=True)
class BoundFormat(BoundStage):
    """The stage with its templates."""

    stage: Format
    texts: Sequence[tuple[str, RecordTemplate]] = field(kw_only=True)
    prompt: Prompt | None = field(kw_only=True)
    outputs: frozenset[str] = field(kw_only=True)
    """The fields that it makes."""
    new: frozenset[str] = field(kw_only=True)
    """The fields that `fields` and the prompt make and that no record has before."""

    def output_names(self) -> frozenset[str]:
        """Return the fields that it makes."""
        return self.outputs

    def estimate(self, before: Estimate, samples: Sequence[Record]) -> Estimate:
        """Return the number of rows, and the length of the longest text that it makes of a sample."""
        rows = None if before.rows is None else before.rows * self.stage.draws
        if before.made_bytes is None:
            return Estimate(rows, made_bytes=None)
        shaped, longest = self.shaper(), before.made_bytes
        for record in samples:
            full = full_record(record, self.context, before)
            for number in range(min(self.stage.draws, SIZED_DRAWS)):
                with suppress(Unrenderable):  # the run drops the row
                    texts = shaped(full, number).fields
                    longest = max([longest, *(len(dumps(texts[name])) for name in self.outputs)])
        return Estimate(rows, made_bytes=longest)

    def turns(self) -> dict[str, list[list[dict[str, Any]]]]:
        """Return the roles of the dialogues, with a placeholder for each text."""
        return {
            name: [[{"role": role, "content": "text"} for turn in dialogue for role in turn]]
            for name, dialogue in self.stage.dialogues.items()
        }

    def former(self) -> Callable[[Record], Record]:
        """Return a function that reshapes one record, with the first of its draws."""
        return self.shaper()

    def shaper(self) -> Callable[..., Record]:
        """Return a function that makes the record of a draw. It raises Unrenderable."""
        stage = self.stage
        fields, turns = self.texts[: len(stage.fields)], self.texts[len(stage.fields) :]
        shaper = cache(stage.shaper)  # one for all records that have the same fields

        def shaped(record: Record, number: int = 0) -> Record:
            try:
                view = self._view(record, number) if stage.vary else record
                new_fields: dict[str, Any] = {name: text.render(view) for name, text in fields}
                if self.prompt:
                    new_fields[stage.output] = self._text(view, number)
                if turns and self.new:
                    new = {name: new_fields[name] for name in self.new}
                    view = replace(view, fields={**view.fields, **new})
                all_turns = iter([{"role": role, "content": text.say(view)} for role, text in turns])
                new_fields |= {
                    name: list(islice(all_turns, len(turns_of_field)))
                    for name, turns_of_field in stage.dialogues.items()
                }
                if stage.shape:
                    shape = shaper(frozenset(record.fields))
                    new_fields |= shape.row(record.variables(shape.reads))
            except (Unrenderable, ConfigError) as error:
                raise Unrenderable(str(error)) from error
            keep = stage.keep
            kept = {name: value for name, value in record.fields.items() if keep is None or name in keep}
            return replace(self._child(record, number), fields={**kept, **new_fields})

        return shaped

    def _child(self, record: Record, number: int) -> Record:
        """Return the record of a draw with the fields of its parent; the record itself if it has one draw."""
        if self.stage.draws == 1:
            return record
        return replace(record, id=digest([record.id, self.name, number]), parents=(record.id,))

    def _seed(self, record: Record, number: int) -> str:
        return f"{self.context.seed}/{self.name}/{record.id}/{number}"

    def _view(self, record: Record, number: int) -> Record:
        """Return the record with the values of a draw."""
        values = drawn(self.stage.vary, random.Random(f"{self._seed(record, number)}/vary"))
        return replace(record, fields={**record.fields, **values})

    def _text(self, record: Record, number: int) -> str:
        """Return the text of the prompt. Raise Unrenderable."""
        assert self.prompt
        draw = self.prompt.draw(self._seed(record, number), record.fields)
        (message,) = self.prompt.render(record.variables(self.prompt.inputs), draw)
        return str(message["content"])

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Reshape every live record, once for each draw."""
        shaped = self.shaper()

        def reshaped(record: Record) -> Iterator[Record]:
            for number in range(self.stage.draws):
                try:
                    yield shaped(record, number)
                except Unrenderable as error:
                    yield self._child(record, number).drop(self.name, "unrenderable", str(error))

        async for chunk in chunks:
            leaving = chain.from_iterable([r] if r.dropped else reshaped(r) for r in chunk)
            while out := list(islice(leaving, CHUNK)):
                yield out
