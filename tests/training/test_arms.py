"""Control arms: the rows of each, their differences, and that none contains evaluation items."""

import importlib.util
import json
import logging
import math
import shutil
from pathlib import Path

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.inference.request import Completion
from distillgen.project import Project
from distillgen.record import dumps
from distillgen.stages.train import Train
from distillgen.training import students

ARMS = ("kept", "raw", "random", "shuffled")
ODD = {
    "only_even": '''"""Answers to odd questions are wrong."""
from distillgen import Filter

def only_even():
    """Keep what was asked about an even number. Costs nothing."""
    return Filter(lambda rs: [r.fields["n"] % 2 for r in rs], lambda odd: "odd" if odd else None)
'''
}
FORM = {"format": {"messages": [{"user": "{{ question }}"}, {"assistant": "{{ answer }}"}]}}
ASK = {"generate": {"model": "t", "template": "{{ question }}", "output": "answer"}}
FILTER = {"filter": ["only_even"]}


@pytest.fixture
def taught(project, monkeypatch):
    """Carry stages out as far as the rows each arm would be trained on; gives these by arm, and the run."""
    found = importlib.util.find_spec
    there = ("torch", "transformers", "datasets", "accelerate", "trl", "peft", "sentence_transformers")
    monkeypatch.setattr("distillgen.extras.find_spec", lambda name: True if name in there else found(name))
    for name, text in ODD.items():
        project.write(f"filters/{name}.py", text)

    async def written(work, stage, notes):
        told = json.loads((work / "job.json").read_bytes())
        (work / "student").mkdir()
        for name in ("train.jsonl", "held_out.jsonl", "job.json"):
            shutil.copy(work / name, work / "student" / name)
        manifest = {
            "student": "tiny",
            "objective": told["stage"]["objective"],
            "kind": "model",
            "api": "chat",
            "fingerprint": told["fingerprint"],
            "loss_curve": [[1, 1.0]],
            "held_out": None,
            "steps": 1,
            "seconds": 1.0,
            "energy_joules": "unknown",
            "data": told["data"],
            "hardware": {"gpus": [], "processor": "none"},
        }
        (work / "student/manifest.json").write_bytes(dumps(manifest))

    monkeypatch.setattr("distillgen.stages.train.supervise", written)

    def taught(
        stages,
        rows,
        *,
        arms=ARMS,
        behind=(),
        source=None,
        script=lambda request, sample: "It is so.",
        **train,
    ):
        project.rows("rows.jsonl", rows)
        trained = [
            {"train": {"name": arm, "student": "tiny", "on": arm, "held_out": 0, **train}} for arm in arms
        ]
        stages = [{"source": {"path": "rows.jsonl", **(source or {})}}, *stages, *trained, *behind]
        models = {"t": {"provider": "scripted", "model": "echo"}}
        run = distillgen.run(
            {"version": 1, "models": models, "stages": stages}, out="out", teachers={"t": script}
        )
        read = {arm: project.read(f"out/student-{arm}/train.jsonl") for arm in arms}
        return (
            read,
            {
                arm: json.loads((run.directory / f"student-{arm}/manifest.json").read_text())["data"]
                for arm in arms
            },
            run,
        )

    return taught


def questions(n):
    return [{"n": i, "question": f"What is {i}?", "answer": f"It is {i}."} for i in range(n)]


def asked(rows):
    return [int(row["prompt"][0]["content"].split()[-1].strip("?")) for row in rows]


@pytest.mark.parametrize(
    "stages", [[FILTER, FORM], [FORM, FILTER]], ids=["format after filter", "filter after format"]
)
def test_the_arms_are_four_data_sets_of_one_size_and_form(taught, stages):
    rows, data, _ = taught(stages, questions(60))
    assert len({each["sha256"] for each in data.values()}) == 4 and {len(each) for each in rows.values()} == {
        30
    }
    assert asked(rows["kept"]) == asked(rows["shuffled"]) == list(range(0, 60, 2))
    assert asked(rows["raw"]) == list(range(30)) and asked(rows["random"]) == sorted(asked(rows["random"]))
    assert set(asked(rows["random"])) & set(range(1, 60, 2)) and max(asked(rows["random"])) > 30
    right = [
        {**row, "completion": [{"role": "assistant", "content": f"It is {n}."}]}
        for row, n in zip(rows["raw"], range(30), strict=True)
    ]
    assert rows["raw"] == right, "an arm's rows are not formed as the kept ones are"
    exchanged = [row["completion"][0]["content"] for row in rows["shuffled"]]
    assert sorted(exchanged) == sorted(row["completion"][0]["content"] for row in rows["kept"])
    assert all(answer != f"It is {n}." for answer, n in zip(exchanged, asked(rows["shuffled"]), strict=True))
    assert data["raw"]["rows"] == {"train": 30, "rows that differ from the kept": 15}
    assert data["shuffled"]["rows"]["rows that differ from the kept"] == 30 and data["kept"]["rows"] == {
        "train": 30
    }


