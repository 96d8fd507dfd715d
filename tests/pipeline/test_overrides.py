"""`--set`: other endpoints for every recipe as documented, whole models and stages, and removed options."""

import re

import pytest
import yaml

import distillgen
from distillgen.errors import ConfigError
from distillgen.project import home
from tests.conftest import ROOT

RECIPES = sorted(path.stem for path in home("pipelines").glob("*.yaml"))
OPEN_A_USER_TURN = ("dialogues", "magpie")  # which a plain chat API cannot
WORDS = re.compile(r"`(--set teacher\.provider=openai .*?)`")
VALUES = {"model": "some-model", "base_url": "http://localhost:8000/v1"}


def words() -> list[str]:
    """The arguments that README gives for any endpoint, each … filled in."""
    (told,) = WORDS.findall((ROOT / "README.md").read_text())
    return [re.sub(r"(\w+)=…", lambda m: f"{m[1]}={VALUES[m[1]]}", word) for word in told.split()]


def models_of(recipe: str) -> dict:
    """The models of a recipe, which stand before its stages; some have none but their own students."""
    text = (home("pipelines") / f"{recipe}.yaml").read_text()
    return yaml.safe_load(text.partition("\nstages:")[0]).get("models", {})


@pytest.fixture(autouse=True)
def every_package(monkeypatch):
    """What else a recipe needs is not looked at."""
    monkeypatch.setattr("distillgen.extras.find_spec", lambda name, *_: object())


@pytest.fixture
def base(project):
    project.rows("rows.jsonl", [{"q": "Who?"}])
    project.write(
        "pipelines/base.yaml",
        """# base.yaml: x
version: 1
models:
  teacher: {provider: embedded, model: qwen2.5-coder-1.5b-instruct, context: 1024, threads: 1,\
 temperature: 0.3, max_tokens: 9}
  judge: {provider: openai, model: m, base_url: "http://localhost:1/v1",\
 price: {input: 1, output: 2, batch: 0.5}}
stages:
  - source: {path: rows.jsonl}
  - generate: {model: teacher, template: "{{ q }}", output: a, n: 3}
  - filter: [brevity: {field: a, max_words: 5}]
""",
    )
    return project


def exchanged(recipe):
    """The models of a recipe that another endpoint can stand for."""
    models = models_of(recipe)
    return (
        ["teacher"] if "teacher" in models else [n for n, m in models.items() if m["provider"] == "embedded"]
    )


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if exchanged(recipe)])
def test_every_recipe_takes_another_endpoint_as_documented(project, recipe, monkeypatch):
    monkeypatch.setattr("distillgen.local_models.embedder.shipped", lambda model: model)
    if "data/digits.py" in (home("pipelines") / f"{recipe}.yaml").read_text():
        pytest.importorskip("sklearn")
    names = exchanged(recipe)
    options = [word for word in words() if word != "--set"]
    sets = [word.replace("teacher.", f"{name}.") for name in names for word in options]
    if recipe in OPEN_A_USER_TURN:
        with pytest.raises(ConfigError, match="cannot do user_turn"):
            distillgen.load(recipe, sets)
        sets.append("teacher.server=vllm")
    checked = distillgen.load(recipe, sets)
    for name in names:
        assert checked.models[name].identity == VALUES["base_url"]
        assert checked.models[name].model == "some-model"
    assert not any("student" in note for note in checked.notes)


def test_the_command_of_the_readme_as_it_is_typed(project):
    done = project.cli("check", "quickstart", *words())  # without the package of the former provider
    assert (
        "note: teacher.context is left out: provider 'openai' has no such option" in done.stderr
        and "ok" in done.stdout
    )


@pytest.mark.parametrize("order", [1, -1])
def test_what_only_the_former_provider_had_is_dropped_and_nothing_else(base, order):
    sets = ["teacher.provider=openai", "teacher.model=m", "teacher.base_url=http://localhost:1/v1"][::order]
    checked = distillgen.load("base", sets)
    assert [note.split()[0] for note in checked.notes] == ["teacher.context", "teacher.threads"]
    assert checked.models["teacher"].temperature == 0.3 and checked.models["teacher"].max_tokens == 9
    assert "context" not in checked.shown_models["teacher"]


