"""Several processes share a ledger: a request in flight is not sent twice, and those of a killed process are
taken over.
"""

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from aiohttp import web

import distillgen
from distillgen.errors import BudgetStop, LedgerError
from distillgen.inference import claims
from distillgen.inference.faults import TeacherDown
from distillgen.inference.ledger import Answer, Ledger
from distillgen.inference.sqlite_store import SqliteStore
from distillgen.inference.store import Statement
from distillgen.platforms import machine
from tests.batch_endpoint import BatchEndpoint
from tests.command_process import ForkedCommand
from tests.endpoint import Endpoint, completion
from tests.simulator.machine import in_virtual_time, simulated
from tests.simulator.world import World


def start(project, name, *args):
    command = [
        sys.executable,
        "-m",
        "distillgen",
        "run",
        "ask",
        "-o",
        f"runs/{name}",
        "--ledger",
        "all.sqlite3",
        *map(str, args),
    ]
    return ForkedCommand(command, project.path, project.env(), start_new_session=True)


def ended(process, code=0):
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors.decode()


def corpus(project, name):
    return (project.path / f"runs/{name}/corpus.jsonl").read_bytes()


def totals(project, name):
    return json.loads((project.path / f"runs/{name}/usage.json").read_text())["totals"]


def rows_of(project, query):
    with sqlite3.connect(project.path / "all.sqlite3") as connection:
        return connection.execute(query).fetchall()


@pytest.mark.parametrize("head_start_s", [0, 1.5])
def test_concurrent_runs_buy_no_answer_twice(project, head_start_s):
    with Endpoint(latency_s=0.2) as endpoint:
        project.ask_pipeline(endpoint.url, 60, model=", max_concurrency: 4")
        first = start(project, "a")
        while head_start_s and not endpoint.asked:
            time.sleep(0.01)
        time.sleep(head_start_s)
        second = start(project, "b")
        ended(first)
        ended(second)
        assert len(endpoint.asked) == 60 and max(endpoint.asked.values()) == 1
    assert corpus(project, "a") == corpus(project, "b")
    assert totals(project, "a")["requests"] + totals(project, "b")["requests"] == 60
    assert rows_of(project, "SELECT * FROM claims") == rows_of(project, "SELECT * FROM owners") == []


def test_a_second_run_waits_for_requests_in_flight(project):
    """The first has sent all its requests before the second starts; answers come once that has asked."""
    with Endpoint(latency_s=6) as endpoint:
        project.ask_pipeline(endpoint.url, 20, model=", max_concurrency: 20")
        first = start(project, "a")
        while endpoint.asked.total() < 20:
            time.sleep(0.01)
        second = start(project, "b")
        ended(first)
        ended(second)
        assert endpoint.asked.total() == 20 and totals(project, "b")["requests"] == 0
    assert corpus(project, "a") == corpus(project, "b")


def test_a_run_that_is_killed_leaves_its_requests_to_the_other_at_once(project):
    with Endpoint(latency_s=60) as endpoint:
        project.ask_pipeline(endpoint.url, 12, model=", max_concurrency: 12")
        first = start(project, "a")
        while endpoint.asked.total() < 12:
            time.sleep(0.01)
        second = start(project, "b")
        time.sleep(3)
        assert endpoint.asked.total() == 12
        endpoint.latency_s = 0
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
        begun = time.monotonic()
        ended(second)
        assert time.monotonic() - begun < SqliteStore.lease_s and max(endpoint.asked.values()) == 2
    assert len(project.read("runs/b/corpus.jsonl")) == 12


def test_samples_that_two_runs_share_are_bought_once(project):
    with Endpoint(latency_s=1) as endpoint:
        project.ask_pipeline(endpoint.url, 4, stage=", n: 3")
        first = start(project, "a")
        while endpoint.asked.total() < 4:
            time.sleep(0.01)
        second = start(project, "b", "--set", "generate.n=5")
        ended(first)
        ended(second)
        assert sorted(body["n"] for body in endpoint.bodies) == [2, 2, 2, 2, 3, 3, 3, 3]


