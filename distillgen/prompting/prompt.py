"""Prompt files: front matter (form, sampling, few-shot examples, nuisance variables) and a sandboxed
template.

    ---
    output: {json: {question: string, answer: string}}
    sampling: {temperature: 0.7, max_tokens: 200}
    few_shot: {n: 2, examples: [{passage: …, answer: {question: …, answer: …}}]}
    vary: {tone: [plain, lively]}
    ---
    @system
    Write one {{ tone }} question about the passage.
    @user
    Passage: {{ passage }}

The lines `@system`, `@user` and `@assistant` start a turn. They are read before values are filled in, so that
a record cannot start a turn. Examples become turns of the same form, unless the template contains `examples`.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from distillgen.errors import ConfigError, did_you_mean
from distillgen.inference.request import Request
from distillgen.inference.sampling import Sampling
from distillgen.located_yaml import Places, read_yaml, validate
from distillgen.project import Project, read_text
from distillgen.prompting.media import NO_MEDIA, Media
from distillgen.prompting.output_form import Form, Unparsable
from distillgen.record import Unrenderable, dumps
from distillgen.rows.jsonl import read_rows
from distillgen.text.template import Template, compile_template, nothing_in

_ROLE = re.compile(r"^@(\w+)[ \t]*$", re.M)
_FRONT = re.compile(r"^---[ \t]*\n", re.M)
ROLES = ("system", "user", "assistant")


class FewShot(BaseModel):
    """Worked examples. Each request gets a new draw."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int | None = Field(None, ge=1, description="number of examples in a request; default: all")
    examples: list[dict[str, Any]] | str = Field(
        [], description="the examples, or the name of a JSONL file with them"
    )
    answer: str = Field("answer", description="key of an example that holds the ideal answer")
    shuffle: bool = Field(
        True, description="draw and order the examples anew for each request; false: always take the first n"
    )
    match: list[str] = Field(
        [], description="fields, such as a task, in which an example must agree with the record"
    )


class Pick(BaseModel):
    """A nuisance variable that takes several values at once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: list[Any] = Field(min_length=1, description="values to draw from")
    n: int = Field(1, ge=1, description="number of values that are drawn at once")


def drawn(vary: Mapping[str, list[Any] | Pick], rng: random.Random) -> dict[str, Any]:
    """Return the values of the nuisance variables: one value of each, or a list for a Pick."""
    return {
        name: rng.sample(options.of, options.n) if isinstance(options, Pick) else rng.choice(options)
        for name, options in sorted(vary.items())
    }


class Front(BaseModel):
    """The front matter of a prompt file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: str = Field("", description="what the prompt asks for, in one line")
    output: Any = Field(
        "text", description="form of the answer: text, lines, numbered, turns, regex, json, sections"
    )
    sampling: Sampling = Field(
        Sampling(), description="sampling options; those of the model and of the stage win over them"
    )
    few_shot: FewShot = Field(FewShot(), description="worked examples in each request")
    vary: dict[str, list[Any] | Pick] = Field(
        default_factory=dict, description="nuisance variables with their values; each request gets a new draw"
    )
    inputs: list[str] | None = Field(
        None, description="fields that the template uses, all of them and no others"
    )
    images: list[str] = Field(
        [],
        description="fields with pictures, each one or a list; they stand before the text of the last turn "
        "of the user",
    )
    audio: list[str] = Field([], description="fields with sounds, in the same way, after the pictures")


