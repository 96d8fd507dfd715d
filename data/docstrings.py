"""Docstrings of Python's standard library: English that every installation has."""

import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def _texts(files: int) -> Iterator[str]:
    """Yield the docstrings of the first `files` modules."""
    for module in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:files]:
        yield from re.findall(r'"""(.*?)"""', module.read_text(encoding="utf-8", errors="ignore"), re.S)


def docstrings(
    *, seed: int, files: int = 150, length: int = 48, most: int = 400_000, test: float = 0.1
) -> Iterator[dict[str, Any]]:
    """Yield the docstrings of the first `files` modules in pieces of whole words, and the `split` of each.

    A piece has at least `length` letters, all pieces at most `most`: two words as `prompt`, the others, with
    the white space before them, as `completion`. The last share `test` of the pieces is in test, and the seed
    orders the others.
    """
    text = "\n".join(_texts(files))
    pieces, piece = list[list[str]](), list[str]()
    for word in re.findall(r"\s*\S+", text[:most]):
        piece.append(word)
        if sum(map(len, piece)) >= length and len(piece) > 2:
            pieces.append(piece)
            piece = []
    cut = round(len(pieces) * (1 - test))
    order = [*random.Random(seed).sample(range(cut), cut), *range(cut, len(pieces))]
    for place, i in enumerate(order):
        prompt, completion = "".join(pieces[i][:2]).lstrip(), "".join(pieces[i][2:])
        yield {"prompt": prompt, "completion": completion, "split": "train" if place < cut else "test"}


def summaries(*, seed: int, files: int = 150) -> Iterator[dict[str, Any]]:
    """Yield `summary`, the first line of each docstring that has more lines, and `body`, the others: a pair
    for retrieval. The seed orders them.
    """
    parts = (docstring.partition("\n") for docstring in _texts(files))
    pairs = [(first.strip(), " ".join(rest.split())) for first, _, rest in parts]
    pairs = [(summary, body) for summary, body in pairs if len(summary) > 20 and len(body) > 40]
    for summary, body in random.Random(seed).sample(pairs, len(pairs)):
        yield {"summary": summary, "body": body}
