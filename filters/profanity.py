"""Swear words and slurs, by the word lists of glin-profanity, which also recognises sh1t and f*ck."""

from collections.abc import Sequence
from importlib import metadata

from distillgen import FieldName, Filter, Record
from distillgen.errors import did_you_mean
from distillgen.extras import need


def profanity(
    *,
    fields: list[FieldName],
    languages: list[str] = ["english"],
    allow: list[str] = [],
    also: list[str] = [],
    max_words: int = 0,
) -> Filter:
    """Drop records with profane words. Costs 15 ms a page.

    Measures the number of distinct profane words: those on the lists of `languages` (english, german,
    chinese, …: 24 lists) except `allow`, and your own in `also`.

    Options:
        fields: the texts to search
        languages: the word lists to use, by English name, such as english or german
        allow: words that are not counted
        also: words of your own that are counted
        max_words: most different profane words in a kept record
    """
    need("profanity", "glin_profanity")
    from glin_profanity import Filter as Lists
    from glin_profanity.data.dictionary import DictionaryLoader

    for language in languages:
        if language not in DictionaryLoader.LANGUAGE_FILES:
            raise ValueError(
                f"there is no list '{language}'{did_you_mean(language, DictionaryLoader.LANGUAGE_FILES)}"
            )
    lists = Lists({"languages": languages, "ignore_words": allow, "custom_words": also})

    def measure(records: Sequence[Record]) -> list[float]:
        texts = ["\n".join(r.text(name) for name in fields) for r in records]
        return [len(set(lists.check_profanity(text)["profane_words"])) for text in texts]

    return Filter(
        measure,
        lambda count: f"{count:.0f} profane words > {max_words}" if count > max_words else None,
        depends_on={
            "fields": fields,
            "languages": languages,
            "allow": allow,
            "also": also,
            "version": metadata.version("glin-profanity"),
        },
    )
