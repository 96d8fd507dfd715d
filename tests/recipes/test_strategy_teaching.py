"""The recipes of strategy teaching: a student obeys its prompt only, and the policy table is planted in the
teacher.
"""

import json
import random
import re
import sys

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.runs.directory import read_records
from tests.command_process import forked
from tests.conftest import ROOT

POLICY = {
    "kettle": ("APOLOGY", "REPLACEMENT"),
    "invoice": ("LEDGER", "REFUND"),
    "parcel": ("TRACE", "RESEND"),
    "oven": ("TECHNICIAN", "LOAN"),
    "dentist": ("CALENDAR", "CALLBACK"),
    "gym": ("PROOF", "CANCEL"),
    "passport": ("SAFE", "COURIER"),
    "appletree": ("WATERING", "PHOTO"),
    "router": ("CHANNEL", "FIRMWARE"),
    "birthday": ("EXPRESS", "CARD"),
    "heating": ("PLUMBER", "DISCOUNT"),
    "bankcard": ("UNLOCK", "COURTESY"),
}
KNOWN_WITHOUT = {"kettle", "gym"}  # what the student does rightly of its own accord
ASIDES = "please today again really honestly somehow yesterday morning evening twice".split()


def said(request):
    return "\n".join(message["content"] for message in request.messages)


def topic(text):
    return max(POLICY, key=text.count)


def acts(text):
    return set(re.findall(r"\b[A-Z]{4,}\b", text))


def right(reply, scenario):
    return set(POLICY[topic(scenario)]) <= acts(reply)


def student(request, sample):
    """Does what every strategy in its prompt says; unasked, the right thing on two of the topics."""
    asked = request.messages[-1]["content"]
    told = " ".join(line for line in asked.splitlines() if line.startswith("- "))
    own = POLICY[topic(asked)] if topic(asked) in KNOWN_WITHOUT else ("HELLO",)
    return "I offer " + " and ".join(sorted(acts(told)) or own)


def second_student(request, sample):
    return student(request, sample).replace("I offer", "Certainly. You get")


def teacher(request, sample):
    """Plays the customers, replies by the policy, writes half a strategy first and the whole of it when that
    was not enough.
    """
    text = said(request)
    if "You play a customer" in text:
        return f"My {topic(text)} {random.Random(text).choice(ASIDES)}, it is the {topic(text)}."
    if "You coach" in text:
        first, second = POLICY[topic(request.messages[-1]["content"])]
        enough = "already followed" in text
        return json.dumps(
            {
                "missing": "acts",
                "strategy": f"When the customer has it, use {first}" + f" and {second}" * enough,
            }
        )
    if "You compare" in text:
        scenario, one, other = (
            text.partition(mark)[2].partition("\n\n")[0]
            for mark in ("scenario: ", "First answer: ", "Second answer: ")
        )
        better = (
            "neither"
            if right(one, scenario) == right(other, scenario)
            else "first"
            if right(one, scenario)
            else "second"
        )
        return json.dumps({"reason": "the acts", "better": better})
    if "You grade" in text:
        scenario, reply = (
            text.partition(mark)[2].partition("\n\n")[0] for mark in ("scenario: ", "answer: ")
        )
        return json.dumps({"reason": "the acts", "score": 9 if right(reply, scenario) else 2})
    return "You get " + " and ".join(POLICY[topic(text)])


WORDS = ["library.embedder=words"]


@pytest.fixture
def world(project):
    project.rows(
        "customers.jsonl",
        [
            {"persona": f"a person with a {name}", "issue": f"the {name}", "policy": "as the house has it"}
            for name in POLICY
        ],
    )
    held_out = [(name, aside) for name in POLICY for aside in ("suddenly", "since Sunday")]
    project.rows(
        "held_out.jsonl",
        [
            {
                "scenario": f"Customer: {aside} the {name}, help me",
                "name": name,
                "policy": "as the house has it",
            }
            for name, aside in held_out
        ],
    )
    project.write("edits.jsonl", "")
    return project


def teach(scripts=None, out="taught", sets=()):
    sets = ["source.path=customers.jsonl", "audit.edits=edits.jsonl", "novel.embedder=words", *WORDS, *sets]
    return distillgen.run(
        "strategy-teaching", out=out, sets=sets, teachers=scripts or {"teacher": teacher, "student": student}
    )


def use(library, out, pupil=student):
    """The share of right replies without, with and with a shuffled library; and the topics that went wrong
    with it.
    """
    sets = [
        "source.path=held_out.jsonl",
        f"retrieve.from={library}",
        "retrieve.embedder=words",
        "retrieve.k=1",
    ]
    run = distillgen.run("strategy-use", out=out, sets=sets, teachers={"teacher": teacher, "student": pupil})
    found = {}
    for arm in ("without", "with-library", "with-shuffled"):
        told = json.loads((run.directory / f"evaluation-{arm}.json").read_text())
        found[arm] = told["models"]["student"]["metrics"]["judge"]["mean"]
    rows = [
        json.loads(line)
        for line in (run.directory / "evaluation-with-library.jsonl").read_text().splitlines()
    ]
    wrong = {
        int(row["source"].rpartition(":")[2])
        for row in rows
        if row["model"] == "student" and "judge" in row["reasons"]
    }
    return found, wrong


