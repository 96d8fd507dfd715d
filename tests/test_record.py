"""Rows as bytes and back, and the ids derived from them."""

import hashlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillgen.record import META, Dropped, Record, digest, dumps, loads, loads_own

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
fields = st.dictionaries(st.text().filter(lambda name: name != META), values, max_size=5)


def backwards(value):
    """The same value with the keys of every object in the opposite order."""
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(value)}
    return [backwards(item) for item in value] if isinstance(value, list) else value


@given(values)
@settings(max_examples=100, deadline=None)
def test_json_is_canonical_and_exact(value):
    assert dumps(value) == dumps(backwards(value))
    assert loads(dumps(value)) == value == loads(dumps(value).decode())
    assert loads(dumps(value, sort_keys=False)) == value


def test_canonical_json_is_fixed_for_ever():
    assert dumps({"b": [1, 2.5, None, True], "a": "é \n"}) == '{"a":"é \\n","b":[1,2.5,null,true]}'.encode()
    assert dumps({"b": 1, "a": 2}, sort_keys=False) == b'{"b":1,"a":2}'
    assert digest({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()[:20]
    assert len(digest("x", 32)) == 32


@pytest.mark.parametrize("number", [2**53 + 1, 2**63, 2**64, -(10**40)])
def test_integers_of_any_size_are_exact(number):
    assert dumps({"b": 1, "a": number}) == b'{"a":%d,"b":1}' % number
    assert loads(b"[%d]" % number) == [number]


def test_surrogates():
    assert loads(r'"\ud83d\ude00"') == "😀"
    assert loads(r'"a\ud800b"') == loads(rb'"a\ud800b"') == "a?b"
    assert dumps({"a\udfff": "\ud800"}) == b'{"a?":"?"}'


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", '{"a": -Infinity}', "1e999", "-1e999", "[" * 100_000, "{", "", "1" * 5000]
)
def test_what_is_not_json_is_a_value_error(text):
    for given_as in (text, text.encode()):
        with pytest.raises(ValueError):
            loads(given_as)


def test_bytes_that_are_no_text_are_a_value_error():
    with pytest.raises(ValueError):
        loads(b'"\xff"')


def test_an_id_depends_on_content_and_parents_and_on_nothing_else():
    first = Record.read({"a": 1, "b": [2]}, "x.jsonl:1")
    assert first.id == Record.read({"b": [2], "a": 1}, "y.jsonl:9").id
    assert first.id != Record.read({"a": 1, "b": [3]}, "x.jsonl:1").id
    assert first.id != Record.read({"a": 1, "c": [2]}, "x.jsonl:1").id
    made = {"stage": "generate"}
    child = first.derive({"c": 3}, made, 0)
    others = [
        first.derive({"c": 4}, made, 0),
        first.derive({"c": 3}, made, 1),
        first.derive({"c": 3}, {"stage": "other"}, 0),
        Record.read({"a": 2}, "").derive({"c": 3}, made, 0),
        first,
    ]
    assert len({record.id for record in (child, *others)}) == 6
    assert first.derive({"c": 3}, {"stage": "generate", "model": "m"}, 0).id == child.id
    assert first.scored({"s": 1.0}).id == first.drop("filter", "f", "r").id == first.id


def test_a_child_keeps_what_it_came_from():
    first = Record.read({"a": 1}, "x.jsonl:1")
    child = first.derive({"b": 2}, {"stage": "one"}, 0).derive({"a": 3}, {"stage": "two"}, 0)
    assert dict(child.fields) == {"a": 3, "b": 2} and dict(first.fields) == {"a": 1}
    assert [m["stage"] for m in child.made] == ["one", "two"]
    assert child.parents == (first.derive({"b": 2}, {"stage": "one"}, 0).id,) and child.source == "x.jsonl:1"


@given(
    fields,
    st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
    st.lists(st.text()),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_a_row_and_back(given_fields, scores, parents, dropped):
    record = Record(
        digest(given_fields),
        given_fields,
        tuple(parents),
        "x:1",
        ({"stage": "generate", "sample": 0},),
        scores,
    )
    if dropped:
        record = record.drop("stage", "filter", "reason")
    assert Record.from_row(loads(dumps(record.row(), sort_keys=False))) == record


def test_the_shape_of_a_row():
    record = Record.read({"b": 1, "a": 2}, "x.jsonl:1").scored({"s": 1.0}).scored({"t": 2.0})
    assert record.row() == {
        "b": 1,
        "a": 2,
        "meta": {
            "id": record.id,
            "item": record.item,
            "made": [],
            "parents": [],
            "scores": {"s": 1.0, "t": 2.0},
            "source": "x.jsonl:1",
        },
    }
    assert list(record.row()) == ["b", "a", "meta"]
    dropped = record.drop("judge", "brevity", "too long")
    assert record.dropped is None and dropped.dropped == Dropped("judge", "brevity", "too long")
    assert dropped.row()["meta"]["dropped"] == {"stage": "judge", "filter": "brevity", "reason": "too long"}


def test_a_row_of_an_earlier_corpus_is_a_parent():
    earlier = Record.read({"a": 1}, "x.jsonl:1").derive({"b": 2}, {"stage": "generate"}, 0)
    again = Record.read(earlier.row(), "corpus.jsonl:1")
    assert (
        again.parents == (earlier.id,) and again.id != earlier.id and dict(again.fields) == {"a": 1, "b": 2}
    )
    assert again.made == () and again.source == "corpus.jsonl:1"
    assert again.id != Record.read({"a": 1, "b": 2}, "corpus.jsonl:1").id


def test_records_are_frozen():
    with pytest.raises(AttributeError):
        Record.read({}, "").id = "x"


@pytest.mark.parametrize("beside", ["", "\ud800", 10**30])
@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_null_whatever_stands_beside_it(beside, number):
    assert loads_own(dumps({"a": [number, beside]}))["a"][0] is None


@pytest.mark.parametrize(
    "value",
    [
        0,
        2**63 - 1,
        2**63,
        2**64 - 1,
        2**64,
        -(2**63),
        -(2**63) - 1,
        10**30,
        1e300,
        -0.5,
        "1" * 30,
        "\u00e9\ud800",
    ],
)
def test_what_is_written_is_read_back_to_the_digit(value):
    back = loads_own(dumps({"a": [value], "n": {"b": value}}))
    assert back == {"a": [back["a"][0]], "n": {"b": back["a"][0]}} and type(back["a"][0]) is type(value)
    assert back["a"][0] == (value.encode("utf-8", "replace").decode() if isinstance(value, str) else value)


def test_a_dialogue_with_a_picture_has_one_digest_wherever_the_file_lies():
    def turn(path, sha256="a", kind="image"):
        return [{"role": "user", "content": [{"type": kind, "path": path, "sha256": sha256}]}]

    assert digest(turn("one/a.png")) == digest(turn("two/b.png"))
    assert len({digest(turn("a", "a")), digest(turn("a", "b")), digest(turn("a", "a", "audio"))}) == 3
    assert digest({"path": "a", "sha256": "x", "note": "1"}) != digest(
        {"path": "b", "sha256": "x", "note": "1"}
    )
