"""Each shipped filter keeps what it must, drops what it must and says why, and decides the borderline as
documented.

The cases of a filter stand in the file of its name: `CASES`, of (options, fields, the reason or a part of it
or None, and where it asks models, what these say). `MARKS` are pytest's, for a filter that is slow or needs
what a machine may lack.
"""

import importlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distillgen.flow.filter import Entry
from distillgen.project import Project, home
from distillgen.stages._loaded_filter import LoadedFilter

SHIPPED = sorted(path.stem for path in home("filters").glob("[a-z]*.py"))
NEED_A_MODEL = {"toxicity"}  # which their own tests make
NAMES = [name for name in SHIPPED if name not in NEED_A_MODEL]
MODULES = {name: importlib.import_module(f"tests.filters.test_{name}") for name in NAMES}
CASES = {name: module.CASES for name, module in MODULES.items()}


def param(name, *more):
    """With the marks of the filter's file of cases."""
    return pytest.param(name, *more, marks=getattr(MODULES[name], "MARKS", ()))


@pytest.mark.parametrize("name, case", [param(name, case) for name in NAMES for case in CASES[name]])
def test_decision(reason, name, case):
    options, fields, expected, *answers = case
    found = reason(name, options, fields, *answers)
    assert found is None if expected is None else expected in (found or "")


@pytest.mark.parametrize("name", NAMES)
def test_a_pipeline_takes_the_options_of_every_case(tmp_path, name):
    for options, *_ in CASES[name]:
        loaded = LoadedFilter.load(Entry(filter=name, label=name, options=options), Project(tmp_path))
        assert options.keys() <= loaded.options.keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_filter_has_cases_that_it_keeps_and_that_it_drops(name):
    assert {case[2] is None for case in CASES[name]} == {True, False} or name in (
        "unique",
        "near_duplicate",
        "sample_by_score",
    )


TEXTS = st.text(max_size=300) | st.text(alphabet="\x00\x1b\u202e\u200f .?the1,it{}[]$\\\\", max_size=200)


@pytest.mark.parametrize("name", [param(name) for name in NAMES])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=1, max_size=4), data=st.data())
def test_no_text_makes_a_filter_crash(reason, name, texts, data):
    options, fields, _, *answers = data.draw(st.sampled_from(CASES[name]))
    odd = {
        key: texts[i % len(texts)] if isinstance(value, str) else value
        for i, (key, value) in enumerate(fields.items())
    }
    for said in (answers, [texts] if answers else []):
        found = reason(name, options, odd, *said)
        assert found is None or (isinstance(found, str) and found)


@pytest.mark.parametrize(
    "text",
    ["", "a" * 250_000, "word " * 50_000, "\ud800", "\u200f\u202e\x00"],
    ids=["empty", "one word", "many words", "surrogate", "controls"],
)
@pytest.mark.parametrize("name", [param(name) for name in NAMES])
def test_a_text_of_any_size_is_measured(reason, name, text):
    options, fields, _, *answers = CASES[name][0]
    reason(
        name,
        options,
        {key: text if isinstance(value, str) else value for key, value in fields.items()},
        *answers,
    )
