"""The models of provider `network`: what each kind of folder holds, and how it answers a batch of texts.

Their methods block: use them from one thread.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from distillgen.inference.faults import Rejected
from distillgen.networks.spec import CONFIG
from distillgen.project import Project

Gives = Literal["classes", "scores", "vectors"]
Kind = Literal["network", "classifier", "scorer", "cross_encoder", "embedder", "encoder"]
GIVES: Mapping[Kind, Gives] = {
    "network": "classes",
    "classifier": "classes",
    "scorer": "scores",
    "cross_encoder": "scores",
    "embedder": "vectors",
    "encoder": "vectors",
}
PAIR = 'a JSON list of two texts, such as ["a text", "another text"]'


class Answer(NamedTuple):
    """The text of an answer, and the natural logarithm of each class's probability, the likeliest first."""

    text: str
    classes: Sequence[tuple[str, float]] = ()


class Outline(NamedTuple):
    """What the small files of a model tell before it is loaded."""

    kind: Kind
    base: str | None = None
    """The model of which the folder holds an adapter."""
    classes: Sequence[str] = ()
    """The names of an adapter's classes, one for a score; its base has none."""


def outlined(file: Callable[[str], Path | None]) -> Outline:
    """Return what a model's files tell; `file` returns the path of one, or None. Raise ValueError."""
    if file(CONFIG):
        return Outline("network")
    config, adapter = _json(file("config.json")), _json(file("adapter_config.json"))
    if adapter:
        if adapter.get("task_type") != "SEQ_CLS":
            raise ValueError("it holds an adapter that classifies nothing; provider transformers may take it")
        classes = _json(file("manifest.json")).get("classes") or []
        if not classes:
            raise ValueError("it holds an adapter without a manifest.json that names its classes")
        kind: Kind = "classifier" if len(classes) > 1 else "scorer"
        return Outline(kind, str(adapter["base_model_name_or_path"]), classes)
    one = len(config.get("id2label") or (0, 1)) == 1  # transformers writes no id2label for two classes
    kind_of_library = _json(file("config_sentence_transformers.json")).get("model_type")
    if one and (kind_of_library == "CrossEncoder" or "sentence_transformers" in config):
        return Outline("cross_encoder")
    if any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ()):
        return Outline("scorer" if one else "classifier")
    if file("modules.json"):
        if kind_of_library not in (None, "SentenceTransformer"):
            raise ValueError(f"it holds a {kind_of_library}, which gives no classes, scores or vectors")
        return Outline("embedder")
    if not config:
        raise ValueError("it holds no model: there is no config.json")
    return Outline("encoder")


def _json(path: Path | None) -> dict[str, Any]:
    return json.loads(path.read_bytes()) if path else {}


def pair_of(text: str) -> list[str] | None:
    """Return the two texts of a JSON list; None if the text is something else."""
    if not text.lstrip().startswith("["):
        return None
    try:
        values = json.loads(text)
    except ValueError:
        return None
    both = isinstance(values, list) and len(values) == 2 and all(isinstance(v, str) for v in values)
    return values if both else None


def ranking_of(text: str) -> list[str]:
    """Return the pairs of a JSON list of a text and a list of texts, as JSON; empty for something else."""
    try:
        values = json.loads(text) if text.lstrip().startswith("[") else None
    except ValueError:
        return []
    if not isinstance(values, list) or len(values) != 2 or not isinstance(values[1], list):
        return []
    return [json.dumps([values[0], document]) for document in values[1]]


def ranked_answers(model: Any, texts: Sequence[str], batch: int) -> list[Answer | Rejected]:
    """Return the answers of a model of pairs; for a text and a list of texts the JSON list of its numbers.

    It is asked about `batch` pairs at a time. If one of a list is rejected, the list is.
    """
    pairs_by_text = [ranking_of(text) for text in texts]
    flat = [pair for text, pairs in zip(texts, pairs_by_text, strict=True) for pair in (pairs or [text])]
    answers = iter(
        [
            answer
            for start in range(0, len(flat), batch)
            for answer in model.answers(flat[start : start + batch])
        ]
    )
    return [_joined([next(answers) for _ in pairs]) if pairs else next(answers) for pairs in pairs_by_text]


def _joined(answers: Sequence[Answer | Rejected]) -> Answer | Rejected:
    refused = next((answer for answer in answers if isinstance(answer, Rejected)), None)
    texts = ", ".join(answer.text for answer in answers if isinstance(answer, Answer))
    return refused or Answer(f"[{texts}]")


