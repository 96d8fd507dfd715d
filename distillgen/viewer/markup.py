"""Markdown, code and mathematics as HTML that obeys nothing in the text: no link, picture, style or script.

markdown-it-py and Pygments escape every text. An address is shown and leads nowhere. Formulas become MathML
through latex2mathml, of which only elements and attributes of presentation are taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any
from xml.etree import ElementTree

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markupsafe import Markup, escape
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from distillgen.text.display import visible

MOST_CHARACTERS = 20_000  # of a text that is shown as Markdown; a longer one is shown as it is
MOST_FORMULA = 2_000  # characters of a formula that is typeset
_FORMULA = re.compile(
    r"\$\$(?P<dollars>.+?)\$\$|\\\[(?P<brackets>.+?)\\\]|\\\((?P<round>.+?)\\\)"
    r"|\$(?P<dollar>(?![\s$])[^$\n]*?[^\s$\\])\$(?!\d)",
    re.DOTALL,
)
_DISPLAYED = ("dollars", "brackets")
_MATHML = "http://www.w3.org/1998/Math/MathML"
_ELEMENTS = frozenset(
    """math mrow mi mn mo mtext mspace ms mfrac msqrt mroot msub msup msubsup munder mover munderover
    mmultiscripts mprescripts none mtable mtr mtd mpadded mphantom menclose mstyle""".split()
)
_ATTRIBUTES = frozenset(
    """display displaystyle mathvariant stretchy fence form separator accent accentunder lspace rspace
    linethickness columnalign rowspacing columnspacing columnlines rowlines width height depth notation
    minsize maxsize movablelimits largeop symmetric scriptlevel""".split()
)
_PLAIN = re.compile(r"[\w .%+\-#]*")  # values of attributes


def as_markdown(text: str) -> Markup:
    """Return a text as HTML, with its Markdown, code and formulas shown as such."""
    if len(text) > MOST_CHARACTERS:
        return Markup('<div class="plain">{}</div>').format(visible(text))
    return Markup(_reader().render(visible(text)))


def as_json(value: Any) -> Markup:
    """Return a value as indented JSON, with colours."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return Markup("<pre>{}</pre>").format(_coloured(visible(text), "json"))


def as_code(text: str) -> Markup:
    """Return a text exactly as it is; with colours if it is JSON."""
    is_json = text.lstrip()[:1] in ("{", "[")
    return Markup("<pre>{}</pre>").format(_coloured(visible(text), "json") if is_json else visible(text))


def _coloured(text: str, language: str) -> Markup:
    """Return code with the classes of Pygments; escaped as it is without a lexer of this language."""
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return escape(text)
    if len(text) > MOST_CHARACTERS:
        return escape(text)
    return Markup(highlight(text, lexer, HtmlFormatter(nowrap=True)))


def colours() -> str:
    """Return the style of coloured code, light and dark, with a contrast of at least 4.5 (WCAG AA)."""
    light = HtmlFormatter(style="xcode").get_style_defs("pre")
    dark = HtmlFormatter(style="monokai").get_style_defs("pre")
    rules = [re.sub(r"background(-color)?: [^;}]+;?", "", style) for style in (light, dark)]
    return f"{rules[0]}\n@media (prefers-color-scheme: dark) {{\n{rules[1]}\n}}\n"


@cache
def _reader() -> MarkdownIt:
    def block(text: str, language: str, attributes: str) -> str:
        return str(_coloured(text, language.split()[0] if language.strip() else "text"))

    reader = MarkdownIt("commonmark", {"html": False, "breaks": True, "highlight": block})
    reader.enable(["table", "strikethrough"])
    reader.inline.ruler.before("escape", "formula", _formula)
    for name, rule in (
        ("formula", _formula_html),
        ("link_open", _link_start),
        ("link_close", _link_end),
        ("image", _picture),
        ("heading_open", _heading),
        ("heading_close", _heading),
        ("fence", _fence),
        ("code_block", _fence),
    ):
        reader.add_render_rule(name, rule)
    return reader


def _formula(state: StateInline, silent: bool) -> bool:
    """Read a formula between dollars, or between brackets with backslashes."""
    match = _FORMULA.match(state.src, state.pos) if state.src[state.pos] in "$\\" else None
    if match is None:
        return False
    if not silent:
        token = state.push("formula", "math", 0)
        token.content, token.markup = match[str(match.lastgroup)], str(match.lastgroup)
        token.meta["source"] = match[0]
    state.pos = match.end()
    return True


def _formula_html(self: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    token = tokens[place]
    display = "block" if token.markup in _DISPLAYED else "inline"
    return (
        _typeset(token.content, display) or f'<code class="formula">{escapeHtml(token.meta["source"])}</code>'
    )


def _typeset(formula: str, display: str) -> str:
    """Return a formula as MathML; "" if it cannot be typeset."""
    if find_spec("latex2mathml") is None or len(formula) > MOST_FORMULA:
        return ""
    from latex2mathml.converter import convert

    try:
        root = ElementTree.fromstring(convert(formula, display=display))
    except Exception:  # of many kinds, for LaTeX that is none: the page then shows the formula's source
        return ""
    for element in root.iter():
        name = element.tag.removeprefix(f"{{{_MATHML}}}")
        element.tag = name if name in _ELEMENTS else "mrow"
        element.attrib = {
            key: value
            for key, value in element.attrib.items()
            if key in _ATTRIBUTES and _PLAIN.fullmatch(value)
        }
    return ElementTree.tostring(root, encoding="unicode")


def _link_start(self: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    env.setdefault("addresses", []).append(str(tokens[place].attrGet("href") or ""))
    return '<span class="link">'


def _link_end(self: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    address = env["addresses"].pop()
    return f' <span class="address">{escapeHtml(address)}</span></span>'


def _picture(self: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    token = tokens[place]
    address = escapeHtml(str(token.attrGet("src") or "")[:300])
    about = f'{escapeHtml(token.content)} <span class="address">{address}</span>'
    return f'<span class="picture">picture: {about}</span>'


def _heading(self: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    """Return the tag of a heading, lower than those of the page."""
    token = tokens[place]
    return f"<{'/' if token.nesting < 0 else ''}h{min(6, int(token.tag[1]) + 3)}>"


def _fence(self: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    token = tokens[place]
    language = token.info.split()[0] if token.info.strip() else ""
    label = f'<span class="language">{escapeHtml(language[:30])}</span>' if language else ""
    return f'<div class="fence">{label}<pre>{_coloured(token.content, language or "text")}</pre></div>\n'
