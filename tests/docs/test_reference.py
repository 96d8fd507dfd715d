"""The reference: what the program writes is what is in docs/reference/, and the pages written by hand leave
nothing out.
"""

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
import write
from writer.catalog_pages import MODELS, SHIPPED
from writer.command_line import EXIT_CODES
from writer.markdown import option_list

import distillgen
from distillgen import ConfigError
from distillgen.cli import main
from distillgen.errors import DistillgenError
from distillgen.pipeline import catalog
from distillgen.plugins import names
from distillgen.project import Project
from tests.conftest import ProjectFolder

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLES = sorted((DOCS / "examples/pipelines").glob("*.yaml"))


def page(name: str) -> str:
    return (DOCS / f"reference/{name}.md").read_text()


def test_the_reference_is_what_the_program_writes():
    files = write.generated()
    assert files == write.generated()
    stale = [path.name for path, text in files.items() if not path.exists() or path.read_text() != text]
    assert not stale, f"{', '.join(stale)}: the declarations have changed; run: python docs/write.py"


def test_a_file_that_differs_is_written_anew_and_no_other(tmp_path):
    same, other = tmp_path / "same.md", tmp_path / "reference" / "other.md"
    same.write_text("a")
    assert write.write({same: "a", other: "b"}) == [other] and other.read_text() == "b"


def test_every_topic_of_help_has_a_heading():
    places = {
        "stage": "stages",
        "provider": "models",
        "preset": "models",
        "objective": "objectives",
        "filter": "filters",
    }
    places |= {"loss": "losses", "body": "losses", "score": "losses"}
    for entry in catalog.manual(SHIPPED):
        inner = entry["kind"] in ("prompt", "loss", "body", "score")
        heading = f"\n{'###' if inner else '##'} {entry['name']}\n"
        assert heading in page(places.get(entry["kind"], "prompts")), entry["name"]
    for command in main.main.commands:
        assert f"\n## distillgen {command}\n" in page("command-line")
    for name in distillgen.__all__:
        assert f"\n## {name}\n" in page("python")


def test_every_option_has_a_line():
    places = {"stages": catalog.stages, "objectives": catalog.objectives, "filters": catalog.filters}
    places |= {"models": catalog.providers}
    places |= {
        "losses": lambda project: [
            *catalog.losses(project),
            *catalog.bodies(project),
            *catalog.scores(project),
        ]
    }
    for name, entries in places.items():
        text = page(name) + page("stages")  # where the sampling options are
        for entry in entries(SHIPPED):
            lines = option_list(entry["options"]).split("\n")
            missing = [line for line in lines if line not in text]
            assert not missing, f"{name}: {entry['name']}: {missing}"


def test_llms_txt_links_to_every_page():
    text = (DOCS / "llms.txt").read_text()
    pages = {path.relative_to(DOCS).as_posix() for end in ("md", "ipynb") for path in DOCS.rglob(f"*.{end}")}
    linked = re.findall(r"^- \[[^\]]+\]\(([^)]+)\): [`\w].*$", text, re.MULTILINE)
    assert sorted(linked) == sorted(page for page in pages if not page.startswith("examples/"))
    assert text.startswith("# distillgen\n\n> ") and text.count("\n## ") == 5


def test_every_exit_code_is_explained():
    def codes(kind):
        yield kind.exit_code
        for inner in kind.__subclasses__():
            yield from codes(inner)

    import distillgen.cli.carry_out  # noqa: F401 - one exception is declared there

    assert {0, 1, *codes(DistillgenError)} == set(EXIT_CODES)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_passes_the_check(path):
    assert path.read_text().startswith("# ")
    try:
        pipeline = distillgen.load(path, need_env=False)
    except ConfigError as error:
        assert re.search("needs the (extra|package)", str(error))
        return
    stages = [*pipeline.bound_stages]
    for bound in stages:
        stages += bound.inner()
    assert path.stem in [bound.stage.kind for bound in stages]


def test_the_example_of_models_passes_the_check(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "models.yaml").write_text(f"version: 1\n{MODELS}stages: [source: {{path: data.jsonl}}]\n")
    try:
        distillgen.load(tmp_path / "models.yaml", need_env=False)
    except ConfigError as error:
        assert re.search("needs the (extra|package)", str(error))