@dataclass(frozen=True)
class Draw:
    """The draw of one request: the numbers of the examples and the values of the nuisance variables."""

    examples: tuple[int, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """Return the draw as JSON for the lineage of a row; "" for an empty draw."""
        drawn = {**self.values, **({"examples": list(self.examples)} if self.examples else {})}
        return dumps(drawn).decode() if drawn else ""


NOTHING = Draw()


@dataclass(frozen=True)
class Prompt:
    """A checked prompt, which renders messages for a record."""

    name: str
    path: Path | str
    sha256: str
    front: Front
    form: Form
    turns: tuple[tuple[str, Template], ...]
    inputs: Mapping[str, int]
    """The fields that the template uses, each with the line of its first use."""
    needed: frozenset[str]
    """The fields without a default in the template."""
    plain: frozenset[str]
    """The fields that the template writes under no condition on other fields."""
    scores: frozenset[str]
    """The scores of a record that the template reads."""
    examples: tuple[Mapping[str, Any], ...]
    lays_out_examples: bool
    media: Media

    @classmethod
    def load(cls, name: str, project: Project, *, continues: bool = False, media: Media = NO_MEDIA) -> Prompt:
        """Return the prompt `prompts/<name>.md`, the project's or the shipped one. Raise ConfigError."""
        path = project.find("prompts", name, ".md")
        return cls.parse(name, read_text(path), path, project, continues=continues, media=media)

    @classmethod
    def parse(
        cls,
        name: str,
        text: str,
        path: Path | str,
        project: Project,
        *,
        continues: bool = False,
        media: Media = NO_MEDIA,
    ) -> Prompt:
        """Return a prompt from its text, with the fields of `media` besides its own. Raise ConfigError.

        A template in a pipeline is a prompt without a name, front matter or a file for messages. A prompt
        that `continues` a dialogue, or lets a model begin one, needs no user's turn and may be empty.
        """
        path = path if name else ""
        front, places, body, body_line = Front(), Places(path), text, 1
        if name and _FRONT.match(text):
            _, head, body = (*_FRONT.split(text, 2), "")[:3]
            if not body.strip():
                raise ConfigError(
                    "the front matter does not end ('---'), or nothing follows it", path=path, line=1
                )
            data, places = read_yaml(head, path, first_line=2)
            front = validate(Front, data, owner="the front matter", places=places)
            body_line = head.count("\n") + 3
        with places.within("output"):
            form = Form.read(front.output)
        turns = _turns(body, path, body_line, continues=continues)
        used = {name: line for _, template in turns[::-1] for name, line in template.used.items()}
        examples = _examples(front.few_shot, project, places)
        lays_out = "examples" in used and bool(examples)
        media = Media(tuple(front.images), tuple(front.audio)) + media
        inputs = {
            name: line
            for name, line in used.items()
            if name not in front.vary and not (lays_out and name == "examples")
        }
        sha256 = hashlib.sha256(text.encode() + dumps(examples)).hexdigest()
        needed = frozenset().union(*(template.needed for _, template in turns)) & inputs.keys()
        plain = (
            frozenset().union(*(template.plain for role, template in turns if role != "system"))
            & inputs.keys()
        )
        scores = frozenset().union(*(template.scores for _, template in turns))
        prompt = cls(
            name, path, sha256, front, form, turns, inputs, needed, plain, scores, examples, lays_out, media
        )
        prompt._check(set(used), places)
        if not media.fields:
            return prompt
        of_media = {name: line for name in media.fields if name not in inputs for line in [body_line]}
        return replace(prompt, inputs={**inputs, **of_media}, needed=needed | media.fields)

    def _check(self, used: set[str], places: Places) -> None:
        """Raise ConfigError unless the template uses exactly the fields that `inputs`, `vary` and the
        examples name.
        """
        front, inputs = self.front, set(self.inputs)
        for name, values in front.vary.items():
            if name not in used:
                raise places.wrong(f"vary: the template does not use '{name}'", "vary", name)
            if isinstance(values, Pick) and values.n > len(values.of):
                raise places.wrong(
                    f"vary: '{name}' wants {values.n} of {len(values.of)} values", "vary", name
                )
            always_used = any(name in template.plain for _, template in self.turns)
            if always_used and None in (values.of if isinstance(values, Pick) else values):
                raise places.wrong(f"vary: '{name}' can be null, which has no text; write ''", "vary", name)
        declared = inputs if front.inputs is None else set(front.inputs)
        for name in sorted(declared - inputs):
            raise places.wrong(f"inputs declares '{name}', which the template does not use", "inputs")
        for name in sorted(inputs - declared):
            raise places.wrong(f"inputs does not declare '{name}', which the template uses", "inputs")
        if self.media.fields and "user" not in dict(self.turns):
            raise places.wrong("pictures and sounds stand in a turn of the user, and the prompt has none")
        for i, example in enumerate(self.examples):
            if missing := [name for name in front.few_shot.match if name not in example]:
                raise places.wrong(
                    f"few_shot: example {i + 1} has no '{missing[0]}', by which they match",
                    "few_shot",
                    "match",
                )
        for i, example in enumerate(() if self.lays_out_examples else self.examples):
            if mistake := self._mistake(example, f"example {i + 1}"):
                raise places.wrong(f"few_shot: {mistake}", "few_shot", "examples", i)

    def _mistake(self, example: Mapping[str, Any], label: str) -> str:
        """Return the error of a worked example, for example that its answer does not have the prompt's form;
        or "".
        """
        answer = self.front.few_shot.answer
        example_fields = set(example) - {answer, *set(self.front.few_shot.match) - set(self.inputs)}
        if example.get(answer) is None:
            return f"{label} has no '{answer}'"
        if unused := sorted(example_fields - set(self.inputs)):
            return f"{label} gives '{unused[0]}', which the template does not use"
        if not example_fields:
            return f"{label} gives none of {sorted(self.inputs)}"
        try:
            self.form.parse(self._ideal(example))
        except Unparsable as error:
            return f"the answer of {label} is not of the prompt's form: {error}"
        try:
            if self.needed <= example.keys():
                varied = drawn(self.front.vary, random.Random(0))
                self._fill([turn for turn in self.turns if turn[0] != "system"], {**varied, **example})
        except Unrenderable as error:
            return f"{label} cannot be shown: {error}"
        return ""

    def _ideal(self, example: Mapping[str, Any]) -> str:
        """Return the answer of an example as text: itself, or JSON with the keys in the order of the file."""
        ideal = example[self.front.few_shot.answer]
        return ideal if isinstance(ideal, str) else json.dumps(ideal, ensure_ascii=False)

    def draw(self, seed: str, record: Mapping[str, Any]) -> Draw:
        """Return a draw of examples and nuisance variables by `seed`. Raise Unrenderable if no example
        matches.

        An example that equals the record is left out.
        """
        if not self.examples and not self.front.vary:
            return NOTHING
        rng, few = random.Random(seed), self.front.few_shot
        alike = [
            i for i, e in enumerate(self.examples) if all(e[name] == record.get(name) for name in few.match)
        ]
        if few.match and not alike:
            raise Unrenderable(
                f"prompt {self.name}: no example has {', '.join(f'{n} {record.get(n)!r}' for n in few.match)}"
            )
        example_fields = {
            i: {name: self.examples[i][name] for name in self.inputs if name in self.examples[i]}
            for i in alike
        }
        others = [
            i for i, fields in example_fields.items() if not fields or not fields.items() <= record.items()
        ]
        n = min(few.n or len(others), len(others))
        chosen = rng.sample(others, n) if few.shuffle else others[:n]
        return Draw(tuple(chosen), drawn(self.front.vary, rng))

    @property
    def sources(self) -> list[str]:
        """The templates of the turns in a request, twice where worked examples stand before the question."""
        turns = [template.source for _, template in self.turns]
        return turns * 2 if self.examples and not self.lays_out_examples else turns

    def typical(self, fields: Mapping[str, Any]) -> Draw:
        """Return a draw for an estimate, for a record whose fields in `match` an earlier stage will make."""
        return self.draw(
            "plan", {**fields, **{name: self.examples[0][name] for name in self.front.few_shot.match}}
        )

    def request(
        self, model: str, fields: Mapping[str, Any], record: Mapping[str, Any] = MappingProxyType({})
    ) -> Request:
        """Return a filter's request to one of the pipeline's models; the prompt's pictures and sounds are
        those of `record`. Raise Unrenderable as `render` does.
        """
        sampling, schema = self.front.sampling.sampling_options(), self.form.schema
        media = {name: record.get(name) for name in self.media.fields}
        return Request(model, self.render({**media, **fields}), sampling=sampling, schema=schema)

    def render(
        self,
        fields: Mapping[str, Any],
        draw: Draw = NOTHING,
        params: Mapping[str, Any] = MappingProxyType({}),
    ) -> list[dict[str, Any]]:
        """Return chat messages for a record; `params` are values that all records share.

        Raise Unrenderable if a field that the template uses is missing, null or not a text, if all fields
        that the messages would contain are empty, or if a field has no picture or sound.
        """
        messages = self._messages(fields, draw, params)
        if not self.media.fields:
            return messages
        last = max(i for i, message in enumerate(messages) if message["role"] == "user")
        try:
            content = self.media.before(messages[last]["content"], fields)
        except Unrenderable as error:
            raise self._unrenderable(str(error)) from error
        messages[last] = {**messages[last], "content": content}
        return messages

    def _messages(
        self, fields: Mapping[str, Any], draw: Draw, params: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Return the messages, all of text. Raise Unrenderable."""
        if nothing := nothing_in(self.plain - params.keys(), fields):
            raise self._unrenderable(nothing)
        variables = {**fields, **params, **draw.values}
        examples = [self.examples[i] for i in draw.examples]
        if self.lays_out_examples:
            return self._fill(self.turns, {**variables, "examples": examples})
        messages = self._fill([turn for turn in self.turns if turn[0] == "system"], variables)
        question_turns = [turn for turn in self.turns if turn[0] != "system"]
        for example in examples:
            messages += self._fill(question_turns, {**variables, **example})
            messages.append({"role": "assistant", "content": self._ideal(example)})
        return messages + self._fill(question_turns, variables)

    def _fill(
        self, turns: Sequence[tuple[str, Template]], variables: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Return the messages of the turns. Raise Unrenderable."""
        messages = []
        for role, template in turns:
            try:
                content = template.render(variables).strip()
            except Unrenderable as error:
                raise self._unrenderable(str(error)) from error
            if role == "user" and not content:
                raise self._unrenderable("the user's turn is empty")
            messages.append({"role": role, "content": content})
        return messages

    def _unrenderable(self, why: str) -> Unrenderable:
        return Unrenderable(f"prompt {self.name}: {why}" if self.name else why)


def _turns(body: str, path: Path | str, line: int, *, continues: bool) -> tuple[tuple[str, Template], ...]:
    """Return the role and the template of each turn. Raise ConfigError."""
    if continues and not body.strip():
        return ()
    if not _ROLE.search(body):
        body, line = "@user\n" + body, line - 1
    before, *marked = _ROLE.split(body)
    if before.strip():
        raise ConfigError(
            "text stands before the first @system, @user or @assistant line", path=path, line=line
        )
    first_line, line = line, line + before.count("\n")
    turns: list[tuple[str, Template]] = []
    for role, source in zip(marked[::2], marked[1::2], strict=True):
        if role not in ROLES:
            raise ConfigError(f"there is no role '@{role}'{did_you_mean(role, ROLES)}", path=path, line=line)
        turns.append((role, compile_template(source, path, line)))
        line += source.count("\n")
    if "user" not in marked[::2] and not continues:
        raise ConfigError("a prompt needs a @user turn", path=path, line=first_line)
    return tuple(turns)


def _examples(few: FewShot, project: Project, places: Places) -> tuple[Mapping[str, Any], ...]:
    rows: list[dict[str, Any]] = few.examples if isinstance(few.examples, list) else []
    if isinstance(few.examples, str):
        with places.within("few_shot", "examples", prefix="few_shot: "):
            file = project.file(few.examples)
        for number, row in read_rows(file):
            if isinstance(row, str):
                raise ConfigError(f"few_shot: {row}", path=file, line=number)
            rows.append(row)
    if len(rows) < (few.n or 0):
        raise places.wrong(
            f"few_shot: n is {few.n}, but there are {len(rows)} examples", "few_shot", "examples"
        )
    return tuple(rows)