def test_a_run_that_looked_before_another_came_and_went_looks_again(project, monkeypatch):
    """The other one runs between this run's look into the ledger and its registration."""
    register, begun = claims.Claims._enter, []

    def enter(self):
        if not begun:
            begun.append(True)
            project.cli("run", "ask", "-o", "runs/b", "--ledger", "all.sqlite3")
        return register(self)

    monkeypatch.setattr(claims.Claims, "_enter", enter)
    with Endpoint() as endpoint:
        pipeline = project.ask_pipeline(endpoint.url, 8)
        run = distillgen.run(pipeline, out="runs/a", ledger="all.sqlite3")
        assert begun and len(endpoint.asked) == 8 and max(endpoint.asked.values()) == 1
        assert totals(project, "a")["requests"] == 0 and len(run.kept) == 8


def test_a_run_whose_requests_queue_looks_again_after_another_came_and_went(project):
    """The other one asks the later rows while this run has its first request in flight and the rest queue."""
    others = []

    async def behave(body, times):
        if not others:
            others.append(start(project, "b", "--set", "source.path=data/later.jsonl"))
            while others[0].poll() is None:
                await asyncio.sleep(0.01)
            await asyncio.sleep(3 * SqliteStore.beat_s)  # the first run learns that it is alone again
        return completion(body)

    with Endpoint(behave) as endpoint:
        pipeline = project.ask_pipeline(endpoint.url, 8, model=", max_concurrency: 1")
        rows = (project.path / "data/seeds.jsonl").read_text().splitlines(keepends=True)
        project.write("data/later.jsonl", "".join(rows[1:]))
        distillgen.run(pipeline, out="runs/a", ledger="all.sqlite3")
        ended(others[0])
        assert len(endpoint.asked) == 8 and max(endpoint.asked.values()) == 1


def test_what_one_run_stops_at_its_cap_the_other_goes_on_with(project):
    price = ", max_tokens: 50, price: {input: 1000, output: 10000}, max_concurrency: 4"
    with Endpoint(latency_s=0.1) as endpoint:
        project.ask_pipeline(endpoint.url, 40, model=price)
        first = start(project, "a", "--max-cost-usd", 0.61)
        while not endpoint.asked:
            time.sleep(0.01)
        second = start(project, "b")
        ended(first, 4)
        ended(second)
        assert (
            len(endpoint.asked) == 40
            and max(endpoint.asked.values()) == 1
            and totals(project, "a")["cost_usd"] <= 0.61
        )
    assert len(project.read("runs/b/corpus.jsonl")) == 40


def test_the_same_failures_are_asked_again_once_by_two_runs(project):
    with Endpoint(
        lambda body, times: completion(
            body, choices=[{"finish_reason": "length", "message": {"content": "cut"}}]
        )
    ) as endpoint:
        project.ask_pipeline(endpoint.url, 10, model=", max_concurrency: 2")
        ended(start(project, "a"), 3)
        endpoint.behave, endpoint.latency_s = None, 0.3
        both = [start(project, name, "--retry-failed") for name in "ab"]
        for process in both:
            ended(process)
        assert max(endpoint.asked.values()) == 2
    assert corpus(project, "a") == corpus(project, "b")


@pytest.mark.parametrize("seed", range(2))
def test_a_cap_holds_over_repeated_kills(project, seed):
    rng = random.Random(seed)
    price = ", max_tokens: 10, price: {input: 1000, output: 10000}, max_concurrency: 8"
    with Endpoint(
        lambda body, times: completion(body, usage={"prompt_tokens": 40, "completion_tokens": 10}),
        latency_s=0.1,
    ) as endpoint:
        project.ask_pipeline(endpoint.url, 200, model=price)
        for _ in range(4):
            process = start(project, "a", "--max-cost-usd", 16)
            seen = endpoint.asked.total()
            while process.poll() is None and endpoint.asked.total() == seen:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.5))
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        ended(start(project, "a", "--max-cost-usd", 16), 4)
        billed = endpoint.asked.total() * (40 * 1000 + 10 * 10000) / 1e6
        spent = totals(project, "a")["cost_usd"]
        assert billed <= spent <= 16
    lost = rows_of(project, "SELECT count(*), sum(cost_usd) FROM answers WHERE status = 'lost'")[0]
    assert 4 <= lost[0] <= 32 and lost[1] > 0 and "may be billed" in project.cli("status", "runs/a").stdout


