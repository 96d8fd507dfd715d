r"""Extract the final answer of a text, and bring it into a normal form, in which equal answers are equal.

A text announces its answer with the last \boxed{…}, or else with the last "the answer is", "Answer:" or
"####". With `lenient`, a text that announces none is read for an answer at its end. None means that the text
has no answer: its form is wrong, which differs from a wrong answer.
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
"""The kind of answer to extract."""

Answer: TypeAlias = Fraction | str

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*(\{|[^\s{])")
_BRACE = re.compile(r"\\.|[{}]", re.S)
_VERB = r"(?:is|are|was|were|would be|should be|must be|equals?)\b"
_ANNOUNCED = re.compile(
    rf"\#{{4}}|\b(?:answer|option|choice)\b[^.\n:=]{{0,60}}?(?:\b{_VERB}[ \t]*:?|[:=])|^[#* \t]*+(?:the "
    r"|final )*answer[* \t]*+$",
    re.I | re.M,
)
_SENTENCE_END = re.compile(r"(?<![.!?])(?<!\b[A-Z])(?<!\b[A-Z][a-z])[.!?]++[*_\"')\]]*+(?=\s|$)")
_WRAPPING = " \t\r*_`\"“”'"
_CALCULATION = re.compile(r"(?:[^A-Za-z\n=]*+[A-Za-z]?[^A-Za-z\n=]*+=)+")


def boxed(text: str) -> str | None:
    r"""Return the content of the last \boxed{…}; None if there is none, or it is not closed."""
    begin = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if begin < 0 or not (opening := _BOXED.match(text, begin)):
        return None
    if opening[1] != "{":
        return opening[1]
    depth = 1
    for brace in _BRACE.finditer(text, opening.end()):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if not depth:
            return text[opening.end() : brace.start()].strip()
    return None


def announced(text: str) -> str | None:
    """Return the answer that a text announces, to the end of the sentence; None if it announces none."""
    if (inside := boxed(text)) is not None:
        return inside
    last = deque(_ANNOUNCED.finditer(text), maxlen=1)
    if not last:
        return None
    line = text[last[0].end() :].lstrip(_WRAPPING + ":\n").partition("\n")[0]
    end = _SENTENCE_END.search(line)
    return line[: end.start() if end else None].rstrip(_WRAPPING + ".") or None


def number(text: str, *, lenient: bool = True) -> tuple[Number, str] | None:
    """Return the number that is a text's answer, and the text after it; None if there is none.

    It is the first number of the announced answer, or the result if that is a calculation; or else, with
    `lenient`, the last number of the text.
    """
    part = announced(text)
    if part is not None:
        calculation = _CALCULATION.match(part)
        for tried in (part[calculation.end() :] if calculation else part, part):
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
    """Return the options of a question by letter; `value` is a mapping, a list, or a text with "(A) …", "B.
    …" or "- …".
    """
    if isinstance(value, Mapping):
        return {str(letter).strip("(). ").upper(): text_of(content) for letter, content in value.items()}
    if isinstance(value, list | tuple):
        return {
            letter: text_of(content) for letter, content in zip(string.ascii_uppercase, value, strict=False)
        }
    text, marks = text_of(value), list[tuple[int, int]]()
    for marker in _MARKER.finditer(text):
        letter = marker[1] or marker[2]
        if letter == "A":
            marks = []
        if letter is None or letter == chr(ord("A") + len(marks)):
            marks.append(marker.span())
    ends = [*(begin for begin, _ in marks[1:]), len(text)]
    lines = (text[begin:end].strip().partition("\n")[0] for (_, begin), end in zip(marks, ends, strict=False))
    return options_of([line.strip(" ,;") for line in lines])


def choice(text: str, options: Mapping[str, str], *, lenient: bool = True) -> str | None:
    """Return the letter of the option that a text chooses, by the letter or by the content, as NesyCD does;
    None if it chooses none, or several. Without `options`, every letter counts as an option.

    The text, or the answer that it announces, is an option; or else the announced answer mentions exactly one
    option, or, with `lenient`, the last line does.
    """
    part = announced(text)
    answer = _UNWRAPPED.sub(r"\1", text.strip() if part is None else part)
    if part is None:
        answer = answer.rpartition("\n")[2] if lenient else answer
    contents = options or dict.fromkeys(string.ascii_uppercase, "")
    first, alone = _LETTER_FIRST.match(answer), answer.strip("().*_$ ").upper()
    if (
        first
        and first[1] in contents
        and (part or normalised(answer[first.end() :]) in ("", normalised(contents[first[1]])))
    ):
        return first[1]
    if alone in contents:
        return alone
    same = [letter for letter, content in options.items() if normalised(content) == normalised(answer)]
    if same or part is None and not lenient:
        return same[0] if same else None
    mentions = {letter for mention in _LETTER.findall(answer) if (letter := "".join(mention)) in contents}
    return mentions.pop() if len(mentions) == 1 else None if mentions else _by_content(answer, options)


def option_of(gold: Any, options: Mapping[str, str]) -> str | None:
    """Return the letter of a gold answer: a letter, the content of an option, or its index from 0."""
    answer = text_of(gold).strip()
    letter = answer.strip("(). ").upper()
    if letter in options or not options and len(letter) == 1 and letter.isalpha():
        return letter
    same = [option for option, content in options.items() if normalised(content) == normalised(answer)]
    if not same and answer.isdecimal() and len(answer) < 3:
        same = list(options)[int(answer) : int(answer) + 1]
    return same[0] if len(same) == 1 else None


def _by_content(line: str, options: Mapping[str, str]) -> str | None:
    """Return the only option whose content occurs in the line, other than inside the content of another
    option.
    """
    contents = {letter: f" {normalised(content)} " for letter, content in options.items()}
    there = {
        letter: content
        for letter, content in contents.items()
        if content.strip() and content in f" {normalised(line)} "
    }
    longest = [
        letter
        for letter, content in there.items()
        if not any(content != other and content in other for other in there.values())
    ]
    return longest[0] if len(longest) == 1 else None


# Text and mathematics

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = {ord(c): None for c in string.punctuation}
_SPACING = re.compile(
    r"\\(?:left|right|displaystyle|[,;:! ])|\\(?:text|mbox)\{ [^{}]*\}\s*$|\^\s*\\circ"
    r"|\^\s*\{\s*\\circ\s*\}|[$~\s]"
)
_SHORT_FRACTION = re.compile(r"\\frac(?:(\w)|\{(\w)\})(?:(\w)|\{(\w)\})")
_SLASH = re.compile(r"(-?)(\d+)/(\d+)")
_NAME = re.compile(r"[A-Za-z]=(?!=)")


def normalised(text: str) -> str:
    """Return a text without case, punctuation, articles and surplus spaces (SQuAD, Rajpurkar et al. 2016,
    section 6.1).
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def math_form(text: str) -> Answer:
    r"""Return the normal form of an expression in LaTeX, in which its spellings are equal; of a number, its
    value.

    It ignores how fractions, sizes and spaces are written, a unit in \text{ … } after the expression, a name
    before it ("x = 5") and a full stop.
    """
    text = text.strip().rstrip(".").strip("$ ")
    if numeral := read_number(text):
        return numeral.value
    text = _UNWRAPPED.sub(r"\1", _SPACING.sub("", re.sub(r"\\[dt]frac", r"\\frac", text))).rstrip(".")
    text = _SHORT_FRACTION.sub(lambda m: rf"\frac{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}", text)
    if found_name := _NAME.match(text):
        text = text[found_name.end() :]
    if slash := _SLASH.fullmatch(text):
        text = rf"{slash[1]}\frac{{{slash[2]}}}{{{slash[3]}}}"
    return numeral.value if (numeral := read_number(text)) else text


_FENCED = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1|\Z)", re.S | re.M)


def fenced(text: str) -> list[tuple[str, str]]:
    """Return the Markdown code blocks of a text as pairs of the language, in lower case, and the code."""
    return [(language.lower(), textwrap.dedent(block)) for _, language, block in _FENCED.findall(text)]


def program(text: str) -> str:
    """Return the Python program of an answer: its Python code blocks, joined; or else its blocks without a
    language; or else the whole answer.
    """
    blocks = fenced(text)
    python = [block for language, block in blocks if language in ("python", "py", "python3")]
    return "\n".join(python or [block for language, block in blocks if not language]) or text


def final_answer(text: str, kind: Kind, *, lenient: bool = True) -> Answer | None:
    """Return the normal form of a text's answer of this kind; None if there is none."""
    match kind:
        case "number":
            answer_number = number(text, lenient=lenient)
            return answer_number[0].value if answer_number else None
        case "choice":
            return choice(text, {}, lenient=lenient)
        case "boxed":
            inside = boxed(text)
            return math_form(inside) if inside else None
    part = announced(text)
    return normalised(part if part is not None else text if lenient else "") or None
