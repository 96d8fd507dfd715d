"""Loops resume after any interruption, end for a stated reason, and pass on their results."""

import json
import signal
import sys
from pathlib import Path

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.inference.request import Completion
from distillgen.runs.directory import read_records
from distillgen.teachers.transformers import Transformers
from tests.command_process import forked
from tests.conftest import ProjectFolder
from tests.endpoint import Endpoint

FILTERS = {
    "at_most": '''"""Texts that are too long."""

from distillgen import Filter

def at_most(*, letters: int = 99, grows: int = 0):
    """Drop long answers, by a limit that grows with the rounds. Costs nothing."""
    def decide(found):
        return None if found["length"] <= letters + grows * found["round"]\
 else f"{found['length']:.0f} letters"
    return Filter(lambda rs: [{"length": len(r.fields["answer"]), "round": r.fields["round"]} for r in rs],\
 decide)
''',
    "shrinks": '''"""A measure that falls."""

from statistics import fmean
from distillgen import Filter

def shrinks():
    """Drop nothing. Costs nothing."""
    return Filter(lambda rs: [10 - 4 * r.fields["round"] for r in rs], lambda n: None,\
 over_run=lambda ns: {"mean": fmean(ns)})
''',
    "sees": '''"""Which records pass."""

from distillgen import Filter

def sees():
    """Drop nothing. Costs nothing."""
    def measure(records):
        with open("seen", "a") as seen:
            print(*(r.fields["q"] for r in records), file=seen)
        return [0] * len(records)
    return Filter(measure, lambda n: None)
''',
}
ASK = {"generate": {"model": "t", "template": "{{ q }} in round {{ round }}", "output": "answer"}}


def echo(request, sample):
    return request.messages[-1]["content"]


def grows(letters, by=4):
    return {"filter": [{"at_most": {"letters": letters, "grows": by}}]}


@pytest.fixture
def loop(project):
    """Carry out rounds over rows; gives the run, and what `rounds.json` tells."""
    for name, text in FILTERS.items():
        project.write(f"filters/{name}.py", text)

    def loop(stages, questions, script=echo, *, out="out", **rounds):
        project.rows("rows.jsonl", [{"q": q} for q in questions])
        stages = [{"source": {"path": "rows.jsonl"}}, {"rounds": {"stages": stages, **rounds}}]
        models = {"t": {"provider": "scripted", "model": "echo"}}
        run = distillgen.run(
            {"version": 1, "models": models, "stages": stages}, out=out, teachers={"t": script}
        )
        return run, json.loads((run.directory / "rounds/rounds.json").read_text())

    return loop


def kept(run):
    return list(read_records(run.directory / "corpus.jsonl"))


LENGTHS = ["x" * n for n in (1, 4, 8, 40)]


def test_kept_records_are_not_offered_again(loop):
    asked = []

    def script(request, sample):
        asked.append(echo(request, sample))
        return asked[-1]

    run, told = loop([ASK, grows(14)], LENGTHS, script, n=3)
    assert [(len(r.fields["q"]), r.fields["round"]) for r in kept(run)] == [(1, 0), (4, 1), (8, 2)]
    assert [(len(r.fields["q"]), r.fields["round"], r.dropped.reason) for r in run.dropped] == [
        (40, 2, "51 letters")
    ]
    assert len(asked) == 4 + 3 + 2 and told["ended"] == "after 3 rounds"
    assert [measured["kept"] for measured in told["rounds"]] == [1, 1, 1]
    loop([ASK, grows(14)], LENGTHS, script, n=3)
    assert len(asked) == 9, "a finished round was asked about again"


def test_more_rounds_go_on_from_those_that_there_are(loop, project):
    asked = []

    def script(request, sample):
        asked.append(1)
        return echo(request, sample)

    loop([ASK, grows(14)], LENGTHS, script, n=1)
    before = (project.path / "out/rounds/00/round.json").stat().st_mtime_ns
    longer, _ = loop([ASK, grows(14)], LENGTHS, script, n=3)
    assert (project.path / "out/rounds/00/round.json").stat().st_mtime_ns == before and len(asked) == 9
    whole, _ = loop([ASK, grows(14)], LENGTHS, n=3, out="whole")
    texts = [[{**r.fields} for r in kept(run)] for run in (longer, whole)]
    assert texts[0] == texts[1]
    _, told = loop([ASK, grows(14)], LENGTHS, script, n=2)
    assert len(told["rounds"]) == 2 and not (project.path / "out/rounds/02").exists() and len(asked) == 9


