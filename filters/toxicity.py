"""Toxic texts, by any text classification model that transformers can load."""

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
    """Drop texts to which a classifier gives a label with more than `max_score`. Costs a forward pass of its model a record.

    `classifier` is a name on the Hugging Face Hub or a local folder; of long texts it reads as much as it takes.

    Options:
        field: the text to classify
        classifier: the classifier: a name on the Hugging Face Hub, or a folder
        label: the label whose probability counts
        max_score: largest probability of the label in a kept text
    """
    need("toxicity", "torch", "transformers")

    def measure(records: Sequence[Record]) -> list[float]:
        texts = [r.text(field).encode("utf-8", "replace").decode() for r in records]
        given = loaded(classifier)(texts, top_k=None, truncation=True, batch_size=16)
        return [score(labels) for labels in given]

    def score(labels: list[dict[str, Any]]) -> float:
        scores = {each["label"]: each["score"] for each in labels}
        if label not in scores:
            raise ConfigError(
                f"filter 'toxicity': '{classifier}' gives no label '{label}'; it gives {', '.join(sorted(scores))}"
            )
        return float(scores[label])

    folder = Path(classifier)
    return Filter(
        measure,
        lambda found: f"{label} {found:.2f} > {max_score}" if found > max_score else None,
        depends_on={
            "field": field,
            "label": label,
            "classifier": file_sha256(folder) if folder.is_dir() else classifier,
        },
    )


@cache
def loaded(classifier: str) -> Any:
    """The model, loaded when the first text is there."""
    from transformers import pipeline

    try:
        return pipeline("text-classification", model=classifier)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"filter 'toxicity': the classifier '{classifier}' cannot be loaded: {error}"
        ) from error