def number(value: float) -> Answer | Rejected:
    """Return a number as an answer, with the six digits that float32 surely has."""
    return Answer(f"{value:.6g}") if math.isfinite(value) else Rejected(f"the model gives {value}, no number")


class BodyWithHeads:
    """A network that an earlier stage trained: a body with heads. The vector is that before the heads."""

    def __init__(self, path: str, outline: Outline, device: str | None, project: Project) -> None:
        """Load a folder. Raise ConfigError."""
        from distillgen.networks.network import load

        self.network = load(Path(path), project)
        # what a network over a graph says of its nodes is a table in memory
        self.network.to("cpu" if self.network.table is not None else _device(device))

    def answers(self, texts: Sequence[str]) -> list[Answer | Rejected]:
        """Return the likeliest class of each row of inputs, with the classes' log-probabilities."""

        def ranks(out: Any) -> list[Answer | Rejected]:
            least = 1e-37  # a probability that float32 has rounded to 0
            logprobs = self.network.probabilities(out).float().clamp(min=least).log().tolist()
            return [ranked(dict(zip(self.network.classes, row, strict=True))) for row in logprobs]

        return self._of_each(texts, ranks)

    def vectors(self, texts: Sequence[str]) -> list[list[float] | Rejected]:
        """Return the features of each row of inputs."""

        def features(out: Any) -> Sequence[list[float] | Rejected]:
            if out.features is None:
                return [Rejected("the student's body has heads itself, and no features before them")] * len(
                    out.place
                )
            rows: list[list[float] | Rejected] = out.features.float().tolist()
            return rows

        return self._of_each(texts, features)

    def _of_each(self, texts: Sequence[str], results: Callable[[Any], Sequence[Any]]) -> list[Any]:
        """Return the results of the texts that hold the network's inputs; what holds others is rejected."""
        import torch

        rows: list[Any] = []
        for text in texts:
            try:
                rows.append(self.network.values(text))
            except ValueError as error:
                rows.append(Rejected(str(error)))
        readable = [row for row in rows if not isinstance(row, Rejected)]
        with torch.inference_mode():
            answers = iter(results(self.network(self.network.batch(readable))) if readable else ())
        return [row if isinstance(row, Rejected) else next(answers) for row in rows]