def test_a_round_of_an_older_version_is_done_again_from_the_ledger(loop, project):
    asked = []

    def script(request, sample):
        asked.append(1)
        return echo(request, sample)

    _, rounds = loop([ASK, grows(14)], LENGTHS, script, n=2)
    for number, measured in enumerate(rounds["rounds"]):
        path = project.path / f"out/rounds/{number:02d}/round.json"
        old = json.loads(path.read_text())
        del old["measures"]
        path.write_text(json.dumps({**old, "measured": measured}))
    before = len(asked)
    run, again = loop([ASK, grows(14)], LENGTHS, script, n=3)
    whole, _ = loop([ASK, grows(14)], LENGTHS, n=3, out="whole")
    assert again["rounds"][:2] == rounds["rounds"] and len(asked) == before + 2
    assert [r.fields for r in kept(run)] == [r.fields for r in kept(whole)]


@pytest.mark.parametrize(
    "limit, options, ended",
    [
        (18, {"until": {"kept": 2}}, "reached kept 2 >= 2"),
        (
            99,
            {"guard": {"filter.shrinks: mean": 0.5}, "repeat": True},
            "filter.shrinks: mean fell to 2, more than 50% below 10",
        ),
        (0, {}, "a round kept nothing"),
    ],
)
def test_it_ends_for_a_reason(loop, limit, options, ended):
    _, told = loop(
        [ASK, {"filter": ["shrinks", {"at_most": {"letters": limit}}]}], LENGTHS[:3], n=9, **options
    )
    assert told["ended"] == ended and len(told["rounds"]) < 9


def test_a_round_reaches_what_the_earlier_ones_kept(loop):
    stages = [
        {"retrieve": {"query": "q", "key": "q", "embedder": "words", "keep": ["q"], "into": "like"}},
        {
            "generate": {
                "model": "t",
                "template": "{{ q }} {{ like | map(attribute='q') | join }}",
                "output": "answer",
            }
        },
        grows(10, by=20),
    ]
    run, _ = loop(stages, ["red apple", "green pear", "red strawberry"], n=2)
    found = [
        (r.fields["q"], [like["q"] for like in r.fields["like"]], r.fields["answer"].strip())
        for r in kept(run)
    ]
    assert found == [
        ("red apple", [], "red apple"),
        ("green pear", [], "green pear"),
        ("red strawberry", ["red apple"], "red strawberry red apple"),
    ]


def test_a_shuffled_memory_gives_every_entry_away(project):
    names = ["apple", "pear", "plum", "grape", "cherry"]
    project.rows("memory.jsonl", [{"key": name, "value": name.upper()} for name in names])
    project.rows("rows.jsonl", [{"q": f"the {name}"} for name in names])
    look = {"query": "q", "key": "key", "embedder": "words", "from": "memory.jsonl", "keep": ["value"]}

    def brought(**options):
        stages = [{"source": {"path": "rows.jsonl"}}, {"retrieve": {**look, **options}}]
        run = distillgen.run({"version": 1, "models": {}, "stages": stages}, out=f"out{len(options)}")
        return [r.fields["retrieved"][0]["value"].lower() for r in kept(run)]

    shuffled = brought(shuffle=True)
    assert (
        brought() == names
        and sorted(shuffled) == sorted(names)
        and not any(a == b for a, b in zip(names, shuffled, strict=True))
    )


def test_the_report_draws_the_rounds_and_says_why_they_ended(loop):
    run, _ = loop(
        [ASK, {"filter": ["shrinks"]}], LENGTHS[:3], n=9, guard={"filter.shrinks: mean": 0.5}, repeat=True
    )
    page = (run.directory / "report.html").read_text()
    assert "How it ended: filter.shrinks: mean fell to 2, more than 50% below 10." in page
    assert 'd="M0.0 0.0L100.0 50.0L200.0 100.0"' in page and "first 10" in page and "last 2" in page