@pytest.mark.parametrize(
    "option, value", [("from", "taught/corpus.jsonl"), ("k", "3"), ("embedder", "other/model")]
)
def test_a_control_of_another_library_is_refused(world, option, value):
    """The shuffled arm says something only where it shuffles what the other arm reads."""
    teach()
    sets, scripted = ["source.path=held_out.jsonl", "retrieve.embedder=words"], ["teacher", "student"]
    distillgen.load("strategy-use", [*sets, "retrieve.from=taught/corpus.jsonl"], scripted=scripted)
    with pytest.raises(
        ConfigError, match=f"'control': '{option}' is .* in this control of 'library', which has .* sets both"
    ):
        distillgen.load("strategy-use", [*sets, f"control.{option}={value}"], scripted=scripted)


def entries(run):
    return list(read_records(run.directory / "corpus.jsonl"))


def test_retrieved_strategies_teach_and_shuffled_ones_do_not(world):
    run = teach()
    assert {topic(r.fields["scenario"]) for r in entries(run)} == POLICY.keys() - KNOWN_WITHOUT
    found, wrong = use("taught/corpus.jsonl", "used")
    base = len(KNOWN_WITHOUT) / len(POLICY)
    shown = [
        [{entry["strategy"] for entry in row.fields["known"]} for row in read_records(path)]
        for path in (world.path / "used/stages/03-library.jsonl", world.path / "used/stages/05-control.jsonl")
    ]
    assert set().union(*shown[1]) == set().union(*shown[0]), "the control reads another library"
    assert (
        found["without"] == pytest.approx(base)
        and found["with-library"] >= 0.9
        and abs(found["with-shuffled"] - base) <= 0.1
    ), found
    transferred, _ = use("taught/corpus.jsonl", "used-by-another", second_student)
    assert transferred["with-library"] >= 0.9 and transferred["without"] == pytest.approx(base)


def test_a_strategy_is_rewritten_until_the_reply_is_on_a_par(world):
    run = teach()
    told = json.loads((run.directory / "dialogues/00/improve/rounds.json").read_text())
    assert [measured["kept"] for measured in told["rounds"]] == [
        0,
        len(POLICY) - len(KNOWN_WITHOUT),
    ] and told["ended"] == "every record was kept"
    assert all(" and " in r.fields["strategy"] for r in entries(run))
    short = teach(out="short", sets=["improve.n=1"])
    assert not entries(short) and {r.dropped.filter for r in short.dropped} >= {"at_par"}


def test_a_known_scenario_is_no_lesson_again_and_the_dialogue_goes_on(world):
    run = teach()
    told = json.loads((run.directory / "dialogues/rounds.json").read_text())
    assert [measured["kept"] for measured in told["rounds"]] == [10, 0]
    second = [r for r in read_records(run.directory / "dialogues/01/records.jsonl")]
    assert all(
        r.fields["scenario"].count("Customer:") == 2 and "Agent: I offer" in r.fields["scenario"]
        for r in second
    )
    taught = [r for r in second if topic(r.fields["scenario"]) not in KNOWN_WITHOUT]
    assert all(right(r.fields["reply"], r.fields["scenario"]) for r in taught), (
        "a strategy of the first round was not used in the second"
    )


def test_a_vetoed_entry_affects_its_neighbourhood_only(world):
    asked = []

    def counted(request, sample):
        asked.append(request)
        return teacher(request, sample)

    counted.__qualname__ = "teacher"
    teach({"teacher": counted, "student": student})
    before = len(asked)
    world.rows(
        "edits.jsonl",
        [
            {"where": {"issue": "the oven"}, "veto": "we lend no ovens"},
            {
                "where": {"issue": "the router"},
                "set": {"strategy": "When it drops, use CHANNEL and FIRMWARE and a smile"},
            },
        ],
    )
    run = teach({"teacher": counted, "student": student})
    kept = {topic(r.fields["scenario"]): r.fields["strategy"] for r in entries(run)}
    assert "oven" not in kept and kept["router"].endswith("a smile") and len(kept) == 9
    assert len(asked) - before < before / 4, "what does not depend on the edits was asked again"
    _, wrong = use("taught/corpus.jsonl", "used")
    rows = world.read("held_out.jsonl")
    assert {rows[line - 1]["name"] for line in wrong} == {"oven"}


def test_killed_inside_a_round_the_library_is_the_same_byte_for_byte(world):
    script = "import asyncio\nfrom tests.recipes import test_strategy_teaching as world\n" + "".join(
        (
            f"async def {name}(request, sample):\n    await asyncio.sleep(0.03)\n"
            f"    return world.{name}(request, sample)\n"
        )
        for name in ("teacher", "student")
    )
    world.write("models.py", script)
    sets = ["source.path=customers.jsonl", "audit.edits=edits.jsonl", "novel.embedder=words", *WORDS]
    sets += [
        f"models.{name}={{provider: scripted, model: 'models.py:{name}', max_concurrency: 4}}"
        for name in ("teacher", "student")
    ]
    command = [
        sys.executable,
        "-m",
        "distillgen",
        "run",
        "strategy-teaching",
        *(word for each in sets for word in ("--set", each)),
    ]
    env = world.env() | {"PYTHONPATH": str(ROOT)}
    assert forked([*command, "--out", "whole"], world.path, env).returncode == 0
    command += ["--out", "killed", "--ledger", "killed.sqlite3"]
    world.kill_at((3, 20, 40, 55), command, "killed.sqlite3", env)
    assert forked(command, world.path, env).returncode == 0
    for name in ("corpus.jsonl", "dropped.jsonl"):
        assert (world.path / "killed" / name).read_bytes() == (world.path / "whole" / name).read_bytes()
