"""Runs with several seeds: what they find of a planted difference, what they share, and how they go on."""

import json
import sys
import zlib

import pytest
from aiohttp import web
from click.testing import CliRunner

import distillgen
from distillgen.cli import show_seeds
from distillgen.cli.main import main
from distillgen.errors import ConfigError, Stopped
from distillgen.runs.seed_figures import figures_of, summary
from tests.endpoint import Endpoint

DRAWN = {
    "source": {"draw": {"n": 40, "fields": {"a": {"from": 1, "to": 9999}, "b": {"from": 1, "to": 9999}}}}
}
SUM = {"format": {"fields": {"gold": "{{ a + b }}"}}}
ASKED = {"template": "{{ a }} + {{ b }}", "gold": "gold", "metrics": ["exact"]}


def adds(name, share):
    """A model that adds two numbers, right in this share of the questions."""

    def answer(request, sample):
        question = request.messages[-1]["content"]
        a, b = question.split(" + ")
        right = zlib.crc32(f"{name} {question}".encode()) % 1000 < 1000 * share
        return str(int(a) + int(b)) if right else "none"

    return answer


MODELS = {"good": adds("good", 0.9), "poor": adds("poor", 0.6), "other": adds("other", 0.6)}


def counted(asked):
    """The models, which note that they were asked."""

    def noting(answer):
        return lambda request, sample: asked.append(1) or answer(request, sample)

    return {name: noting(answer) for name, answer in MODELS.items()}


def pipeline(*stages, models=MODELS):
    specs = {name: {"provider": "scripted", "model": name} for name in models}
    return {"version": 1, "models": specs, "stages": [*stages]}


def sums(models=MODELS):
    return pipeline(DRAWN, SUM, {"evaluate": {**ASKED, "models": [*models]}}, models=models)


def test_a_planted_difference_is_found_and_two_equal_models_are_not_different(project):
    seeds = distillgen.run(sums(), out="out", seeds=8, teachers=MODELS)
    told = seeds.summary
    (good,) = (row for row in told["figures"] if (row["model"], row["metric"]) == ("good", "exact"))
    assert good["share"] and good["seeds"] == 8 and len(set(good["values"])) > 1
    assert good["mean"] == pytest.approx(0.9, abs=4 * good["standard_error"])
    assert 0.005 < good["standard_error"] < 0.05
    exact = {(r["first"], r["second"]): r for r in told["comparisons"] if r["metric"] == "exact"}
    assert exact.keys() == {("good", "poor"), ("good", "other"), ("poor", "other")}
    planted, equal = exact["good", "poor"], exact["poor", "other"]
    assert planted["difference"] == pytest.approx(0.3, abs=0.08) and planted["p"] == 2 / 2**8
    assert (planted["wins"], planted["losses"], planted["seeds"]) == (8, 0, 8)
    assert equal["p"] > 0.05 and abs(equal["difference"]) < 0.08 and equal["wins"] < 8
    told_by_seed = [json.loads((seeds.place(s) / "evaluation.json").read_text()) for s in range(8)]
    alone = [told["models"]["good"]["metrics"]["exact"]["mean"] for told in told_by_seed]
    assert alone == good["values"]


def test_the_run_of_a_seed_is_the_run_with_that_seed(project):
    seeds = distillgen.run(sums(), out="out", seeds=3, teachers=MODELS)
    alone = distillgen.run(sums(), out="alone", sets=["seed=2"], teachers=MODELS)
    for name in ("corpus.jsonl", "evaluation.json", "evaluation.jsonl"):
        assert (seeds.place(2) / name).read_bytes() == (alone.directory / name).read_bytes()
    assert seeds.run(2).lock["seed"] == 2
    assert seeds.run(2).lock["commands"] == ["distillgen run pipeline --out seed-2 --set seed=2"]
    assert seeds.place(0).joinpath("report.html").exists()
    corpora = {(seeds.place(seed) / "corpus.jsonl").read_bytes() for seed in range(3)}
    assert len(corpora) == 3
    assert not list((project.path / "out").glob("seed-*/ledger.sqlite3")), "each seed has a ledger of its own"


