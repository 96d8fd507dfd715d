"""Filters that Python code hands over: a function of a record, a Filter, a factory with options."""

import numpy
import pytest

import distillgen
from distillgen import Filter

ROWS = [{"text": text} for text in ("short", "a longer text", "the longest text of all")]


def pipeline(*filters):
    return {"version": 1, "stages": [{"source": {"path": "x"}}, {"filter": list(filters)}]}


def reasons(function, options=None):
    run = distillgen.run(
        pipeline({"mine": options} if options else "mine"), rows=ROWS, filters={"mine": function}
    )
    assert len(run.kept) + len(run.dropped) == 3
    return {record.fields["text"]: record.dropped.reason for record in run.dropped}


def words(record):
    return len(record.text("text").split())


@pytest.mark.parametrize(
    "function, dropped",
    [
        (lambda record: words(record) > 1, {"short": "refused: mine is false"}),
        (lambda record: numpy.int64(words(record)) > 1, {"short": "refused: mine is false"}),
        (
            lambda record: f"{words(record)} words" if words(record) > 3 else None,
            {"the longest text of all": "refused: 5 words"},
        ),
        (lambda record: True, {}),
        (
            Filter(lambda records: [words(r) for r in records], lambda n: "short" if n < 3 else None),
            {"short": "short"},
        ),
    ],
)
def test_functions_and_filters_drop_with_their_reason(project, function, dropped):
    assert reasons(function) == dropped


def at_least(*, least: int = 2) -> Filter:
    return Filter(
        lambda records: [words(r) for r in records], lambda n: None if n >= least else f"{n} < {least}"
    )


def test_a_factory_takes_options_that_are_checked(project):
    assert reasons(at_least) == {"short": "1 < 2"}
    assert reasons(at_least, {"least": 4}) == {"short": "1 < 4", "a longer text": "3 < 4"}
    with pytest.raises(distillgen.ConfigError, match="has no option 'lest'; did you mean 'least'"):
        reasons(at_least, {"lest": 4})


def test_an_edited_function_is_applied_anew_and_nothing_is_asked_again(project):
    """The function has the same name and no file: its results may not be taken from the run before."""
    answers = []
    stages = [{"generate": {"model": "teacher", "template": "{{ text }}", "output": "answer"}}]
    asking = pipeline("mine")
    asking["models"] = {"teacher": {"provider": "scripted", "model": "echo"}}
    asking["stages"][1:1] = stages

    def run(function):
        return distillgen.run(
            asking,
            rows=ROWS,
            filters={"mine": function},
            teachers={"teacher": lambda request, sample: answers.append(1) or "text"},
        )

    assert len(run(lambda record: True).kept) == 3
    assert len(run(lambda record: False).kept) == 0 and len(answers) == 3


@pytest.mark.parametrize(
    "value, message",
    [
        (lambda record: 3, "raised TypeError: it gives 3; True or None keeps a record"),
        (lambda record: "", "it gives ''"),
        (lambda record: record.fields["txt"], "KeyError: 'txt'"),
        ("word_count", "filter 'mine' is str: give a function, or a Filter"),
        (Filter(len, len, whole_set=True), "give a function that makes a new one"),
    ],
)
def test_a_mistake_is_named(project, value, message):
    with pytest.raises(distillgen.ConfigError) as raised:
        reasons(value)
    assert message in str(raised.value)


def test_a_misspelt_name_gets_the_name_of_the_function(project):
    with pytest.raises(distillgen.ConfigError, match="no filter 'mine'; did you mean 'mien'"):
        distillgen.run(pipeline("mine"), rows=ROWS, filters={"mien": lambda record: True})