def test_a_lone_run_writes_no_claims_and_a_replay_owns_nothing(project):
    with Endpoint(latency_s=1) as endpoint:
        project.ask_pipeline(endpoint.url, 5)
        first = start(project, "a")
        while endpoint.asked.total() < 5:
            time.sleep(0.01)
        assert len(rows_of(project, "SELECT * FROM owners")) == 1 and not rows_of(
            project, "SELECT * FROM claims"
        )
        ended(first)
        ended(start(project, "a"))
        assert rows_of(project, "SELECT seq FROM sqlite_sequence WHERE name = 'owners'") == [(1,)]


def test_who_holds_a_lease(project):
    ledger, here = Ledger(project.path / "x"), machine()
    is_alive = ledger.claims._is_alive
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert is_alive(here, os.getpid(), 5) and is_alive("elsewhere", child.pid, 5)
    assert not is_alive(here, child.pid, 5), "its process has ended"
    assert not is_alive(here, os.getpid(), -1) and not is_alive("elsewhere", 1, -1), "its lease is over"
    assert not is_alive("elsewhere", 1, 1e6), "the clock of that lease was another start's"
    ledger.close_now()


def test_a_lease_is_renewed_while_a_request_is_in_flight(project, monkeypatch):
    """Two owners in this process, with leases of two seconds."""
    monkeypatch.setattr(SqliteStore, "lease_s", 2.0)
    monkeypatch.setattr(SqliteStore, "beat_s", 0.05)

    async def main():
        one, two = Ledger(project.path / "x"), Ledger(project.path / "x")
        assert await one.claim([b"k"], "r", "s", "m")
        assert not await two.claim([b"k"], "r", "s", "m") and await two.claim([b"other"], "r", "s", "m")
        left = []
        while len(left) < 50:
            left += two.store.rows(f"SELECT min(lease_until) - {two.store.now} FROM owners")
            await asyncio.sleep(0.05)
        assert min(left)[0] > 0.5, "a lease was not renewed before it ended"
        assert not await two.claim([b"k"], "r", "s", "m"), "the lease was not renewed"
        one.claims._end_beats()  # as if its process hung
        await asyncio.sleep(3)
        assert await two.claim([b"k"], "r", "s", "m")
        await two.close()
        await one.close()

    asyncio.run(main())


def test_a_period_alone_does_not_come_again(tmp_path):
    """Or a run whose requests queued all that time would ask for what another one has answered since."""

    async def main():
        one = Ledger(tmp_path / "x")
        await one.claim([b"k"], "r", "s", "m")
        alone = one.claims.period
        two = Ledger(tmp_path / "x")
        await two.claim([b"other"], "r", "s", "m")
        await two.close()
        await asyncio.sleep(SqliteStore.lease_s)  # the lease is renewed without the other one
        assert alone and one.claims.period not in (0, alone)
        await one.close()

    in_virtual_time(main())


def test_two_runs_put_no_line_in_two_batches(project):
    with BatchEndpoint() as endpoint:
        project.ask_pipeline(endpoint.url, 30, model=", mode: batch, gather_s: 0.5, poll_s: 0.2")
        both = [start(project, name) for name in "ab"]
        for process in both:
            ended(process)
        assert len(endpoint.lines) == 30 and max(endpoint.lines.values()) == 1
    assert corpus(project, "a") == corpus(project, "b")
    assert totals(project, "a")["requests"] + totals(project, "b")["requests"] == 30


def test_a_claim_goes_in_the_transaction_of_its_answer(project):
    """Or a process killed between the two would count the answer, and what it may cost besides."""

    async def main():
        ledger = Ledger(project.path / "x")
        assert await ledger.claim([b"k" * 32], "r", "s", "m", 0.5)
        assert ledger.store.rows("SELECT cost_usd FROM claims") == [(0.5,)]
        commit, seen = ledger._commit, []
        ledger._commit = lambda together: (commit(together), seen.append(ledger.store.rows(state)[0]))
        await ledger.add([Answer(b"k" * 32, "r", "s", "m", "ok", 1, 0, 0, 0, 2, 0.5, b"{}", b"{}")])
        await ledger.close()
        assert seen[0] == (1, 0)

    state = "SELECT (SELECT count(*) FROM answers), (SELECT count(*) FROM claims)"
    asyncio.run(main())