def test_replay_brings_the_earlier_ones_and_they_leave_once(loop, project):
    run, _ = loop(
        [ASK, grows(12, by=9), {"replay": {}}, {"filter": {"name": "after", "filters": ["sees"]}}],
        ["a", "bbbb"],
        n=2,
    )
    assert [r.fields["q"] for r in kept(run)] == ["a", "bbbb"]
    assert (project.path / "seen").read_text().split() == ["a", "a", "bbbb"]


def test_a_persons_edits_hold_whatever_is_run_again(loop, project):
    edits = [{"where": {"q": "a"}, "veto": "rude"}, {"where": {"q": "bb"}, "set": {"answer": "by hand"}}]
    project.rows("edits.jsonl", edits)
    run, _ = loop([ASK, {"audit": {"edits": "edits.jsonl"}}], ["a", "bb"], n=2)
    assert [(r.fields["answer"], r.fields["round"]) for r in kept(run)] == [("by hand", 0)]
    assert [(r.dropped.filter, r.dropped.reason, r.fields["round"]) for r in run.dropped] == [
        ("veto", "rude", 1)
    ]
    project.write("edits.jsonl", "")
    run, _ = loop([ASK, {"audit": {"edits": "edits.jsonl"}}], ["a", "bb"], n=2)
    assert [r.fields["answer"] for r in kept(run)] == ["a in round 0", "bb in round 0"]
    project.write("edits.jsonl", json.dumps({"id": kept(run)[0].id[:6], "veto": "dull"}))
    run, _ = loop([ASK, {"audit": {"edits": "edits.jsonl"}}], ["a", "bb"], n=1)
    assert [r.fields["q"] for r in kept(run)] == ["bb"]


def test_records_dropped_before_the_loop_pass_unchanged(project):
    for name, text in FILTERS.items():
        project.write(f"filters/{name}.py", text)
    project.rows("rows.jsonl", [{"q": "x" * n} for n in (1, 9)])
    project.write(
        "filters/length_of_q.py",
        """from distillgen import Filter
def length_of_q():
    return Filter(lambda rs: [len(r.fields["q"]) for r in rs], lambda n: "long" if n > 3 else None)
""",
    )
    before = {"filter": {"name": "before", "filters": ["length_of_q"]}}
    stages = [
        {"source": {"path": "rows.jsonl"}},
        before,
        {"rounds": {"n": 2, "repeat": True, "stages": [{"filter": ["sees"]}]}},
    ]
    run = distillgen.run({"version": 1, "models": {}, "stages": stages}, out="out")
    assert (project.path / "seen").read_text().split() == ["x", "x"]
    assert [(r.fields["q"], r.dropped.stage, r.dropped.reason) for r in run.dropped] == [
        ("x" * 9, "before", "long")
    ]
    assert all(
        len(list(read_records(project.path / f"out/rounds/0{n}/records.jsonl"))) == 1 for n in range(2)
    )


def test_a_round_is_redone_if_an_earlier_one_changed(project):
    """The kept records and answers of the first round are lost, and the teacher now says something else."""
    project.rows("rows.jsonl", [{"q": q} for q in ("red apple", "red plum")])
    look = {"retrieve": {"query": "q", "key": "q", "embedder": "words", "keep": ["answer"], "into": "like"}}
    ask = {
        "generate": {
            "model": "t",
            "template": "{{ round }} {{ q }} {{ like | map(attribute='answer') | join }}",
            "output": "answer",
        }
    }
    rounds = {"n": 2, "repeat": True, "stages": [look, ask]}
    pipeline = {
        "version": 1,
        "models": {"t": {"provider": "scripted", "model": "echo"}},
        "stages": [{"source": {"path": "rows.jsonl"}}, {"rounds": rounds}],
    }

    def run(said, out):
        def script(request, sample):
            return (
                f"{said} {echo(request, sample)}"
                if echo(request, sample).startswith("0 ")
                else echo(request, sample)
            )

        run = distillgen.run(pipeline, out=out, teachers={"t": script})
        return [record.fields["answer"] for record in kept(run)]

    first = run("once", "out")
    assert all("once" in answer for answer in first)
    for path in ("ledger.sqlite3", "rounds/00/round.json", "corpus.jsonl"):
        (project.path / "out" / path).unlink()
    assert run("now", "out") == run("now", "fresh") != first