@pytest.mark.parametrize(
    "sets, said",
    [
        (["teacher.provider=openai", "teacher.model=m", "teacher.context=512"], "has no option 'context'"),
        (["teacher.contxt=512"], "did you mean 'context'?"),
        (["teacher.provider=opnai"], "did you mean 'openai'?"),
        (["teacher=5"], "--set teacher=5: it takes options"),
        (["generate=5"], "--set generate=5: it takes options"),
        (["teacher={provider: openai}"], "model 'teacher' needs 'model'"),
        (["teachr={provider: openai}"], "teachr"),
        (["models=3"], "'models': must be a mapping of options, not '3'"),
        (["models={teacher: 5}"], "'models.teacher': must be a mapping of options"),
        (["models=[]", "teacher.model=m"], "'models': must be a mapping of options"),
        (["stages=3", "generate.n=2"], "'stages': must be a valid list"),
        (["stages=[5]", "generate.n=2"], "'stages.0': must be a mapping of options"),
    ],
)
def test_a_mistake_stays_one(base, sets, said):
    with pytest.raises(distillgen.ConfigError, match=re.escape(said)):
        distillgen.load("base", sets)


def test_a_whole_model_stage_or_filter_and_null(base):
    whole = "teacher={provider: openai, model: m, base_url: 'http://localhost:1/v1'}"
    checked = distillgen.load(
        "base",
        [
            whole,
            "judge.price.batch=null",
            "generate={model: teacher, template: '{{ q }}!', output: a}",
            "brevity={field: a, max_words: 2}",
        ],
    )
    assert checked.models["teacher"].temperature is None and checked.models["judge"].price.batch == 1.0
    assert checked.stages[1].n == 1 and checked.stages[1].template == "{{ q }}!"
    assert checked.stages[2].filters[0].options == {"field": "a", "max_words": 2}
    checked = distillgen.load("base", ["teacher.max_tokens=null", "judge.price=null", "brevity=null"])
    assert (
        checked.models["teacher"].max_tokens is None
        and checked.models["judge"].price is None
        and len(checked.stages) == 2
    )
    assert set(distillgen.load("base", ["judge=null"]).models) == {"teacher"}
    assert len(distillgen.load("base", ["filter=null"]).stages) == 2  # its filters stand in a bare list
    assert distillgen.load("base", ["filter.mark=short"]).stages[2].mark == "short"


@pytest.mark.parametrize(
    ("sets", "origin"),
    [
        (["source.path=rows.jsonl"], {"path": "rows.jsonl"}),
        (["source.script=null", "source.path=rows.jsonl"], {"path": "rows.jsonl"}),
        (["source.script=rows.py:others"], {"script": "rows.py:others", "arguments": {"n": 2}}),
        (["source.draw={n: 2, fields: {q: {from: 1}}}", "source.path=rows.jsonl"], {"path": "rows.jsonl"}),
        (["source.with={n: 3}"], {"script": "rows.py:some", "arguments": {"n": 3}}),
    ],
)
def test_rows_of_ones_own_take_the_place_of_those_of_a_script(base, sets, origin):
    functions = ("some", "others")
    base.write("rows.py", "".join(f"def {name}(n: int = 1):\n    yield {{'q': n}}\n" for name in functions))
    file = base.path / "pipelines/base.yaml"
    file.write_text(file.read_text().replace("{path: rows.jsonl}", "{script: 'rows.py:some', with: {n: 2}}"))
    source = distillgen.load("base", sets).stages[0]
    expected = dict.fromkeys(["path", "dataset", "script", "draw", "arguments"]) | origin
    assert {option: getattr(source, option) for option in expected} == expected


def test_a_stage_that_is_not_there_cannot_be_left_out(project):
    project.rows("rows.jsonl", [{"q": "a"}])
    pipeline = {"version": 1, "stages": [{"source": {"path": "rows.jsonl"}}]}
    with pytest.raises(ConfigError, match="'filter'"):
        distillgen.load(pipeline, ["filter=null"])


def test_a_price_without_the_half_of_an_answer_is_noted(base):
    notes = distillgen.load(
        "base", ["teacher={provider: openai, model: m, price: {input: 1}, api_key: k}"]
    ).notes
    assert notes == ("model 'teacher': the price names no 'output', so that output tokens count as free",)
    assert not distillgen.load("base", ["judge.price={input: 1}"]).notes  # no stage asks it
    assert not distillgen.load(
        "base", ["teacher={provider: scripted, model: echo, price: {input: 1, output: 0}}"]
    ).notes


def test_a_template_is_a_value_without_quotes_of_its_own(base):
    checked = distillgen.load("base", ["generate.template={{ q }} {# a note #}?"])
    assert checked.stages[1].template == "{{ q }} {# a note #}?"
    with pytest.raises(ConfigError, match="'template' needs the field 'p'"):
        distillgen.load("base", ["generate.template={{ p }}"])
