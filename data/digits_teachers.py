"""Teachers of the handwritten digits, each a function of the request: a list of 64 numbers as JSON.

They answer a digit, with the log-probabilities of all ten. The seed of the request changes them, so that each
seed of `distillgen run --seeds` has teachers of its own.
"""

import json
import math
import random
from functools import cache
from typing import Any

from distillgen.inference.request import Completion, Request

SHARPNESS = 12.0  # of the cosine to a prototype


def prototypes(request: Request, sample: int) -> Completion:
    """Answer the digit whose noisy mean picture is nearest by cosine: right for four of five pictures."""
    image, (mean, noisy) = _image(request), _prototypes(_seed(request))
    values = [value - middle for value, middle in zip(image, mean, strict=True)]
    return _answer([SHARPNESS * _cosine(values, prototype) for prototype in noisy])


def regression(request: Request, sample: int) -> Completion:
    """Answer as a logistic regression that has seen 300 pictures: right for nine of ten, and seldom sure."""
    return _answer((_regression(_seed(request)).decision_function([_image(request)])[0]).tolist())


def unreliable(request: Request, sample: int) -> Completion:
    """Answer as a logistic regression does, but for three of ten pictures the next digit, as surely."""
    image = _image(request)
    scores = (_regression(_seed(request)).decision_function([image])[0]).tolist()
    if random.Random(f"{_seed(request)} {image}").random() < 0.3:
        scores = scores[-1:] + scores[:-1]
    return _answer(scores)


def _image(request: Request) -> list[float]:
    return json.loads(request.messages[-1]["content"])


def _seed(request: Request) -> int:
    return int(request.sampling.get("seed", 0))


@cache
def _digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


@cache
def _prototypes(seed: int) -> tuple[list[float], list[list[float]]]:
    """Return the mean picture, and for each digit its mean picture with noise, less the mean of these."""
    images, digits = _digits()
    chance = random.Random(seed)
    noisy = [[v + 3.6 * chance.gauss(0, 1) for v in images[digits == digit].mean(0)] for digit in range(10)]
    middle = [sum(column) / 10 for column in zip(*noisy, strict=True)]
    centred = [[v - m for v, m in zip(picture, middle, strict=True)] for picture in noisy]
    return images.mean(0).tolist(), centred


@cache
def _regression(seed: int) -> Any:
    """Return a logistic regression that has seen 300 of the pictures."""
    from sklearn.linear_model import LogisticRegression

    images, digits = _digits()
    chosen = random.Random(seed).sample(range(len(images)), 300)
    return LogisticRegression(C=0.001, max_iter=200).fit(images[chosen], digits[chosen])


def _cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def _answer(scores: list[float]) -> Completion:
    top = max(scores)
    total = top + math.log(sum(math.exp(score - top) for score in scores))
    outcomes = [[str(digit), score - total] for digit, score in enumerate(scores)]
    text, logprob = max(outcomes, key=lambda outcome: outcome[1])
    return Completion(text, logprobs=[[text, logprob, outcomes]])