def test_a_carried_field_wins_over_one_of_the_source(loop, project):
    """The rows have an answer of their own, which the first round begins with."""
    project.rows("rows.jsonl", [{"q": "a", "answer": "b"}])
    longer = {"generate": {"model": "t", "template": "{{ answer }}{{ q }}", "output": "answer"}}
    rounds = {"n": 3, "repeat": True, "carry": ["answer"], "stages": [longer]}
    stages = [{"source": {"path": "rows.jsonl"}}, {"rounds": rounds}]
    models = {"t": {"provider": "scripted", "model": "echo"}}
    run = distillgen.run({"version": 1, "models": models, "stages": stages}, out="own", teachers={"t": echo})
    assert [r.fields["answer"] for r in kept(run)] == ["ba", "baa", "baaa"]


def test_a_kept_record_is_carried_and_not_a_dropped_sibling_that_comes_after_it(project):
    """Three answers are drafted in each round, and the first of them is kept."""
    project.rows("rows.jsonl", [{"q": "a"}])
    stages = [
        {"generate": {"model": "t", "template": "{{ answer or q }}", "output": "answer", "n": 3}},
        {"filter": [{"where": {"true": "{{ answer.endswith('0') }}"}}]},
    ]
    rounds = {"n": 3, "repeat": True, "carry": ["answer"], "stages": stages}
    pipeline = {
        "version": 1,
        "models": {"t": {"provider": "scripted", "model": "echo"}},
        "stages": [{"source": {"path": "rows.jsonl"}}, {"rounds": rounds}],
    }
    numbered = {"t": lambda request, sample: f"{request.messages[-1]['content']}{sample}"}
    run = distillgen.run(pipeline, out="numbered", teachers=numbered)
    assert [r.fields["answer"] for r in kept(run)] == ["a0", "a00", "a000"]


LEARN = '''"""A stage of the project, which leaves a student as `train` does: it says which round made it."""

from pathlib import Path

from distillgen.flow.stage import Stage
from distillgen.teachers.scripted import ScriptedSpec


class Learn(Stage):
    """Leave a student; before there is one, its base can be asked."""

    kind = "learn"

    def makes(self, directory, project):
        base = ScriptedSpec(provider="scripted", model="echo")
        script = (directory / "say.py").resolve()
        if not script.exists():
            return {"student": base, "base": base}
        model = f"{script.relative_to(Path.cwd().resolve())}:say"
        return {"student": ScriptedSpec(provider="scripted", model=model), "base": base}

    def check(self, given):
        return given.fields

    async def run(self, chunks, job):
        async for chunk in chunks:
            yield chunk
        said = f"I am of {job.context.directory.name}"
        (job.context.directory / "say.py").write_text(f"def say(request, sample):\\n    return {said!r}\\n")
'''


def test_each_round_asks_the_student_of_the_round_before(project, loop):
    project.write("stages/learn.py", LEARN)
    ask = {"generate": {"model": "student", "template": "{{ q }}", "output": "answer"}}
    run, _ = loop([ask, {"learn": {}}], ["a"], n=4, repeat=True)
    assert [r.fields["answer"] for r in kept(run)] == ["a", "I am of 00", "I am of 01", "I am of 02"]


def test_the_first_round_asks_the_start_in_place_of_the_student(project, loop):
    project.write("stages/learn.py", LEARN)
    ask = {"generate": {"model": "student", "template": "{{ q }}", "output": "answer"}}
    run, _ = loop([ask, {"learn": {}}], ["a"], lambda *_: "I am t", n=3, repeat=True, start="t")
    assert [r.fields["answer"] for r in kept(run)] == ["I am t", "I am of 00", "I am of 01"]