def test_no_arm_learns_from_what_was_gathered_into_another_record(taught):
    answers = {**ASK["generate"], "n": 3}
    gather = {"gather": {"keep": ["answer"], "into": "answers"}}
    rows, data, _ = taught(
        [{"generate": answers}, FILTER, gather, FORM],
        [{"n": i, "question": f"What is {i}?"} for i in range(8)],
        arms=("kept", "raw"),
        script=lambda request, sample: f"It is {sample}.",
    )
    assert asked(rows["kept"]) == [0, 2, 4, 6] and asked(rows["raw"]) == [0, 1, 1, 1]
    assert data["raw"]["rows"] == {"train": 4, "rows that differ from the kept": 3}


def test_another_seed_draws_other_rows_and_the_same_one_the_same(taught):
    draws = [
        taught([FILTER, FORM], questions(60), arms=("random", "shuffled"), seed=seed)[0] for seed in (1, 1, 2)
    ]
    assert (
        draws[0] == draws[1]
        and draws[0]["random"] != draws[2]["random"]
        and draws[0]["shuffled"] != draws[2]["shuffled"]
    )


def test_what_cannot_be_formed_or_has_no_answer_is_counted_and_told(taught):
    def script(request, sample):
        number = int(request.messages[-1]["content"].split()[-1].strip("?"))
        return "" if number == 3 else "yes"

    form = {
        "format": {"messages": [{"user": "{{ question }}"}, {"assistant": "{{ 6 // (n - 5) }} {{ answer }}"}]}
    }
    rows, data, run = taught(
        [ASK, FILTER, form], [{"n": i, "question": f"{i}?"} for i in range(12)], arms=("raw",), script=script
    )
    told = data["raw"]["rows"]
    assert asked(rows["raw"]) == [0, 1, 2, 4, 6, 7] and told["train"] == 6
    (why,) = [name for name in told if "cannot form it" in name]
    assert (
        why.startswith("dropped before and left out: stage 'format' cannot form it: ZeroDivisionError")
        and told[why] == 1
    )
    stage = next(each for each in run.state["stages"] if each["name"] == "raw")
    assert (
        stage["measured"][why] == 1 and "cannot form it" in run.directory.joinpath("report.html").read_text()
    )


def test_failed_and_cut_off_answers_are_in_no_arm(taught):
    from distillgen.inference.request import Completion

    def script(request, sample):
        number = int(request.messages[-1]["content"].split()[-1].strip("?"))
        return Completion(
            status="length" if number == 1 else "refused" if number == 2 else "ok", text="I cannot"
        )

    rows, data, _ = taught(
        [ASK, FILTER, FORM], [{"n": i, "question": f"{i}?"} for i in range(8)], arms=("raw",), script=script
    )
    assert asked(rows["raw"]) == [0, 3, 4] and data["raw"]["rows"]["train"] == 3
    assert (
        sum(
            n
            for why, n in data["raw"]["rows"].items()
            if why.startswith("dropped before and left out: stage 'generate' could not")
        )
        == 2
    )


REFUSED = [
    ([], "raw"),
    ([FORM], "random"),
    ([ASK, FORM], "raw"),
    ([FILTER, ASK, FORM], "raw"),  # what the filter drops was never answered
]


@pytest.mark.parametrize("stages, on", REFUSED)
def test_an_arm_that_cannot_differ_is_refused_at_check(project, taught, stages, on):
    fields = ["n", "question"] if ASK in stages else ["n", "question", "answer"]
    project.rows("rows.jsonl", [{name: row[name] for name in fields} for row in questions(3)])
    learns = {"prompt": "question", "completion": "answer"} if not stages else {}
    written = {
        "version": 1,
        "models": {"t": {"provider": "scripted", "model": "echo"}},
        "stages": [
            {"source": {"path": "rows.jsonl"}},
            *stages,
            {"train": {"student": "tiny", "on": on, **learns}},
        ],
    }
    with pytest.raises(ConfigError, match=f"stage 'train': on: {on}: the arm would equal the kept rows"):
        distillgen.load(written)
    written["stages"][-1]["train"]["on"] = "kept"
    distillgen.load(written)


def test_an_arm_after_training_on_the_whole_corpus_is_refused(project, taught):
    project.rows("rows.jsonl", questions(3))
    learns = {"student": "tiny", "prompt": "question", "completion": "answer"}
    stages = [
        {"source": {"path": "rows.jsonl"}},
        {"train": {"name": "first", **learns}},
        {"train": {"on": "raw", **learns}},
    ]
    with pytest.raises(ConfigError, match="the arm would equal the kept rows"):
        distillgen.load({"version": 1, "stages": stages})


