"""Templates: how a field becomes text, and which values are refused."""

import json

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.record import Record, Unrenderable, text_of
from distillgen.text.template import compile_template

METHODS = [
    "title",
    "items",
    "count",
    "self",
    "keys",
    "values",
    "index",
    "get",
    "range",
    "dict",
    "namespace",
    "format",
    "none_",
]


def rendered(source, **fields):
    return compile_template(source, "t").render(fields)


@pytest.mark.parametrize("name", METHODS)
def test_a_field_named_as_a_method_is_the_rows_or_is_missing(name):
    assert rendered(f"[{{{{ {name} }}}}]", **{name: "mine"}) == "[mine]"
    assert rendered(f"{{{{ e.{name} }}}}{{{{ e['{name}'] }}}}", e={name: "mine"}) == "minemine"
    with pytest.raises(Unrenderable, match=f"there is no field '{name}' in the row"):
        rendered(f"[{{{{ {name} }}}}]", other="x")
    for holder, what in ({"a": 1}, "a mapping"), ("text", "a text"), ([1], "a list"):
        for way in f"e.{name}", f"e['{name}']":
            with pytest.raises(Unrenderable, match=f"there is no '{name}' in {what}"):
                rendered(f"[{{{{ {way} }}}}]", e=holder)
        assert rendered(f"{{{{ e.{name} | default('d') }}}}", e=holder) == "d"


def test_methods_work_whatever_the_fields_are_called():
    source = (
        "{% for name, value in e.items() %}{{ name }}={{ value }} {% endfor %}"
        "{% for i in range(2) %}{{ i }}{% endfor %}{{ range }}"
    )
    assert rendered(source, e={"items": "I", "get": "G"}, range="R") == "items=I get=G 01R"
    assert compile_template(source, "t").used.keys() == {"e", "range"}
    assert compile_template("{% set ns = namespace(n=1) %}{{ ns.n }}", "t").used == {}


NULLS = [
    "{{ x }}",
    "{{ x ~ '!' }}",
    "{{ x | trim }}",
    "{{ x | upper }}",
    "{{ y | replace('a', x) }}",
    "{{ '%s' % x }}",
    "{{ '%s' | format(x) }}",
    "{{ '{}'.format(x) }}",
    "{{ '{a}'.format(a=x) }}",
    "{{ x | string }}",
    "{{ x | json }}",
    "{{ x | join }}",
    "{{ x.z }}",
    "{{ x | length }}",
    "{% for i in x %}{% endfor %}",
    "{{ [x] | join }}",
    "{{ ', '.join([x]) }}",
    "{{ [x] | first }}",
    "{{ x | safe }}",
    "{{ x + 'a' }}",
    "{{ x | rename({}) }}",
    "{% set z = x %}{{ z }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(x) }}",
    "{{ x if y else y }}",
    "{% filter upper %}{{ x }}{% endfilter %}",
    "{{ [y, x] | map('upper') | join }}",
]


@pytest.mark.parametrize("source", NULLS)
def test_null_never_becomes_a_word(source):
    with pytest.raises(Unrenderable, match="'x' is null|a part is null|an expression is null"):
        rendered(source, x=None, y="a")
    with pytest.raises(Unrenderable, match="there is no field 'x' in the row"):
        rendered(source, y="a")


def test_a_null_inside_a_value_is_named_where_it_stands():
    for source, name in (
        ("{{ e.a }}", "a"),
        ("{{ e['a'] }}", "a"),
        ("{% for v in l %}{{ v }}{% endfor %}", "v"),
        ("{{ l[0] }}", "0"),
    ):
        with pytest.raises(Unrenderable, match=f"'{name}' is null"):
            rendered(source, e={"a": None}, l=[None])
    with pytest.raises(Unrenderable, match="'v' is null"):
        rendered("{% for k, v in e.items() %}{{ v }}{% endfor %}", e={"a": None})
    with pytest.raises(Unrenderable, match="'e.get' is null"):
        rendered("{{ e.get('q') }}", e={"a": None})


def test_what_a_filter_cannot_change_is_named():
    with pytest.raises(Unrenderable, match=r"'x' is a mapping, .*\{\{ x \| json \}\}"):
        rendered("{{ x | upper }}", x={"a": 1})


