"""Texts as valid or not: a linear model over features, or a fine-tuned encoder, trained on a person's labels.

Both give probabilities under the labels' own prior: nothing is reweighted, so that a probability means what it says.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any, Protocol, TypeAlias

from distillgen.errors import ConfigError, Stopped
from distillgen.inference.ledger import Ledger
from distillgen.local_models.embedder import embed

Renderings: TypeAlias = tuple[str, ...]
"""One thing, said in one or more ways."""

Labelled: TypeAlias = Sequence[tuple[Renderings, bool]]
"""Things, and whether each is valid."""

Features: TypeAlias = Callable[[Sequence[str]], Any]
"""A matrix with a row for each text."""

BUCKETS = 1 << 16  # of each kind of n-gram
STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # inverses of the penalty that are tried
MAX_TOKENS = 256


class Classifier(Protocol):
    """What a critic asks for probabilities."""

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """Of each text being valid."""

    def save(self, folder: Path) -> None:
        """Write what `load` reads."""


def words(texts: Sequence[str]) -> Any:
    """Counts of hashed word and character n-grams, each kind scaled to length 1: nothing is learnt, any text has a row."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import HashingVectorizer

    kinds: list[dict[str, Any]] = [
        {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\w+"},
        {"analyzer": "char_wb", "ngram_range": (2, 4)},
    ]
    return hstack(
        [HashingVectorizer(n_features=BUCKETS, **kind).transform(texts) for kind in kinds], format="csr"
    )


def features_of(kind: str, embedder: str) -> Features:
    """Those of `words`, or of an embedder."""
    return words if kind == "words" else lambda texts: embed(texts, model=embedder)


class Scoring:
    """Scores together all that has come while the batch before was scored, and keeps the scores."""

    def __init__(self, load: Callable[[], Classifier], ledger: Ledger) -> None:
        self._load, self._ledger = load, ledger
        self._waiting: dict[bytes, tuple[Renderings, asyncio.Future[float]]] = {}
        self._work: asyncio.Task[None] | None = None

    def probability(self, rendered: Renderings, key: bytes) -> asyncio.Future[float]:
        """To wait for; it is in the ledger when it is there."""
        loop = asyncio.get_running_loop()
        _, future = self._waiting.setdefault(key, (rendered, loop.create_future()))
        if self._work is None or self._work.done():
            self._work = loop.create_task(self._score())
        return future

    def stop(self) -> None:
        """Leave what nobody waits for any more."""
        if self._work:
            self._work.cancel()

    async def _score(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, {}
            futures = [future for _, future in batch.values()]
            try:
                found = await asyncio.to_thread(self._averaged, [rendered for rendered, _ in batch.values()])
                await self._ledger.add_scores(dict(zip(batch, found, strict=True)))
            except Exception as error:  # it belongs to those who wait
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
                continue
            for future, probability in zip(futures, found, strict=True):
                if not future.done():
                    future.set_result(probability)

    def _averaged(self, things: Sequence[Renderings]) -> list[float]:
        return averaged(self._load(), things)


def averaged(classifier: Classifier, things: Sequence[Renderings]) -> list[float]:
    """The mean probability over the renderings of each, without the digits that depend on what else is in a batch."""
    found = iter(classifier.probabilities([text for texts in things for text in texts]))
    return [round(sum(next(found) for _ in texts) / len(texts), 6) for texts in things]


class Linear:
    """Logistic regression. The intercept is not penalised, and takes up the share of valid ones."""

    def __init__(self, features: Features, coefficients: Any, intercept: float) -> None:
        self.features, self.coefficients, self.intercept = features, coefficients, intercept

    @classmethod
    def fit(cls, features: Features, train: Labelled, validation: Labelled) -> Linear:
        """Of several strengths of the penalty, the one with the least loss on `validation`."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import log_loss
        from threadpoolctl import threadpool_limits

        (seen, labels), (unseen, truth) = (
            (features(texts), valid) for texts, valid in map(_flat, (train, validation))
        )
        with threadpool_limits(
            1
        ):  # the steps are so small that on a busy machine more threads take ten times as long
            fits = [LogisticRegression(C=strength, max_iter=3000).fit(seen, labels) for strength in STRENGTHS]
        best = min(
            fits, key=lambda fit: log_loss(truth, fit.predict_proba(unseen)[:, 1], labels=[False, True])
        )
        return cls(features, best.coef_[0], float(best.intercept_[0]))

    @classmethod
    def load(cls, features: Features, folder: Path) -> Linear:
        """What `save` wrote."""
        import numpy

        with numpy.load(folder / "weights.npz", allow_pickle=False) as weights:
            return cls(features, weights["coefficients"], float(weights["intercept"]))

    def save(self, folder: Path) -> None:
        """One small file of numbers."""
        import numpy

        numpy.savez(folder / "weights.npz", coefficients=self.coefficients, intercept=self.intercept)

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """Of each text being valid."""
        from scipy.special import expit

        return [float(p) for p in expit(self.features(texts) @ self.coefficients + self.intercept)]


class Encoder:
    """A transformer with a head of one logit, fine-tuned whole."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.device = "cuda" if self.torch.cuda.is_available() else "cpu"
        self.model, self.tokenizer = model.to(self.device), tokenizer

    @classmethod
    def load(cls, name: str) -> Encoder:
        """From a folder, or by its name on the Hugging Face Hub. Raises ConfigError where it cannot be loaded."""
        transformers: Any = importlib.import_module("transformers")
        try:
            model = transformers.AutoModelForSequenceClassification.from_pretrained(
                name, num_labels=1, ignore_mismatched_sizes=True, dtype="float32"
            )
            return cls(model, transformers.AutoTokenizer.from_pretrained(name))
        except (OSError, ValueError) as error:
            raise ConfigError(f"the encoder '{name}' cannot be loaded: {error}") from error

    @classmethod
    def fit(
        cls,
        name: str,
        train: Labelled,
        validation: Labelled,
        *,
        epochs: int,
        learning_rate: float,
        batch_size: int,
        seed: int,
        stop: Event,
    ) -> Encoder:
        """The epoch with the least loss on `validation`; every epoch sees another rendering of each thing.

        West et al. 2021 stop by precision at 80 % recall instead, which on few labels is a matter of chance.
        """
        torch: Any = importlib.import_module("torch")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            made, shuffle = cls.load(name), random.Random(seed)
            prior = sum(valid for _, valid in train) / len(train)
            heads = [
                m for m in made.model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1
            ]
            torch.nn.init.constant_(heads[-1].bias, math.log(prior / (1 - prior)))
            steps = epochs * math.ceil(len(train) / batch_size)
            optimizer = torch.optim.AdamW(made.model.parameters(), lr=learning_rate)
            rise = max(1, steps // 10)  # a tenth of the steps to warm up, then linearly down
            pace = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda s: min((s + 1) / rise, (steps - s) / max(1, steps - rise))
            )
            least, best = math.inf, {}
            for epoch in range(epochs):
                made.model.train()
                for batch in _batches(shuffle.sample(list(train), len(train)), batch_size):
                    if stop.is_set():
                        raise Stopped("stopped while a critic was trained")
                    optimizer.zero_grad()
                    made._loss([(texts[epoch % len(texts)], valid) for texts, valid in batch]).backward()
                    torch.nn.utils.clip_grad_norm_(made.model.parameters(), 1.0)
                    optimizer.step()
                    pace.step()
                made.model.eval()
                with torch.inference_mode():
                    flat = list(zip(*_flat(validation), strict=True))
                    loss = sum(float(made._loss(batch)) * len(batch) for batch in _batches(flat, batch_size))
                if loss < least:
                    least, best = (
                        loss,
                        {name: value.clone() for name, value in made.model.state_dict().items()},
                    )
        if not best:
            raise ConfigError(f"the encoder '{name}' came to no finite loss; lower learning_rate")
        made.model.load_state_dict(best)
        return made

    def save(self, folder: Path) -> None:
        """A model folder as `transformers` reads it."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """Of each text being valid."""
        self.model.eval()
        with self.torch.inference_mode():
            return [float(p) for batch in _batches(texts, 32) for p in self._logits(batch).sigmoid()]

    def _logits(self, texts: Sequence[str]) -> Any:
        most = min(MAX_TOKENS, self.tokenizer.model_max_length)
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=most, return_tensors="pt"
        )
        return self.model(**tokens.to(self.device)).logits[:, 0]

    def _loss(self, batch: Sequence[tuple[str, bool]]) -> Any:
        labels = self.torch.tensor([float(valid) for _, valid in batch], device=self.device)
        return self.torch.nn.functional.binary_cross_entropy_with_logits(
            self._logits([text for text, _ in batch]), labels
        )


def _flat(labelled: Labelled) -> tuple[list[str], list[bool]]:
    """Every rendering, and whether it is one of a valid thing."""
    return [text for texts, _ in labelled for text in texts], [
        valid for texts, valid in labelled for _ in texts
    ]


def _batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