def test_equal_requests_of_all_seeds_are_asked_once_and_a_seed_that_is_sent_draws_anew(project):
    project.rows("rows.jsonl", [{"q": f"{i}?"} for i in range(10)])
    asked = []

    def teacher(request, sample):
        asked.append(request.sampling.get("seed"))
        return "yes"

    source = {"source": {"path": "rows.jsonl", "held_out": 0.3}}
    ask = {"model": "t", "template": "{{ q }}", "output": "answer"}
    distillgen.run(
        pipeline(source, {"generate": ask}, models=["t"]), out="a", seeds=3, teachers={"t": teacher}
    )
    assert asked == [None] * 10
    asked.clear()
    ask["seed"] = 7
    distillgen.run(
        pipeline(source, {"generate": ask}, models=["t"]), out="b", seeds=3, teachers={"t": teacher}
    )
    assert sorted(asked) == [7] * 10 + [1007] * 10 + [2007] * 10


def test_running_again_asks_nothing_and_gives_the_same_files(project):
    asked = []
    teachers = counted(asked)
    seeds = distillgen.run(sums(), out="out", seeds=3, teachers=teachers)
    files = {f: (seeds.directory / f).read_bytes() for f in ("seeds.json", "report.html")}
    assert len(asked) == 3 * 40 * 3
    distillgen.run(sums(), out="out", seeds=3, teachers=teachers)
    assert files == {f: (seeds.directory / f).read_bytes() for f in files} and len(asked) == 3 * 40 * 3
    more = distillgen.run(sums(), out="out", seeds=4, teachers=teachers)
    assert len(asked) == 4 * 40 * 3 and more.summary["finished"] == [0, 1, 2, 3]


def test_sums_of_measures_of_other_stages_and_of_loops_are_figures(project, capsys):
    """Where there are models, the command prints their figures only."""
    loop = {"rounds": {"n": 1, "stages": [{"evaluate": {**ASKED, "models": ["good", "poor"]}}]}}
    stages = [DRAWN, SUM, loop, {"diversity": {"field": "gold", "sample": 10}}]
    seeds = distillgen.run(pipeline(*stages), out="out", seeds=2, teachers=MODELS)
    told = seeds.summary
    rounds = [
        row for row in told["comparisons"] if row["stage"] == "rounds.evaluation" and row["metric"] == "exact"
    ]
    assert [(row["first"], row["second"]) for row in rounds] == [("good", "poor")] and rounds[0][
        "difference"
    ] > 0
    assert {row["metric"] for row in told["figures"] if row["stage"] == "diversity"}
    show_seeds.figures(seeds)
    alone = distillgen.run(pipeline(DRAWN, SUM, stages[-1]), out="alone", seeds=2, teachers=MODELS)
    show_seeds.figures(alone)
    of_models, _, of_stages = capsys.readouterr().out.partition("seeds.json")
    assert "evaluation.exact      poor" in of_models and "diversity" not in of_models
    assert "diversity: distinct_1" in of_stages


BAD = [
    ({"seeds": 1}, "--seeds takes 2 seeds or more, not 1"),
    ({"seeds": 2, "sets": ["seed=3"]}, "leave out --set seed="),
    ({"seeds": 2, "sets": ["source={path: rows.jsonl}"]}, "all runs would be equal: no stage draws"),
    ({"seeds": 2, "sets": ["evaluate.template='{{ c }}'"]}, "needs the field 'c'"),
    ({"seeds": 2, "cap_of": "x"}, "run() has no option 'cap_of'"),
]


@pytest.mark.parametrize(("options", "says"), BAD, ids=[says for _, says in BAD])
def test_what_cannot_run_is_said_before_anything_is_asked(project, options, says):
    project.rows("rows.jsonl", [{"a": 1, "b": 2}])
    with pytest.raises(ConfigError) as told:
        distillgen.run(sums(), out="out", teachers=MODELS, **options)
    assert says in str(told.value) and not (project.path / "out").exists()


