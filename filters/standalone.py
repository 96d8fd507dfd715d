"""Texts that can be understood without the source that they were made from."""

import re
from collections.abc import Sequence

from distillgen import FieldName, Filter, Record
from distillgen.text.words import content

_SOURCE, _PART = (
    r"(?:text|passage|article|excerpt)s?",
    r"(?:paragraph|section|document|chapter|sentence|table|figure|example)s?",
)
_SAYS = (
    r"says?|said|states?|describes?|mentions?|argues?|claims?|suggests?|explains?|means?|writes?|gives?|presents?"
    r"|believes?"
)
POINTERS = re.compile(
    rf"""\b(?:the|this|that|these|those)\ (?:(?:following|given|provided|above)\ )?{_SOURCE}\b
    |\b(?:this|these)\ {_PART}\b|\bthe\ {_PART}\ (?:above|below|{_SAYS})\b|\bthe\ above\b
    |\b(?:in|from|by|to)\ the\ (?:(?:following|given|above|first|second|last)\ )?{_PART}(?=\s*[,.?!]|$)
    |\baccording\ to\ the\ (?:author|speaker|study|researchers?)s?\b
    |\b(?:do|does|did)\ the\ (?:author|speaker)s?\b|\bthe\ (?:author|speaker)s?\ (?:{_SAYS})\b
    |\bas\ (?:stated|mentioned|described|discussed|noted|explained|shown|listed)\b(?!\ (?:by|for)\b)
    |\b(?:stated|mentioned|described|discussed|listed|given)\ (?:above|below|earlier|before|here)
    |\b(?:stated|mentioned|described|discussed|listed|given)\ in\ (?:the|this)\ 
    |\bthe\ (?:\w+\ )?(?:mentioned|described|discussed)\b""",
    re.I | re.X,
)
MANY, ONE, SOMEBODY = (
    frozenset(word_list.split())
    for word_list in (
        "they them their theirs themselves these those",
        "it its itself this that",
        "he him his himself she her herself",
    )
)
_PLURALS = frozenset("people children men women feet teeth mice data police couple family team".split())
_PERSONS = re.compile(
    r"\w{3,}(?:er|or|ist|ee|ian|ant)s?|child|person|people|baby|man|woman|patient|parent|spouse|mother|father"
    r"|king|landlord|lord|lady"
)
_BEFORE_NOUN = frozenset(
    """a an the of in on at to for from by with into onto over under about than through between against
    without after before during and or which whose my your our no any each every some many most all both few
    several""".split()
)
_AUXILIARIES = frozenset(
    "do does did is are was were can could will would may might must should has have had".split()
)
_BE = frozenset("is are was were be been".split())
_VERBS = frozenset(
    """get keep take give go come happen show mean say see look make use find claim need want like begin
    start stop depend change help work call put set let become seem expect leave left inside outside
    together apart away back""".split()
)
_EXPLETIVE = re.compile(
    r"""\b(?:it(?=\s(?:(?:is|was|takes?|took|may\sbe|can\sbe|would\sbe)\b
        .{0,60}?\b(?:to|that|until|for\s\w+\sto)\b))
    |it(?=\s(?:rains?|snows?|is\s(?:\w+\s)?(?:possible|important|hard|easy|true|cold|hot|warm|dark
        |late|early)\b
        .{0,60}?\b(?:to|that|for)\b))
    |(?<=does\s)it(?=\stake\b.{0,60}?\b(?:to|until|before|for)\b)|(?<=is\s)it(?=\s\w+\s(?:to|that)\b))""",
    re.I | re.X,
)
_RELATIVE = re.compile(
    r"(?<=[\w’'])\s+that\b|\bso\s+that\b|\bthat\s+of\b|\bthose\s+(?:who|that|of|with)\b"
    r"|\bthis\s+(?:year|day)\b",
    re.I,
)
_THE = re.compile(
    r"""\bthe\b(?!\s+(?:most|least|same|best|worst|only|more|less|other|next|\w{3,}est)\b)
    (?!\s+(?:cold|heat|dark|past|future|end|world|sun|moon|earth|sea|sky|air|ground|body)\b)
    (?!\s+(?:morning|evening|night|day|year|law)\b)
    (?!\s+(?!two\b|three\b|four\b|five\b|six\b)\w+(?:\s\w+)?\s+of\s+(?!the\b|it\b|this\b|that\b|them\b))""",
    re.I | re.X,
)
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d[\d.,]*|[.?!;]")


def standalone(*, fields: list[FieldName], subject: FieldName) -> Filter:
    """Drop records whose `fields` point outside themselves. English. Costs nothing.

    A text points outside itself with "the text", with a pronoun that has no noun before it (in the same field
    or an earlier one of `fields`), or as a question about "the" something without any name. Names are
    capitalised words, figures, and words of `subject`. Measures the number of such pointers.

    Options:
        fields: the texts that must be understandable alone
        subject: the field with the subject's name, such as a title
    """

    def pointers(record: Record) -> float:
        texts = [record.text(name) for name in fields]
        together = " ".join(texts)
        subject_words = content(record.text(subject))
        count = sum(
            not subject_words & content(pointer[0]) for pointer in POINTERS.finditer(together)
        ) + dangling(texts)
        has_name = re.search(r"\S\s+[A-Z\d]", texts[0]) or subject_words & content(together)
        return count + (not has_name and _THE.search(texts[0]) is not None)

    def measure(records: Sequence[Record]) -> list[float]:
        return [pointers(record) for record in records]

    return Filter(measure, lambda count: f"points outside itself {count:.0f} times" if count else None)


def dangling(texts: Sequence[str]) -> int:
    """Count the pronouns without an agreeing noun before them; add one if the first text has no noun."""
    count, one, many, somebody = 0, False, False, False
    for number, text in enumerate(texts):
        text = _RELATIVE.sub(" ", _EXPLETIVE.sub(" ", text))
        tokens = _WORD.findall(text)
        for i, word in enumerate(tokens):
            lower, before = word.lower(), tokens[i - 1].lower() if i else ""
            after = tokens[i + 1].lower() if i + 1 < len(tokens) else ""
            if lower in MANY:
                count += not (many or somebody)
            elif lower in SOMEBODY:
                count += not somebody
            elif lower in ONE:
                count += not one
            elif lower == "such":
                count += after not in ("as", "a", "an") and not (one or many)
            elif lower == "there":
                exists = before in _AUXILIARIES or after in _AUXILIARIES or after == "and"
                count += not exists and not one
            elif word != "I" and (content(word) or before in ("a", "an", "the")) and not word[0].isdigit():
                capital = i > 0 and word[0].isupper()
                noun = capital or _noun(lower, before, after, first=not i)
                plural = lower in _PLURALS or lower.endswith("s") and not lower.endswith(("ss", "us", "is"))
                one = one or noun
                many = many or noun and (plural or before == "and")
                somebody = somebody or capital or noun and bool(_PERSONS.fullmatch(lower))
        count += not number and not one and not re.search(r"\d", text)
    return count


def _noun(word: str, before: str, after: str, *, first: bool) -> bool:
    """Return whether a word may be a noun, judged by its neighbours: no dictionary is used."""
    stem = word.removesuffix("s")
    if before in ("a", "an", "the"):
        return True
    if stem in _VERBS or word in _VERBS or before in _BE and word.endswith(("ed", "en")):
        return False
    beside = len(before) > 3 and before not in ("what", "when", "where")
    return before in _BEFORE_NOUN or before in _AUXILIARIES or first or beside
