"""Models of a critic: a linear model and a fine-tuned encoder, which classify texts as valid or not.

They are trained on a person's labels without reweighting: a probability assumes the labels' share of valid.
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
"""One or more texts that render the same record."""

Labelled: TypeAlias = Sequence[tuple[Renderings, bool]]
"""The renderings of labelled records, and whether each record is valid."""

Features: TypeAlias = Callable[[Sequence[str]], Any]
"""A function that returns a matrix with a row for each text."""

BUCKETS = 1 << 16  # of each kind of n-gram
STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # inverses of the L2 penalty that are tried
MAX_TOKENS = 256


class Classifier(Protocol):
    """A model that a critic uses."""

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """Return the probability that each text is valid."""

    def save(self, folder: Path) -> None:
        """Write the files that `load` reads."""


def words(texts: Sequence[str]) -> Any:
    """Return a sparse matrix of hashed word and character n-grams; the counts of each kind have length 1."""
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
    """Return the features `words`, or those of an embedder."""
    return words if kind == "words" else lambda texts: embed(texts, model=embedder)


class Scoring:
    """Score records in batches, and keep the scores in the ledger.

    A batch holds the records that arrived while the batch before was scored.
    """

    def __init__(self, load: Callable[[], Classifier], ledger: Ledger) -> None:
        self._load, self._ledger = load, ledger
        self._waiting: dict[bytes, tuple[Renderings, asyncio.Future[float]]] = {}
        self._work: asyncio.Task[None] | None = None

    def probability(self, rendered: Renderings, key: bytes) -> asyncio.Future[float]:
        """Return a future; its result is in the ledger when it is done."""
        loop = asyncio.get_running_loop()
        _, future = self._waiting.setdefault(key, (rendered, loop.create_future()))
        if self._work is None or self._work.done():
            self._work = loop.create_task(self._score())
        return future

    def stop(self) -> None:
        """Stop scoring."""
        if self._work:
            self._work.cancel()

    async def _score(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, {}
            futures = [future for _, future in batch.values()]
            try:
                scores = await asyncio.to_thread(self._averaged, [rendered for rendered, _ in batch.values()])
                await self._ledger.add_scores(dict(zip(batch, scores, strict=True)))
            except Exception as error:  # the callers that wait get it
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
                continue
            for future, probability in zip(futures, scores, strict=True):
                if not future.done():
                    future.set_result(probability)

    def _averaged(self, records: Sequence[Renderings]) -> list[float]:
        return averaged(self._load(), records)


def averaged(classifier: Classifier, records: Sequence[Renderings]) -> list[float]:
    """Return each record's mean probability over its renderings.

    It is rounded to digits that do not depend on the other texts of a batch.
    """
    probabilities = iter(classifier.probabilities([text for texts in records for text in texts]))
    return [round(sum(next(probabilities) for _ in texts) / len(texts), 6) for texts in records]


class Linear:
    """Logistic regression. The intercept is not penalised: it expresses the share of valid records."""

    def __init__(self, features: Features, coefficients: Any, intercept: float) -> None:
        self.features, self.coefficients, self.intercept = features, coefficients, intercept

    @classmethod
    def fit(cls, features: Features, train: Labelled, validation: Labelled) -> Linear:
        """Fit with several penalties, and return the model with the least loss on `validation`."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import log_loss
        from threadpoolctl import threadpool_limits

        rows, labels = _flat(train)
        held_out, truth = _flat(validation)
        train_features, held_out_features = features(rows), features(held_out)
        # the steps are so small that more threads take ten times as long on a busy machine
        with threadpool_limits(1):
            fits = [
                LogisticRegression(C=strength, max_iter=3000).fit(train_features, labels)
                for strength in STRENGTHS
            ]
        best = min(
            fits,
            key=lambda fit: log_loss(truth, fit.predict_proba(held_out_features)[:, 1], labels=[False, True]),
        )
        return cls(features, best.coef_[0], float(best.intercept_[0]))

    @classmethod
    def load(cls, features: Features, folder: Path) -> Linear:
        """Load the model that `save` wrote."""
        import numpy

        with numpy.load(folder / "weights.npz", allow_pickle=False) as weights:
            return cls(features, weights["coefficients"], float(weights["intercept"]))

    def save(self, folder: Path) -> None:
        """Write the weights as `weights.npz`."""
        import numpy

        numpy.savez(folder / "weights.npz", coefficients=self.coefficients, intercept=self.intercept)

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """Return the probability that each text is valid."""
        from scipy.special import expit

        return [float(p) for p in expit(self.features(texts) @ self.coefficients + self.intercept)]


