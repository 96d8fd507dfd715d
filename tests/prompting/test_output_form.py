"""Output forms: good, nearly good and bad answers for each."""

import json
import re
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distillgen.errors import ConfigError
from distillgen.prompting.output_form import Form, Unparsable

PAIR = {"json": {"question": "string", "answer": "string"}}
LIST = {"json": [{"name": "string", "age": "integer"}]}
NESTED = {
    "json": {
        "title": "string",
        "tags": {"type": "array", "items": {"type": "string"}},
        "by": {"type": "object"},
    }
}
FULL = {
    "json": {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "required": ["a"],
    }
}
REGEX = {"regex": r"Q: (?P<question>.+)\nA: (?P<answer>.+)"}
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello\nthere"}]
CARLA = {"question": "Who?", "answer": "Carla"}
ADA = [{"name": "Ada", "age": 36}, {"name": "Bob", "age": 7}]


@pytest.mark.parametrize(
    "form, text, rows",
    [
        ("text", "  An answer.\n\n```\ncode\n```\n", [{"response": "An answer.\n\n```\ncode\n```"}]),
        ("text", "```\ncode\n```", [{"response": "```\ncode\n```"}]),
        (
            "lines",
            "one\n\n- two\n* three\n • four  ",
            [{"response": t} for t in ("one", "two", "three", "four")],
        ),
        ("lines", "-5 degrees", [{"response": "-5 degrees"}]),
        ("lines", "```\none\ntwo\n```", [{"response": "one"}, {"response": "two"}]),
        ("numbered", "1. one\n2) two\n 3: three", [{"response": t} for t in ("one", "two", "three")]),
        (
            "numbered",
            "Here they are:\n\n1. one\n   and more\n\n2. two",
            [{"response": "one and more"}, {"response": "two"}],
        ),
        ("numbered", "```text\n1. one\n```", [{"response": "one"}]),
        (
            "numbered",
            "1. It weighs\n2.5 kg at\n10:30\n2. two",
            [{"response": "It weighs 2.5 kg at 10:30"}, {"response": "two"}],
        ),
        ("turns", "User: Hi\nAssistant: Hello\nthere", [{"messages": TURNS}]),
        ("turns", "A dialogue:\n\n**Human:** Hi\n\n**AI**: Hello\nthere\n", [{"messages": TURNS}]),
        ("turns", "```\nStudent: Hi\nTeacher: Hello\nthere\n```", [{"messages": TURNS}]),
        (REGEX, "Sure!\nQ: Who? \nA: Carla\nBye", [CARLA]),
        (
            {"sections": ["question", "answer"]},
            "Ok. <question>\nWho?</question> so <Answer> Carla </answer>",
            [CARLA],
        ),
        (PAIR, json.dumps(CARLA), [CARLA]),
        (PAIR, f"```json\n{json.dumps(CARLA)}\n```", [CARLA]),
        (PAIR, f"Here you are:\n```json\n{json.dumps(CARLA, indent=1)}\n```\nDoes it {{suit}} you?", [CARLA]),
        (PAIR, f"As [1] says: {json.dumps(CARLA)} I hope [it] helps :)", [CARLA]),
        (PAIR, '{"question": "Who?", "answer": "Carla",}', [CARLA]),
        (PAIR, "{'question': 'Who?', 'answer': 'Carla'}", [CARLA]),
        (PAIR, "{question: 'Who?', answer: 'Carla'} There.", [CARLA]),
        (PAIR, '{"question": "Who?", "answer": "Carla"', [CARLA]),
        (
            PAIR,
            '{"question": "Who\nis\tit?", "answer": "Carla"}',
            [{"question": "Who\nis\tit?", "answer": "Carla"}],
        ),
        (PAIR, '{"answer": "Carla", "question": "Who?"}', [CARLA]),
        (LIST, json.dumps(ADA), ADA),
        (LIST, json.dumps({"items": ADA}), ADA),
        (LIST, f"See [2]:\n```\n{json.dumps(ADA)}\n```\nThat's [all].", ADA),
        (LIST, "[{'name': 'Ada', 'age': 36}, {'name': 'Bob', 'age': 7},]", ADA),
        (LIST, '{"name": "Ada", "age": 36}\n{"name": "Bob", "age": 7}', ADA),
        (LIST, '{"name": "Ada", "age": 36}', ADA[:1]),
        (
            NESTED,
            '{"title": "T", "tags": ["a", "b"], "by": {"name": "Ada"}}',
            [{"title": "T", "tags": ["a", "b"], "by": {"name": "Ada"}}],
        ),
        (FULL, '{"a": "x", "c": 1}', [{"a": "x", "b": None}]),
    ],
)
def test_good_and_nearly_good(form, text, rows):
    assert Form.read(form).parse(text) == rows