@pytest.mark.parametrize("row", [{"x": None}, {}])
def test_a_default_is_taken(row):
    for source in (
        "{{ x | default('d') }}",
        "{{ x | d('d') }}",
        "{{ x is defined and x or 'd' }}",
        "{% if x is defined %}{{ x }}{% else %}d{% endif %}",
    ):
        assert rendered(source, **row) == "d"
        assert compile_template(source, "t").needed == set() and rendered(source, x="y") == "y"
    assert compile_template("{{ x | default(y) }}{{ z }}", "t").needed == {"y", "z"}


def test_null_is_false_and_none():
    source = (
        "{% if x %}yes{% endif %}{% if x is none %}none{% endif %}"
        "{% if x == none %} equal{% endif %}{{ x or ' or' }}"
    )
    assert rendered(source, x=None) == "none equal or"


WHOLE = [
    "{{ x }}",
    "{{ x ~ '' }}",
    "{{ x | trim }}",
    "{{ x | string }}",
    "{{ '%s' % (x,) }}",
    "{{ '{}'.format(x) }}",
    "{{ [x] | join }}",
    "{{ x | list }}",
    "{{ x | safe }}",
]


@pytest.mark.parametrize("value", [["It's"], {"a": "It's"}, [], {}, [["a"]]])
def test_a_list_or_mapping_has_no_text_of_its_own(value):
    for source in WHOLE:
        with pytest.raises(
            Unrenderable,
            match=r"is a (list|mapping), which has no text of its own: write its parts, .*join.*json",
        ):
            rendered(source, x=value)
    assert json.loads(rendered("{{ x | json }}", x=value)) == value
    assert rendered("{{ x | json(indent=1) }}", x={"b": "é", "a": None}) == '{\n "b": "é",\n "a": null\n}'


def test_parts_are_written_as_they_are():
    assert rendered("{{ x | join(', ') }}", x=["It's", 1, 2.5, True]) == "It's, 1, 2.5, true"
    assert rendered("{{ x | join(';', attribute='a') }}", x=[{"a": "b"}, {"a": "c"}]) == "b;c"
    assert (
        rendered("{{ x }} {{ y }} {{ z }} {{ '%.1f' % y }} {{ '{:03d}'.format(x) }}", x=3, y=0.25, z=False)
        == "3 0.25 false 0.2 003"
    )
    assert (
        rendered("{{ x | truncate(3, true, '', 0) }}{{ x | indent(2, true) }}", x="abcdef") == "abc  abcdef"
    )


def test_the_text_of_a_field():
    assert [text_of(v) for v in ("a", 3, 2.5, True, None, [], {})] == ["a", "3", "2.5", "true", "", "", ""]
    value = [{"step": "It's 'so'", "n": 1}, ["x", None]]
    assert text_of(value) == "step: It's 'so'\nn: 1\nx\n" and Record("", {"f": value}).text("f") == text_of(
        value
    )


ROWS = [
    {"q": "one", "h": "H"},
    {"q": None, "h": "H"},
    {"h": "H"},
    {"q": "", "h": "H"},
    {"q": " \n", "h": "H"},
    {"q": ["l"], "h": "H"},
    {"q": "two", "h": "H"},
]
REASONS = [
    "'q' is null",
    "there is no field 'q' in the row",
    "there is nothing to say: 'q' is empty",
    "there is nothing to say: 'q' is empty",
    "'q' is a list, which has no text of its own",
]


def ask(project, stage, rows=ROWS, models=("m",)):
    project.rows("rows.jsonl", rows)
    models = {name: {"provider": "scripted", "model": "echo"} for name in models}
    return distillgen.run(
        {"version": 1, "models": models, "stages": [{"source": {"path": "rows.jsonl"}}, stage]}, out="out"
    )


@pytest.mark.parametrize(
    "stage",
    [
        {"generate": {"model": "m", "template": "Answer: {{ q }}"}},
        {"generate": {"model": "m", "template": "{{ h }}: {{ q }}", "with": {"h": "For children"}}},
        {"format": {"messages": [{"user": "{{ q }}"}, {"assistant": "{{ h }}"}]}},
        {"format": {"messages": [{"user": "{{ h }}"}, {"assistant": "{{ q }}"}]}},
        {
            "critic": {
                "labels": "labels.jsonl",
                "template": "{{ q }}{{ h }}",
                "target_recall": 0.5,
                "features": "words",
            }
        },
        {"filter": [{"judge": {"model": "m", "rubric": "good", "fields": ["q"]}}]},
    ],
)
def test_a_row_that_cannot_fill_a_template_names_the_field(project, stage):
    if "critic" in stage:
        pytest.importorskip("sklearn")
        project.rows(
            "labels.jsonl",
            [{"q": f"{'good' if i % 2 else 'bad'} {i}", "h": "", "label": i % 2} for i in range(60)],
        )
    run = ask(project, stage)
    reasons = [record.dropped.reason for record in run.dropped if record.dropped.filter != "critic"]
    wanted = REASONS if "generate" in stage or "format" in stage else [REASONS[0], REASONS[1]]
    for want in wanted:
        assert any(want in reason for reason in reasons), (want, reasons)
    if "generate" in stage or "format" in stage:
        assert [row["q"] for row in project.read("out/corpus.jsonl")] == ["one", "two"]


