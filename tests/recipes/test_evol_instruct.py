"""The recipe evol-instruct: what fails keeps its task, what passes replaces it, and the filters see all."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from distillgen.runs.directory import read_records
from tests.recipes.harness import Teacher, chance, draw, drops, teach

WORDS = "and say for a reader in a small town near the sea with old maps how it was done long before".split()
FAILURES = {  # the failure, and the filter that must see it
    "bare": "length",
    "leaked": "leaked_prompt",
    "refused": "boilerplate",
    "terse": "said",
    "same": "gain",
}


def failure(task, change):
    """Return the planted failure of a step, 30 % of them; "" for none."""
    return draw("which", task, change).choice([*FAILURES]) if chance(0.3, task, change) else ""


def evolve(text, sample):
    last = text.rpartition("Exercise: ")[2]  # behind the prompt's own examples
    task, change = re.search(r"(.*)\n\nChange: (.*)\n\nThe changed", last, re.S).groups()
    chosen, number = failure(task, change), draw("words", task, change)
    if chosen == "bare":
        return "Changed."
    if chosen == "leaked":
        return f"Keep the task and set one more condition for the answer: {task}"
    if chosen == "same":
        return task
    mark = f"[{chosen}]" if chosen else ""
    if change.startswith("Leave this task."):
        return (
            f"Name {number.randrange(10**9)} rare plants of a wet meadow and how they spread {mark}".strip()
        )
    return " ".join([task, *number.choices(WORDS, k=number.randint(10, 20)), *filter(None, [mark])])


def answer(text, sample):
    if "[refused]" in text:
        return "I'm sorry, but I can't help with that."
    return "Yes." if "[terse]" in text else f"This is how I would go about it, point by point: {text[:40]}"


def gain(text, sample):
    first, second = re.search(r"Exercise 1: (.*?)\n\nExercise 2: (.*?)\n\nFirst say", text, re.S).groups()
    return json.dumps({"reason": "", "score": 1 if first.strip() == second.strip() else 8})


@pytest.fixture
def evolved(project):
    def evolved(*sets):
        teacher = Teacher({"You are an editor of exercises": evolve, "You compare two": gain, "": answer})
        run = teach("evol-instruct", teacher, ["rounds.guard={kept: 0.99}", *sets], limit=40)
        folders = sorted(Path(run.directory, "rounds").glob("[0-9]*"))
        return run, [list(read_records(folder / "records.jsonl")) for folder in folders]

    return evolved


def planted(record):
    """Return the failure that was planted in a record of a round."""
    task = record.fields["instruction" if record.dropped else "task"]
    change = json.loads([made["draw"] for made in record.made if made["stage"] == "evolve"][-1])["change"]
    return failure(task, change)


def a_failed_step_keeps_its_task_and_a_kept_one_takes_its_place(run, rounds):
    assert len(rounds) == 4 and [len(records) for records in rounds] == [40] * 4
    kept = {r.id: r for records in rounds for r in records if not r.dropped}
    tasks = {}  # by the offered record, its task
    for number, records in enumerate(rounds):
        for record in records:
            item = record.fields["item"]
            task = record.fields["task" if not record.dropped else "instruction"]
            if number and item in kept:
                assert task == kept[item].fields["instruction"], "what was kept goes on as it became"
            assert tasks.setdefault(item, task) == task, "a failed step has changed its task"
    assert 0.2 < sum(r.dropped is not None for records in rounds for r in records) / 160 < 0.4
    rows = [json.loads(line) for line in (run.directory / "corpus.jsonl").read_text().splitlines()]
    assert len(rows) == len(kept) and all(row["output"] and row["instruction"] != row["task"] for row in rows)


def deepening_adds_10_to_20_words_and_breadth_joins(run, rounds):
    longer, wide = [], 0
    for records in rounds:
        for record in (record for record in records if not record.dropped):
            task, text = record.fields["task"], record.fields["instruction"]
            if text.startswith(task):
                longer.append(len(text.split()) - len(task.split()))
            else:
                wide += 1
    assert set(longer) <= set(range(10, 21)) and 14 < sum(longer) / len(longer) < 16
    assert 0.1 < wide / (wide + len(longer)) < 0.3, "one change of five goes wider"
    plants = [r for r in rounds[2] if not r.dropped and r.fields["task"].startswith("Name ")]
    assert plants, "what went wider is evolved itself"


def the_filters_see_every_planted_failure(run, rounds):
    records = [record for records in rounds for record in records]
    assert {planted(record) for record in records} == {"", *FAILURES}
    for record in records:
        dropped_by = record.dropped.filter if record.dropped else None
        assert dropped_by == FAILURES.get(planted(record)), (planted(record), record.dropped)
    assert set(drops(run)) <= {("eliminate", name) for name in FAILURES.values()}


def test_tasks_evolve(evolved):
    run, rounds = evolved()
    a_failed_step_keeps_its_task_and_a_kept_one_takes_its_place(run, rounds)
    deepening_adds_10_to_20_words_and_breadth_joins(run, rounds)
    the_filters_see_every_planted_failure(run, rounds)


def test_without_the_filters_bare_and_leaked_tasks_get_through(evolved):
    _, rounds = evolved("eliminate=null")
    records = [record for records in rounds for record in records]
    through = Counter(planted(record) for record in records if not record.dropped)
    assert set(through) == {"", *FAILURES}
    assert sum(count for name, count in through.items() if name) > 0.2 * len(records)
