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


def versions(
    *, seed: int, files: int = 400, train: int = 600, test: int = 100, test_versions: int = 6
) -> Iterator[dict[str, Any]]:
    """Yield `sentence`s, the first paragraphs of docstrings, with versions in which other words stand.

    A row of kind pair has a `version` in which a random share of the words was replaced, and is in train. One
    of kind list is in test: it has versions with ever more other words as `documents`, and their `relevance`,
    in random order.
    """
    chance = random.Random(f"versions/{seed}")
    firsts = {" ".join(text.strip().split("\n\n")[0].split())[:160] for text in _texts(files)}
    sentences = [text for text in sorted(firsts) if 6 <= len(text.split()) <= 18 and text[0].isalpha()]
    words = [word for text in sentences for word in text.split()]
    chosen = chance.sample(sentences, train + test)

    def version(text: str, share: float) -> str:
        changed = text.split()
        for place in chance.sample(range(len(changed)), round(share * len(changed))):
            changed[place] = chance.choice(words)
        return " ".join(changed)

    for text in chosen[:train]:
        yield {"sentence": text, "kind": "pair", "version": version(text, chance.random()), "split": "train"}
    for text in chosen[train:]:
        order = chance.sample(range(test_versions), test_versions)
        documents = [version(text, 1 - place / test_versions) for place in order]
        yield {"sentence": text, "kind": "list", "documents": documents, "relevance": order, "split": "test"}
