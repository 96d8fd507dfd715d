"""A model in this process that writes no text: a classifier, a scorer, or an embedder.

Waiting requests are answered in one batch. A classifier answers its likeliest class, as an answer of one
token whose alternatives are the classes; a scorer answers a number; an embedder embeds, and answers the
similarity of two texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from distillgen.errors import ConfigError, Stopped
from distillgen.extras import need
from distillgen.inference.faults import Rejected
from distillgen.inference.logprobs import MOST_ALTERNATIVES
from distillgen.inference.request import Completion, Request
from distillgen.inference.spec import Spec
from distillgen.inference.weights import SHIPPED, model_path, network_identity, shipped
from distillgen.networks.spec import CONFIG, files_of
from distillgen.project import Project, file_sha256
from distillgen.record import digest
from distillgen.state_files import load_state
from distillgen.teachers._batching import Batching, Waiting
from distillgen.teachers._network_models import GIVES, KINDS, Answer, Gives, Outline, outlined, ranked_answers
from distillgen.teachers._settling import chat_text

CAPABILITIES = {
    "classes": frozenset({"n", "logprobs", "embeddings"}),
    "scores": frozenset({"n"}),
    "vectors": frozenset({"n", "embeddings"}),
}
SENTENCES = ("cross_encoder", "embedder")


class NetworkTeacherSpec(Spec):
    """A model that writes no text, in the process of the run.

    `model` is a folder, a name on the Hub, or `minilm`: a student that reads numbers, a classifier or scorer
    of transformers (for sequence classification), an encoder, or an embedder or cross-encoder of
    sentence-transformers. It reads one text, or a pair: a JSON list of two texts. For a JSON list of a text
    and a list of texts, such as a query and its documents, a scorer or an embedder answers the JSON list of
    their numbers. A student that reads numbers is asked by JSON: a list of the numbers of its one input, or
    an object of several inputs; a student over a graph, by the id of a node.

    The likeliest class is the answer, whatever the sampling options say. With `logprobs` the classes are the
    alternatives of this one token: as many as it says, or all of them if there are not so many. The vector
    is that before the heads of a student; the mean of the last hidden states of an encoder or a classifier;
    an embedder has its own pooling. The similarity of two texts is the cosine of their vectors, or what an
    embedder's folder names (`similarity_fn_name`): the dot product, for one that learnt margins.
    """

    gives: Gives = Field(
        description="what the model gives: classes, scores (a number, for a cross-encoder of two texts), or "
        "vectors (embeddings, and the similarity of two texts)"
    )
    max_concurrency: int = Field(64, ge=1, description="largest number of texts in a batch")
    device: str | None = Field(
        None, description="device, such as cuda:0 or cpu; default: a GPU where there is one"
    )

    @property
    def capabilities(self) -> frozenset[str]:
        """What the model gives besides its answer."""
        return CAPABILITIES[self.gives]

    @property
    def most_logprobs(self) -> int:
        """As many classes as the ledger keeps of a token."""
        return MOST_ALTERNATIVES

    def refusal(self, templates: Sequence[str]) -> str:
        """Return why it cannot answer prompts of several turns; an embedder, prompts that are no pair."""
        if len(templates) != 1:
            return "reads one text, and the prompt has several turns: write the user's turn alone"
        source = templates[0].strip()
        if self.gives == "vectors" and not (source.startswith("[") or "json" in source):
            pair = "{{ [a_field, another_field] | json }}"
            return (
                "gives vectors, for which a stage embed asks; its answer is the similarity of two texts, and "
                f"the prompt must be a pair: {pair}"
            )
        return ""

    def check(self, root: Path) -> None:
        """Raise ConfigError if the model or a package is missing, or if it gives something else."""
        need("provider 'network'", "torch", "transformers")
        path = model_path(self.model, root)
        if path is None and self.model not in SHIPPED:
            if self.model.startswith((".", "/", "~")) or self.model.count("/") != 1:
                raise ConfigError(f"there is no folder '{self.model}'; a name on the Hub is like owner/name")
            return
        if path and not path.is_dir():
            raise ConfigError(f"the model '{self.model}' is a file; give a folder, or a name on the Hub")
        try:
            outline = outline_of(str(path or shipped(self.model)))
        except ValueError as error:
            raise ConfigError(f"the model '{self.model}': {error}") from error
        if outline.kind in SENTENCES:
            need(f"provider 'network' with '{self.model}'", "sentence_transformers")
        self.check_outline(outline)

    def check_outline(self, outline: Outline) -> None:
        """Raise ConfigError if the model does not give what `gives` says."""
        if self.gives != (able := GIVES[outline.kind]):
            kind = outline.kind.replace("_", "-")
            raise ConfigError(
                f"the model '{self.model}' is {'an' if kind[0] == 'e' else 'a'} {kind}, and gives no "
                f"{self.gives}; write gives: {able}"
            )


class NetworkTeacher(Batching):
    """Answers with classes, scores or vectors. All samples of an answer are the same."""

    spec_type = NetworkTeacherSpec
    spec: NetworkTeacherSpec

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        """The identity of the weights."""
        return f"network:{self._weights}"

    @cached_property
    def model(self) -> str:
        """The model's name on the Hub, or the name of its folder and a digest of its weights."""
        path = model_path(self.spec.model, self.services.root)
        return f"{path.name}@{self._weights[:12]}" if path else self.spec.model

    @cached_property
    def _weights(self) -> str:
        """The digest of the weights, and of the project's code that a student's body runs."""
        weights, path = network_identity(self.spec.model, self.services.root), self._path
        if not (path / CONFIG).is_file():
            return weights
        files = files_of(load_state(path / CONFIG, "spec"), self._project)
        return digest([weights, {name: file_sha256(file) for name, file in files.items()}], 64)

    @cached_property
    def _path(self) -> Path:
        """The folder of the model, or its name on the Hub."""
        name = self.spec.model
        return Path(shipped(name)) if name in SHIPPED else model_path(name, self.services.root) or Path(name)

    @property
    def _project(self) -> Project:
        return Project(self.services.root)

    def kind(self, entry: Waiting) -> bytes:
        """Return whether a request asks for a vector."""
        return b"vector" if entry.request.embed is not None else b"answer"

    def load(self) -> Any:
        """Load the model. Raise ConfigError if it does not give what the spec says."""
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # the run has its own
        path = str(self._path)
        outline = outline_of(path)
        self.spec.check_outline(outline)
        return KINDS[outline.kind](path, outline, self.spec.device, self._project)

    def answer_batch(self, batch: Sequence[Waiting]) -> list[list[Completion] | Exception]:
        """Answer each request, or embed each text. A request that is no text, or no pair, fails alone."""
        if self._stop_event.is_set():
            raise Stopped("stopped before this was answered")
        model = self._model
        answers: list[list[Completion] | Exception | None] = []
        texts, readable = [], []
        for place, entry in enumerate(batch):
            try:
                texts.append(read_text(entry.request))
                readable.append(place)
                answers.append(None)
            except Rejected as error:
                answers.append(error)
        if not texts:
            return [answer for answer in answers if answer]
        if batch[0].request.embed is not None:
            results: Sequence[Any] = [embedding(vector) for vector in model.vectors(texts)]
        else:
            tops = [batch[place].request.sampling.get("logprobs") for place in readable]
            if self.spec.gives == "classes":
                model_answers = model.answers(texts)
            else:
                model_answers = ranked_answers(model, texts, self.spec.max_concurrency)
            results = [
                completion(answer, top) if isinstance(answer, Answer) else answer
                for answer, top in zip(model_answers, tops, strict=True)
            ]
        for place, result in zip(readable, results, strict=True):
            answers[place] = [result] * batch[place].n if isinstance(result, Completion) else result
        return [answer for answer in answers if answer is not None]