@pytest.mark.parametrize("start", ["owner/name", "folder"])
def test_a_start_from_the_hub_or_a_folder_is_asked_in_the_first_round(project, loop, monkeypatch, start):
    """The base of the student answers otherwise, and a GGUF file or `tiny` is no model to ask."""

    async def answer(self, request, samples, attempt):
        return [Completion(text=f"I am {self.spec.provider}:{self.spec.model}")]

    monkeypatch.setattr(Transformers, "answer", answer)
    project.write("stages/learn.py", LEARN)
    project.write("folder/config.json", json.dumps({"architectures": ["LlamaForCausalLM"]}))
    ask = {"generate": {"model": "student", "template": "{{ q }}", "output": "answer"}}
    run, _ = loop([ask, {"learn": {}}], ["a"], n=2, repeat=True, start=start)
    assert [r.fields["answer"] for r in kept(run)] == [f"I am transformers:{start}", "I am of 00"]
    for other in ("tiny", "qwen2.5-coder-0.5b-instruct"):
        run, _ = loop([ask, {"learn": {}}], ["a"], n=2, repeat=True, start=other, out=f"of-{other}")
        assert [r.fields["answer"] for r in kept(run)] == ["a", "I am of 00"]


@pytest.mark.parametrize(
    "rounds, told",
    [
        ({"stages": [{"generate": {"model": "t", "template": "{{ qq }}"}}]}, "did you mean 'q'?"),
        ({"stages": [{"generte": {}}]}, "there is no stage 'generte'"),
        ({"until": {"evalute.x": 1}}, "'evalute.x' is no measure"),
        ({"stages": [{"audit": {"edits": "none.jsonl"}}]}, "there is no file 'none.jsonl'"),
        ({"n": 0}, "greater than or equal to 1"),
        ({"stages": [{"source": {"path": "rows.jsonl"}}]}, "must be the first stage"),
    ],
)
def test_a_mistake_inside_is_told_with_its_line(project, rounds, told):
    project.rows("rows.jsonl", [{"q": "a"}])
    options = json.dumps({"stages": [ASK], **rounds})
    path = project.write(
        "pipelines/loop.yaml",
        f"""# loop.yaml: x
version: 1
models: {{t: {{provider: scripted, model: echo}}}}
stages:
  - source: {{path: rows.jsonl}}
  - rounds: {options}
""",
    )
    with pytest.raises(ConfigError) as error:
        distillgen.load(path)
    assert told in str(error.value) and "loop.yaml:6" in str(error.value)


def test_what_is_carried_on_is_what_the_last_round_left(loop):
    """An answer is made longer until it is long enough; a round that keeps nothing ends no such loop."""
    longer = {"generate": {"model": "t", "template": "{{ answer }}{{ q }}", "output": "answer"}}
    enough = {"filter": [{"schema": {"field": "answer", "pattern": "b{4}|a{2}"}}]}
    run, told = loop([longer, enough], ["a", "b", "c"], n=5, carry=["answer"])
    assert [(r.fields["answer"], r.fields["round"]) for r in kept(run)] == [("aa", 1), ("bbbb", 3)]
    assert [r.fields["answer"] for r in run.dropped] == ["ccccc"] and [m["kept"] for m in told["rounds"]] == [
        0,
        1,
        0,
        1,
        0,
    ]
    _, told = loop([longer, enough], ["a", "b"], n=9, carry=["answer"], out="all")
    assert told["ended"] == "every record was kept" and len(told["rounds"]) == 4


