"""A prompt file: front matter (form, sampling, few-shot examples, nuisance variables) and a sandboxed template.

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

Lines `@system`, `@user` and `@assistant` start a turn; they are found before anything is filled in, so that no
record can open a turn of its own. Examples become turns of the same shape, unless the template lays out `examples`.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, UndefinedError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from pydantic import BaseModel, ConfigDict, Field

from distillgen.errors import ConfigError, did_you_mean
from distillgen.forms import Form, Unparsable
from distillgen.marked import Lines, read_yaml, validate
from distillgen.project import Project
from distillgen.record import dumps, read_rows

_ROLE = re.compile(r"^@(\w+)[ \t]*$", re.M)
_FRONT = re.compile(r"^---[ \t]*\n", re.M)
ROLES = ("system", "user", "assistant")
MAX_TEXT = 10_000_000  # characters that one expression in a template may make


class Unrenderable(Exception):
    """This record cannot fill the prompt; the text says why."""


class Sampling(BaseModel):
    """How a teacher draws its answer; what is not given is the endpoint's own default and is not sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float | None = Field(None, ge=0, description="0 is greedy")
    top_p: float | None = Field(None, gt=0, le=1, description="nucleus mass")
    top_k: int | None = Field(None, ge=0, description="most likely tokens to draw from")
    min_p: float | None = Field(None, ge=0, le=1, description="least probability, relative to the likeliest token")
    max_tokens: int | None = Field(None, gt=0, description="most tokens of an answer")
    stop: list[str] | str | None = Field(None, description="texts that end the answer")
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = Field(None, description="sampling seed sent to the endpoint; sample i gets seed + i")
    logprobs: int | None = Field(None, ge=0, le=20, description="how many likeliest tokens to record with each token")
    extra: dict[str, Any] | None = Field(None, description="further keys of the request body, sent as they are")

    def given(self) -> dict[str, Any]:
        """Only what was set."""
        return self.model_dump(exclude_none=True)


class FewShot(BaseModel):
    """Worked examples, redrawn for each request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int = Field(ge=1, description="examples in a request")
    examples: list[dict[str, Any]] | str = Field(description="the examples, or a JSONL file that holds them")
    answer: str = Field("answer", description="the key of an example that holds the ideal answer")
    shuffle: bool = Field(True, description="draw and order them anew for each request; false takes the first n")


class Pick(BaseModel):
    """A nuisance variable that takes several values at once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: list[Any] = Field(min_length=1)
    n: int = Field(1, ge=1)


class Front(BaseModel):
    """The front matter of a prompt file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: str = ""
    output: Any = Field("text", description="the form of an answer: text, lines, numbered, turns, regex, json, sections")
    sampling: Sampling = Sampling()
    few_shot: FewShot | None = None
    vary: dict[str, list[Any] | Pick] = Field(default_factory=dict, description="nuisance variables and their values")
    inputs: list[str] | None = Field(None, description="the fields that the template must use, and no others")


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        size = max((len(side) for side in (left, right) if isinstance(side, (str, list, tuple))), default=0)
        times = max((side for side in (left, right) if isinstance(side, int)), default=0)
        if size * times > MAX_TEXT or (operator == "**" and times > 64):
            raise SecurityError("the expression makes too large a value")
        return super().call_binop(context, operator, left, right)


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    return _Environment(undefined=StrictUndefined, keep_trailing_newline=False)


def compile_template(source: str, path: Path | str, first_line: int = 1) -> tuple[Template, set[str]]:
    """A sandboxed template without a loader (it can read no file), and the variables that it uses."""
    try:
        tree = _environment().parse(source)
        for node in tree.find_all(_file_nodes()):
            raise ConfigError("a template cannot include, import or extend files", path=path, line=node.lineno + first_line - 1)
        return _environment().from_string(source), meta.find_undeclared_variables(tree)
    except TemplateSyntaxError as error:
        raise ConfigError(f"template: {error.message}", path=path, line=error.lineno + first_line - 1) from error
    except TemplateError as error:
        raise ConfigError(f"template: {error}", path=path, line=first_line) from error


def _file_nodes() -> Any:
    from jinja2 import nodes

    return (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


@dataclass(frozen=True)
class Draw:
    """What was redrawn for one request: the examples' numbers and the nuisance variables' values."""

    examples: tuple[int, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """As recorded in a row's lineage: JSON, or nothing where nothing was drawn."""
        drawn = {**self.values, **({"examples": list(self.examples)} if self.examples else {})}
        return dumps(drawn).decode() if drawn else ""