@pytest.mark.parametrize(
    "form, text, reason",
    [
        *[
            (form, " \n\t", "the answer is empty")
            for form in ("text", "lines", "numbered", "turns", REGEX, PAIR, {"sections": ["a"]})
        ],
        ("numbered", "one\ntwo", "there is no numbered list in the answer: 'one"),
        ("numbered", "1.\n2.", "there is no numbered list"),
        ("turns", "Hi there", "the answer is not a dialogue of 'User: …' and 'Assistant: …': 'Hi there'"),
        ("turns", "User: a\nUser: b", "not a dialogue"),
        ("turns", "User: a\nAssistant:", "not a dialogue"),
        (REGEX, "Q: Who?", "the answer does not match"),
        ({"sections": ["a", "b"]}, "<a>x</a>", "the section <b>…</b> is missing or empty"),
        ({"sections": ["a"]}, "<a> </a>", "the section <a>"),
        ({"sections": ["a"]}, "<a>cut off", "the section <a>"),
        (PAIR, '{"question": "Who?", "answer": "Carla', "breaks off before its JSON ends"),
        (PAIR, '{"question": "Who?", "answer": "Because the second half of', "breaks off"),
        (PAIR, '{"question": "Who?", "answer": "the set {1, 2}', "breaks off"),
        (PAIR, '{"question": "Who?", "answer": "the list [1, 2]\n```', "breaks off"),
        (PAIR, '{"question": "Who?", "answer": "He said \\"hi\\" and', "breaks off"),
        (PAIR, "{'question': 'Who?', 'answer': 'Car", "breaks off"),
        (PAIR, '```json\n{"question": "Who?", "answer": "Car', "breaks off"),
        (
            PAIR,
            f'For example: {json.dumps(CARLA)}\nMine: {{"question": "What?", "answer": "Because',
            "breaks off",
        ),
        (PAIR, f'{{"result": {json.dumps(CARLA)}, "note": "it is', "breaks off"),
        ({"json": {"a": "number"}}, '{"a": 12', "breaks off"),
        ({"json": {"a": "boolean"}}, '{"a": tru', "breaks off"),
        (LIST, '[{"name": "Ada", "a', "breaks off"),
        (PAIR, "I cannot.", "there is no JSON in the answer: 'I cannot.'"),
        (LIST, "I cannot.", "there is no JSON in the answer: 'I cannot.'"),
        (LIST, "[]", "the list is empty"),
        (LIST, '[{"name": "Ada", "age": "old"}]', "0/age: 'old' is not of type 'integer'"),
        (PAIR, '{"question": "Who?"}', "the answer: 'answer' is a required property"),
        (PAIR, '{"question": "Who?", "answer": 3}', "answer: 3 is not of type 'string'"),
        (
            PAIR,
            '{"question": "Who?", "answer": "x", "more": 1}',
            "Additional properties are not allowed ('more' was unexpected)",
        ),
        (PAIR, json.dumps([CARLA, CARLA]), "is not of type 'object'"),
        (PAIR, "{}", "'question' is a required property"),
        (PAIR, "{" * 5000, "the answer"),
        (PAIR, "[" * 5000, "the answer"),
        ({"json": {"a": "number"}}, '{"a": NaN}', "the answer"),
        ({"json": {"a": "number"}}, '{"a": 1e999}', "the answer"),
    ],
)
def test_bad(form, text, reason):
    with pytest.raises(Unparsable, match=re.escape(reason)):
        Form.read(form).parse(text)


