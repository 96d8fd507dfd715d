"""`distillgen.run`: options, runs inside an event loop, and what a notebook shows of a run."""

import asyncio
import inspect
import signal
import sys
import time
from html.parser import HTMLParser

import pytest

import distillgen
from distillgen.cli.run import run as command
from distillgen.runs.from_python import RunOptions
from distillgen.teachers.scripted import check_script
from tests.command_process import ForkedCommand
from tests.endpoint import Endpoint

PIPELINE = {
    "version": 1,
    "models": {"teacher": {"provider": "scripted", "model": "echo"}},
    "stages": [
        {"source": {"path": "data/seeds.jsonl"}},
        {"generate": {"model": "teacher", "template": "{{ question }}", "output": "answer"}},
        {"filter": [{"word_count": {"field": "answer", "min_words": 2}}]},
    ],
}


@pytest.fixture
def seeds(project):
    project.rows("data/seeds.jsonl", [{"question": q} for q in ("one", "two words", "<b>three</b> words")])
    return project


def test_the_options_have_the_names_of_the_command_line():
    of_terminals = dict.fromkeys(("as_json", "quiet", "verbose", "open_page"))  # `progress` stands for them
    renamed = {"first": "from_", "pipeline": "pipeline", **of_terminals}
    of_command = {renamed.get(option.name, option.name) for option in command.params} - {None}
    of_python = {
        name for name, parameter in inspect.signature(distillgen.run).parameters.items() if name != "unknown"
    }
    assert of_command <= of_python
    assert {"seeds", *RunOptions.__annotations__} == of_python - {"pipeline"}  # what a type checker sees


def test_options_do_what_those_of_the_command_line_do(seeds):
    until = distillgen.run(PIPELINE, out="runs/p", until="generate", limit=2)
    assert [stage["rows"] for stage in until.state["stages"]] == [2, 2, 0]
    alone = distillgen.run(PIPELINE, out="runs/q", stage="source")
    assert [stage["rows"] for stage in alone.state["stages"]] == [3, 0, 0]
    assert [stage["rows"] for stage in distillgen.run(PIPELINE, out="runs/p").state["stages"]] == [3, 3, 3]
    again = distillgen.run(PIPELINE, out="runs/p", stage="filter", ledger="runs/p/ledger.sqlite3")
    assert again.state["asked_now"]["requests"] == 0
    again = distillgen.run(PIPELINE, out="runs/p", retry_failed=True, retry_with={"max_tokens": 9})
    assert again.state["kept"] == 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"limt": 3}, "run() has no option 'limt'; did you mean 'limit'?"),
        ({"limit": 0}, "run(): 'limit': must be greater than or equal to 1"),
        ({"limit": True}, "run(): 'limit': must be a number"),
        ({"concurrency": "many"}, "run(): 'concurrency': must be a valid integer"),
        ({"max_cost_usd": -1}, "run(): 'max_cost_usd': must be greater than or equal to 0"),
        ({"retry_with": {"max_tokens": 9}}, "retry_with changes what retry_failed asks; give both"),
        ({"retry_failed": True, "retry_with": {"max_token": 9}}, "did you mean 'max_tokens'"),
        ({"teachers": {"techer": str}}, "the pipeline has no model 'techer'; did you mean 'teacher'?"),
        (
            {"teachers": {"teacher": "echo"}},
            "teachers: 'teacher' is str: give a function of a request and the",
        ),
        ({"teachers": {"teacher": lambda request: ""}}, "teachers: 'teacher': too many positional arguments"),
        ({"sets": "generate.n=2"}, "run(): 'sets' is a list of texts, not str"),
        ({"sets": {"generate.n": 2}}, "run(): 'sets' is a list of texts, not dict"),
        ({"report_to": "wandb"}, "run(): 'report_to' is a list of texts, not str"),
        ({"filters": {"brief": str}}, "filters: no stage of the pipeline uses 'brief'"),
        ({"from_": "generat"}, "there is no stage 'generat'; did you mean 'generate'?"),
    ],
)
def test_a_wrong_option_is_an_error_before_anything_is_asked(seeds, options, message):
    with pytest.raises(distillgen.ConfigError) as raised:
        distillgen.run(PIPELINE, out="runs/p", **options)
    assert message in str(raised.value) and not (seeds.path / "runs/p/ledger.sqlite3").exists()
    check_script(max, "teachers: 'teacher'")  # a function of C need not tell what it takes


def test_what_is_no_pipeline_is_an_error():
    for pipeline in (None, 5, ["source"]):
        with pytest.raises(distillgen.ConfigError, match="a pipeline is a path, a name or a dict, not "):
            distillgen.run(pipeline)


def test_a_run_is_found_by_a_text_and_a_script_that_takes_something_else_is_not_run(seeds):
    distillgen.run(PIPELINE, out="runs/p")
    assert distillgen.Run("runs/p").state["kept"] == 2 and len(distillgen.Run("runs/p").dropped) == 1
    with pytest.raises(distillgen.ConfigError, match="holds no runs of several seeds"):
        _ = distillgen.Seeds("runs/p").summary
    seeds.write("data/one.py", "def one(request):\n    return 'x'\n")
    with pytest.raises(distillgen.ConfigError, match="'data/one.py:one': too many positional arguments"):
        distillgen.load(PIPELINE, ["teacher.model=data/one.py:one"])


