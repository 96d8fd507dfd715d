"""A teacher that is a pure Python function of the request: for tests, demonstrations and planted truths."""

from __future__ import annotations

import inspect
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.inference.endpoint import Endpoint, Services
from distillgen.inference.faults import Rejected
from distillgen.inference.logprobs import MOST_ALTERNATIVES
from distillgen.inference.parts import with_parts
from distillgen.inference.request import Completion, Request
from distillgen.inference.spec import Spec
from distillgen.project import code_sha256, load_function, user_error
from distillgen.record import dumps
from distillgen.teachers._content import content

log = logging.getLogger("distillgen")

Script = Callable[[Request, int], "str | Completion | Awaitable[str | Completion]"]
"""(request, sample index) -> the answer's text, or a whole Completion."""


def echo(request: Request, sample: int) -> str:
    """Return the text of the last message."""
    if request.prompt is not None:
        return request.prompt
    content = request.messages[-1]["content"] if request.messages else ""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


def instance(request: Request, sample: int) -> str:
    """Return a value that fits the request's JSON Schema, made of the request's words; without a schema, its
    last line.
    """
    text = echo(request, sample).strip()
    if request.schema is None:
        return text.split("\n")[-1]
    words = [word.strip(".,;:!?()") for word in text.split()] or ["nothing"]
    return dumps(_fit(request.schema, words, random.Random(request.json + b"%d" % sample))).decode()


def _fit(schema: Mapping[str, Any], words: Sequence[str], draw: random.Random) -> Any:
    if "enum" in schema:
        return draw.choice(schema["enum"])
    match schema.get("type"):
        case "object":
            return {name: _fit(inner, words, draw) for name, inner in schema.get("properties", {}).items()}
        case "array":
            return [
                _fit(schema.get("items", {}), words, draw) for _ in range(max(1, schema.get("minItems", 1)))
            ]
        case "integer" | "number":
            return schema.get("minimum", draw.randrange(10))
        case "boolean":
            return draw.random() < 0.5
        case "null":
            return None
    begin = draw.randrange(len(words))
    return " ".join([*words, *words, *words][begin : begin + 3])[: schema.get("maxLength")]


BUILT_IN: dict[str, Script] = {"echo": echo, "instance": instance}


def load_script(model: str, root: Path) -> tuple[Script, str]:
    """Return the function and its identity: the SHA-256 of its file, so that an edited script is another
    teacher.
    """
    if model in BUILT_IN:
        return BUILT_IN[model], model
    script, file = load_function(model, root, BUILT_IN)
    return script, f"{code_sha256(file)}:{model.partition(':')[2]}"


def check_script(script: Any, owner: str) -> None:
    """Raise ConfigError for what cannot be called with a request and the index of a sample."""
    remedy = "give a function of a request and the index of a sample"
    if not callable(script):
        raise ConfigError(f"{owner} is {type(script).__name__}: {remedy}")
    with suppress(ValueError):  # some functions of C do not tell what they take
        try:
            inspect.signature(script).bind(None, 0)
        except TypeError as error:
            raise ConfigError(f"{owner}: {error}: {remedy}") from error


class ScriptedSpec(Spec):
    """A Python function that answers, for tests and demonstrations.

    `model` is `file.py:function` of the project, `echo`, which repeats the last message, or `instance`, which
    makes a value of the request's JSON schema from words of the request.
    """

    @property
    def capabilities(self) -> frozenset[str]:
        """All that a script can return."""
        return frozenset(
            {
                *("json_schema", "tools", "logprobs", "score", "first_token", "picture_score", "embeddings"),
                *("user_turn", "constraints", "pruned_constraints", "images", "audio"),
            }
        )

    @property
    def most_logprobs(self) -> int:
        """As many alternatives as the ledger keeps of a token."""
        return MOST_ALTERNATIVES

    def check(self, root: Path) -> None:
        """Raise ConfigError if there is no such script, or if it takes something else."""
        check_script(load_script(self.model, root)[0], f"'{self.model}'")


class Scripted(Endpoint):
    """Answers with a function. An exception of the function makes the row fail."""

    spec_type = ScriptedSpec
    paid = False

    def __init__(self, name: str, spec: Spec, services: Services, *, script: Script | None = None) -> None:
        """Use `script`, or else the function that the spec's `model` names."""
        super().__init__(name, spec, services)
        function, identity = (
            (script, getattr(script, "__qualname__", "script"))
            if script
            else load_script(spec.model, services.root)
        )
        self._script, self.identity = function, f"scripted:{identity}"
        self._logged_places = set[str]()

    async def answer(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Call the function once a sample. A picture or a sound has its content as `data`."""
        if request.parts:
            root = self.services.root
            messages = with_parts(request.messages, lambda part: {**part, "data": content(part, root).data})
            request = replace(request, messages=messages)
        return [await self._answer(request, sample) for sample in samples]

    async def _answer(self, request: Request, sample: int) -> Completion:
        try:
            result = self._script(request, sample)
            if inspect.isawaitable(result):
                result = await result
            if isinstance(result, Completion):
                most = max((len(top) for _, _, top in result.logprobs), default=0)
                if most > MOST_ALTERNATIVES:
                    raise ValueError(f"{most} alternatives of a token; give at most {MOST_ALTERNATIVES}")
                return result
            if not isinstance(result, str):
                raise TypeError(f"a script gives a text or a Completion, not {result!r}")
            words = len(echo(request, sample).split())
            return Completion(text=result, input_tokens=words, output_tokens=len(result.split()))
        except Exception as error:
            place = user_error(error, "the script")
            where = f" ({place.path.name}:{place.line})" if isinstance(place.path, Path) else ""
            if where not in self._logged_places:
                self._logged_places.add(where)
                log.error("model '%s': its script raised", self.name, exc_info=error)
            raise Rejected(f"the script raised {type(error).__name__}: {error}{where}") from error