def test_an_arm_that_happens_not_to_differ_says_so(taught, caplog):
    with caplog.at_level(logging.WARNING):
        _, data, run = taught(
            [FILTER, FORM],
            [{"n": 2 * i, "question": f"{i}?", "answer": "a"} for i in range(4)],
            arms=("raw", "random"),
        )
    assert data["raw"]["rows"]["rows that differ from the kept"] == 0
    assert (
        "no row of the arm 'raw' differs from the kept: it is no control"
        in (run.directory / "run.log").read_text()
    )


def test_rows_dropped_inside_rounds_are_formed_there(taught):
    loop = {"rounds": {"n": 1, "stages": [FILTER, FORM]}}
    rows, data, _ = taught([loop], questions(20))
    assert asked(rows["raw"]) == list(range(10)) or sorted(asked(rows["raw"])) == asked(rows["raw"])
    assert data["raw"]["rows"]["train"] == 10 and len({each["sha256"] for each in data.values()}) >= 3
    assert set(asked(rows["random"])) & set(range(1, 20, 2))


def test_an_arm_inside_rounds(project, taught):
    project.rows("rows.jsonl", questions(20))
    arm = {"train": {"student": "tiny", "on": "random", "held_out": 0}}
    stages = [{"source": {"path": "rows.jsonl"}}, {"rounds": {"n": 1, "stages": [FILTER, FORM, arm]}}]
    distillgen.run({"version": 1, "stages": stages}, out="out")
    rows = project.read("out/rounds/00/student/train.jsonl")
    assert len(rows) == 10 and set(asked(rows)) & set(range(1, 20, 2))
    with pytest.raises(ConfigError, match="the arm would equal the kept rows"):
        distillgen.load(
            {"version": 1, "stages": [stages[0], FILTER, {"rounds": {"n": 1, "stages": [FORM, arm]}}]}
        )


# Nothing that is evaluated on is trained on

WORDS = (
    "amber birch cedar delta ember flint grove heath inlet jetty knoll lagoon marsh north ocean "
    "plain quay river stone tide"
).split()


def long(i):
    """A text of twenty words that no other number has."""
    return " ".join(f"{word}{i}" for word in WORDS)


EVALUATE = {
    "evaluate": {"models": ["t"], "template": "{{ question }}", "gold": "answer", "metrics": ["exact"]}
}


@pytest.mark.parametrize("place", ["before the filter", "behind the filter", "by itself"])
def test_no_arm_learns_what_repeats_an_evaluation_item(project, taught, place):
    """Odd rows are dropped by the filter; rows 8 to 11 repeat held-out row 0, rows 12 to 15 an item of the
    set.
    """
    project.rows(
        "test.jsonl", [{"question": long(99), "answer": "x"}, {"question": "9 + 9?", "answer": "18"}]
    )
    rows = [
        {"n": i, "question": long(i), "answer": f"a{i}", "split": "test" if i < 2 else "train"}
        for i in range(40)
    ]
    for i in range(8, 12):
        rows[i]["question"] = f"Number {i}: {long(0).upper()}!"
    for i in range(12, 16):
        rows[i]["question"] = f"{i} {long(99)}"
    rows[17]["question"] = rows[16]["question"] = " 9  + 9 ?"
    guard = {"decontaminate": {"against": ["test.jsonl"], "questions": [["question"]]}}
    stages = {
        "before the filter": [guard, FILTER, FORM],
        "behind the filter": [FILTER, FORM, guard],
        "by itself": [FILTER, FORM],
    }[place]
    evaluate = {"evaluate": {**EVALUATE["evaluate"], "data": "test.jsonl"}}
    held_out = {"evaluate": {**EVALUATE["evaluate"], "name": "own"}}
    read, data, _ = taught(stages, rows, behind=[evaluate, held_out])
    leaks = [
        n
        for arm in ARMS
        for row in read[arm]
        for n in (0, 99)
        if long(n) in row["prompt"][0]["content"].lower()
    ]
    asks = [
        row for arm in ARMS for row in read[arm] if "9 + 9" in " ".join(row["prompt"][0]["content"].split())
    ]
    assert not leaks and not asks
    assert len({each["sha256"] for each in data.values()}) == 4 and {len(each) for each in read.values()} == {
        len(read["kept"])
    }
    assert (
        sum(
            n
            for why, n in data["raw"]["rows"].items()
            if "repeats an evaluation item" in why or "held_out" in why
        )
        >= 4
    )