SAMPLED = {"sample_by_score": {"by": "a", "per": ["b"], "n": 1}}
DRAWING = [
    {"filter": [SAMPLED]},
    {"format": {"fields": {"x": "{{ v }}"}, "vary": {"v": ["1", "2"]}}},
    {"evaluate": {**ASKED, "gold": "a", "models": ["good"], "seed": 0}},
    {"generate": {"template": "{{ a }}", "model": "good", "seed": 0, "output": "x"}},
    {"generate": {"template": "{{ a }}", "model": ["good", "poor"], "pick": 1, "output": "x"}},
    {"rounds": {"n": 1, "stages": [{"diversity": {"field": "a"}}]}},
    {"retrieve": {"from": "rows.jsonl", "by": "random"}},
    {"select": {"n": 1, "by": "round_robin", "group": "b"}},
    {"evaluate": {**ASKED, "gold": "a", "models": ["good"], "metrics": [SAMPLED]}},
    {"evaluate": {"prompt": "seeded", "gold": "a", "models": ["good"], "metrics": ["exact"]}},
    {"add": {"path": "rows.jsonl", "share": 0.5}},
    {"select": {"n": 1, "by": "top", "score": "a"}},
    {"rounds": {"n": 1, "stages": [{"format": {"fields": {"x": "{{ a }}"}}}]}},
    {"generate": {"template": "{{ a }}", "model": "good", "output": "x", "temperature": 1}},
    {"filter": [{"where": {"true": "{{ a }}"}}]},
]


@pytest.mark.parametrize(("stage", "draws"), [*zip(DRAWING, [True] * 11 + [False] * 4, strict=True)])
def test_stages_that_draw_are_known(project, stage, draws):
    project.rows("rows.jsonl", [{"a": 1, "b": 2, "text": "c"}])
    project.write("prompts/seeded.md", "---\nsampling: {seed: 0}\n---\n{{ a }}\n")
    written = pipeline({"source": {"path": "rows.jsonl"}}, stage)
    assert [bound.uses_seed() for bound in distillgen.load(written, scripted=MODELS).bound_stages] == [
        False,
        draws,
    ]
    written["models"]["good"]["seed"] = 4
    asks = "good" in str(stage)
    assert distillgen.load(written, scripted=MODELS).bound_stages[1].uses_seed() == (draws or asks)


def test_code_that_is_not_shipped_may_draw(project):
    project.rows("rows.jsonl", [{"a": 1, "b": 2}])
    text = "def mine():\n    return Filter(lambda records: [1.0 for _ in records], lambda number: None)\n"
    project.write("filters/mine.py", f"from distillgen import Filter\n{text}")
    written = pipeline({"source": {"path": "rows.jsonl", "held_out": 0.1}}, {"filter": ["mine"]})
    assert [bound.uses_seed() for bound in distillgen.load(written, scripted=MODELS).bound_stages] == [
        True,
        True,
    ]


def test_a_directory_holds_one_run_or_several_seeds_and_not_both(project):
    distillgen.run(sums(), out="one", teachers=MODELS)
    with pytest.raises(ConfigError, match="'one' holds a run without --seeds; choose another directory"):
        distillgen.run(sums(), out="one", seeds=2, teachers=MODELS)
    distillgen.run(sums(), out="two", seeds=2, teachers=MODELS)
    with pytest.raises(ConfigError, match="'two' holds the runs of several seeds: go on with --seeds"):
        distillgen.run(sums(), out="two", teachers=MODELS)


def test_figures_of_a_changed_pipeline_are_not_mixed_with_those_of_the_former_one(project, monkeypatch):
    distillgen.run(sums(), out="out", seeds=3, teachers=MODELS)
    whole = distillgen.runs.seeds.run_pipeline

    def stopped(pipeline, directory, *rest):
        if directory.name == "seed-1":
            raise Stopped("interrupted")
        return whole(pipeline, directory, *rest)

    monkeypatch.setattr("distillgen.runs.seeds.run_pipeline", stopped)
    with pytest.raises(Stopped):
        distillgen.run(sums(), out="out", seeds=3, teachers=MODELS, limit=20)
    told = distillgen.Seeds(project.path / "out").summary
    assert told["finished"] == [0] and {row["seeds"] for row in told["figures"]} == {1}
    page = (project.path / "out/report.html").read_text()
    assert "1 of 3 seeds" in page and 'href="seed-0/' in page and 'href="seed-2/' not in page


def test_a_ledger_that_was_named_once_stays_the_ledger_of_all_seeds(project):
    asked = []
    distillgen.run(sums(), out="out", seeds=2, teachers=counted(asked), ledger=project.path / "l.sqlite3")
    distillgen.run(sums(), out="out", seeds=3, teachers=counted(asked))
    assert len(asked) == 3 * 40 * 3 and not (project.path / "out/ledger.sqlite3").exists()


# The figures