def test_a_bad_item_or_one_too_many_does_not_affect_the_others():
    many = {
        "json": {
            "type": "array",
            "maxItems": 3,
            "items": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        }
    }
    items = [{"name": "Ada"}, {"name": 7}, {"name": "Bob"}, {"name": "Eve"}]
    first, second, third, fourth = Form.read(many).rows(json.dumps(items))
    assert (
        (first, third) == (items[0], items[2])
        and str(second) == "1/name: 7 is not of type 'string'"
        and str(fourth) == "one of 4 items, 3 are taken"
    )
    for bad in ([{"name": 7}, {}], [{"name": 7}]):
        with pytest.raises(Unparsable):
            Form.read(many).rows(json.dumps(bad))


@pytest.mark.parametrize(
    "text",
    [
        '{"question": "Who?", "answer":',
        '{"question": "Who?", "answer"',
        '{"question": "Who?", ',
        '{"question": "Who?", "answer": }',
        '{"question": , "answer": "x"}',
        '{"question", "answer"}',
        "{'question': 'Who?', 'answer':} there",
        '{"question": "Who?"} "answer"',
    ],
)
def test_repair_invents_no_required_field(text):
    with pytest.raises(Unparsable):
        Form.read(PAIR).parse(text)


plain = st.text(alphabet="abc: ,{}[]'", min_size=1, max_size=15)


@given(plain, plain, st.data())
@settings(max_examples=100, deadline=None)
def test_a_cut_off_answer_holds_only_the_teachers_text(question, answer, data):
    full = json.dumps({"question": question, "answer": answer})
    text = full[: data.draw(st.integers(0, len(full)))]
    try:
        rows = Form.read(PAIR).parse(text)
    except Unparsable:
        return
    assert json.dumps(rows[0]["question"])[1:-1] in text and text.index('"answer": "') + len(
        '"answer": "'
    ) <= len(text)


FORMS = ["text", "lines", "numbered", "turns", REGEX, PAIR, LIST, NESTED, FULL, {"sections": ["a", "b"]}]
pieces = st.sampled_from(
    [
        "User:",
        "Assistant:",
        "1.",
        "2)",
        "-",
        "\n",
        "```",
        "json",
        "{",
        "}",
        "[",
        "]",
        '"',
        "'",
        ":",
        ",",
        "a",
        "name",
        "question",
        "answer",
        "null",
        "NaN",
        "1e999",
        "\\u",
        "\\ud800",
        "<a>",
        "</a>",
        "<b>",
        "</b>",
        "//",
        " ",
    ]
)


@given(st.text() | st.lists(pieces, max_size=30).map("".join), st.sampled_from(FORMS))
@example('{"a": "' + "\\" * 999, FULL)
@settings(max_examples=100, deadline=None)
def test_no_text_raises_anything_but_unparsable(text, form):
    form = Form.read(form)
    try:
        rows = form.parse(text)
    except Unparsable as error:
        assert str(error)
        return
    assert rows and all(list(row) == form.fields(None) for row in rows)


words = (
    st.text(alphabet="abcdeXYZ éß東'\"{}[]<>,.!?", min_size=1, max_size=20)
    .map(str.strip)
    .filter(lambda t: t and t[0] not in "*-•")
)


