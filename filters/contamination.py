"""Records that repeat an evaluation set (GPT-3, Brown et al. 2020, appendix C: overlaps of 13 words, levelled)."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from distillgen import ConfigError, FieldName, FileName, Filter, Project, Record
from distillgen.local_models.embedder import check, embed
from distillgen.project import file_sha256
from distillgen.rows.evaluation_sets import ROWS, grams, items, texts
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
    """Drop records that share `n` words in a row, whatever their case and punctuation, with an item of an evaluation set.

    It is a JSONL file (all texts of a row, or those under `keys`) or a text file of an item a line. An item with fewer
    than `n` words is looked for as a whole, one with fewer than `min_words` is not. With `min_cosine`, also records
    whose fields together are as close as that to an item. Measures the share of a record's n-grams that an item has, and
    the item's line; the cosine to the nearest item, and its line. Costs about 60 bytes of memory for a word of the
    evaluation set; with `min_cosine`, an embedding a record and an item.

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
    def seen() -> dict[int, dict[int, int]]:
        """By length, the hash of each n-gram of the evaluation set, and the line of the first item that has it."""
        lines: dict[int, dict[int, int]] = {n: {}}
        for line, text in _texts(file, keys):
            told = words(text)
            if (length := min(n, len(told))) >= min_words:
                known = lines.setdefault(length, {})
                for gram in grams(told, length):
                    known.setdefault(gram, line)
        return lines

    @cache
    def neighbours() -> tuple[list[int], Any]:
        lines, found = zip(*_texts(file, keys), strict=True)
        return list(lines), embed(found, model=embedder)

    def overlap(record: Record) -> dict[str, float]:
        told = [words(record.text(name)) for name in fields]
        line, shared, count = 0, 0, 0
        for length, known in seen().items():
            for text in told:
                hits = [known[gram] for gram in grams(text, length) if gram in known]
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

    def decide(found: dict[str, float]) -> str | None:
        if found["share"] > max_share:
            return f"repeats words of {against}, line {found['line']:.0f}"
        if min_cosine is not None and found["cosine"] >= min_cosine:
            return f"cosine {found['cosine']:.2f} to {against}, line {found['nearest']:.0f} >= {min_cosine:g}"
        return None

    known = {
        "against": file_sha256(file),
        "keys": keys,
        "n": n,
        "min_words": min_words,
        "fields": fields,
        "embedder": embedder,
    }
    return Filter(measure, decide, depends_on=known if min_cosine is not None else None)


def _texts(path: Path, keys: Sequence[str] | None) -> Iterator[tuple[int, str]]:
    """Every text of an evaluation set, or those under the keys of its rows, with its line."""
    wanted = (keys or ()) if path.suffix.lower() in ROWS else ()
    for line, item in items(path):
        if missing := [key for key in wanted if key not in item]:
            raise ConfigError(f"contamination: there is no '{missing[0]}' in the row", path=path, line=line)
        yield from ((line, text) for text in texts([item[key] for key in wanted] if wanted else item))
