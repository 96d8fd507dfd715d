"""Characters outside an allowed set: other scripts, control characters, leftovers of a wrong decoding."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from distillgen import FieldName, Filter, Record

LETTERS = {"Lu", "Ll", "Lt", "Lo"}
BROKEN = {"Cc", "Cn", "Co", "Cs"}  # control, unassigned, private, lone surrogate


def charset(
    *,
    field: FieldName = "response",
    scripts: list[str] | None = None,
    characters: str | None = None,
    max_share: float = 0.0,
) -> Filter:
    """Drop texts with too many characters outside the allowed ones. Costs nothing.

    With `scripts` (latin, cyrillic, cjk, hiragana, …), the letters of these scripts are allowed, and all
    digits, marks and symbols except broken ones. With `characters`, exactly these are allowed; write them as
    inside the brackets of a regular expression: "a-zA-Z .,".

    Options:
        field: the text to measure
        scripts: names of Unicode scripts whose letters are allowed; give this or `characters`
        characters: the allowed characters, as inside a regular expression's brackets
        max_share: largest share of other characters in a kept text
    """
    if (scripts is None) == (characters is None):
        raise ValueError("give either 'scripts' or 'characters'")
    allowed = {name.lower() for name in scripts or ()}
    for name in allowed:
        if not any(script_of(chr(i)) == name for i in range(0x20000)):
            raise ValueError(
                f"Unicode has no letters of a script '{name}'; it has latin, cyrillic, arabic, cjk, hangul, …"
            )
    try:
        allowed_characters = re.compile(f"[{characters}]") if characters is not None else None
    except re.error as error:
        raise ValueError(
            f"'characters' is not the inside of a regular expression's brackets: {error}"
        ) from error

    def outside(character: str) -> bool:
        if allowed_characters:
            return not allowed_characters.fullmatch(character)
        category = unicodedata.category(character)
        if category in BROKEN or character == "\ufffd":
            return character not in "\t\n\r"
        plain = unicodedata.normalize("NFKC", character)[0]  # of a full-width or mathematical letter
        return category in LETTERS and script_of(plain) not in allowed

    def share(text: str) -> float:
        counts = Counter(text)
        return sum(count for character, count in counts.items() if outside(character)) / max(1, len(text))

    def measure(records: Sequence[Record]) -> list[float]:
        return [share(r.text(field)) for r in records]

    def decide(other_share: float) -> str | None:
        return (
            f"{other_share:.2%} of its characters are not allowed > {max_share:.2%}"
            if other_share > max_share
            else None
        )

    return Filter(measure, decide)


def script_of(letter: str) -> str:
    """Return the first word of a letter's Unicode name, which is its script: "latin" for LATIN SMALL LETTER
    A.
    """
    return unicodedata.name(letter, "").partition(" ")[0].lower()
