"""Toxic texts, by a text classification model of transformers."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from distillgen import ConfigError, FieldName, Filter, Record
from distillgen.extras import need
from distillgen.project import file_sha256


def toxicity(
    *,
    field: FieldName = "response",
    classifier: str = "unitary/toxic-bert",
    label: str = "toxic",
    max_score: float = 0.5,
) -> Filter:
    """Drop texts to which a classifier gives a label with more than `max_score`. Costs one forward pass a
    record.

    `classifier` is a name on the Hugging Face Hub or a local folder. Long texts are cut to the model's input
    length.

    Options:
        field: the text to classify
        classifier: the classifier: a name on the Hugging Face Hub, or a folder
        label: the label whose probability counts
        max_score: largest probability of the label in a kept text
    """
    need("toxicity", "torch", "transformers")

    def measure(records: Sequence[Record]) -> list[float]:
        texts = [r.text(field).encode("utf-8", "replace").decode() for r in records]
        label_lists = loaded(classifier)(texts, top_k=None, truncation=True, batch_size=16)
        return [score(labels) for labels in label_lists]

    def score(labels: list[dict[str, Any]]) -> float:
        scores = {entry["label"]: entry["score"] for entry in labels}
        if label not in scores:
            labels_of_model = ", ".join(sorted(scores))
            mistake = f"'{classifier}' gives no label '{label}'; it gives {labels_of_model}"
            raise ConfigError(f"filter 'toxicity': {mistake}")
        return float(scores[label])

    folder = Path(classifier)
    return Filter(
        measure,
        lambda score_of_label: (
            f"{label} {score_of_label:.2f} > {max_score}" if score_of_label > max_score else None
        ),
        depends_on={
            "field": field,
            "label": label,
            "classifier": file_sha256(folder) if folder.is_dir() else classifier,
        },
    )


@cache
def loaded(classifier: str) -> Any:
    """Load the model on first use."""
    from transformers import pipeline

    try:
        return pipeline("text-classification", model=classifier)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"filter 'toxicity': the classifier '{classifier}' cannot be loaded: {error}"
        ) from error