def test_every_stage_has_an_example():
    assert {path.stem for path in EXAMPLES} == set(names("stages", Project(ROOT)))


def described(text: str) -> set[str]:
    """Return the names in code font, without a value behind them."""
    return {name for code in re.findall(r"`([^`\n]+)`", text) for name in [code, code.partition(":")[0]]}


EVERYTHING = """version: 1
models:
  right: {provider: scripted, model: "data/answer.py:right"}
  wrong: {provider: scripted, model: "data/answer.py:wrong"}
stages:
  - source: {path: data/questions.jsonl}
  - rounds:
      n: 2
      stages:
        - allocate: {budget: 3, group: topic}
        - generate: {model: right, template: "{{ question }}", output: solution, n: 2, max_tokens: 40}
        - filter: [numeric: {field: solution, gold: answer}]
  - diversity: {field: solution}
  - cross: {rows: [{head: beam, relation: on, tail: pier}, {head: pier, relation: on, tail: ground}]}
  - graph: {embedder: words, min_cosine: null}
  - evaluate:
      {models: [right, wrong], data: data/test.jsonl, template: "{{ question }}",\
 gold: answer, metrics: [numeric],
       n: 4, vote: number, by: topic, temperature: 0}
  - audit: {edits: data/edits.jsonl}
"""


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A run directory to which many kinds of stages have written."""
    project = ProjectFolder(tmp_path_factory.mktemp("everything"))
    for path in (DOCS / "examples/data").iterdir():
        project.write(f"data/{path.name}", path.read_text())
    project.write(
        "data/answer.py",
        "def right(request, sample):\n    return 'It is 180.'\n\n"
        "def wrong(request, sample):\n    return 'It is 7.'\n",
    )
    project.write("pipelines/everything.yaml", EVERYTHING)
    project.cli("run", "everything")
    return project.path / "runs/everything"


CHOSEN = {"right", "wrong", "numeric", "time", "traffic"}  # by the pipeline, and by its rows


def keys(value) -> set[str]:
    """Return the keys of all objects in a value, without names that a user or a filter chose."""
    if isinstance(value, list):
        return {key for inner in value for key in keys(inner)}
    if not isinstance(value, dict):
        return set()
    free = {"dropped", "measured", "numbers", "scores"}  # all keys in these are such names
    inside = {key for name, inner in value.items() if name not in free for key in keys(inner)}
    return {name for name in {*value, *inside} - CHOSEN if not name.isdecimal()}


def test_every_file_of_a_run_is_described(everything):
    text = page("run-directory")
    patterns = [re.sub("NAME|NN", "*", name) for name in described(text)]
    files = [path.relative_to(everything).as_posix() for path in everything.rglob("*") if path.is_file()]
    assert len(files) > 20
    for file in files:
        assert any(fnmatch(file, name) for name in patterns), f"run-directory.md does not describe {file}"


def test_every_key_of_a_run_is_described(everything):
    directory, metrics = described(page("run-directory")), described(page("metrics"))
    usage = json.loads((everything / "usage.json").read_text())
    assert not keys(usage) - directory
    record = json.loads((everything / "dropped.jsonl").read_text().split("\n")[0])
    assert not keys(record["meta"]) - directory
    assert not keys(json.loads((everything / "evaluation.json").read_text())) - metrics
    assert not set(json.loads((everything / "evaluation.jsonl").read_text().split("\n")[0])) - metrics


def test_every_measure_of_a_run_is_described(everything):
    names = described(page("metrics"))
    for stage in json.loads((everything / "usage.json").read_text())["stages"]:
        for name in stage["measured"]:
            general = re.sub(r"^(right|wrong)\.numeric", "MODEL.METRIC", name).removesuffix(", last round")
            general = re.sub(r" (in|of) (time|traffic|animals|food)$", r" \1 GROUP", general)
            inner = general.partition(".")[2] if stage["kind"] == "rounds" and "." in general else general
            assert {inner, f"{general}, last round"} & names, f"metrics.md does not describe {name}"


def test_every_filter_that_compares_with_gold_is_a_metric():
    gold = {entry["name"] for entry in catalog.filters(SHIPPED) if "gold" in entry["options"]}
    linked = set(re.findall(r"\(filters\.md#(\w+)\)", page("metrics")))
    assert gold - {"verifiable"} <= linked