def test_it_runs_inside_an_event_loop_with_the_same_bytes(seeds):
    async def cell():
        return distillgen.run(PIPELINE, out="runs/inside")

    asyncio.run(cell())
    distillgen.run(PIPELINE, out="runs/outside")
    corpora = [(seeds.path / f"runs/{name}/corpus.jsonl").read_bytes() for name in ("inside", "outside")]
    assert corpora[0] == corpora[1] and b"two words" in corpora[0]


CELL = """
import asyncio, distillgen

async def cell():
    try:
        distillgen.run("ask")
    except distillgen.DistillgenError as error:
        print(type(error).__name__, *error.__notes__)

asyncio.new_event_loop().run_until_complete(cell())  # an interrupt is raised in the cell, as in a notebook
"""


def test_an_interrupt_inside_an_event_loop_stops_the_run_and_it_goes_on(project):
    """The answers in flight arrive and are kept; the second call asks the others alone."""
    with Endpoint(latency_s=0.3) as endpoint:
        project.ask_pipeline(endpoint.url, 12, model=", max_concurrency: 3")
        cell = ForkedCommand([sys.executable, "-c", CELL], project.path, project.env(), text=True)
        while len(endpoint.bodies) < 3:
            time.sleep(0.01)
        cell.send_signal(signal.SIGINT)
        printed = cell.communicate(timeout=30)[0]
        assert printed.startswith("Stopped ") and "the same call goes on" in printed, printed
        assert 3 <= len(endpoint.bodies) < 12
        assert distillgen.Run(project.path / "runs/ask").state["state"] == "interrupted"
        assert distillgen.run("ask").state["kept"] == 12 and len(endpoint.bodies) == 12


def test_a_function_gets_the_progress_and_its_exception_does_not_end_the_run(seeds):
    moments = []
    distillgen.run(PIPELINE, out="runs/p", progress=moments.append)
    assert isinstance(moments[-1], distillgen.Progress)
    assert [stage.complete for stage in moments[-1].stages] == [True] * 3
    assert moments[-1].models[0].answered == 3

    def broken(progress):
        raise KeyError("tqdm")

    with pytest.warns(UserWarning, match="test_from_python.py:.*KeyError: 'tqdm'.*the run goes on"):
        run = distillgen.run(PIPELINE, out="runs/q", progress=broken)
    assert run.state["state"] == "finished"


@pytest.mark.parametrize("progress, is_drawn", [(True, True), (False, False), (None, False)])
def test_progress_is_drawn_where_it_is_wanted(seeds, capsys, progress, is_drawn):
    """Standard error is no terminal here, so that nothing is drawn by default."""
    distillgen.run(PIPELINE, out="runs/p", progress=progress)
    assert ("first kept row" in capsys.readouterr().err) == is_drawn


def test_only_public_names_are_listed():
    assert set(dir(distillgen)) == {*distillgen.__all__, "__version__"}


class Texts(HTMLParser):
    """The elements and the texts of a page, as a browser reads them."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_a_notebook_shows_runs_rows_and_records_and_no_html_of_theirs(seeds):
    run = distillgen.run(PIPELINE, out="runs/p")
    assert repr(run) == f"Run('runs/p'): finished, {run}" and "3 records: 2 kept, 1 word_count" in repr(run)
    assert repr(run.kept) == "Rows('runs/p/corpus.jsonl'): 2 records"
    assert repr(run.kept[1]).startswith(f"Record({run.kept[1].id}, question='<b>three</b> words'")
    assert "dropped='1 words < 2'" in repr(run.dropped[0])
    for shown, texts in (
        (run, ["word_count 1", "generate", repr(run)]),
        (run.kept, ["<b>three</b> words", "two words"]),
        (run.dropped, ["filter/word_count: 1 words < 2", "dropped"]),
        (run.kept[1], ["<b>three</b> words", "score word_count"]),
    ):
        page = Texts(shown._repr_html_())
        assert set(page.elements) == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
        assert set(texts) <= set(page.texts)
    nothing = distillgen.Run(seeds.path)
    assert "is not a run directory" in repr(nothing) and "is not a run" in nothing._repr_html_()


def test_rows_are_read_by_number_and_grouped(seeds):
    run = distillgen.run(PIPELINE, out="runs/p")
    assert [r.fields["question"] for r in run.kept[0:]] == ["two words", "<b>three</b> words"]
    assert run.kept[-1].fields == run.kept[1].fields and run.kept.group("filter") == {}
    with pytest.raises(IndexError, match="no row 2"):
        run.kept[2]
    with pytest.raises(distillgen.ConfigError, match="did you mean 'filter'"):
        run.dropped.group("filtr")


def test_a_missing_extra_has_the_remedy_of_the_command_line(seeds, monkeypatch):
    run = distillgen.run(PIPELINE, out="runs/p")
    assert run.corpus["answer"] == ["two words", "<b>three</b> words"]
    monkeypatch.setattr("distillgen.extras.find_spec", lambda module: None)
    with pytest.raises(distillgen.ConfigError, match=r"pip install 'distillgen\[datasets\]'"):
        _ = run.corpus