def test_a_dropped_row_is_looked_at_as_it_was_and_as_it_is_formed(project, taught):
    """Row 5 asks a short question of the set, which the form no longer has; row 7 says an item only when its
    parts are joined.
    """
    half = " ".join(WORDS[:10]), " ".join(WORDS[10:])
    project.rows("test.jsonl", [{"question": "9 + 9?", "told": "x"}, {"told": " ".join(half)}])
    rows = [
        {"n": i, "question": f"What is {i}?", "first": f"{i} a", "second": f"{i} b", "answer": "a"}
        for i in range(20)
    ]
    rows[5]["question"], rows[7]["first"], rows[7]["second"] = "9 + 9 ?", *half
    guard = {"decontaminate": {"against": ["test.jsonl"], "questions": [["question"]]}}
    form = {
        "format": {
            "messages": [{"user": "{{ n }}: {{ first }} {{ second }}"}, {"assistant": "{{ answer }}"}],
            "keep": ["n"],
        }
    }
    read, data, _ = taught([FILTER, guard, form], rows, arms=("raw",))
    assert [int(row["prompt"][0]["content"].partition(":")[0]) for row in read["raw"]] == [
        0,
        1,
        2,
        3,
        4,
        6,
        8,
        9,
        10,
        11,
    ]
    assert data["raw"]["rows"]["dropped before and left out: it repeats an evaluation item"] == 2


def test_a_dropped_row_goes_through_no_stage_twice(taught):
    first = {"format": {"name": "first", "fields": {"question": "Q: {{ question }}"}}}
    read, _, _ = taught([first, FILTER, FORM], questions(8), arms=("raw",))
    assert [row["prompt"][0]["content"] for row in read["raw"]] == [f"Q: What is {i}?" for i in range(4)]


@pytest.mark.parametrize("on", ARMS)
def test_rows_evaluated_behind_rounds_are_not_trained_inside(project, taught, on):
    rows = [
        {"n": i, "question": long(i), "answer": f"a{i}", "split": "test" if i < 2 else "train"}
        for i in range(40)
    ]
    for i in (6, 7, 10, 11):
        rows[i]["question"] = f"Number {i}: {long(0)}"
    project.rows("rows.jsonl", rows)
    train = {"train": {"student": "tiny", "on": on}}
    loop = {"rounds": {"n": 1, "stages": [FILTER, FORM, train]}}
    stages = [{"source": {"path": "rows.jsonl"}}, loop, EVALUATE]
    models = {"t": {"provider": "scripted", "model": "echo"}}
    distillgen.run(
        {"version": 1, "models": models, "stages": stages}, out="out", teachers={"t": lambda *_: "x"}
    )
    learnt = project.read("out/rounds/00/student/train.jsonl")
    assert len(learnt) == 17 and not any(long(0) in row["prompt"][0]["content"] for row in learnt)


def test_what_a_round_generates_is_looked_at_before_it_is_trained_on(project, taught):
    rows = [
        {
            "n": i,
            "question": f"What is {i}?",
            "known": long(i) if i < 2 else "",
            "split": "test" if i < 2 else "train",
        }
        for i in range(12)
    ]
    project.rows("rows.jsonl", rows)
    train = {"train": {"student": "tiny"}}
    evaluate = {"evaluate": {**EVALUATE["evaluate"], "gold": "known"}}
    stages = [
        {"source": {"path": "rows.jsonl"}},
        {"rounds": {"n": 1, "stages": [ASK, FORM, train, evaluate]}},
    ]

    def script(request, sample):
        return long(0) if request.messages[-1]["content"] == "What is 6?" else "I do not know."

    models = {"t": {"provider": "scripted", "model": "echo"}}
    distillgen.run({"version": 1, "models": models, "stages": stages}, out="out", teachers={"t": script})
    assert sorted(asked(project.read("out/rounds/00/student/train.jsonl"))) == [2, 3, 4, 5, 7, 8, 9, 10, 11]


def test_a_late_or_incomplete_decontaminate_is_refused(project, taught):
    project.rows("rows.jsonl", questions(3))
    project.rows("test.jsonl", questions(3))
    train = {"train": {"student": "tiny"}}
    evaluate = {"evaluate": {**EVALUATE["evaluate"], "data": "test.jsonl"}}
    guard = {"decontaminate": {"against": ["test.jsonl"]}}

    def load(*stages):
        models = {"t": {"provider": "scripted", "model": "echo"}}
        distillgen.load(
            {
                "version": 1,
                "models": models,
                "stages": [{"source": {"path": "rows.jsonl", "held_out": 0.5}}, FORM, *stages],
            }
        )

    load(guard, train, evaluate)
    load({**evaluate, "evaluate": {**evaluate["evaluate"], "name": "before"}}, guard, train, evaluate)
    with pytest.raises(ConfigError, match="'decontaminate' comes after a stage that trains"):
        load(train, guard, evaluate)
    with pytest.raises(
        ConfigError,
        match="'evaluate' asks about 'test.jsonl', which 'decontaminate' does not look for; add it",
    ):
        load({"decontaminate": {}}, train, evaluate)