def evaluated(folder, **models):
    """A finished run whose evaluation has these reports by model."""
    folder.mkdir(parents=True)
    reports = {name: {"metrics": {}, "numbers": {}, "judges": {}} | report for name, report in models.items()}
    (folder / "evaluation.json").write_text(json.dumps({"models": reports, "comparisons": []}))
    train = {"name": "train", "kind": "train", "measured": {"loss": 0.5}}
    evaluate = {"name": "evaluate", "kind": "evaluate", "measured": {"a.exact": 0.9}}
    usage = dict.fromkeys(("state", "models", "totals", "kept", "dropped"), {}) | {
        "stages": [train, evaluate]
    }
    (folder / "usage.json").write_text(json.dumps(usage))
    return distillgen.Run(folder)


def test_every_figure_of_a_model_is_compared_and_a_seed_without_it_is_left_out(tmp_path):
    def report(exact, ndcg):
        return {
            "metrics": {"exact": {"mean": exact, "low": 0, "high": 1, "n": 9}, "judge": {"n": 0}},
            "figures": {"macro_f1": {"mean": exact / 2, "low": 0, "high": 1, "n": 9}},
            "numbers": {"exact": exact, "ndcg": ndcg},
            "judges": {"position bias": 0.1},
            "likeliest_option": {"mean": 0.25, "n": 9},
            "perplexity": 7.0,
            "ece": 0.125,
            "tokens": 3.0,
        }

    first = evaluated(tmp_path / "0", a=report(0.5, 0.75), b=report(0.25, 0.5))
    second = evaluated(tmp_path / "1", a=report(1.0, 0.5), b={"numbers": {"ndcg": 0.5}})
    told = summary([figures_of(first), None, figures_of(second)])
    figures = {(row["metric"], row["model"]): row for row in told["figures"]}
    shares = {metric: row["share"] for (metric, model), row in figures.items() if model == "a"}
    numbers = dict.fromkeys(("mean ndcg", "position bias", "perplexity", "ece"), False)
    assert shares == dict.fromkeys(("exact", "macro_f1", "likeliest_option"), True) | numbers
    assert list(figures)[:2] == [("exact", "a"), ("exact", "b")]  # the models stand side by side
    exact = figures["exact", "a"]
    assert exact["values"] == [0.5, None, 1.0] and exact["mean"] == 0.75 and exact["seeds"] == 2
    assert exact["standard_error"] == pytest.approx(0.25)  # the deviation 0.354 over the root of 2
    assert figures["exact", "b"]["standard_error"] is None
    assert figures["loss", ""]["values"] == [0.5, None, 0.5] and ("a.exact", "") not in figures
    compared = {row["metric"]: row for row in told["comparisons"]}
    assert compared.keys() == shares.keys()
    assert (compared["exact"]["difference"], compared["exact"]["seeds"], compared["exact"]["p"]) == (
        0.25,
        1,
        1,
    )
    ndcg = compared["mean ndcg"]
    assert (ndcg["difference"], ndcg["wins"], ndcg["losses"], ndcg["seeds"]) == (0.125, 1, 0, 2)


# On the command line

TEXT = """# sums.yaml: sums
version: 1
models:
  a:
    {{provider: openai, model: a, base_url: "{url}", max_concurrency: 1, max_tokens: 5,
     price: {{input: 0, output: 1000}}}}
stages:
  - source: {{draw: {{n: 12, fields: {{x: {{from: 1, to: 9999}}}}, unique: [x]}}}}
  - generate: {{model: a, template: "{{{{ x }}}}", output: answer}}
"""


def cli(*words, check=0):
    """Call the program in this process, which is faster than one of its own."""
    done = CliRunner().invoke(main, [*map(str, words)], catch_exceptions=False)
    assert done.exit_code == check, f"exit {done.exit_code}, expected {check}\n{done.output}"
    return done


def run_of(out, *more, check=0):
    return cli("run", "sums.yaml", "--seeds", 3, "--out", out, *more, check=check)


def files_of(folder):
    names = ("corpus.jsonl", "dropped.jsonl", "seeds.json")
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.json*")) if p.name in names
    }


