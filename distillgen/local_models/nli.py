"""Natural language inference (NLI): whether one text follows from another, by a model on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.extras import need
from distillgen.local_models.embedder import idle_cores
from distillgen.project import Project, code_sha256, load_module

BATCH = 16
MEANINGS = (
    ("entail", "support"),
    ("neutral", "not enough", "nei"),
    ("contradict", "refute", "not_entail", "not entail"),
)
"""Beginnings of the labels of published models: entailment, neutral, contradiction."""

Probabilities = tuple[float, float, float]


def entailment(pairs: Sequence[tuple[str, str]], *, model: str) -> list[Probabilities]:
    """Return, for each (premise, hypothesis), the probabilities of entailment, neutral and contradiction.

    `model` is a sequence-classification model, by its name on the Hugging Face Hub or its folder, or a
    function of the pairs, as `file.py:function`. A model with two labels has no neutral; if the labels have
    no names, the second one means entailment.
    """
    file, _, function = model.rpartition(":")
    if not file.endswith(".py"):
        return _classifier(model)(pairs) if pairs else []
    script: Any = getattr(load_module(Path(file)), function, None)
    if not callable(script):
        raise ConfigError(f"'{file}' has no function '{function}'")
    return list(script(pairs)) if pairs else []


def nli_model(name: str, project: Project) -> tuple[str, str]:
    """Return a pipeline's model as `entailment` takes it, and a key that changes with the function's code.

    `file.py:function` is looked up in the project.
    """
    file, _, function = name.rpartition(":")
    if not file.endswith(".py"):
        return name, name
    path = project.file(file)
    return f"{path}:{function}", f"{code_sha256(path)}:{function}"


@cache
def _classifier(model: str) -> Callable[[Sequence[tuple[str, str]]], list[Probabilities]]:
    need("an NLI model", "torch", "transformers")
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model)
        network: Any = AutoModelForSequenceClassification.from_pretrained(model).eval()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the NLI model '{model}' cannot be loaded: {str(error).strip().splitlines()[0][:200]}"
        ) from error
    order = _order(model, network.config.id2label)
    positions = getattr(network.config, "max_position_embeddings", 514) - 2  # RoBERTa counts them from 2
    longest = min(tokenizer.model_max_length, positions)

    def classify(pairs: Sequence[tuple[str, str]]) -> list[Probabilities]:
        probabilities: dict[int, Probabilities] = {}
        by_length = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
        with torch.inference_mode(), idle_cores():
            for start in range(0, len(pairs), BATCH):
                batch = by_length[start : start + BATCH]
                texts = [[text.encode("utf-8", "replace").decode() for text in pairs[i]] for i in batch]
                read = tokenizer(
                    texts, padding=True, truncation=True, max_length=longest, return_tensors="pt"
                )
                for i, row in zip(batch, network(**read).logits.double().softmax(-1).tolist(), strict=True):
                    probabilities[i] = tuple(sum(row[label] for label in labels) for labels in order)
        return [probabilities[i] for i in range(len(pairs))]

    return classify


def _order(model: str, names: dict[int, str]) -> list[list[int]]:
    """Return the model's labels that mean entailment, neutral and contradiction."""
    labels = {int(label): name.lower() for label, name in names.items()}
    if len(labels) == 2 and all(name.startswith("label_") for name in labels.values()):
        return [[1], [], [0]]
    order = [[label for label, name in labels.items() if name.startswith(meaning)] for meaning in MEANINGS]
    if sum(map(len, order)) != len(labels) or not order[0] or not order[2]:
        raise ConfigError(f"'{model}' is not an NLI model: its labels are {', '.join(names.values())}")
    return order
