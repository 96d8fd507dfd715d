r"""The final answer of a text, the form in which answers that say the same are equal, and its comparison with gold answers:
what filters, votes and evaluations go by.

An answer is announced where it stands in the last \boxed{…}, or behind the last "the answer is", "Answer:" or "####". Lenient
reading also takes what stands last. What is not found is None: a mistake of form, which is not a wrong answer.
"""

from __future__ import annotations

import re
import string
import textwrap
from collections import deque
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal, TypeAlias

from distillgen.record import text_of
from distillgen.text.numbers import Number, last_number, numbers, read_number

Kind = Literal["number", "choice", "boxed", "text"]
"""What sort of answer is looked for."""

Answer: TypeAlias = Fraction | str

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*(\{|[^\s{])")
_BRACE = re.compile(r"\\.|[{}]", re.S)
_VERB = r"(?:is|are|was|were|would be|should be|must be|equals?)\b"
_ANNOUNCED = re.compile(
    rf"\#{{4}}|\b(?:answer|option|choice)\b[^.\n:=]{{0,60}}?(?:\b{_VERB}[ \t]*:?|[:=])|^[#* \t]*+(?:the |final )*answer[* \t]*+$",
    re.I | re.M,
)
_SENTENCE_END = re.compile(r"(?<![.!?])(?<!\b[A-Z])(?<!\b[A-Z][a-z])[.!?]++[*_\"')\]]*+(?=\s|$)")
_WRAPPING = " \t\r*_`\"“”'"
_CALCULATION = re.compile(r"(?:[^A-Za-z\n=]*+[A-Za-z]?[^A-Za-z\n=]*+=)+")


def boxed(text: str) -> str | None:
    r"""The content of the last \boxed{…}; None where there is none, or it breaks off."""
    begin = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if begin < 0 or not (found := _BOXED.match(text, begin)):
        return None
    if found[1] != "{":
        return found[1]
    depth = 1
    for brace in _BRACE.finditer(text, found.end()):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if not depth:
            return text[found.end() : brace.start()].strip()
    return None


def announced(text: str) -> str | None:
    """What a text announces as its answer, to the end of the sentence; None where it announces none."""
    if (inside := boxed(text)) is not None:
        return inside
    last = deque(_ANNOUNCED.finditer(text), maxlen=1)
    if not last:
        return None
    line = text[last[0].end() :].lstrip(_WRAPPING + ":\n").partition("\n")[0]
    end = _SENTENCE_END.search(line)
    return line[: end.start() if end else None].rstrip(_WRAPPING + ".") or None


def number(text: str, *, lenient: bool = True) -> tuple[Number, str] | None:
    """The number that a text gives for its answer, and what stands behind it: the first that it announces, of a calculation
    the result; else, in lenient reading, the last one.
    """
    part = announced(text)
    if part is not None:
        found = _CALCULATION.match(part)
        for tried in (part[found.end() :] if found else part, part):
            if (first := next(numbers(tried), None)) is not None:
                return first, tried[first.end :]
    last = last_number(text) if lenient else None
    return (last, text[last.end :]) if last else None


# Multiple choice

_MARKER = re.compile(r"(?:^|(?<=\s))(?:\(([A-Z])\)|([A-Z])[).:])\s+|^[-*•]\s+(?=\S)", re.M)
_LETTER_FIRST = re.compile(
    r"[\W_]*+(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\W+)?([A-Z])(?:[).:,*\]]|\W*+$|\s+(?:because|since)\b)"
)
_LETTER = re.compile(r"\(([A-Z])\)|\*\*([A-Z])[).:]?\*\*|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+([A-Z])\b")
_UNWRAPPED = re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf|operatorname)\{([^{}]*)\}")


def options_of(value: Any) -> dict[str, str]:
    """The options of a question by letter, of a mapping, a list, or a text with "(A) …", "B. …" or lines "- …"."""
    if isinstance(value, Mapping):
        return {str(letter).strip("(). ").upper(): text_of(content) for letter, content in value.items()}
    if isinstance(value, list | tuple):
        return {
            letter: text_of(content) for letter, content in zip(string.ascii_uppercase, value, strict=False)
        }
    text, marks = text_of(value), list[tuple[int, int]]()
    for found in _MARKER.finditer(text):
        letter = found[1] or found[2]
        if letter == "A":
            marks = []
        if letter is None or letter == chr(ord("A") + len(marks)):
            marks.append(found.span())
    ends = [*(begin for begin, _ in marks[1:]), len(text)]
    lines = (text[begin:end].strip().partition("\n")[0] for (_, begin), end in zip(marks, ends, strict=False))
    return options_of([line.strip(" ,;") for line in lines])


def choice(text: str, options: Mapping[str, str], *, lenient: bool = True) -> str | None:
    """The letter of the option that a text chooses, by its letter, else by its content (as NesyCD does): what the text or its
    announcement is; else the only one that the announcement, or in lenient reading the last line, speaks of. Without
    `options` any letter is one.
    """
    part = announced(text)
    said = _UNWRAPPED.sub(r"\1", text.strip() if part is None else part)
    if part is None:
        said = said.rpartition("\n")[2] if lenient else said
    known = options or dict.fromkeys(string.ascii_uppercase, "")
    first, alone = _LETTER_FIRST.match(said), said.strip("().*_$ ").upper()
    if (
        first
        and first[1] in known
        and (part or normalised(said[first.end() :]) in ("", normalised(known[first[1]])))
    ):
        return first[1]
    if alone in known:
        return alone
    same = [own for own, content in options.items() if normalised(content) == normalised(said)]
    if same or part is None and not lenient:
        return same[0] if same else None
    spoken_of = {own for found in _LETTER.findall(said) if (own := "".join(found)) in known}
    return spoken_of.pop() if len(spoken_of) == 1 else None if spoken_of else _by_content(said, options)


def option_of(gold: Any, options: Mapping[str, str]) -> str | None:
    """The letter of a gold answer, which is a letter, the content of an option, or its place in the list, from 0."""
    said = text_of(gold).strip()
    letter = said.strip("(). ").upper()
    if letter in options or not options and len(letter) == 1 and letter.isalpha():
        return letter
    same = [own for own, content in options.items() if normalised(content) == normalised(said)]
    if not same and said.isdecimal() and len(said) < 3:
        same = list(options)[int(said) : int(said) + 1]
    return same[0] if len(same) == 1 else None


def _by_content(line: str, options: Mapping[str, str]) -> str | None:
    """The one option whose content stands in the line, and not only within another one's that does."""
    contents = {own: f" {normalised(content)} " for own, content in options.items()}
    there = {
        own: content
        for own, content in contents.items()
        if content.strip() and content in f" {normalised(line)} "
    }
    longest = [
        own
        for own, each in there.items()
        if not any(each != other and each in other for other in there.values())
    ]
    return longest[0] if len(longest) == 1 else None


# Text and mathematics

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = {ord(c): None for c in string.punctuation}
_SPACING = re.compile(
    r"\\(?:left|right|displaystyle|[,;:! ])|\\(?:text|mbox)\{ [^{}]*\}\s*$|\^\s*\\circ|\^\s*\{\s*\\circ\s*\}|[$~\s]"
)
_SHORT_FRACTION = re.compile(r"\\frac(?:(\w)|\{(\w)\})(?:(\w)|\{(\w)\})")
_SLASH = re.compile(r"(-?)(\d+)/(\d+)")
_NAME = re.compile(r"[A-Za-z]=(?!=)")


def normalised(text: str) -> str:
    """Without case, punctuation, articles and surplus spaces, as SQuAD compares (Rajpurkar et al. 2016, section 6.1)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def math_form(text: str) -> Answer:
    r"""An expression in LaTeX such that other spellings of it are equal: how fractions, sizes and spaces are written, units in
    \text{ … } behind it, a name before it ("x = 5") and a full stop do not count; a number is its value.
    """
    text = text.strip().rstrip(".").strip("$ ")
    if found := read_number(text):
        return found.value
    text = _UNWRAPPED.sub(r"\1", _SPACING.sub("", re.sub(r"\\[dt]frac", r"\\frac", text))).rstrip(".")
    text = _SHORT_FRACTION.sub(lambda m: rf"\frac{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}", text)
    if found_name := _NAME.match(text):
        text = text[found_name.end() :]
    if slash := _SLASH.fullmatch(text):
        text = rf"{slash[1]}\frac{{{slash[2]}}}{{{slash[3]}}}"
    return found.value if (found := read_number(text)) else text


_FENCED = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1|\Z)", re.S | re.M)


def fenced(text: str) -> list[tuple[str, str]]:
    """The Markdown code blocks of a text, each with its language, in lower case."""
    return [(language.lower(), textwrap.dedent(block)) for _, language, block in _FENCED.findall(text)]


def program(text: str) -> str:
    """The Python program of an answer: its code blocks of that language, else those of none, one behind the other; else all."""
    blocks = fenced(text)
    python = [block for language, block in blocks if language in ("python", "py", "python3")]
    return "\n".join(python or [block for language, block in blocks if not language]) or text


def final_answer(text: str, kind: Kind, *, lenient: bool = True) -> Answer | None:
    """A text's answer of this kind, such that those that say the same are equal."""
    match kind:
        case "number":
            found = number(text, lenient=lenient)
            return found[0].value if found else None
        case "choice":
            return choice(text, {}, lenient=lenient)
        case "boxed":
            inside = boxed(text)
            return math_form(inside) if inside else None
    part = announced(text)
    return normalised(part if part is not None else text if lenient else "") or None