def test_a_loop_in_a_loop_gives_back_the_rounds_of_the_outer_one(loop, project):
    longer = {"generate": {"model": "t", "template": "{{ answer }}{{ q }}", "output": "answer"}}
    inner = {
        "rounds": {
            "name": "inner",
            "n": 4,
            "carry": ["answer"],
            "stages": [longer, {"filter": [{"schema": {"field": "answer", "pattern": "a{3}"}}]}],
        }
    }
    run, told = loop([inner, {"replay": {}}], ["a", "b"], n=2)
    assert [(r.fields["q"], r.fields["round"], r.fields["answer"]) for r in kept(run)] == [("a", 0, "aaa")]
    assert [(r.fields["q"], r.fields["round"], r.dropped.stage) for r in run.dropped] == [("b", 1, "filter")]
    assert [m["inner.rounds"] for m in told["rounds"]] == [4, 4] and run.state["dropped"] == {"schema": 1}
    assert (project.path / "out/rounds/00/inner/rounds.json").exists() and str(run).startswith(
        "2 records: 1 kept, 1 schema"
    )


def test_held_out_records_are_in_every_round_and_never_learnt(loop, project):
    project.write(
        "filters/split.py",
        FILTERS["sees"]
        .replace("def sees", "def split")
        .replace('"seen"', '"split"')
        .replace('r.fields["q"]', 'r.fields["split"]'),
    )
    look = {"retrieve": {"query": "q", "key": "split", "embedder": "words", "into": "found", "k": 9}}
    stages = [look, {"filter": {"name": "see", "filters": ["split"]}}, ASK, grows(40)]
    project.rows("rows.jsonl", [{"q": f"train test {x}"} for x in ("", *LENGTHS)])
    models = {"t": {"provider": "scripted", "model": "echo"}}
    pipeline = {
        "version": 1,
        "models": models,
        "stages": [
            {"source": {"path": "rows.jsonl", "held_out": 0.5}},
            {"rounds": {"stages": stages, "n": 2}},
        ],
    }
    run = distillgen.run(pipeline, out="held", teachers={"t": echo})
    seen = [line.split() for line in (project.path / "split").read_text().splitlines()]
    every = [*kept(run), *run.dropped]
    held_out = [r for r in every if r.held_out]
    assert held_out and [line.count("test") for line in seen] == [len(held_out)] * 2 and len(every) == 5
    assert all(entry["split"] == "train" for r in every for entry in r.fields["found"]) and any(
        r.fields["found"] for r in every
    )


def test_another_model_is_another_loop(loop):
    run, _ = loop([ASK], ["a"], lambda request, sample: "one", n=1)

    def other(request, sample):
        return "two"

    run, _ = loop([ASK], ["a"], other, n=1)
    assert [r.fields["answer"] for r in kept(run)] == ["two"]


def test_options_inside_are_set_from_the_command_line(project):
    project.rows("rows.jsonl", [{"q": "a"}])
    project.write(
        "pipelines/loop.yaml",
        """# loop.yaml: x
version: 1
models: {t: {provider: scripted, model: echo}}
stages:
  - source: {path: rows.jsonl}
  - rounds:
      stages:
        - generate: {model: t, template: "{{ q }}", output: answer}
        - filter: {name: check, filters: [word_count: {field: answer, min_words: 9}]}
""",
    )
    (inside,) = distillgen.load("loop", ["generate.n=3", "word_count.min_words=1", "rounds.n=7"]).stages[1:]
    assert (
        inside.n == 7
        and inside.stages[0]["generate"]["n"] == 3
        and inside.stages[1]["filter"]["filters"][0]["word_count"]["min_words"] == 1
    )


def test_outside_of_rounds_there_is_nothing_to_replay(project):
    project.rows("rows.jsonl", [{"q": "a"}])
    for stage in ({"replay": {}}, {"retrieve": {"query": "q", "key": "q", "embedder": "words"}}):
        with pytest.raises(ConfigError, match="which works only inside 'rounds'"):
            distillgen.load(
                {"version": 1, "models": {}, "stages": [{"source": {"path": "rows.jsonl"}}, stage]}
            )