@given(st.lists(words, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_what_a_form_shows_is_parsed_back(items):
    rows = [{"out": item} for item in items]
    assert Form.read("text").parse(items[0], "out") == rows[:1]
    assert Form.read("lines").parse("\n".join(items), "out") == rows
    assert Form.read("lines").parse("\n".join(f"- {item}" for item in items), "out") == rows
    assert (
        Form.read("numbered").parse("\n".join(f"{i}. {item}" for i, item in enumerate(items, 1)), "out")
        == rows
    )
    pair = {"question": items[0], "answer": items[-1]}
    assert Form.read({"sections": ["question", "answer"]}).parse(
        "".join(f"<{k}>{v}</{k}>" for k, v in pair.items())
    ) == [pair]
    assert Form.read(REGEX).parse(f"Q: {items[0]}\nA: {items[-1]}") == [pair]
    for value in (
        json.dumps(pair),
        json.dumps(pair, ensure_ascii=False, indent=2),
        f"So: {json.dumps(pair)} [done]",
    ):
        assert Form.read(PAIR).parse(value) == [pair]
    people = [{"name": item, "age": i} for i, item in enumerate(items)]
    assert Form.read(LIST).parse(json.dumps(people)) == people
    turns = [
        {"role": ("user", "assistant")[i % 2], "content": item} for i, item in enumerate([*items, *items])
    ]
    shown = "\n".join(f"{turn['role'].title()}: {turn['content']}" for turn in turns)
    assert Form.read("turns").parse(shown, "out") == [{"out": turns}]


@pytest.mark.parametrize(
    "form, fields, many",
    [
        ("text", ["response"], False),
        ("lines", ["response"], True),
        ("numbered", ["response"], True),
        ("turns", ["messages"], False),
        (REGEX, ["question", "answer"], False),
        (PAIR, ["question", "answer"], False),
        (LIST, ["name", "age"], True),
        ({"sections": ["b", "a"]}, ["b", "a"], False),
        (FULL, ["a", "b"], False),
        ({"json": {"type": "array", "items": {"type": "object", "properties": {"a": {}}}}}, ["a"], True),
        ({"json": {"a": {"type": ["string", "null"]}}}, ["a"], False),
    ],
)
def test_fields(form, fields, many):
    form = Form.read(form)
    assert form.fields(None) == fields and form.many is many
    if form.kind in ("text", "lines", "numbered", "turns"):
        assert form.fields("out") == ["out"]


def test_the_schema_that_is_sent_has_an_object_at_its_root():
    pair = {
        "type": "object",
        "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
        "required": ["question", "answer"],
        "additionalProperties": False,
    }
    assert Form.read(PAIR).schema == pair
    assert Form.read({"json": [PAIR["json"]]}).schema == {
        "type": "object",
        "properties": {"items": {"type": "array", "items": pair}},
        "required": ["items"],
        "additionalProperties": False,
    }
    assert Form.read("text").schema is None


@pytest.mark.parametrize(
    "form, message",
    [
        ("lins", "there is no form 'lins'; did you mean 'lines'?"),
        (3, "there is no form 3"),
        ({}, "there is no form {}"),
        ({"jsn": {"a": "string"}}, "did you mean 'json'?"),
        ("json", "'json' needs a schema, as in {json: …}"),
        ({"json": {}}, "'json' needs a schema"),
        ({"sections": []}, "'sections' needs a list of tags"),
        ({"sections": [1]}, "'sections' needs a list of tags"),
        ("regex", "'regex' needs a pattern with named groups"),
        ({"regex": "(?P<a"}, "the regular expression is wrong"),
        ({"regex": "(a)"}, "the regular expression needs named groups"),
        ({"json": {"a": "strng"}}, "field 'a' has no JSON type 'strng'; did you mean 'string'?"),
        (
            {"json": [{"a": "string"}, {"b": "string"}]},
            "a list in 'json' holds the one schema that its items have",
        ),
        (
            {"json": [[{"a": "string"}]]},
            "a 'json' schema is of an object, or an array of them, with 'properties'",
        ),
        ({"json": ["string"]}, "a 'json' schema is of an object, or an array of them, with 'properties'"),
        (
            {"json": {"type": "array", "items": {"type": "string"}}},
            "a 'json' schema is of an object, or an array of them, with 'properties'",
        ),
        ({"json": {"type": "object"}}, "a 'json' schema is of an object"),
        (
            {"json": {"type": "object", "properties": {"a": {"type": "text"}}}},
            "the JSON schema is wrong: 'text' is not valid",
        ),
        ({"json": {"a": {"type": "string", "pattern": "("}}}, "the JSON schema is wrong"),
        ({"json": {"a": ["string"]}}, "field 'a' has no JSON type ['string']"),
    ],
)
def test_a_wrong_form_is_a_config_error(form, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Form.read(form)


@pytest.mark.parametrize(
    "text",
    [
        "The set {a, b} holds it: %s",
        "{ is a brace. %s",
        "- %s",
        "* [x] Done: %s",
        "[1] See there. %s",
        "1. %s Is {that} all?",
        'For example: {"question": "Why?", "answer": "So"}\n\nMine:\n%s',
        'As {"question": "Why?", "answer": "So"} shows: %s :-}',
        '```json\n{"question": "Why?", "answer": "So"}\n```\nor rather\n```json\n%s\n```\nThere.',
        "```python\nx = {1: 2}\n```\n```\n%s\n```",
        "%s\n\nI hope that [this] {helps}.",
        "%s Note that {} is no answer.",
        "> %s",
        "``` %s ```",
    ],
)
def test_the_last_json_of_the_form_is_the_answer(text):
    assert Form.read(PAIR).parse(text % json.dumps(CARLA)) == [CARLA]
    assert (
        Form.read(LIST).parse(
            text.replace('{"question": "Why?", "answer": "So"}', "[{'name': 'Eve', 'age': 1}]")
            % json.dumps(ADA)
        )
        == ADA
    )


@pytest.mark.parametrize(
    "said, text",
    [
        (r"\frac{1}{2} of \beta", None),
        (r"\nabla f \times \rho", None),
        (r"\theta \to \tau", None),
        (r"\bar{x} \forall x", None),
        (r"\unlhd \upsilon \underline{x}", None),
        (r"\alpha \( x \) \[ y \] \{ z \}", None),
        (r"\right\} 5\%", None),
        (r"\neq 0, \text{if } \not p", None),
        (r"\\frac{1}{2} \\nabla", r"\frac{1}{2} \nabla"),
        (r"one\ntwo\tthree\r\nnine trees", "one\ntwo\tthree\r\nnine trees"),
        (r"\u00e9t\u00E9 \"so\" a\/b", 'été "so" a/b'),
        (r"It\'s", "It's"),
        (r"a\nTo b\n\nThe times", "a\nTo b\n\nThe times"),
        (r"C:\\new\\table", "C:\\new\\table"),
    ],
)
def test_latex_in_json_is_text_and_no_control_character(said, text):
    for answer in ('{"question": "Who?", "answer": "%s"}', '{"question": "Who?", "answer": "%s",}'):
        assert Form.read(PAIR).parse(answer.replace("%s", said)) == [
            {"question": "Who?", "answer": said if text is None else text}
        ]


def test_a_list_that_breaks_off_gives_its_whole_items():
    for text in (
        '[{"name": "Ada", "age": 36}, {"name": "Bob", "age": 7',
        '{"items": [{"name": "Ada", "age": 36}, {"name": "Bo',
        '{"name": "Ada", "age": 36}\n{"name": "Bob",',
    ):
        first, second = Form.read(LIST).rows(text)
        assert first == ADA[0] and "breaks off within this item" in str(second)


def test_what_is_said_within_a_text_stays():
    for text, answer in [
        ('{"question": "Who?", "answer": "He said "hi" and left"}', 'He said "hi" and left'),
        ('{"question": "Who?", "answer": "a } b { c"}', "a } b { c"),
        ('{"question": "Who?", "answer": "[1] and \'2\'"}', "[1] and '2'"),
        ("{'question': 'Who?', 'answer': \"It's {so}\"}", "It's {so}"),
    ]:
        assert Form.read(PAIR).parse(text)[0]["answer"] == answer


def test_brackets_without_end_are_looked_at_quickly():
    import time

    begun = time.monotonic()
    for text in ("{" * 20_000, "{ [{" * 5_000, '{"a": ' * 5_000, "[{" * 10_000 + json.dumps(CARLA)):
        with suppress(Unparsable):
            Form.read(PAIR).parse(text)
    assert time.monotonic() - begun < 20
