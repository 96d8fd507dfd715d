"""The ledger on a disk that loses its power, and on one whose steps fail: no durable answer is missing."""

import asyncio
import random

import pytest

from distillgen.errors import LedgerError
from distillgen.inference import sqlite_store
from distillgen.inference.ledger import Answer, Ledger
from distillgen.inference.ledger_files import verify
from distillgen.inference.request import Completion
from tests.inference.faulty_disk import FaultyDisk, after_power_loss, library

pytestmark = pytest.mark.skipif(library() is None, reason="SQLite is a part of this Python")
REMEDIES = ("run again", "Choose another --ledger")
NAME = "ledger.sqlite3"


def answer(number, text="text"):
    completion = Completion(text=f"{text} {number} " + "word " * (number % 400)).json()
    return Answer(
        number.to_bytes(32, "big"), "r", "s", "m", "ok", 1, 0, 0, 0, 2, 0.5, b'{"model":"m"}', completion
    )


def add_answers(path, count, told, workers=4):
    """Add answers from several tasks; call `told` with the number of each that is durable."""

    async def work():
        ledger = Ledger(path)
        try:
            numbers = iter(range(count))

            async def worker():
                for number in numbers:
                    await ledger.claim([number.to_bytes(32, "big")], "r", "s", "m", 0.25)
                    await ledger.add([answer(number)])
                    told(str(number))

            await asyncio.gather(*(worker() for _ in range(workers)))
        finally:
            await ledger.close()

    asyncio.run(work())


def found(path, numbers):
    ledger = Ledger(path)
    keys = [number.to_bytes(32, "big") for number in numbers]
    rows = ledger.find(keys)
    ledger.close_now()
    return {int.from_bytes(key, "big") for key in rows}


def losses(folder, steps, seeds):
    """How many answers that were told to be durable are missing after each of many power losses."""
    folder.mkdir()
    missing = []
    for seed in seeds:
        draw = random.Random(seed)
        moment = draw.randrange(1, len(steps) + 1)
        for file in folder.iterdir():
            file.unlink()
        for name, content in after_power_loss(steps[:moment], draw).items():
            (folder / name).write_bytes(content)
        told = {int(step.file) for step in steps[:moment] if step.kind == "told"}
        missing.append(len(told - found(folder / NAME, told)))
        assert verify(folder / NAME).faults == []
    return missing


def recorded(folder, count=400):
    """The steps of a run of the ledger."""
    folder.mkdir()
    with FaultyDisk(folder) as disk:
        add_answers(folder / NAME, count, disk.told)
    assert found(folder / NAME, range(count)) == {*range(count)}
    return disk.steps


def test_what_was_told_to_be_durable_survives_the_loss_of_power(tmp_path):
    steps = recorded(tmp_path / "disk")
    files = {step.file for step in steps if step.kind == "sync"}
    assert files >= {NAME, f"{NAME}-wal"}, "the run was too short for a checkpoint"
    assert losses(tmp_path / "after", steps, range(40)) == [0] * 40


def test_a_ledger_that_does_not_sync_each_commit_loses_answers(tmp_path, monkeypatch):
    """A control: the same disk sees what a weaker setting loses."""
    connect = sqlite_store.connect

    def weaker(path, read_only):
        connection = connect(path, read_only)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    monkeypatch.setattr(sqlite_store, "connect", weaker)
    steps = recorded(tmp_path / "disk", 100)
    monkeypatch.undo()
    assert max(losses(tmp_path / "after", steps, range(20))) > 5


def test_each_step_that_fails_is_an_error_with_a_remedy_and_loses_nothing(tmp_path):
    fail_at, failures = 0, 0
    while True:
        fail_at += 1
        folder = tmp_path / str(fail_at)
        folder.mkdir()
        told = []
        with FaultyDisk(folder, fail_at) as disk:
            try:
                add_answers(folder / NAME, 3, told.append, workers=2)
            except LedgerError as error:
                failures += 1
                assert str(folder / NAME) in str(error) and any(word in str(error) for word in REMEDIES), (
                    error
                )
        assert {*map(int, told)} <= found(folder / NAME, range(3)), f"step {fail_at}"
        assert verify(folder / NAME).faults == []
        if disk.count < fail_at:
            break
    assert failures > 20 and len(told) == 3