def test_killed_anywhere_it_ends_as_if_it_had_not_been(project: ProjectFolder):
    with Endpoint(latency_s=0.02) as endpoint:
        project.rows("rows.jsonl", [{"q": f"{i}"} for i in range(150)])
        project.write(
            "pipelines/loop.yaml",
            f"""# loop.yaml: three rounds
version: 1
models: {{t: {{provider: openai, model: m, base_url: "{endpoint.url}", max_concurrency: 10}}}}
stages:
  - source: {{path: rows.jsonl}}
  - rounds:
      n: 3
      repeat: true
      stages:
        - generate: {{model: t, template: "{{{{ q }}}} in {{{{ round }}}}", output: answer}}
""",
        )
        project.cli("run", "loop", "--out", "whole")
        assert len(endpoint.bodies) == 450
        command = [
            sys.executable,
            "-m",
            "distillgen",
            "run",
            "loop",
            "--out",
            "killed",
            "--ledger",
            "killed.sqlite3",
        ]
        project.kill_at((20, 140, 200, 390), command, "killed.sqlite3")
        project.cli("run", "loop", "--out", "killed", "--ledger", "killed.sqlite3")
        for name in ("corpus.jsonl", "dropped.jsonl"):
            assert Path("killed", name).read_bytes() == Path("whole", name).read_bytes()
        assert len(endpoint.bodies) - 900 <= 4 * 10, "more was asked again than was in flight at the kills"


@pytest.mark.parametrize(
    "options, rows, requests", [({}, 4, 12), ({"repeat": True}, 12, 12), ({"repeat": True, "n": 1}, 4, 4)]
)
def test_a_plan_bounds_a_loops_requests_and_records(project, options, rows, requests):
    project.rows("rows.jsonl", [{"q": q} for q in "abcd"])
    loop = {"rounds": {"n": 3, "stages": [ASK], **options}}
    pipeline = {
        "version": 1,
        "models": {"t": {"provider": "scripted", "model": "echo"}},
        "stages": [{"source": {"path": "rows.jsonl"}}, loop],
    }
    (_, estimate) = distillgen.load(pipeline).plan()[1]
    assert (estimate.rows, estimate.requests) == (rows, requests)


TALK = {"generate": {"model": "t", "template": "more", "history": "talk", "output": "o", "max_tokens": 50}}
LENGTHENS = {"generate": {"model": "t", "template": "{{ text or q }}+", "output": "text", "max_tokens": 50}}
TURNS = [{"role": role, "content": "x"} for role in ("user", "assistant")]


@pytest.mark.parametrize("offer", [{}, {"offer": "kept", "guard": {"kept": 0.9}, "max_records": 1}])
@pytest.mark.parametrize(
    "stage, row",
    [
        (LENGTHENS, {}),
        (LENGTHENS, {"text": "b"}),
        (LENGTHENS, {"text": None}),
        (TALK, {}),
        (TALK, {"talk": TURNS}),
    ],
)
def test_a_plan_bounds_requests_that_a_carried_field_makes_longer_each_round(project, stage, row, offer):
    """A byte of a request costs a dollar; answers are as long as they may be, or longer by 40 each round."""
    project.rows("rows.jsonl", [{"q": "a", **row}])
    sizes = []

    def script(request, sample):
        sizes.append(sum(len(turn["content"]) for turn in request.messages))
        text = request.messages[-1]["content"] + "y" * 40
        return Completion(text=text if stage is LENGTHENS else "y" * 200, input_tokens=sizes[-1])

    def pipeline(n):
        loop = {"n": n, "repeat": True, "carry": ["text" if stage is LENGTHENS else "talk"], **offer}
        models = {"t": {"provider": "scripted", "model": "echo", "price": {"input": 1e6}}}
        stages = [{"source": {"path": "rows.jsonl"}}, {"rounds": {"stages": [stage], **loop}}]
        return {"version": 1, "models": models, "stages": stages}

    most, most_of_one = (distillgen.load(pipeline(n)).plan()[-1][1].max_cost_usd for n in (4, 1))
    run = distillgen.run(pipeline(4), out="out", teachers={"t": script})
    assert sizes == sorted(set(sizes)) and len(sizes) == 4, "each round's request is longer"
    assert 4 * most_of_one < run.state["totals"]["cost_usd"] == sum(sizes) <= most


