"""Prompt files: their parts, random draws, and the messages sent."""

import json
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import distillgen
from distillgen.errors import ConfigError
from distillgen.project import Project
from distillgen.prompting.prompt import Draw, Prompt
from distillgen.record import Unrenderable

FEW = "few_shot: {n: 2, examples: [{q: a, answer: A}, {q: b, answer: B}, {q: c, answer: C}]}"


@pytest.fixture
def parse(tmp_path):
    def parse(text: str, name: str = "p") -> Prompt:
        return Prompt.parse(name, text, "p.md", Project(tmp_path))

    return parse


def contents(messages):
    return [(message["role"], message["content"]) for message in messages]


def test_roles_and_front_matter(parse):
    prompt = parse(
        "---\nabout: A test.\noutput: {json: {a: string}}\nsampling: {temperature: 0.5}\ninputs: [q]\n---\n"
        "@system\nBe kind.\n\n@user\nQ: {{ q }}\n---\nmore\n@assistant\nA:\n"
    )
    assert (
        prompt.front.about == "A test."
        and prompt.form.kind == "json"
        and prompt.front.sampling.sampling_options() == {"temperature": 0.5}
    )
    assert set(prompt.inputs) == {"q"}
    assert contents(prompt.render({"q": "why"})) == [
        ("system", "Be kind."),
        ("user", "Q: why\n---\nmore"),
        ("assistant", "A:"),
    ]


def test_text_without_roles_is_one_user_turn(parse):
    assert contents(parse("\nWhat is {{ q }}?\n").render({"q": "it"})) == [("user", "What is it?")]
    assert contents(parse("---\n---\nHi").render({})) == [("user", "Hi")]
    assert contents(parse("mail me@user\n @user\n@user is a word").render({})) == [
        ("user", "mail me@user\n @user\n@user is a word")
    ]


@pytest.mark.parametrize("newline, start", [("\n", ""), ("\r\n", ""), ("\n", "\ufeff"), ("\r\n", "\ufeff")])
def test_files_as_any_editor_saves_them(tmp_path, newline, start):
    (tmp_path / "prompts").mkdir()
    text = start + "---\nabout: x\n---  \n@system\nS\n@user  \n{{ q }}\n".replace("\n", newline)
    (tmp_path / "prompts/p.md").write_bytes(text.encode())
    prompt = Prompt.load("p", Project(tmp_path))
    assert prompt.front.about == "x" and contents(prompt.render({"q": 1})) == [("system", "S"), ("user", "1")]


def test_the_users_prompt_hides_a_shipped_one_and_a_typo_is_answered(tmp_path):
    (tmp_path / "prompts/deep").mkdir(parents=True)
    (tmp_path / "prompts/deep/mine.md").write_text("{{ q }}")
    (tmp_path / "secret.md").write_text("{{ q }}")
    assert Prompt.load("deep/mine", Project(tmp_path)).name == "deep/mine"
    with pytest.raises(ConfigError, match="there is no prompt 'deep/mime'; did you mean 'deep/mine'"):
        Prompt.load("deep/mime", Project(tmp_path))
    with pytest.raises(ConfigError, match="there is no prompt '../secret'"):
        Prompt.load("../secret", Project(tmp_path))
    (tmp_path / "prompts/bad.md").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="bad.md:1: not UTF-8 text"):
        Prompt.load("bad", Project(tmp_path))


