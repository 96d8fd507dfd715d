"""Records that repeat an evaluation set: overlaps of 13 normalised words (GPT-3, Brown et al. 2020, appendix
C).
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from distillgen import ConfigError, FieldName, FileName, Filter, Project, Record
from distillgen.local_models.embedder import check, embed
from distillgen.project import file_sha256
from distillgen.rows.evaluation_sets import ROWS, items, texts
from distillgen.text.ngrams import ngram_hashes
from distillgen.text.words import words


def contamination(
    *,
    fields: list[FieldName],
    against: FileName,
    keys: list[str] | None = None,
    n: int = 13,
    min_words: int = 8,
    max_share: float = 0.0,
    min_cosine: float | None = None,
    embedder: str = "minilm",
    project: Project,
) -> Filter:
    """Drop records that share `n` consecutive words with an item of an evaluation set.

    Case and punctuation are ignored. The evaluation set is a JSONL file (all texts of a row, or those under
    `keys`) or a text file with one item a line. An item shorter than `n` words is searched as a whole; one
    shorter than `min_words` is skipped. With `min_cosine`, a record whose fields together are at least that
    close to an item is dropped as well. Measures the share of the record's n-grams that occur in an item,
    with the line of that item, and the cosine to the nearest item, with its line. Costs about 60 bytes of
    memory for each word of the evaluation set; with `min_cosine`, also one embedding a record and one an
    item.

    Options:
        fields: the texts to compare with the evaluation set
        against: the evaluation set: a .jsonl file, or a text file with an item a line
        keys: the fields of an evaluation row that count; default: all texts
        n: words in a row that count as an overlap
        min_words: items with fewer words than this are not looked for
        max_share: largest share of overlapping n-grams in a kept record
        min_cosine: cosine to an item from which a record is dropped too; default: cosines are not
            measured
        embedder: the embedding model for `min_cosine`: minilm, a folder, or a name on the Hugging
            Face Hub
    """
    if not 1 <= min_words <= n:
        raise ValueError("'min_words' must be at least 1 and at most 'n'")
    if min_cosine is not None:
        check(embedder)
    file = project.file(against)

    @cache
    def lines_by_gram() -> dict[int, dict[int, int]]:
        """By n-gram length: the hash of each n-gram of the evaluation set, and the line of the first item
        with it.
        """
        lines: dict[int, dict[int, int]] = {n: {}}
        for line, text in _texts(file, keys):
            text_words = words(text)
            if (length := min(n, len(text_words))) >= min_words:
                first_lines = lines.setdefault(length, {})
                for gram in ngram_hashes(text_words, length):
                    first_lines.setdefault(gram, line)
        return lines

    @cache
    def neighbours() -> tuple[list[int], Any]:
        lines, item_texts = zip(*_texts(file, keys), strict=True)
        return list(lines), embed(item_texts, model=embedder)

    def overlap(record: Record) -> dict[str, float]:
        text_words = [words(record.text(name)) for name in fields]
        line, shared, count = 0, 0, 0
        for length, first_lines in lines_by_gram().items():
            for text in text_words:
                hits = [first_lines[gram] for gram in ngram_hashes(text, length) if gram in first_lines]
                line, shared = line or (hits[0] if hits else 0), shared + len(hits)
                count += max(0, len(text) - n + 1) if length == n else len(hits)
        return {"share": shared / max(1, count), "line": line}

    def nearest(records: Sequence[Record]) -> list[dict[str, float]]:
        lines, vectors = neighbours()
        near = (
            embed(["\n".join(r.text(name) for name in fields) for r in records], model=embedder) @ vectors.T
        )
        return [{"cosine": float(row.max()), "nearest": lines[int(row.argmax())]} for row in near]

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        lexical = [overlap(record) for record in records]
        return (
            lexical if min_cosine is None else [a | b for a, b in zip(lexical, nearest(records), strict=True)]
        )

    def decide(numbers: dict[str, float]) -> str | None:
        if numbers["share"] > max_share:
            return f"repeats words of {against}, line {numbers['line']:.0f}"
        if min_cosine is not None and numbers["cosine"] >= min_cosine:
            cosine, line = numbers["cosine"], numbers["nearest"]
            return f"cosine {cosine:.2f} to {against}, line {line:.0f} >= {min_cosine:g}"
        return None

    settings = {
        "against": file_sha256(file),
        "keys": keys,
        "n": n,
        "min_words": min_words,
        "fields": fields,
        "embedder": embedder,
    }
    return Filter(measure, decide, depends_on=settings if min_cosine is not None else None)


def _texts(path: Path, keys: Sequence[str] | None) -> Iterator[tuple[int, str]]:
    """Yield every text of an evaluation set, or those under `keys` of its rows, each with its line."""
    row_keys = (keys or ()) if path.suffix.lower() in ROWS else ()
    for line, item in items(path):
        if missing := [key for key in row_keys if key not in item]:
            raise ConfigError(f"contamination: there is no '{missing[0]}' in the row", path=path, line=line)
        yield from ((line, text) for text in texts([item[key] for key in row_keys] if row_keys else item))