@pytest.mark.parametrize("n, bounded", [(1, True), (2, False)])
@pytest.mark.parametrize(
    "loop", [{"carry": ["q"]}, {"offer": "kept", "guard": {"kept": 0.9}, "max_records": 1}]
)
def test_a_plan_has_no_bound_after_a_round_that_makes_a_text_without_one(project, loop, n, bounded):
    """A model with a price reads in the second round what a free one without `max_tokens` wrote."""
    project.rows("rows.jsonl", [{"q": "a"}])
    stages = [
        {"generate": {"name": "read", "model": "t", "template": "{{ q }}", "output": "o", "max_tokens": 9}},
        {"generate": {"name": "write", "model": "free", "template": "{{ o }}", "output": "q"}},
    ]
    models = {name: {"provider": "scripted", "model": "echo"} for name in ("t", "free")}
    models["t"]["price"] = {"input": 1.0}
    stages = [{"source": {"path": "rows.jsonl"}}, {"rounds": {"stages": stages, "n": n, **loop}}]
    (_, estimate) = distillgen.load({"version": 1, "models": models, "stages": stages}).plan()[-1]
    assert (estimate.max_cost_usd is not None) == bounded


def test_of_more_than_a_hundred_rounds_the_last_ones_go(loop, project):
    """By the text of their names, the folders 100, 101 and 102 come between 10 and 11."""
    rounds = project.path / "out/rounds"
    for n in (103, 101):
        run, told = loop([ASK], ["a"], n=n, repeat=True)
        assert [r.fields["answer"] for r in kept(run)] == [f"a in round {number}" for number in range(n)]
        assert told["ended"] == f"after {n} rounds" and (rounds / "last").resolve().name == str(n - 1)
        assert sorted(int(place.name) for place in rounds.glob("[0-9]*")) == [*range(n)]


def test_a_record_s_lineage_has_the_answers_of_the_rounds_that_it_carries(project):
    project.rows("rows.jsonl", [{"q": "a"}])
    stages = [{"generate": {"model": "t", "template": "{{ q }} {{ talk }}", "output": "talk"}}]
    for carry, answers in ((["talk"], [1, 2, 3]), ([], [1, 1, 1])):
        loop = {"n": 3, "repeat": True, "carry": carry, "stages": stages}
        if not carry:
            loop["stages"] = [{"generate": {**ASK["generate"], "output": "talk"}}]
        pipeline = {"version": 1, "models": {"t": {"provider": "scripted", "model": "echo"}}}
        pipeline["stages"] = [{"source": {"path": "rows.jsonl"}}, {"rounds": loop}]
        run = distillgen.run(pipeline, out=f"run{len(carry)}")
        assert [len(row["meta"]["made"]) for row in run.corpus] == answers


REMOVED_HALF = """
import os, runpy, shutil, signal, sys
from pathlib import Path

remove = shutil.rmtree

def killed(folder, *args, **options):
    for file in Path(folder).glob("records.jsonl"):
        file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    remove(folder, *args, **options)

shutil.rmtree = killed
sys.argv[0] = "distillgen"
runpy.run_module("distillgen", run_name="__main__")
"""


def test_a_round_that_a_killed_run_removed_half_of_is_made_again(project):
    project.rows("rows.jsonl", [{"a": f"{i} words"} for i in range(5)])
    inner = {"filter": {"name": "inner", "filters": [{"brevity": {"field": "a", "max_words": 9}}]}}
    loop = {"name": "loop", "n": 2, "repeat": True, "stages": [inner]}
    pipeline = {"version": 1, "models": {}, "stages": [{"source": {"path": "rows.jsonl"}}, {"rounds": loop}]}
    project.write("pipelines/looped.yaml", json.dumps(pipeline))
    project.cli("run", "looped")
    rows = (project.path / "runs/looped/corpus.jsonl").read_bytes()
    command = [sys.executable, "-c", REMOVED_HALF, "run", "looped", "--set", "loop.n=1"]
    assert forked(command, project.path, project.env()).returncode == -signal.SIGKILL
    project.cli("run", "looped")
    assert (project.path / "runs/looped/corpus.jsonl").read_bytes() == rows
    assert len(project.read("runs/looped/loop/01/records.jsonl")) == 5
    assert {path.name for path in (project.path / "runs/looped/loop").iterdir()} >= {"00", "01", "last"}
