"""The simulator: some histories, the same one twice, and the list of mutations, whose run is nightly."""

import subprocess
import sys
from collections import Counter

import pytest

from distillgen.inference import teacher as teacher_module
from tests.simulator.history import History
from tests.simulator.mutations import ROOT, mutations
from tests.simulator.provider import FAULTS
from tests.simulator.world import Broken

HISTORIES = 150
SEEDS = (*range(HISTORIES), 200_251)  # in the last one, a process that dies at its next write is read from


def played(seed):
    history = History(seed)
    try:
        history.play()
    except AssertionError as error:
        pytest.fail("\n".join([*history.world.trace, f"seed {seed}: {error}"]), pytrace=False)
    return history


def test_no_history_breaks_a_promise():
    fates = Counter(call.fate for seed in SEEDS for call in played(seed).provider.calls)
    assert fates.keys() >= {"answered", *FAULTS} and fates.total() > 600


def test_a_seed_gives_the_same_history_again():
    for seed in (1, 7, 21):
        assert played(seed).world.trace == played(seed).world.trace


def test_an_answer_that_is_not_stored_is_noticed(monkeypatch):
    """A control: a teacher that stores nothing of some answers."""
    record = teacher_module.Teacher._record

    async def careless(self, job, completions):
        if job.request.messages[-1]["content"].startswith("What is 1"):
            return [c._replace(key=key) for key, c in zip(job.keys, completions, strict=False)]
        return await record(self, job, completions)

    monkeypatch.setattr(teacher_module.Teacher, "_record", careless)
    with pytest.raises(Broken, match="before it is in the ledger"):
        for seed in range(20):
            History(seed).play()


def test_the_command_prints_a_rate():
    command = [sys.executable, "-m", "tests.simulator", "--histories", "2", "--seed", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "2 histories" in done.stdout and "0 broken" in done.stdout


def test_each_mutation_still_has_its_line():
    listed = mutations()
    assert len(listed) >= 30 and len({(m.file, m.old, m.new) for m in listed}) == len(listed)
    for mutation in listed:
        assert mutation.path.read_text(encoding="utf-8").count(mutation.old) == 1, str(mutation)
        assert mutation.old != mutation.new
        for test in mutation.tests:
            file, _, name = test.partition("::")
            assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8"), test