class Encoder:
    """A transformer with a head of one logit; all weights are fine-tuned.

    The objective `classifier` trains another model: one logit for each class, a fixed rendering,
    transformers' Trainer and its packages. It has no best epoch, no prior in the head, and runs in a process
    of its own.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.device = "cuda" if self.torch.cuda.is_available() else "cpu"
        self.model, self.tokenizer = model.to(self.device), tokenizer

    @classmethod
    def load(cls, name: str) -> Encoder:
        """Load from a folder or the Hugging Face Hub. Raises ConfigError if that fails."""
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
        """Train, and return the model of the epoch with the least loss on `validation`.

        Every epoch sees another rendering of each record. West et al. 2021 stop by precision at 80 % recall
        instead, which depends on chance where labels are few.
        """
        torch: Any = importlib.import_module("torch")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            encoder, shuffle = cls.load(name), random.Random(seed)
            prior = sum(valid for _, valid in train) / len(train)
            heads = [
                m for m in encoder.model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1
            ]
            torch.nn.init.constant_(heads[-1].bias, math.log(prior / (1 - prior)))
            optimizer = torch.optim.AdamW(encoder.model.parameters(), lr=learning_rate)
            steps = epochs * math.ceil(len(train) / batch_size)
            # the learning rate rises for a tenth of the steps, then falls linearly
            rise = max(1, steps // 10)
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda s: min((s + 1) / rise, (steps - s) / max(1, steps - rise))
            )
            least, best = math.inf, {}
            for epoch in range(epochs):
                encoder.model.train()
                for batch in _batches(shuffle.sample(list(train), len(train)), batch_size):
                    if stop.is_set():
                        raise Stopped("stopped while a critic was trained")
                    examples = [(texts[epoch % len(texts)], valid) for texts, valid in batch]
                    encoder._step(examples, optimizer, schedule)
                loss = encoder._total_loss(validation, batch_size)
                if loss < least:
                    weights = encoder.model.state_dict()
                    least, best = loss, {name: value.clone() for name, value in weights.items()}
        if not best:
            raise ConfigError(f"the encoder '{name}' has no finite loss; lower learning_rate")
        encoder.model.load_state_dict(best)
        return encoder

    def save(self, folder: Path) -> None:
        """Write a model folder that `transformers` reads."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """Return the probability that each text is valid."""
        self.model.eval()
        with self.torch.inference_mode():
            return [float(p) for batch in _batches(texts, 32) for p in self._logits(batch).sigmoid()]

    def _step(self, examples: Sequence[tuple[str, bool]], optimizer: Any, schedule: Any) -> None:
        """Update the weights once."""
        optimizer.zero_grad()
        self._loss(examples).backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()
        schedule.step()

    def _total_loss(self, labelled: Labelled, batch_size: int) -> float:
        """Return the sum of the losses of all renderings."""
        self.model.eval()
        examples = list(zip(*_flat(labelled), strict=True))
        with self.torch.inference_mode():
            return sum(float(self._loss(batch)) * len(batch) for batch in _batches(examples, batch_size))

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
    """Return every rendering, and whether its record is valid."""
    return [text for texts, _ in labelled for text in texts], [
        valid for texts, valid in labelled for _ in texts
    ]


def _batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