def outline_of(path: str) -> Outline:
    """Return the outline of a model in a folder or on the Hub. Raise ValueError if it is none that fits."""
    folder = Path(path)
    if folder.is_dir():
        return outlined(lambda name: file if (file := folder / name).is_file() else None)
    from transformers.utils import cached_file

    def file(name: str) -> Path | None:
        at = cached_file(
            path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_gated_repo=True
        )
        return Path(at) if at else None

    return outlined(file)


def read_text(request: Request) -> str:
    """Return the one text that a request consists of. Raise Rejected if it has several turns."""
    if request.embed is not None or request.prompt is not None:
        text = request.embed if request.embed is not None else request.prompt
    elif [message["role"] for message in request.messages] == ["user"]:
        try:
            text = chat_text(request.messages[0]["content"])
        except ValueError as error:
            raise Rejected(str(error)) from error
    else:
        turns = ", ".join(message["role"] for message in request.messages)
        raise Rejected(f"a network reads one text, the user's turn, and this has the turns {turns}")
    return str(text).encode("utf-8", "replace").decode()  # a tokenizer takes no lone surrogate


def embedding(vector: Sequence[float] | Rejected) -> Completion | Rejected:
    """Return a vector as an answer; a diverged model has none."""
    if isinstance(vector, Rejected) or all(map(math.isfinite, vector)):
        return vector if isinstance(vector, Rejected) else Completion(embedding=vector)
    return Rejected("the model gives a vector with numbers that are not finite")


def completion(answer: Answer, top: int | None) -> Completion:
    """Return an answer of one token; `top` of its classes are its alternatives."""
    if top is None or not answer.classes:
        return Completion(text=answer.text)
    classes = [[name, value] for name, value in answer.classes]
    return Completion(text=answer.text, logprobs=[[*classes[0], classes[:top]]])