def test_a_field_that_a_filter_reads_and_a_row_lacks_drops_the_row(project):
    run = ask(project, {"filter": [{"brevity": {"field": "q", "max_words": 5}}]})
    assert [r.dropped.reason for r in run.dropped] == ["there is no field 'q' in the row"]


def test_an_empty_part_of_a_question_is_no_empty_question(project):
    rows = [{"instruction": "Say it.", "input": ""}, {"instruction": "", "input": ""}]
    run = ask(project, {"generate": {"model": "m", "template": "{{ instruction }}\n{{ input }}"}}, rows)
    assert [r.dropped.reason for r in run.dropped] == [
        "there is nothing to say: 'input', 'instruction' are empty"
    ]
    run = ask(project, {"generate": {"model": "m", "template": "{{ input | default('x', true) }}"}}, rows)
    assert not list(run.dropped)
    run = ask(project, {"generate": {"model": "m", "template": "{% if input %}{{ input }}{% endif %}"}}, rows)
    assert [r.dropped.reason for r in run.dropped] == ["the user's turn is empty"] * 2


def test_quotes_of_a_list_are_those_in_its_texts(project):
    rows = [
        {"source": "It's so, and it's not.", "answer": ["It's so", "it's not"]},
        {"source": "a", "answer": ['"Never so"']},
        {"source": "Else.", "answer": ["It's never so", "at all"]},
        {"source": "Else.", "answer": {"step": "It's never so, at all"}},
    ]
    run = ask(project, {"filter": [{"quotes": {"field": "answer", "sources": ["source"]}}]}, rows)
    assert [r.fields["answer"] for r in run.dropped] == [['"Never so"']]


def test_a_judge_sees_lists_and_mappings_as_json(project):
    seen = []

    def judge(request, sample):
        seen.append(request.messages[-1]["content"])
        return '{"reason": "r", "score": 9}'

    project.rows("rows.jsonl", [{"q": {"it's": ["é", None]}, "a": "plain 'text'", "n": 3}])
    stage = {"filter": [{"judge": {"model": "m", "rubric": "good", "fields": ["q", "a", "n"]}}]}
    pipeline = {
        "version": 1,
        "models": {"m": {"provider": "scripted", "model": "echo"}},
        "stages": [{"source": {"path": "rows.jsonl"}}, stage],
    }
    distillgen.run(pipeline, out="out", teachers={"m": judge})
    assert """q: {"it's": ["é", null]}""" in seen[0] and "a: plain 'text'" in seen[0] and "n: 3" in seen[0]


def test_examples_are_shown_at_check(tmp_path):
    from distillgen.project import Project
    from distillgen.prompting.prompt import Prompt

    def parse(example):
        return Prompt.parse(
            "p",
            f"---\nfew_shot: {{n: 1, examples: [{example}]}}\n---\n{{{{ q }}}}",
            "p.md",
            Project(tmp_path),
        )

    parse("{q: a, answer: b}")
    for example, reason in (
        ("{q: null, answer: b}", "example 1 cannot be shown: prompt p: 'q' is null"),
        ("{q: [a], answer: b}", "'q' is a list"),
        ("{q: '', answer: b}", "the user's turn is empty"),
        ("{q: a, answer: null}", "example 1 has no 'answer'"),
    ):
        with pytest.raises(ConfigError, match=reason):
            parse(example)


def test_what_is_said_to_a_model_is_not_empty():
    from distillgen.flow.record_template import RecordTemplate

    assert (
        RecordTemplate("{{ q }}!").say(Record("", {"q": "a"})) == "a!"
        and RecordTemplate("{{ q }}").render(Record("", {"q": " "})) == " "
    )
    for template, row in (
        ("{{ q }}", {"q": " "}),
        ("{{ q }}!", {"q": ""}),
        ("{% if q %}{{ q }}{% endif %}", {"q": ""}),
    ):
        with pytest.raises(Unrenderable, match="'q' is empty|the text is empty"):
            RecordTemplate(template).say(Record("", row))
