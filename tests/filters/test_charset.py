"""Scripts and characters."""

import pytest

CASES = [
    ({"field": "x", "scripts": ["latin"]}, {"x": "Größe: 3 × 4 m² – “naïve” 😀\n\tﬁn Ｗｉｄｅ 𝐛𝐨𝐥𝐝"}, None),
    (
        {"field": "x", "scripts": ["latin"]},
        {"x": "The word мир"},
        "25.00% of its characters are not allowed > 0.00%",
    ),
    ({"field": "x", "scripts": ["Latin", "Cyrillic"]}, {"x": "The word мир"}, None),
    ({"field": "x", "scripts": ["latin"], "max_share": 0.25}, {"x": "The word мир"}, None),
    ({"field": "x", "scripts": ["cjk", "hiragana", "katakana"]}, {"x": "東京タワーは高い。"}, None),
    ({"field": "x", "scripts": ["latin"]}, {"x": "a broken \ufffd one"}, "are not allowed"),
    ({"field": "x", "scripts": ["latin"]}, {"x": "a bell \x07"}, "are not allowed"),
    ({"field": "x", "characters": "a-z ."}, {"x": "plain text."}, None),
    ({"field": "x", "characters": "a-z ."}, {"x": "Plain text."}, "9.09% of its characters"),
]


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "give either 'scripts' or 'characters'"),
        ({"scripts": ["latin"], "characters": "a"}, "give either 'scripts' or 'characters'"),
        ({"scripts": ["latin", "klingon"]}, "Unicode has no letters of a script 'klingon'"),
        ({"characters": "z-a"}, "'characters' is not the inside of a regular expression's brackets"),
    ],
)
def test_wrong_options_are_told(reason, options, message):
    with pytest.raises(ValueError, match=message):
        reason("charset", options, {"response": "a"})