@dataclass(frozen=True)
class Prompt:
    """A checked prompt: renders messages, draws its nuisance variables, and knows the form of its answer."""

    name: str
    path: Path | str
    sha256: str
    front: Front
    form: Form
    turns: tuple[tuple[str, Template], ...]
    inputs: frozenset[str]
    examples: tuple[Mapping[str, Any], ...]
    lays_out_examples: bool

    @classmethod
    def load(cls, name: str, project: Project) -> Prompt:
        """The prompt `prompts/<name>.md`, the user's or the shipped."""
        path = project.find("prompts", name, ".md")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ConfigError(f"not UTF-8 text: {error}", path=path) from error
        return cls.parse(name, text, path, project)

    @classmethod
    def parse(cls, name: str, text: str, path: Path | str, project: Project, first_line: int = 1) -> Prompt:
        """A prompt from its text; `path` and `first_line` are what errors name."""
        front, lines, body, body_line = Front(), {}, text, first_line
        if name and _FRONT.match(text):
            _, head, body = (*_FRONT.split(text, 2), "")[:3]
            if not body.strip():
                raise ConfigError("the front matter does not end ('---'), or nothing follows it", path=path, line=1)
            data, lines = read_yaml(head, path, first_line=2)
            front = validate(Front, data or {}, what="the front matter", path=path, lines=lines)
            body_line = head.count("\n") + 3
        try:
            form = Form.read(front.output)
        except ConfigError as error:
            raise ConfigError(error.message, path=path, line=lines.get(("output",))) from error
        turns, used = _turns(body, path, body_line)
        examples = _examples(front.few_shot, project, path, lines)
        lays_out = front.few_shot is not None and "examples" in used
        inputs = used - set(front.vary) - ({"examples"} if lays_out else set())
        _check(front, form, used, inputs, examples, lays_out, path, lines)
        return cls(
            name=name,
            path=path,
            sha256=hashlib.sha256(text.encode() + dumps(examples)).hexdigest(),
            front=front,
            form=form,
            turns=turns,
            inputs=frozenset(inputs),
            examples=examples,
            lays_out_examples=lays_out,
        )

    def draw(self, seed: str, record: Mapping[str, Any]) -> Draw:
        """Redraw examples and nuisance variables from `seed`; an example that is the record itself is left out."""
        if not self.examples and not self.front.vary:
            return Draw()
        rng = random.Random(seed)
        chosen: Sequence[int] = ()
        if self.front.few_shot:
            given = [{name: e[name] for name in self.inputs if name in e} for e in self.examples]
            chosen = [i for i, e in enumerate(given) if not e or any(record.get(k) != v for k, v in e.items())]
            n = min(self.front.few_shot.n, len(chosen))
            chosen = rng.sample(chosen, n) if self.front.few_shot.shuffle else chosen[:n]
        values: dict[str, Any] = {}
        for name, options in sorted(self.front.vary.items()):
            if isinstance(options, Pick):
                values[name] = rng.sample(options.of, min(options.n, len(options.of)))
            else:
                values[name] = rng.choice(options)
        return Draw(tuple(chosen), values)

    def render(self, fields: Mapping[str, Any], draw: Draw = Draw()) -> list[dict[str, Any]]:  # noqa: B008 (frozen)
        """Chat messages for one record. Raises Unrenderable where a field that the template uses is missing."""
        variables = {**fields, **draw.values}
        shown = [self.examples[i] for i in draw.examples]
        if self.lays_out_examples:
            return self._fill(self.turns, {**variables, "examples": shown})
        messages = self._fill([turn for turn in self.turns if turn[0] == "system"], variables)
        asked = [turn for turn in self.turns if turn[0] != "system"]
        answer = self.front.few_shot.answer if self.front.few_shot else ""
        for example in shown:
            messages += self._fill(asked, {**variables, **example})
            ideal = example[answer]
            messages.append({"role": "assistant", "content": ideal if isinstance(ideal, str) else dumps_readable(ideal)})
        return messages + self._fill(asked, variables)

    def _fill(self, turns: Sequence[tuple[str, Template]], variables: Mapping[str, Any]) -> list[dict[str, Any]]:
        try:
            return [{"role": role, "content": template.render(variables).strip()} for role, template in turns]
        except UndefinedError as error:
            raise Unrenderable(f"prompt {self.name}: {error.message}") from error
        except Exception as error:  # an expression can fail on a row's value in any way; the row carries the reason
            raise Unrenderable(f"prompt {self.name}: {type(error).__name__}: {error}") from error