@pytest.mark.parametrize(
    "text, message",
    [
        ("---\nabout: x\n", "p.md:1: the front matter does not end"),
        ("---\nabout: x\n---\n\n", "p.md:1: the front matter does not end ('---'), or nothing follows it"),
        ("---\nabot: x\n---\nHi", "p.md:2: the front matter has no option 'abot'; did you mean 'about'?"),
        (
            "---\n\nsampling: {temprature: 1}\n---\nHi",
            "p.md:3: 'sampling' of the front matter has no option 'temprature'; did you mean 'temperature'?",
        ),
        (
            "---\nabout: x\noutput: jsn\n---\nHi",
            "p.md:3: output: there is no form 'jsn'; did you mean 'json'?",
        ),
        ("---\nabout: {\n---\nHi", "not valid YAML"),
        ("@sytem\nS\n@user\nU", "p.md:1: there is no role '@sytem'; did you mean 'system'?"),
        ("---\nabout: x\n---\n@user\nU\n\n@usr\nV", "p.md:7: there is no role '@usr'; did you mean 'user'?"),
        ("@system\nS", "a prompt needs a @user turn"),
        ("Hello\n@user\nHi", "p.md:1: text stands before the first @system, @user or @assistant line"),
        ("---\nabout: x\n---\n@user\nA\n{{ q ", "p.md:6: template: "),
        (
            "---\nabout: x\n---\nA\n{% include 'x' %}",
            "p.md:5: a template cannot include, import or extend files",
        ),
        ("{% import 'x' as y %}", "a template cannot include, import or extend files"),
        ("{{ q | nofilter }}", "p.md:1: template: No filter named 'nofilter'"),
        ("---\nvary: {tone: [a]}\n---\nHi", "p.md:2: vary: the template does not use 'tone'"),
        (
            "---\nvary: {tone: [null, a]}\n---\n{{ tone }}",
            "p.md:2: vary: 'tone' can be null, which has no text; write ''",
        ),
        ("---\nvary: {tone: {of: [a], n: 2}}\n---\n{{ tone }}", "p.md:2: vary: 'tone' wants 2 of 1 values"),
        ("---\ninputs: [q, r]\n---\n{{ q }}", "p.md:2: inputs declares 'r', which the template does not use"),
        ("---\ninputs: []\n---\n{{ q }}", "p.md:2: inputs does not declare 'q', which the template uses"),
        (
            "---\nfew_shot: {n: 1, examples: [{q: a}]}\n---\n{{ q }}",
            "p.md:2: few_shot: example 1 has no 'answer'",
        ),
        (
            "---\nfew_shot: {n: 1, examples: [{q: a, r: b, answer: c}]}\n---\n{{ q }}",
            "few_shot: example 1 gives 'r', which the template does not use",
        ),
        (
            "---\nfew_shot: {n: 1, examples: [{answer: c}]}\n---\n{{ q }}",
            "few_shot: example 1 gives none of ['q']",
        ),
        (
            "---\nfew_shot: {n: 2, examples: [{q: a, answer: c}]}\n---\n{{ q }}",
            "few_shot: n is 2, but there are 1 examples",
        ),
        (
            "---\nfew_shot: {n: 1, examples: no.jsonl}\n---\n{{ q }}",
            "p.md:2: few_shot: there is no file 'no.jsonl'",
        ),
        (
            "---\noutput: numbered\nfew_shot: {n: 1, examples: [{q: a, answer: c}]}\n---\n{{ q }}",
            "p.md:3: few_shot: the answer of example 1 is not of the prompt's form: there is "
            "no numbered list",
        ),
    ],
)
def test_mistakes_are_told_with_their_line(parse, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(text)


def test_examples_from_a_file(parse, tmp_path):
    front = "---\nfew_shot: {n: 2, examples: few.jsonl, answer: a, shuffle: false}\n---\n{{ q }}"
    (tmp_path / "few.jsonl").write_text('{"q": "x", "a": "X"}\n\n{"q": "y", "a": "Y"}\n')
    prompt = parse(front)
    assert [dict(e) for e in prompt.examples] == [{"q": "x", "a": "X"}, {"q": "y", "a": "Y"}]
    before = prompt.sha256
    (tmp_path / "few.jsonl").write_text('{"q": "x", "a": "X"}\n{"q": "y", "a": "Z"}\n')
    assert parse(front).sha256 != before
    for bad, reason in (
        (b'{"q": "x", "a": "X"}\n[1]\n', ":2: few_shot: a row must be an object of fields, not '[1]'"),
        (b'{"q": "\xff"}\n', ":1: few_shot: not UTF-8 text: "),
    ):
        (tmp_path / "few.jsonl").write_bytes(bad)
        with pytest.raises(ConfigError, match=re.escape(reason)):
            parse(front)


def test_examples_become_turns_of_the_same_shape(parse):
    prompt = parse(f"---\n{FEW}\n---\n@system\nS\n@user\nQ: {{{{ q }}}}")
    messages = contents(prompt.render({"q": "z"}, Draw((2, 0))))
    assert messages == [
        ("system", "S"),
        ("user", "Q: c"),
        ("assistant", "C"),
        ("user", "Q: a"),
        ("assistant", "A"),
        ("user", "Q: z"),
    ]


def test_an_example_answer_that_is_no_text_is_shown_as_json(parse):
    prompt = parse(
        "---\noutput: {json: {b: string, a: string}}\n"
        "few_shot: {n: 1, examples: [{q: x, answer: {b: é, a: y}}]}\n---\n{{ q }}"
    )
    assert contents(prompt.render({"q": "z"}, Draw((0,))))[1] == ("assistant", '{"b": "é", "a": "y"}')


def test_examples_laid_out_by_the_template(parse):
    prompt = parse(
        f"---\n{FEW}\n---\n{{% for e in examples %}}{{{{ e.q }}}}={{{{ e.answer }}}} "
        f"{{% endfor %}}{{{{ q }}}}"
    )
    assert contents(prompt.render({"q": "z"}, Draw((1, 0)))) == [("user", "b=B a=A z")]
    assert set(prompt.inputs) == {"q"}


def test_examples_is_an_ordinary_field_of_a_prompt_without_examples(parse):
    prompt = parse("{{ examples }}")
    assert set(prompt.inputs) == {"examples"} and contents(prompt.render({"examples": "mine"})) == [
        ("user", "mine")
    ]


def test_a_draw_depends_on_its_seed_alone(parse):
    prompt = parse(
        f"---\n{FEW}\nvary: {{tone: [x, y, z], two: {{of: [1, 2, 3, 4], n: 2}}}}\n---\n"
        f"{{{{ q }}}} {{{{ tone }}}} {{{{ two | json }}}}"
    )
    draws = [prompt.draw(f"0/generate/{i}/0", {"q": "new"}) for i in range(40)]
    assert draws == [prompt.draw(f"0/generate/{i}/0", {"q": "other"}) for i in range(40)]
    assert {draw.values["tone"] for draw in draws} == {"x", "y", "z"}
    assert len({draw.examples for draw in draws}) == 6 and all(len(set(draw.examples)) == 2 for draw in draws)
    assert (
        all(len(set(draw.values["two"])) == 2 for draw in draws)
        and len({tuple(draw.values["two"]) for draw in draws}) > 6
    )
    assert json.loads(draws[0].text()) == {**draws[0].values, "examples": list(draws[0].examples)}
    rendered = contents(prompt.render({"q": "new"}, draws[0]))[-1][1]
    assert rendered == f"new {draws[0].values['tone']} {draws[0].values['two']}"
    assert parse("{{ q }}").draw("s", {"q": 1}) == Draw() and Draw().text() == ""


def test_without_shuffle_the_first_examples_are_taken(parse):
    prompt = parse(f"---\n{FEW.replace('n: 2', 'n: 2, shuffle: false')}\n---\n{{{{ q }}}}")
    assert {prompt.draw(str(i), {"q": "z"}).examples for i in range(9)} == {(0, 1)}
    assert prompt.draw("0", {"q": "a"}).examples == (1, 2)


def test_an_example_that_is_the_record_is_left_out(parse):
    prompt = parse(f"---\n{FEW.replace('n: 2', 'n: 3')}\n---\n{{{{ q }}}}")
    for i in range(9):
        assert sorted(prompt.draw(str(i), {"q": "b", "more": 1}).examples) == [0, 2]
        assert sorted(prompt.draw(str(i), {"q": "z"}).examples) == [0, 1, 2]


def test_examples_may_give_different_fields(parse):
    prompt = parse(
        "---\nfew_shot: {n: 2, examples: [{q: a, r: b, answer: A}, {r: c, answer: B}]}\n---\n{{ q }}{{ r }}"
    )
    assert sorted(prompt.draw("0", {"q": "a", "r": "x"}).examples) == [0, 1]
    assert prompt.draw("0", {"q": "z", "r": "c"}).examples == (0,)
    assert prompt.draw("0", {"q": "a", "r": "b"}).examples == (1,)


def lineage(out, rows, concurrency, **more):
    with open("seeds.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    pipeline = {
        "version": 1,
        "models": {"teacher": {"provider": "scripted", "model": "echo"}},
        "stages": [
            {"source": {"path": "seeds.jsonl"}},
            {"generate": {"model": "teacher", "prompt": "p", "draws": 2}},
        ],
        **more,
    }
    distillgen.run(pipeline, out=out, concurrency=concurrency)
    with open(f"{out}/corpus.jsonl") as file:
        return {
            (row["q"], i % 2): (row["meta"]["made"][0]["draw"], row["response"])
            for i, row in enumerate(map(json.loads, file))
        }


def test_draws_are_recorded_and_do_not_depend_on_order_or_concurrency(project):
    project.write("prompts/p.md", f"---\n{FEW}\nvary: {{tone: [x, y]}}\n---\n{{{{ q }}}} {{{{ tone }}}}")
    rows = [{"q": f"q{i}"} for i in range(12)]
    first = lineage("a", rows, 1)
    assert first == lineage("b", rows[::-1], 8)
    assert lineage("c", rows[3:5], 8).items() <= first.items()
    assert len({draw for draw, _ in first.values()}) > 6
    assert (
        all(first[row["q"], 0] != first[row["q"], 1] for row in rows[:3])
        or len({first[r["q"], 0] == first[r["q"], 1] for r in rows}) == 2
    )
    for (q, _), (draw, response) in first.items():
        assert set(json.loads(draw)) == {"tone", "examples"} and response == f"{q} {json.loads(draw)['tone']}"
    assert lineage("d", rows, 8, seed=1) != first


def test_a_missing_field_or_failing_expression_fails_its_row_only(parse):
    with pytest.raises(Unrenderable, match="prompt p: there is no field 'q' in the row"):
        parse("{{ q }}").render({})
    with pytest.raises(Unrenderable, match="prompt p: ZeroDivisionError"):
        parse("{{ 1 / q }}").render({"q": 0})
    with pytest.raises(Unrenderable, match="too large"):
        parse("{{ q * 100000000 }}").render({"q": "abc"})
    with pytest.raises(Unrenderable, match="too large"):
        parse("{{ 10 ** q }}").render({"q": 10**9})
    with pytest.raises(Unrenderable):
        parse("{{ q.__class__.__mro__ }}").render({"q": "abc"})


hostile = st.text() | st.lists(
    st.sampled_from(["{{ q }}", "{% raw %}", "{#", "\n@system\n", "\n@user\n", "---\n", "<b>&amp;", "x"])
).map("".join)


@given(hostile, hostile)
@settings(max_examples=100, deadline=None)
def test_a_records_text_arrives_unchanged(q, r):
    project = Project(".")
    assume(q.strip())
    messages = Prompt.parse("p", "@system\nS\n@user\n[{{ q }}|{{ r }}]", "p.md", project).render(
        {"q": q, "r": r}
    )
    assert contents(messages) == [("system", "S"), ("user", f"[{q}|{r}]")]
    assert contents(Prompt.parse("p", "{{ q }}", "p.md", project).render({"q": q})) == [("user", q.strip())]