def test_no_arm_learns_a_dropped_copy_of_held_out_rows(taught):
    from distillgen.record import Record, item_of

    stage = Train(student="tiny", held_out=0.3)

    def side(row):
        return stage.arm(stage.learning(Project(Path()))).part(Record("", row, item=item_of(row)))

    rows = [{"n": i, "question": long(i), "answer": "a"} for i in range(40)]
    first = next(i for i in range(0, 40, 2) if side(rows[i]) == "held_out")
    copies = [{"n": i, "question": f"Again: {long(first)}", "answer": "a"} for i in range(1, 40, 2)]
    for copy in [copy for copy in copies if side(copy) == "train"][:3]:
        rows[copy["n"]] = copy
    read, data, _ = taught([FILTER, FORM], rows, arms=("raw", "random"), held_out=0.3)
    assert not any(long(first) in row["prompt"][0]["content"] for arm in read for row in read[arm])
    assert data["raw"]["rows"]["dropped before and left out: it repeats an evaluation item"] == 3


def test_the_shuffled_arm_builds_the_objective_once_whatever_the_rows(taught, monkeypatch):
    calls = []
    real = Train.learning
    monkeypatch.setattr(Train, "learning", lambda self, project: calls.append(1) or real(self, project))
    taught([FORM], questions(40), arms=("shuffled",))
    few = len(calls)
    calls.clear()
    shutil.rmtree("out")
    taught([FORM], questions(400), arms=("shuffled",))
    assert len(calls) == few


def test_a_row_of_another_form_than_the_first_is_left_out_and_told(taught):
    rows = [{"prompt": f"{i}", "completion": "yes"} for i in range(4)] + [
        {"prompt": [{"role": "user", "content": "x"}], "completion": "no"}
    ]
    read, data, _ = taught([], rows, arms=("kept",))
    assert len(read["kept"]) == 4 and data["kept"]["rows"] == {
        "train": 4,
        "left out: its 'prompt' is a list, in the first row it is a text": 1,
    }


# A student that goes on from round to round


@pytest.fixture
def begun(project, taught, monkeypatch):
    """Run stages on six questions; gives the model that each training began with, as the process reads it."""
    starts = []
    written = distillgen.stages.train.supervise

    async def noted(work, stage, notes):
        starts.append(json.loads((work / "job.json").read_bytes())["start"])
        await written(work, stage, notes)

    monkeypatch.setattr("distillgen.stages.train.supervise", noted)
    project.rows("rows.jsonl", questions(6))

    def begun(out, *stages, models=None):
        starts.clear()
        pipeline = {
            "version": 1,
            "models": models or {},
            "stages": [{"source": {"path": "rows.jsonl"}}, FORM, *stages],
        }
        distillgen.run(pipeline, out=out)
        return [start.removeprefix(f"{project.path / out}/") for start in starts]

    return begun


def loop(student, n=3, stages=(), train=None, **options):
    training = {"train": {"student": student, "held_out": 0, **(train or {})}}
    return {"rounds": {"n": n, "repeat": True, "stages": [*stages, training], **options}}


SEED = {"train": {"name": "seed", "student": "tiny", "held_out": 0}}


def test_a_training_goes_on_from_the_student_of_the_round_before(begun, project):
    assert begun("anew", loop("tiny")) == ["tiny"] * 3
    previous = ["tiny", "rounds/00/student", "rounds/01/student"]
    assert begun("on", loop("previous", start="tiny")) == previous
    rounds = project.path / "on/rounds"
    manifests = [json.loads((rounds / f"0{i}/student/manifest.json").read_text()) for i in range(3)]
    assert len({manifest["fingerprint"] for manifest in manifests}) == 3
    assert not begun("on", loop("previous", start="tiny")), "a finished round was trained again"
    assert begun("on", loop("previous", start="tiny", train={"epochs": 4.0})) == previous
    assert begun("on", loop("previous", start="tiny", train={"epochs": 4.0}, n=4)) == ["rounds/02/student"]


