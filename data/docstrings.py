"""Docstrings of Python's standard library: English that every installation has."""

import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def docstrings(
    *, seed: int, files: int = 150, length: int = 48, most: int = 400_000, test: float = 0.1
) -> Iterator[dict[str, Any]]:
    """Yield the docstrings of the first `files` modules in pieces of whole words, and the `split` of each.

    A piece has at least `length` letters, all pieces at most `most`: two words as `prompt`, the others, with
    the white space before them, as `completion`. The last share `test` of the pieces is in test, and the seed
    orders the others.
    """
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:files]
    codes = (module.read_text(encoding="utf-8", errors="ignore") for module in modules)
    text = "\n".join(docstring for code in codes for docstring in re.findall(r'"""(.*?)"""', code, re.S))
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
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:files]
    codes = (module.read_text(encoding="utf-8", errors="ignore") for module in modules)
    pairs = [
        (first.strip(), " ".join(rest.split()))
        for code in codes
        for first, _, rest in (
            docstring.partition("\n") for docstring in re.findall(r'"""(.*?)"""', code, re.S)
        )
    ]
    pairs = [(summary, body) for summary, body in pairs if len(summary) > 20 and len(body) > 40]
    for summary, body in random.Random(seed).sample(pairs, len(pairs)):
        yield {"summary": summary, "body": body}