def lost(ledger):
    return ledger.store.rows("SELECT run, cost_usd FROM answers WHERE status = 'lost'")


def test_a_claim_that_another_gave_up_while_this_one_was_written_is_nobodys(project):
    """The other's claim stands in the way of this one, and is gone when this process looks for it."""

    async def main():
        one, two = Ledger(project.path / "x"), Ledger(project.path / "x")
        assert await one.claim([b"k"], "r", "s", "m") and await two.claim([b"other"], "r", "s", "m")
        write = two.claims._write

        async def late(*args):
            two.claims._write = write
            await write(*args)
            one.claims.release([b"k"])
            await one.write(Statement("DELETE FROM claims WHERE key = ?"), [(b"none",)])

        two.claims._write = lambda *args: asyncio.ensure_future(late(*args))
        assert not await two.claim([b"k"], "r", "s", "m")
        assert await two.claim([b"k"], "r", "s", "m")
        await one.close()
        await two.close()

    asyncio.run(main())


def test_a_claim_survives_that_the_same_transaction_gives_up_an_earlier_one(project):
    """A request is tried again at once: its old claim is deleted after the new one was written."""

    async def main():
        ledger = Ledger(project.path / "x")
        assert await ledger.claim([b"k"], "r", "s", "m", 0.5)
        first = asyncio.ensure_future(ledger.claim([b"first"], "r", "s", "m", 0.5))
        await asyncio.sleep(0)
        ledger.claims.release([b"k"])
        again = await ledger.claim([b"k"], "r", "s", "m", 0.5)
        while not again:
            again = await ledger.claim([b"k"], "r", "s", "m", 0.5)
        assert await first and ledger.claims.at_risk_usd("r") == ledger.claims.at_risk_usd(None) == 1.0
        await ledger.close()

    asyncio.run(main())


def test_a_process_that_comes_back_after_its_lease_is_seen_by_the_others(tmp_path):
    async def main():
        one, two = Ledger(tmp_path / "x"), Ledger(tmp_path / "x")
        assert await one.claim([b"k"], "r", "s", "m") and await two.claim([b"other"], "r", "s", "m")
        one.claims._end_beats()  # as if its process were stopped
        await asyncio.sleep(2 * SqliteStore.lease_s + 5)  # in between two renewals of the other lease
        assert not two.claims.shared
        one.claims._beat()
        await asyncio.sleep(2 * SqliteStore.beat_s)
        assert two.claims.shared and one.claims.shared
        await one.close()
        await two.close()

    in_virtual_time(main())


def test_a_request_whose_usage_could_not_be_stored_is_counted_as_lost(project):
    async def main():
        ledger = Ledger(project.path / "x")
        assert await ledger.claim([b"k"], "r", "s", "m", 0.5)
        await ledger.close()  # without a row about the request
        ledger = Ledger(project.path / "x")
        assert lost(ledger) == [("r", 0.5)] and ledger.usage("r")[0].cost_usd == 0.5
        await ledger.close()

    asyncio.run(main())


def test_a_cap_counts_what_a_killed_run_had_in_flight_even_if_its_number_is_in_use(project):
    """In a container that is started again, the new process has the number of the killed one."""
    with Endpoint() as endpoint:
        pipeline = project.ask_pipeline(
            endpoint.url, 2, model=", price: {input: 1, output: 1}, max_tokens: 9"
        )
        (project.path / "runs").mkdir()
        ledger = Ledger(project.path / "runs/x")
        with ledger.store.connection as connection:
            owner = (1, os.uname().nodename, os.getpid(), time.monotonic() + 20, 1)
            connection.execute("INSERT INTO owners VALUES (?, ?, ?, ?, ?)", owner)
            for run in ("a", "b"):
                claim = (run.encode(), 1, run, "generate", "teacher", 0.5)
                connection.execute("INSERT INTO claims VALUES (?, ?, ?, ?, ?, ?)", claim)
        ledger.close_now()
        with pytest.raises(BudgetStop, match=r"\$0.5000 is spent"):
            distillgen.run(pipeline, out="runs/a", ledger="runs/x", max_cost_usd=0.5001)
        assert not endpoint.asked