def test_a_loop_begins_with_a_student_trained_before_it(begun, project):
    """Each round anew from it, or on from round to round; the base of each training is asked where it is."""
    assert begun("anew", SEED, loop("student-seed")) == ["tiny", *["student-seed"] * 3]
    on = ["tiny", "student-seed", "rounds/00/student", "rounds/01/student"]
    assert begun("on", SEED, loop("previous", start="student-seed")) == on
    (student, base) = (
        distillgen.load(
            {
                "version": 1,
                "stages": [
                    {"source": {"path": "rows.jsonl"}},
                    FORM,
                    SEED,
                    loop("previous", start="student-seed"),
                ],
            }
        )
        .made_models(Path("/run"))[name]
        .model
        for name in ("student", "base")
    )
    assert (student, base) == ("/run/rounds/last/student", "/run/student-seed")
    longer = {"train": {**SEED["train"], "epochs": 9.0}}
    assert begun("on", longer, loop("previous", start="student-seed")) == on, "another seed, another loop"


def test_loops_in_loops_and_behind_loops_begin_where_they_say(begun):
    inner = loop("previous", n=2, start="student-seed", name="inner")
    outer = {"rounds": {"n": 2, "repeat": True, "stages": [SEED, inner]}}
    each = ["tiny", "rounds/0{}/student-seed", "rounds/0{}/inner/00/student"]
    assert begun("nested", outer) == [start.format(n) for n in range(2) for start in each]
    outside = {"rounds": {"n": 2, "repeat": True, "stages": [inner]}}
    each = ["student-seed", "rounds/0{}/inner/00/student"]
    assert begun("outside", SEED, outside) == ["tiny", *(start.format(n) for n in range(2) for start in each)]
    behind = {"train": {"name": "more", "student": "student", "held_out": 0}}
    assert begun("behind", loop("tiny", n=2), behind) == ["tiny", "tiny", "rounds/last/student"]


def test_a_round_that_leaves_nothing_to_learn_ends_the_loop(begun, project):
    """The third round keeps no record; the first two stand, and going on changes nothing."""
    project.write(
        "filters/early.py",
        """from distillgen import Filter
def early(*, rounds: int = 2):
    return Filter(lambda rs: [r.fields["round"] for r in rs], lambda n: "late" if n >= rounds else None)
""",
    )
    previous = loop("previous", n=4, start="tiny", stages=[{"filter": ["early"]}])
    for starts in (["tiny", "rounds/00/student"], []):
        assert begun("ends", previous) == starts
        told = json.loads((project.path / "ends/rounds/rounds.json").read_text())
        assert [measures["kept"] for measures in told["rounds"]] == [6, 6]
        assert told["ended"].startswith("the next round is left out: stage 'train': it has no records")
        assert not (project.path / "ends/rounds/02").exists()
    with pytest.raises(ConfigError, match="it has no records to train on: 6 dropped by early"):
        begun("never", loop("tiny", stages=[{"filter": [{"early": {"rounds": 0}}]}]))


def test_the_weights_of_a_model_of_the_pipeline_are_a_start(begun, project):
    project.write("small/config.json", json.dumps({"architectures": ["LlamaForCausalLM"]}))
    project.write("small/tokenizer_config.json", json.dumps({"chat_template": students.CHAT}))
    models = {"lm": {"provider": "transformers", "model": "small"}}
    on = loop("previous", n=2, start="lm")
    assert begun("lm", on, models=models) == ["small", "rounds/00/student"]


@pytest.mark.parametrize(
    "stages, message",
    [
        ([{"train": {"student": "previous"}}], "student: previous needs an earlier round; use it for a"),
        (
            [loop("previous")],
            "the student of the round before; name the student that the first .* rounds: {start",
        ),
        (
            [loop("previous", start="t")],
            "'previous' begins with 't', whose provider scripted gives no weights",
        ),
        ([loop("tiny", start="student")], "start: no earlier stage trains 'student'"),
        ([loop("tiny", start="tinny")], "start: there is no student 'tinny'; did you mean 'tiny'"),
        (
            [{"rounds": {"stages": [loop("tiny", start="student-seed", name="inner"), SEED]}}],
            "start: no stage before the loop trains 'student-seed'",
        ),
        ([{"rounds": {"start": "t", "stages": [FORM]}}], "'start' has no use: no stage of the loop trains"),
        (
            [
                loop(
                    "tiny", start="o", stages=[{"score": {"model": "student", "context": "a", "target": "b"}}]
                )
            ],
            r"in the first round, with start: o: .*model 'student' \(openai\) cannot do score",
        ),
    ],
)
def test_a_start_that_would_stop_the_run_is_refused(project, taught, stages, message):
    project.rows("rows.jsonl", questions(3))
    models = {
        "t": {"provider": "scripted", "model": "echo"},
        "o": {"provider": "openai", "model": "m", "base_url": "http://127.0.0.1:9"},
    }
    pipeline = {"version": 1, "models": models, "stages": [{"source": {"path": "rows.jsonl"}}, FORM, *stages]}
    with pytest.raises(ConfigError, match=message):
        distillgen.load(pipeline)