def dumps_readable(value: Any) -> str:
    """JSON in the order in which a person wrote it, as an example shows it to a model."""
    import json

    return json.dumps(value, ensure_ascii=False)


def _turns(body: str, path: Path | str, first_line: int) -> tuple[tuple[tuple[str, Template], ...], set[str]]:
    pieces = _ROLE.split(body)
    before, marked = pieces[0], list(zip(pieces[1::2], pieces[2::2], strict=True))
    if not marked:
        marked, before = [("user", before)], ""
    if before.strip():
        raise ConfigError("text stands before the first @system, @user or @assistant line", path=path, line=first_line)
    line = first_line + before.count("\n")
    turns: list[tuple[str, Template]] = []
    used: set[str] = set()
    for role, source in marked:
        if role not in ROLES:
            raise ConfigError(f"there is no role '@{role}'{did_you_mean(role, ROLES)}", path=path, line=line)
        template, names = compile_template(source, path, line)
        turns.append((role, template))
        used |= names
        line += source.count("\n")
    if not any(role == "user" for role, _ in turns):
        raise ConfigError("a prompt needs a @user turn", path=path, line=first_line)
    return tuple(turns), used


def _examples(few: FewShot | None, project: Project, path: Path | str, lines: Lines) -> tuple[Mapping[str, Any], ...]:
    if few is None:
        return ()
    line = lines.get(("few_shot", "examples"))
    if isinstance(few.examples, list):
        rows: list[dict[str, Any]] = few.examples
    else:
        try:
            file = project.file(few.examples)
        except ConfigError as error:
            raise ConfigError(f"few_shot: {error.message}", path=path, line=line) from error
        rows = []
        for number, row in read_rows(file):
            if isinstance(row, str):
                raise ConfigError(f"few_shot: {row}", path=file, line=number)
            rows.append(row)
    if len(rows) < few.n:
        raise ConfigError(f"few_shot: n is {few.n}, but there are {len(rows)} examples", path=path, line=line)
    return tuple(rows)


def _check(
    front: Front, form: Form, used: set[str], inputs: set[str], examples: Sequence[Mapping[str, Any]], lays_out: bool,
    path: Path | str, lines: Lines,
) -> None:  # fmt: skip
    """Substitution is strict both ways: everything used is given, everything given is used."""
    for name in front.vary:
        if name not in used:
            raise ConfigError(f"vary: the template does not use '{name}'", path=path, line=lines.get(("vary", name)))
    for place, n in ((("vary", k), (v.n, len(v.of))) for k, v in front.vary.items() if isinstance(v, Pick)):
        if n[0] > n[1]:
            raise ConfigError(f"vary: '{place[1]}' wants {n[0]} of {n[1]} values", path=path, line=lines.get(place))
    if front.inputs is not None and set(front.inputs) != inputs:
        unused, undeclared = sorted(set(front.inputs) - inputs), sorted(inputs - set(front.inputs))
        problem = f"declares '{unused[0]}', which the template does not use" if unused else (
            f"does not declare '{undeclared[0]}', which the template uses"
        )  # fmt: skip
        raise ConfigError(f"inputs {problem}", path=path, line=lines.get(("inputs",)))
    if not front.few_shot or lays_out:
        return
    answer = front.few_shot.answer
    for i, example in enumerate(examples):
        line = lines.get(("few_shot", "examples", i)) or lines.get(("few_shot", "examples"))
        if answer not in example:
            raise ConfigError(f"few_shot: example {i + 1} has no '{answer}'", path=path, line=line)
        if extra := sorted(set(example) - inputs - {answer}):
            raise ConfigError(f"few_shot: example {i + 1} gives '{extra[0]}', which the template does not use", path=path, line=line)
        if not set(example) - {answer}:
            raise ConfigError(f"few_shot: example {i + 1} gives none of {sorted(inputs)}", path=path, line=line)
        ideal = example[answer]
        _check_ideal(form, ideal if isinstance(ideal, str) else dumps_readable(ideal), i, path, line)


def _check_ideal(form: Form, ideal: str, i: int, path: Path | str, line: int | None) -> None:
    """The gold answer must pass its own checker."""
    try:
        form.parse(ideal)
    except Unparsable as error:
        raise ConfigError(f"few_shot: the answer of example {i + 1} is not of the prompt's form: {error}", path=path, line=line) from error

