"""A teacher that is a pure Python function of the request: for tests, demonstrations and planted truths."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError, did_you_mean
from distillgen.project import load_module
from distillgen.record import dumps
from distillgen.teachers import Completion, Rejected, Request, Services, Spec, Teacher

Script = Callable[[Request, int], "str | Completion | Awaitable[str | Completion]"]
"""(request, sample index) -> the answer's text, or a whole Completion."""


def echo(request: Request, sample: int) -> str:
    """The last message's text."""
    return _last_text(request)


def instance(request: Request, sample: int) -> str:
    """A value that fits the request's JSON schema, drawn from the request's own words; its last line where it has none."""
    words = [w.strip(".,;:!?()") for w in _last_text(request).split()] or ["nothing"]
    start = int.from_bytes(hashlib.sha256(request.json + b"%d" % sample).digest()[:4], "big")
    if request.schema is None:
        return _last_text(request).strip().splitlines()[-1]
    return dumps(_fit(request.schema, words, start)).decode()


BUILT_IN: dict[str, Script] = {"echo": echo, "instance": instance}


def _last_text(request: Request) -> str:
    if request.prompt is not None:
        return request.prompt
    content = request.messages[-1]["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


def _fit(schema: Mapping[str, Any], words: Sequence[str], start: int) -> Any:
    if "enum" in schema:
        return schema["enum"][start % len(schema["enum"])]
    match schema.get("type"):
        case "object":
            return {k: _fit(v, words, start + i) for i, (k, v) in enumerate(schema.get("properties", {}).items())}
        case "array":
            return [_fit(schema.get("items", {}), words, start + 7 * i) for i in range(max(1, schema.get("minItems", 1)))]
        case "integer" | "number":
            return schema.get("minimum", start % 10)
        case "boolean":
            return bool(start % 2)
        case "null":
            return None
    text = " ".join(words[(start + i) % len(words)] for i in range(3))
    return text[: schema.get("maxLength", len(text))]


class ScriptedSpec(Spec):
    """`model` is 'echo', 'instance', or 'file.py:function' inside the project."""

    @property
    def capabilities(self) -> frozenset[str]:
        """A script may answer whatever it is asked."""
        return frozenset({"json_schema", "tools", "logprobs", "score", "embeddings"})

    def check(self, root: Path) -> None:
        """Raise ConfigError where there is no such script."""
        load_script(self.model, root)


def load_script(model: str, root: Path) -> tuple[Script, str]:
    """The function and its identity: the SHA-256 of its file, so that an edited script is another teacher."""
    if model in BUILT_IN:
        return BUILT_IN[model], f"scripted:{model}"
    file, colon, name = model.partition(":")
    if not colon:
        raise ConfigError(f"there is no script '{model}'{did_you_mean(model, BUILT_IN)} or give 'file.py:function'")
    path = (root / file).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        raise ConfigError(f"there is no script '{file}' inside the project {root}")
    script = getattr(load_module(path, f"distillgen_script_{path.stem}"), name, None)
    if not callable(script):
        raise ConfigError(f"'{file}' has no function '{name}'")
    return script, f"scripted:{hashlib.sha256(path.read_bytes()).hexdigest()}:{name}"


class Scripted(Teacher):
    """Answers with a function. What the function raises is recorded as that row's failure."""

    spec_type = ScriptedSpec
    paid = False

    def __init__(self, name: str, spec: Spec, services: Services, *, script: Script | None = None) -> None:
        """`script` is given from Python; from a pipeline file the spec's `model` names it."""
        super().__init__(name, spec, services)
        if script is None:
            self._script, self.identity = load_script(spec.model, services.root)
        else:
            self._script, self.identity = script, f"scripted:{getattr(script, '__qualname__', 'script')}"

    async def answer(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Call the function once a sample."""
        completions = []
        for sample in samples:
            try:
                given = self._script(request, sample)
                result = await given if inspect.isawaitable(given) else given
            except Exception as error:
                raise Rejected(f"the script raised {type(error).__name__}: {error}") from error
            if isinstance(result, str):
                words = len(_last_text(request).split()), len(result.split())
                result = Completion(text=result, input_tokens=words[0], output_tokens=words[1])
            completions.append(result)
        return completions
