"""The pictures of rows that a student sees: references to files, which are read when a batch is made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.inference.faults import Rejected
from distillgen.prompting.media import Media
from distillgen.record import Record, Unrenderable
from distillgen.teachers._content import picture
from distillgen.training.chat_template import Turns
from distillgen.training.rows import Assessment, Row, RowSelection, Unusable, fit

IMAGES = "images"
"""The column of a row's references, and of its pictures in a batch."""


def references(record: Record, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the references to pictures in fields of a record: each holds one, or a list of them. No file is
    read before `fitting` does. Raise Unusable if a field holds none.
    """
    try:
        parts = Media(images=tuple(names)).parts(record.fields)
    except Unrenderable as error:
        raise Unusable(str(error)) from error
    return [{"path": part["path"], "sha256": part["sha256"]} for part in parts]


def open_pictures(pictures: Sequence[dict[str, Any]], root: Path) -> list[Any]:
    """Return the pictures of references, in colour. Raise Unusable if a file is missing, outside the project,
    no picture, or not the one that was referred to.
    """
    opened = []
    for reference in pictures:
        try:
            opened.append(picture({**reference, "type": "image"}, root))
        except Rejected as error:  # a training counts reasons, which therefore name no file
            path = f"'{reference['path']}'"
            why = str(error).replace(f"the picture {path}", "a picture").replace(path, "a file")
            raise Unusable(why) from error
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and others
            raise Unusable(f"a picture cannot be read: {type(error).__name__}") from error
    return opened


def with_pictures(turns: Turns, count: int) -> Turns:
    """Return turns whose contents are parts: the user's last one begins with places for pictures.

    A request has them there, too; TRL would put them into the first turn that is a text.
    """
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "user"), default=0)
    places = [{"type": "image"} for _ in range(count)]
    return [
        {**turn, "content": [*(places if i == last else ()), {"type": "text", "text": turn["content"]}]}
        for i, turn in enumerate(turns)
    ]


def pixel_rows(rows: RowSelection, root: Path) -> dict[str, Any]:
    """Return the data set of each part, which reads the pictures of the rows that a batch takes."""

    def transform(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        name = "messages" if "messages" in batch else "prompt"
        pictures = [open_pictures(references, root) for references in batch[IMAGES]]
        counts = map(len, pictures)
        turns = [with_pictures(turns, count) for turns, count in zip(batch[name], counts, strict=True)]
        return {**batch, name: turns, IMAGES: pictures}

    return {part: data.with_transform(transform) for part, data in rows.parts.items()}


def fitting(rows: RowSelection, processor: Any, root: Path, max_length: int) -> RowSelection:
    """Return the rows whose pictures can be read and whose prompts fit, with the tokens of the pictures."""
    if not hasattr(processor, "tokenizer"):
        raise ConfigError("'images': the student has no processor of pictures; give one that sees")

    def assess(row: Row) -> Assessment:
        try:
            return fit(*_lengths(processor, row, root), max_length)
        except Unusable as reason:
            return Assessment(str(reason))

    return rows.select(assess)


def _lengths(processor: Any, row: Row, root: Path) -> tuple[int, int]:
    """Return the number of tokens of a row before its last answer, those of its pictures included, and of
    all.

    Raise Unusable if a picture cannot be read, or a text has the processor's token of a picture.
    """
    turns = row.get("messages") or [*row["prompt"], *row["completion"]]
    if turns[-1]["role"] != "assistant" or all(turn["role"] != "user" for turn in turns):
        raise Unusable("its dialogue is not the user's turn, and last the assistant's")
    token = getattr(processor, "image_token", None)
    if token and any(token in turn["content"] for turn in turns):
        raise Unusable(f"a text has '{token}', the student's token of a picture")
    pictures = open_pictures(row[IMAGES], root)
    turns = with_pictures(turns, len(pictures))
    before = processor.apply_chat_template(turns[:-1], add_generation_prompt=True, tokenize=False)
    text = processor.apply_chat_template(turns, tokenize=False)
    start = len(os.path.commonprefix([before, text]))
    prompt = processor(images=pictures, text=before[:start], add_special_tokens=False)["input_ids"][0]
    answer = processor.tokenizer(text[start:], add_special_tokens=False)["input_ids"]
    return len(prompt), len(prompt) + len(answer)