def test_the_recipe_ddk_goes_on_from_round_to_round():
    import yaml

    from distillgen.project import home

    rounds = yaml.safe_load((home("pipelines") / "ddk.yaml").read_text())["stages"][1]["rounds"]
    assert rounds["start"] == "tiny"
    assert next(stage["train"] for stage in rounds["stages"] if "train" in stage)["student"] == "previous"


WITH_SIGNALS = '''"""signals: what the stages before recorded, as rows."""
from distillgen.training.objective import Objective

class Signals(Objective):
    """Learns what stages recorded."""

    signals = True

    def check(self, context):
        context.need("question", "a question")

    def row(self, record, signals):
        return {name: list(signal) for name, signal in signals.items()}
'''


def test_an_objective_reads_the_texts_log_probabilities_and_embeddings_of_the_stages_before(taught, project):
    project.write("objectives/signals.py", WITH_SIGNALS)

    def script(request, sample):
        if request.embed:
            return Completion(embedding=[0.5, float(request.embed.count("1"))])
        return Completion(text="even", logprobs=[["even", -0.5, [["even", -0.5], ["odd", -1.5]]]])

    stages = [
        {"generate": {"model": "t", "template": "{{ question }}", "output": "answer", "logprobs": 2}},
        {"embed": {"model": "t", "template": "{{ question }}"}},
    ]
    rows = [{"question": f"What is {i}?"} for i in range(2)]
    taught_rows, _, _ = taught(stages, rows, arms=("kept",), script=script, objective="signals")
    answer = ["even", [["even", -0.5, [["even", -0.5], ["odd", -1.5]]]], []]
    assert taught_rows["kept"] == [
        {"generate": answer, "embed": ["", [], [0.5, float(number)]]} for number in (0, 1)
    ]


# Arms that a training lists


def manifest(project, student):
    """The options of the stage that made a student."""
    made = project.path / student / "job.json"
    return json.loads(made.read_bytes())["stage"]


def stages_of(project, out):
    return [path.stem[3:] for path in sorted((project.path / out / "stages").iterdir())]


def trained_with_arms(**arms):
    return {"train": {"student": "tiny", "held_out": 0, "max_length": 64, "arms": arms}}


def test_an_arm_is_a_stage_that_differs_in_its_options(begun, project):
    arms = {"shuffled": {"on": "shuffled"}, "pairs": {"loss": "all", "max_length": 32}}
    assert begun("out", trained_with_arms(**arms)) == ["tiny"] * 3
    kept, shuffled, pairs = (manifest(project, f"out/student{end}") for end in ("", "-shuffled", "-pairs"))
    assert stages_of(project, "out") == ["source", "format", "train", "train-shuffled", "train-pairs"]
    assert (shuffled["on"], shuffled["max_length"]) == ("shuffled", 64)
    assert (pairs["loss"], pairs["on"], pairs["max_length"], kept["max_length"]) == ("all", "kept", 32, 64)
    rows = [
        (project.path / f"out/student{end}/train.jsonl").read_bytes() for end in ("", "-shuffled", "-pairs")
    ]
    assert rows[0] == rows[2] != rows[1]


def test_arms_change_nothing_in_the_training_that_lists_them(begun, project):
    begun("alone", trained_with_arms())
    begun("beside", trained_with_arms(shuffled={"on": "shuffled"}))
    alone, beside = (
        json.loads((project.path / out / "student/manifest.json").read_bytes()) for out in ("alone", "beside")
    )
    assert alone["fingerprint"] == beside["fingerprint"] and "arms" not in manifest(project, "beside/student")


def test_a_changed_arm_alone_is_trained_again(begun):
    arms = {"first": {"epochs": 1}, "second": {"epochs": 2}, "third": {"epochs": 4}}
    assert len(begun("out", trained_with_arms(**arms))) == 4
    assert begun("out", trained_with_arms(**arms)) == []
    assert len(begun("out", trained_with_arms(**arms | {"second": {"epochs": 5}}))) == 1
    assert (
        len(begun("out", trained_with_arms(fourth={"epochs": 6}, **arms))) == 2
    )  # and the second, as it was


def test_arms_of_a_named_training_and_in_rounds_go_on_from_their_own_students(begun, project):
    named = {"train": {**trained_with_arms(fast={"epochs": 1})["train"], "name": "second"}}
    chained = {"train": {"name": "third", "student": "student-second-fast", "held_out": 0}}
    assert begun("named", named, chained) == ["tiny", "tiny", "student-second-fast"]
    arms = {"arms": {"fast": {"epochs": 1}}}
    starts = begun("on", loop("previous", n=2, start="tiny", train=arms))
    assert starts == ["tiny", "tiny", "rounds/00/student", "rounds/00/student-fast"]