def test_nothing_is_asked_any_more_once_an_answer_could_not_be_stored(project, monkeypatch):
    """The first row's answer comes late, so that the run learns late of the error of the second."""
    commit = Ledger._commit

    def failing(self, rows_of):
        if any(b"What is 1?" in row[11] for rows in rows_of.values() for row in rows if len(row) > 11):
            with self.store.errors():
                raise sqlite3.OperationalError("disk I/O error")
        commit(self, rows_of)

    async def behave(body, times):
        if "What is 0?" in body["messages"][-1]["content"]:
            await asyncio.sleep(1)
        return completion(body)

    monkeypatch.setattr(Ledger, "_commit", failing)
    with Endpoint(behave) as endpoint:
        pipeline = project.ask_pipeline(endpoint.url, 40, model=", max_concurrency: 2")
        with pytest.raises(LedgerError, match="the disk reports an error"):
            distillgen.run(pipeline, out="runs/a", ledger="all.sqlite3")
        assert endpoint.asked.total() <= 3


def test_a_refused_request_leaves_no_claim_that_counts_as_lost(project):
    async def behave(body, times):
        return web.json_response({"error": {"message": "invalid api key"}}, status=401)

    with Endpoint(behave) as endpoint:
        pipeline = project.ask_pipeline(
            endpoint.url, 2, model=", price: {input: 1, output: 1}, max_tokens: 9"
        )
        with pytest.raises(TeacherDown):
            distillgen.run(pipeline, out="runs/a", ledger="all.sqlite3", max_cost_usd=1)
    assert rows_of(project, "SELECT * FROM answers") == []


def test_a_timeout_is_retried_once(project):
    with Endpoint(latency_s=2) as endpoint:
        pipeline = project.ask_pipeline(endpoint.url, 1, model=", timeout_s: 0.05")
        distillgen.run(pipeline, out="runs/a", ledger="all.sqlite3")
        assert endpoint.asked.total() == 2


def test_a_process_that_gets_one_claim_of_two_keeps_neither(tmp_path):
    async def main():
        one, two = Ledger(tmp_path / "x"), Ledger(tmp_path / "x")
        assert await one.claim([b"k"], "r", "s", "m") and await two.claim([b"other"], "r", "s", "m")
        assert not await two.claim([b"k", b"l"], "r", "s", "m")
        await asyncio.sleep(1)
        assert await one.claim([b"l"], "r", "s", "m")
        await one.close()
        await two.close()

    in_virtual_time(main())


def test_a_killed_process_is_noticed_within_a_second(tmp_path):
    async def hold(key):
        ledger = Ledger(tmp_path / "x")
        assert await ledger.claim([key], "r", "s", "m")
        await asyncio.sleep(1e6)

    world = World(0)
    with simulated(world):
        first, second = world.start("first"), world.start("second")
        first.start(hold(b"k"))
        second.start(hold(b"l"))
        world.run(lambda: world.now > 1005, 1e6)
        world.kill(second)
        world.reused.clear()
        world.run(lambda: world.now > 1006, 1e6)
        assert first.connections[-1].execute("SELECT key FROM claims").fetchall() == [(b"k",)]
        world.bury()


def test_a_lease_is_renewed_after_a_beat_that_failed_whatever_the_error(project, monkeypatch, caplog):
    monkeypatch.setattr(SqliteStore, "beat_s", 0.02)

    async def main():
        ledger = Ledger(project.path / "x")
        await ledger.claim([b"k"], "r", "s", "m")
        ledger.claims._renewed_at = -1e9
        with monkeypatch.context() as fault:
            fault.setattr(ledger.claims, "_look_around", lambda: 1 / 0)
            await asyncio.sleep(0.2)
        await asyncio.sleep(0.2)
        assert ledger.claims._renewed_at > 0 and "was not renewed: division by zero" in caplog.text
        await ledger.close()

    asyncio.run(main())