class Classifier:
    """A model for sequence classification, with classes, or with one number as a score.

    It reads a text, or a JSON list of two texts as a pair, and cuts what is longer than it can read. The
    vector of a text is the mean of its last hidden states.
    """

    def __init__(self, path: str, outline: Outline, device: str | None, project: Project) -> None:
        """Load a folder, or a name on the Hub. Errors are those of transformers and peft."""
        from transformers import AutoModelForSequenceClassification

        options: dict[str, Any] = {}
        if outline.base:
            names = dict(enumerate(outline.classes))
            options = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
        model = AutoModelForSequenceClassification.from_pretrained(
            outline.base or path, dtype="auto", **options
        )
        if outline.base:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, path)
        self.names = [model.config.id2label[i] for i in range(model.config.num_labels)]
        self.device = _device(device)
        self.model = model.to(self.device).eval()
        self.read = _Reader(path, model.config)
        # a decoder reads the class from the last token before the padding
        self.model.config.pad_token_id = self.read.tokenizer.pad_token_id

    def answers(self, texts: Sequence[str]) -> list[Answer | Rejected]:
        """Return the likeliest class of each text with the classes' log-probabilities, or the score."""
        import torch

        logits = self._out(self._batch(texts)).logits.float()
        if len(self.names) == 1:
            return [number(value) for value in logits[:, 0].tolist()]
        logprobs = torch.log_softmax(logits, -1).tolist()
        return [ranked(dict(zip(self.names, values, strict=True))) for values in logprobs]

    def vectors(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the mean of the last hidden states of each text."""
        batch = self._batch(texts)
        out = self._out(batch, output_hidden_states=True)
        states = out.get("hidden_states") or out["decoder_hidden_states"]
        return means(states[-1], batch["attention_mask"])

    def _batch(self, texts: Sequence[str]) -> Any:
        return self.read([pair_of(text) or [text] for text in texts]).to(self.device)

    def _out(self, batch: Any, **options: Any) -> Any:
        import torch

        with torch.inference_mode():
            return self.model(**batch, **options)


def ranked(logprobs: Mapping[str, float]) -> Answer | Rejected:
    """Return the likeliest class, and all classes from the likeliest on."""
    if any(map(math.isnan, logprobs.values())):
        return Rejected("the model gives nan, no probabilities")
    classes = sorted(logprobs.items(), key=lambda item: -item[1])
    return Answer(classes[0][0], classes)


class CrossEncoder:
    """A cross-encoder of sentence-transformers: the score of two texts, through its own activation."""

    def __init__(self, path: str, outline: Outline, device: str | None, project: Project) -> None:
        """Load a folder, or a name on the Hub. Errors are those of sentence-transformers."""
        from sentence_transformers.cross_encoder import CrossEncoder

        self.model = CrossEncoder(path, device=_device(device))

    def answers(self, texts: Sequence[str]) -> list[Answer | Rejected]:
        """Return the score of each pair. What is no pair is rejected."""
        pairs = [pair_of(text) for text in texts]
        both = [pair for pair in pairs if pair]
        scores = iter(self.model.predict(both, show_progress_bar=False).tolist() if both else ())
        return [number(next(scores)) if pair else Rejected(f"a cross-encoder reads {PAIR}") for pair in pairs]


class _Vectors:
    """A model that gives the vector of a text, and answers the similarity of two texts: their cosine."""

    def vectors(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the vector of each text."""
        raise NotImplementedError

    def answers(self, texts: Sequence[str]) -> list[Answer | Rejected]:
        """Return the similarity of each pair. What is no pair is rejected."""
        import numpy

        pairs = [pair_of(text) for text in texts]
        distinct = list(dict.fromkeys(text for pair in pairs for text in pair or ()))
        rows = dict(zip(distinct, self.vectors(distinct) if distinct else (), strict=True))

        def similarity(pair: list[str]) -> Answer | Rejected:
            one, other = (numpy.asarray(rows[text]) for text in pair)
            return number(self.similarity(one, other))

        no_pair = Rejected(f"an embedder answers the similarity of two texts, and reads {PAIR}")
        return [similarity(pair) if pair else no_pair for pair in pairs]

    def similarity(self, one: Any, other: Any) -> float:
        """Return the cosine of two vectors; nan if one has no length."""
        import numpy

        lengths = float(numpy.linalg.norm(one) * numpy.linalg.norm(other))
        return float(one @ other) / lengths if lengths else math.nan


class Encoder(_Vectors):
    """An encoder of transformers. The vector of a text is the mean of its last hidden states."""

    def __init__(self, path: str, outline: Outline, device: str | None, project: Project) -> None:
        """Load a folder, or a name on the Hub. Errors are those of transformers."""
        from transformers import AutoModel

        self.device = _device(device)
        self.model = AutoModel.from_pretrained(path, dtype="auto").to(self.device).eval()
        self.read = _Reader(path, self.model.config)

    def vectors(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the vector of each text."""
        import torch

        batch = self.read([[text] for text in texts]).to(self.device)
        with torch.inference_mode():
            return means(self.model(**batch).last_hidden_state, batch["attention_mask"])


class Embedder(_Vectors):
    """An embedder of sentence-transformers, with its own pooling, and its own similarity of two vectors."""

    def __init__(self, path: str, outline: Outline, device: str | None, project: Project) -> None:
        """Load a folder, or a name on the Hub. Errors are those of sentence-transformers."""
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(path, device=_device(device))

    def vectors(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the vector of each text."""
        vectors: list[list[float]] = self.model.encode([*texts], show_progress_bar=False).tolist()
        return vectors

    def similarity(self, one: Any, other: Any) -> float:
        """Return the cosine, or what the folder names: dot, or a distance below zero."""
        if self.model.similarity_fn_name == "cosine":
            return super().similarity(one, other)
        return float(self.model.similarity_pairwise(one[None], other[None])[0])


KINDS: Mapping[Kind, Any] = {
    "network": BodyWithHeads,
    "classifier": Classifier,
    "scorer": Classifier,
    "cross_encoder": CrossEncoder,
    "embedder": Embedder,
    "encoder": Encoder,
}


class _Reader:
    """A tokenizer that makes batches of texts and pairs, as long as the model can read."""

    def __init__(self, path: str, config: Any) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        limits = (self.tokenizer.model_max_length, getattr(config, "max_position_embeddings", None))
        self.limit = min(limit for limit in limits if limit)

    def __call__(self, texts: Sequence[Sequence[str]]) -> Any:
        rows = [self.tokenizer(*text, truncation=True, max_length=self.limit) for text in texts]
        return self.tokenizer.pad(rows, return_tensors="pt")


def means(states: Any, mask: Any) -> list[list[float]]:
    """Return the mean of states [rows, tokens, width] over the tokens of each row that `mask` marks."""
    totals, tokens = (states.float() * mask[..., None]).sum(1), mask.sum(1, keepdim=True).clamp(min=1)
    vectors: list[list[float]] = (totals / tokens).tolist()
    return vectors


def _device(device: str | None) -> str:
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")