MISTAKES = [
    (
        {"fast": {"epoch": 1}},
        {},
        "stage 'train-fast': objective 'sft' has no option 'epoch'; did you mean 'epochs'",
    ),
    ({"fast": {"epochs": "x"}}, {}, "arm 'fast' of stage 'train': 'epochs': must be a valid number"),
    ({"fast": {"name": "x"}}, {}, "arm 'fast' of stage 'train' takes no 'name'"),
    ({"fast": {"arms": {}}}, {}, "arm 'fast' of stage 'train' takes no 'arms'"),
    ({"fast": {}}, {}, "arm 'fast' of stage 'train' changes no option"),
    ({"fast": {"epochs": 3}}, {}, "arm 'fast' of stage 'train' changes no option"),
    ({"fast": 3}, {}, "'arms.fast': must be a mapping of options"),
    ({"so so": {"epochs": 1}}, {}, "the name 'train-so so' is not made of letters"),
    ({"raw": {"on": "raw"}}, {}, "stage 'train-raw': on: raw: the arm would equal the kept rows"),
    ({"fast": {"epochs": 1}}, {"name": "fast"}, "stage 'fast': stage 'train-fast' also makes 'student-fast'"),
]


@pytest.mark.parametrize(("arms", "second", "says"), MISTAKES, ids=[says[:50] for *_, says in MISTAKES])
def test_a_mistake_in_an_arm_names_the_arm(begun, arms, second, says):
    another = [{"train": {"student": "tiny", **second}}] if second else []
    with pytest.raises(ConfigError) as told:
        begun("out", trained_with_arms(**arms), *another)
    assert says in str(told.value)


def test_a_mistake_in_an_arm_names_its_line_and_set_reaches_it(project, taught):
    project.rows("rows.jsonl", [{"prompt": "a", "completion": "b"}])
    text = "version: 1\nstages:\n  - source: {path: rows.jsonl}\n  - train:\n      student: tiny\n"
    text += "      arms:\n        slow: {epochs: 9}\n        fast: {epochs: 1"
    project.write("p.yaml", text + ", warmpu: 0}\n")
    with pytest.raises(ConfigError) as told:
        distillgen.load("p.yaml")
    assert str(told.value).startswith("p.yaml:8: stage 'train-fast': objective 'sft' has no option 'warmpu'")
    project.write("p.yaml", text + "}\n")
    sets = ["train.epochs=5", "train.arms.fast.epochs=2", "train.batch_size=2"]
    stages = distillgen.load("p.yaml", sets).stages[1:]
    assert [(s.name, s.epochs, s.batch_size) for s in stages] == [
        ("train", 5, 2),
        ("train-slow", 9, 2),
        ("train-fast", 2, 2),
    ]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs pip install 'distillgen[train]'")
@pytest.mark.filterwarnings("ignore")
def test_an_arm_on_shuffled_answers_learns_less_than_the_training_that_lists_it(project):
    rows = [
        {"prompt": f"{i}: which letter? {'abcd'[i % 4]}", "completion": "abcd"[i % 4]} for i in range(200)
    ]
    project.rows("rows.jsonl", rows)
    train = {"student": "tiny", "max_steps": 40, "learning_rate": 3e-3, "held_out": 0.2}
    train["arms"] = {"shuffled": {"on": "shuffled"}}
    stages = [{"source": {"path": "rows.jsonl"}}, {"train": train}]
    distillgen.run({"version": 1, "stages": stages}, out="out")
    true, shuffled = (
        json.loads((project.path / f"out/{name}/manifest.json").read_bytes())["held_out"]["student"]["loss"]
        for name in ("student", "student-shuffled")
    )
    assert true < 0.2 < 0.4 < shuffled


def test_votes_are_a_teacher(taught):
    """Five answers to a question are a distribution over its classes; an answer that fails is no vote."""

    def script(request, sample):
        return Completion(status="failed") if sample == 4 else "yes" if sample else "no"

    ask = {"generate": {"model": "t", "template": "{{ question }}", "output": "vote", "n": 5}}
    votes = {"gather": {"keep": "vote", "into": "votes"}}
    options = {"objective": "distil", "student": {"mlp": [2]}, "inputs": ["question"]}
    losses = {"losses": [{"divergence": {"teacher": "votes"}}]}
    rows, _, run = taught([ask, votes], questions(2), arms=("kept",), script=script, **options, **losses)
    for row in rows["kept"]:
        shares = dict(zip(row["teacher.votes.names"], row["teacher.votes.logprobs"], strict=True))
        assert shares == pytest.approx({"no": math.log(1 / 4), "yes": math.log(3 / 4)})