def test_killed_in_the_middle_of_seeds_it_goes_on_there_and_asks_nothing_twice(project):
    with Endpoint(latency_s=0.02) as endpoint:
        project.write("sums.yaml", TEXT.format(url=endpoint.url))
        run_of("whole")
        assert endpoint.asked.total() == 36
        endpoint.asked.clear()
        command = [sys.executable, "-m", "distillgen", "run", "sums.yaml", "--seeds", "3", "--out", "killed"]
        project.kill_at([17, 30], command, "killed/ledger.sqlite3")
        state = json.loads(cli("status", "killed", "--json").stdout)
        assert state["runs"]["0"]["state"] == state["runs"]["1"]["state"] == "finished"
        assert state["state"] == "killed" and len(state["runs"]) == 3
        text = cli("status", "killed").stdout
        assert "seed 2" in text and "run the same command to go on" in text
        run_of("killed")
        assert endpoint.asked.total() <= 36 + 2 and len(endpoint.asked) == 36  # what was in flight at a kill
    assert files_of(project.path / "killed") == files_of(project.path / "whole")


def test_the_cap_is_one_for_all_seeds(project):
    with Endpoint() as endpoint:
        project.write("sums.yaml", TEXT.format(url=endpoint.url))
        told = run_of("out", "--max-cost-usd", "0.1", check=4)
        assert "stopped by --max-cost-usd 0.1" in told.stderr and "is enough in any case" not in told.stderr
        paid = distillgen.Seeds(project.path / "out").state["runs"]
        cost = sum(run["totals"]["cost_usd"] for run in paid.values())
        assert 0.06 < cost <= 0.1 and paid[0]["state"] == "finished"
        assert "seed 2    not begun" in cli("status", "out").stdout
        assert distillgen.Seeds(project.path / "out").summary["finished"] == [0]
        run_of("out", "--max-cost-usd", "0.1801")
        assert len(endpoint.asked) == 36 == endpoint.asked.total()


def test_failed_rows_and_seeds_that_keep_nothing_end_the_command_with_3(project):
    def some(body, times):
        seven = body["messages"][0]["content"].endswith("7")
        return web.Response(status=400, text="no") if seven and failing else None

    failing = ["yes"]

    with Endpoint(some) as endpoint:
        text = TEXT.format(url=endpoint.url)
        project.write("sums.yaml", text)
        assert (
            "answers could not be used; to ask for these again, add --retry-failed"
            in run_of("failed", check=3).stderr
        )
        failing.clear()
        project.write("sums.yaml", f"{text}  - filter: [word_count: {{field: answer, min_words: 9}}]\n")
        told = run_of("nothing", check=3)
        assert "seed 0: nothing was kept; see: distillgen show nothing/seed-0 --dropped" in told.stderr


def test_the_commands_say_what_a_directory_of_seeds_is(project):
    with Endpoint() as endpoint:
        project.write("sums.yaml", TEXT.format(url=endpoint.url))
        sets = ["--set", "generate.n=2", "--set", "a.price={output: 1000}"]
        done = run_of("runs/s", "-n", 4, *sets, "--json")
    told = json.loads(done.stdout)
    assert "note: model 'a': the price names no 'input'" in done.stderr
    assert told["finished"] == [0, 1, 2] and told["pipeline"] == "sums"
    runs = [distillgen.Seeds("runs/s").run(seed) for seed in range(3)]
    assert [run.state["kept"] for run in runs] == [8, 8, 8]
    assert json.loads(cli("show", "s", "--json").stdout) == told
    assert "3 of 3 seeds" in cli("show", "s").stdout
    assert "sums: finished, 3 seeds" in cli("status", "s").stdout
    assert cli("show", "s/seed-1", "-n", 1).stdout
    assert "did you mean 's'?" in cli("show", "ss", check=2).stderr
    for command in (["export", "s"], ["export", "runs/s"], ["report", "s"], ["show", "s", "--dropped"]):
        error = cli(*command, check=2).stderr
        assert "seed-0" in error, error
    page = (project.path / "runs/s/report.html").read_text()
    assert "3 of 3 seeds" in page and 'href="seed-2/report.html"' in page and "<script" not in page
    assert "<td>" not in page  # a narrow page has no head of columns: each number says what it is


def test_the_report_shows_the_metrics_before_what_they_measure_beside(project):
    distillgen.run(sums(), out="out", seeds=2, teachers=MODELS)
    page = (project.path / "out/report.html").read_text()
    for title, following in (("Models", "Differences"), ("Differences", "Runs")):
        section = page.partition(f">{title}</h2>")[2].partition(f">{following}</h2>")[0]
        main, folded, beside = section.partition("<details")
        assert ">exact<" in main and "exact." not in main, title
        assert folded and "exact." in beside and ">exact<" not in beside, title
