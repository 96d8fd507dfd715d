"""One contract for both kinds of ledger, and what a server, a network and several machines can do to it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import psycopg
import pytest

import distillgen
from distillgen.errors import LedgerError
from distillgen.inference import postgres_store
from distillgen.inference.ledger import Answer, Ledger, read_answers
from distillgen.inference.ledger_files import compact, export, merge, verify
from distillgen.inference.logprobs import pack
from distillgen.inference.places import Database, read_place, resolved
from distillgen.inference.postgres_store import PostgresStore
from distillgen.inference.store import Statement, insert
from distillgen.runs.directory import name_in
from tests.command_process import ForkedCommand
from tests.endpoint import Endpoint
from tests.inference.test_claims import corpus, ended
from tests.postgres import Network, Postgres


@pytest.fixture(scope="module")
def server():
    with Postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """A new ledger of each kind."""
    if request.param == "sqlite":
        return tmp_path / "ledger.sqlite3"
    return Database(request.getfixturevalue("server").database())


@contextmanager
def opened(*places, **options):
    ledgers = [Ledger(place, **options) for place in places]
    try:
        yield ledgers[0] if len(ledgers) == 1 else ledgers
    finally:
        for ledger in ledgers:
            ledger.close_now()


def answer(key, text="a", run="r", status="ok", **changes):
    body = b'{"text":"%s"}' % text.encode()
    key = key.ljust(32, b".")
    return Answer(key, run, "s", "m", status, 1, 0, 3, 1, 2, 0.25, b'{"q":1}', body, **changes)


def add(ledger, *answers):
    asyncio.run(ledger.add(answers))


def test_the_newest_answer_of_a_key_counts_and_sums_count_all(place):
    with opened(place) as ledger:
        add(ledger, answer(b"k", "old"), answer(b"other"))
        add(ledger, answer(b"k", "new", signals=pack([], [0.5, 0.25])))
        here = ledger.usage()
    with opened(place, read_only=True) as ledger:
        key = answer(b"k").key
        assert ledger.find([key]) == {key: ("ok", b'{"text":"new"}', pack([], [0.5, 0.25]))}
        assert ledger.usage() == here and here[0].answers == 3 and here[0].cost_usd == 0.75
        assert isinstance(here[0].input_tokens, int | float) and ledger.output_tokens([key]) == {key: 2}
        assert ledger.requested(key) == (b'{"q":1}', b'{"text":"new"}') and ledger.requested(b"none") is None
    assert read_answers(place, [key])[key]["completion"] == {"text": "new"}
    assert len(read_answers(place, [key])[key]["at"]) == len("2026-01-01 00:00:00")


@pytest.mark.parametrize("early", [True, False])
def test_sums_count_what_was_stored_before_and_since(place, early):
    """Whether they are asked for before the first answer is added, or after it."""
    with opened(place) as ledger:
        add(ledger, answer(b"1", run="a"), answer(b"2", run="a"))
    with opened(place) as ledger:
        before = [(use.run, use.answers) for use in ledger.usage("a")] if early else []
        add(ledger, answer(b"3", run="a/b"), answer(b"4", run="a"), answer(b"5", run="ab"))
        sums = [(use.run, use.answers, use.cost_usd) for use in ledger.usage("a")]
        assert sorted(sums) == [("a", 3, 0.75), ("a/b", 1, 0.25)] and ledger.spent_usd("a") == 1.0
        assert before == [("a", 2)] * early
        assert [(use.run, use.answers) for use in ledger.usage_added("a")] == [("a/b", 1), ("a", 1)]
        assert ledger.spent_usd(None) == 1.25 and not ledger.is_empty


def test_it_is_known_of_a_file_alone_that_no_other_process_adds_to_it(place):
    """A database numbers transactions: two answers in one of them hide the one of another process."""
    with opened(place, place) as (one, other):
        assert one.is_alone is not isinstance(place, Database)
        add(one, answer(b"1"), answer(b"2"))
        assert one.is_alone is not isinstance(place, Database)
        add(other, answer(b"3"))
        assert not one.is_alone


def test_a_database_sums_only_the_runs_that_are_asked_for(server):
    """A team's database holds a thousand runs; opening it for one takes no longer than for a new one."""
    place = Database(server.database())
    with opened(place) as ledger:
        assert ledger.is_empty
        add(ledger, *(answer(b"%d" % i, run=run) for i, run in enumerate(["a", "a/x", "ab", "b"])))
    with opened(place) as ledger:
        queries, rows = [], ledger.store.rows
        ledger.store.rows = lambda query, values=(): (queries.append((query, values)), rows(query, values))[1]
        assert ledger.spent_usd("a") == 0.5
        assert [use.run for use in ledger.usage("a/x")] == ["a/x"]  # is among what was read
        assert [values for query, values in queries if "sum(" in query] == [["a", "a/x"]]


def test_scores_and_batches(place):
    async def main(ledger):
        await ledger.add_scores({b"a": [0.5, None], b"b": "text"})
        await asyncio.gather(ledger.add_scores({b"a": 1}), ledger.add_scores({b"a": 1, b"c": 2}))
        await ledger.add_batch("u", "", "", ["l1", "l2"])
        await ledger.add_batch("u", "file", "batch")
        await ledger.add_batch("gone", "", "x", ["l1"])
        await ledger.forget_batch("gone")

    with opened(place) as ledger:
        asyncio.run(main(ledger))
        assert ledger.find_scores([b"a", b"b", b"c", b"d"]) == {b"a": 1, b"b": "text", b"c": 2}
        assert ledger.find_batch("l2") == ("u", "file", "batch") and ledger.find_batch("l3") is None
        assert ledger.find_batch("l1") is None and ledger.lines_of_batch("u") == 1
        assert ledger.has_batch("batch") and not ledger.has_batch("x")


def test_a_promise_lasts_until_its_answer(place):
    keys = [answer(name).key for name in (b"a", b"b", b"c", b"d")]

    async def promise(ledger):
        for key, run in zip(keys[:3], ("r", "r/s", "other"), strict=True):
            await ledger.promises.make(key, run, 0.5)
        await ledger.claim(keys[3:], "r", "s", "m", 0.25)
        await ledger.promises.make_of_claims(keys[3:])

    with opened(place) as ledger:
        asyncio.run(promise(ledger))
        assert ledger.spent_usd("r") == 0, "they are of this process"
    with opened(place) as ledger:
        assert ledger.promised_usd("r") == {keys[0]: 0.5, keys[1]: 0.5, keys[3]: 0.25}
        assert ledger.spent_usd("r") == 1.25 and not ledger.usage(), "a claim was counted as lost"
        add(ledger, answer(b"a"), answer(b"d"))
    with opened(place) as ledger:
        assert ledger.promised_usd("r") == {keys[1]: 0.5} and ledger.spent_usd("r") == 0.5 + 2 * 0.25


def test_a_ledger_of_an_earlier_version_gets_what_it_lacks(place, tmp_path):
    with opened(place) as ledger:
        add(ledger, answer(b"a"))
        asyncio.run(ledger.write(Statement("DROP TABLE promises"), [()]))
    assert merge(tmp_path / "copy.sqlite3", [place]) == 1
    with opened(place) as ledger:
        assert not ledger.promised_usd(None) and len(ledger.usage()) == 1


def test_a_run_notices_that_another_one_has_replaced_an_answer(place):
    with opened(place, place) as (mine, other):
        add(mine, answer(b"k"))
        mark = mine.last_id
        add(mine, answer(b"k", "again"))
        assert not mine.superseded_since(mark, "r")
        add(other, answer(b"new", run="other"))
        assert not mine.superseded_since(mark, "r")
        add(other, answer(b"k", run="other"))
    with opened(place) as ledger:
        assert ledger.superseded_since(mark, "r") and not ledger.superseded_since(ledger.last_id, "r")
        assert ledger.superseded_since(ledger.last_id + 1000, "r"), "fewer rows than then"


def test_a_replacement_that_was_in_flight_is_noticed(server):
    """Ids are given before a commit: a row with a lower one becomes visible later."""
    place = Database(server.database())
    with opened(place) as ledger, psycopg.connect(place.url) as slow:
        add(ledger, answer(b"k"))
        slow.execute(
            "INSERT INTO answers (key, run, stage, model, status)"
            " SELECT key, 'other', 's', 'm', 'ok' FROM answers"
        )
        add(ledger, answer(b"later", run="third"))
        mark, newest = ledger.last_id, ledger.store.rows("SELECT max(id) FROM answers")[0][0]
        slow.commit()
    with opened(place) as ledger:
        assert ledger.superseded_since(mark, "r")
        ledger.store.order = "id"
        assert not ledger.superseded_since(newest, "r"), "a control: by ids, it is missed"


def test_a_claim_is_for_one_and_goes_with_its_answer(place):
    async def main(one, two):
        keys = [answer(name).key for name in (b"a", b"b")]
        assert await one.claim(keys, "r", "s", "m", 0.5)
        assert not await two.claim(keys[1:], "r", "s", "m")
        assert await two.claim([answer(b"c").key], "r", "s", "m")
        assert two.claims.elsewhere(keys) == set(keys) and one.claims.shared and two.claims.shared
        await one.add([answer(b"a"), answer(b"b")])
        assert not two.claims.elsewhere(keys) and await two.claim(keys, "r", "s", "m")
        two.claims.release(keys)
        await two.add([answer(b"c")])
        await asyncio.sleep(0.05)

    with opened(place, place) as (one, two):
        asyncio.run(main(one, two))
        assert one.store.rows("SELECT count(*) FROM claims") == [(0,)]
    with opened(place, read_only=True) as ledger:
        assert ledger.store.rows("SELECT count(*) FROM owners") == [(0,)]


def test_claims_of_a_process_that_was_killed_are_counted_as_lost_and_taken_over(place):
    asks = f"""if True:
        import asyncio, os, signal
        from distillgen.inference.ledger import Ledger
        from distillgen.inference.places import read_place
        async def main():
            from pathlib import Path
            ledger = Ledger(read_place({str(place)!r}))
            await ledger.claim([b"k"], "r", "s", "m", 0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())"""
    assert subprocess.run([sys.executable, "-c", asks]).returncode == -signal.SIGKILL
    with opened(place) as ledger:
        assert [(used.status, used.answers, used.cost_usd) for used in ledger.usage()] == [("lost", 0, 0.5)]
        assert asyncio.run(ledger.claim([b"k"], "r", "s", "m"))
    assert verify(place).faults == []


def test_a_lease_is_renewed_and_one_that_is_over_is_taken_from_its_owner(server, monkeypatch):
    monkeypatch.setattr(PostgresStore, "lease_s", 2.0)
    monkeypatch.setattr(PostgresStore, "beat_s", 0.05)
    place = Database(server.database())

    async def main(one, two):
        assert await one.claim([b"k"], "r", "s", "m")
        assert await two.claim([b"other"], "r", "s", "m")
        await asyncio.sleep(2.5)
        assert not await two.claim([b"k"], "r", "s", "m")
        one.claims._end_beats()  # as if its process hung
        await asyncio.sleep(2.5)
        assert await two.claim([b"k"], "r", "s", "m")

    with opened(place, place) as (one, two):
        asyncio.run(main(one, two))


def test_verify_compact_export_and_merge_between_the_kinds(place, server, tmp_path):
    with opened(place) as ledger:
        add(ledger, answer(b"a", "old"), answer(b"b", status="failed"), answer(b"bad", signals=b"\0"))
        add(ledger, answer(b"a", "new"))
        asyncio.run(ledger.add_scores({b"s": 1}))
        asyncio.run(ledger.add_batch("u", "f", "b", ["l"]))
    rows, faults = verify(place)
    assert rows == {"ok": 3, "failed": 1} and len(faults) == 1 and "row 3" in faults[0]
    for other in (tmp_path / "other.sqlite3", Database(server.database())):
        with opened(other) as ledger:
            add(ledger, answer(b"b", "kept"))
        assert merge(other, [place], renamed={"r": "mine"}) == 3 and merge(other, [place]) == 0
        with opened(other, read_only=True) as ledger:
            assert ledger.find([answer(b"a").key])[answer(b"a").key][1] == b'{"text":"new"}'
            assert ledger.find([answer(b"b").key])[answer(b"b").key][1] == b'{"text":"kept"}'
            assert ledger.find_scores([b"s"]) == {b"s": 1} and ledger.find_batch("l") == ("u", "f", "b")
            assert {used.run for used in ledger.usage()} == {"r", "mine"}
        with pytest.raises(LedgerError, match="into itself"):
            merge(other, [read_place(other if isinstance(other, os.PathLike) else other.url)])
    with pytest.raises(LedgerError, match="row 3 .* distillgen ledger verify"):
        export(place, tmp_path / "a.jsonl")
    with opened(place) as ledger:
        ledger.store.transact(lambda session: session.execute("UPDATE answers SET signals = NULL"))
    assert export(place, tmp_path / "a.jsonl") == 4
    assert '"superseded":true' in (tmp_path / "a.jsonl").read_text().splitlines()[0]
    assert compact(place).superseded == 1 and compact(place).superseded == 0
    with opened(place, read_only=True) as ledger:
        assert ledger.usage()[0].cost_usd == 0.25 and sum(used.answers for used in ledger.usage()) == 4
    with opened(place) as ledger:
        asyncio.run(ledger.claim([b"k"], "r", "s", "m"))
        with pytest.raises(LedgerError, match="in use by another run"):
            compact(place)


def test_a_server_that_crashes_between_commits_loses_nothing(server):
    place = Database(server.database())

    async def main(ledger):
        for i in range(20):
            await ledger.add([answer(b"%d" % (10 * i + j)) for j in range(10)])
            if i == 10:
                server.stop("immediate")
                crashed = asyncio.get_running_loop().run_in_executor(None, server.start)
                await ledger.add([answer(b"down%d" % i)])
                await crashed

    with opened(place) as ledger:
        assert ledger.store.holds(0.1) and not ledger.store.holds(-0.1)
        asyncio.run(main(ledger))
        assert ledger.store.holds(-0.1), "no owner could renew its lease meanwhile"
        assert ledger.store.rows("SELECT count(*), count(DISTINCT key) FROM answers") == [(201, 201)]
    assert verify(place).faults == []


@pytest.mark.parametrize("stamped", [True, False], ids=["", "control"])
def test_an_answer_whose_commit_was_not_heard_of_is_stored_once(server, monkeypatch, stamped):
    network = Network(server.port)
    place = Database(server.database(network.port))
    if not stamped:
        add_all = insert(f"INSERT INTO answers ({', '.join(Answer._fields)})", len(Answer._fields))
        monkeypatch.setattr(PostgresStore, "add", lambda self, columns: add_all)
        monkeypatch.setattr(PostgresStore, "stamped", lambda self, rows: rows)

    async def main(ledger):
        for i in range(20):
            network.lose = i % 4 == 0
            await ledger.add([answer(b"%d" % i)])
            assert not network.lose

    with opened(place) as ledger:
        asyncio.run(main(ledger))
        ((rows, keys),) = ledger.store.rows("SELECT count(*), count(DISTINCT key) FROM answers")
    assert keys == 20 and rows == (20 if stamped else 25)


def test_work_that_is_alone_does_not_overlap(place):
    order, begun = [], Event()

    def first(session):
        begun.set()
        time.sleep(0.3)
        order.append("first")

    with opened(place, place) as (one, two), ThreadPoolExecutor() as threads:
        waiting = threads.submit(one.store.transact, first, alone=True)
        begun.wait(5)
        two.store.transact(lambda session: order.append("second"), alone=True)
        waiting.result()
    assert order == ["first", "second"]


def test_several_may_make_the_tables_at_once(server):
    place = Database(server.database())
    with ThreadPoolExecutor(8) as threads:
        for ledger in threads.map(Ledger, [place] * 8):
            ledger.close_now()


def test_a_transaction_that_met_another_one_is_done_again(server):
    calls = []

    def work(session):
        calls.append(1)
        if len(calls) == 1:
            session.execute("DO $$ BEGIN RAISE EXCEPTION 'met' USING ERRCODE = '40P01'; END $$")
        return "done"

    with opened(Database(server.database())) as ledger:
        assert ledger.store.transact(work) == "done" and len(calls) == 2


def test_a_server_that_could_lose_answers_is_set_right_or_refused(server):
    url = server.database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = off")
        with opened(Database(url)) as ledger:
            assert ledger.store.transact(lambda s: s.execute("SHOW synchronous_commit").fetchone()) == ("on",)
        for setting in ("off", "on"):
            connection.execute(f"ALTER SYSTEM SET fsync = {setting}")
            connection.execute("SELECT pg_reload_conf()")
            while connection.execute("SHOW fsync").fetchone() != (setting,):
                time.sleep(0.01)
            if setting == "off":
                with pytest.raises(LedgerError, match="does not write through to its disk"):
                    Ledger(Database(url))


def test_a_ledger_that_is_only_read_cannot_be_written(server):
    place = Database(server.database())
    Ledger(place).close_now()
    with opened(place, read_only=True) as ledger, pytest.raises(LedgerError, match="only reads"):
        ledger.store.rows("DELETE FROM answers RETURNING 1")


def test_a_first_connection_waits_for_a_server_that_starts(server):
    network = Network(server.port)
    place = Database(server.database(network.port))
    network.starting = 3
    with opened(place) as ledger:
        add(ledger, answer(b"k"))
        assert not network.starting and ledger.store.rows("SELECT count(*) FROM answers") == [(1,)]


def test_a_server_that_stays_away_ends_the_run_with_a_remedy(server, monkeypatch):
    monkeypatch.setattr(postgres_store, "PATIENCE_S", 0.3)
    with opened(Database(server.database())) as ledger:
        server.stop()
        try:
            with pytest.raises(
                LedgerError, match="cannot reach it .* Check the address and that the server runs"
            ):
                add(ledger, answer(b"k"))
            with pytest.raises(LedgerError, match="cannot reach it"):
                ledger.find([b"k"])
        finally:
            server.start()
        assert ledger.find([b"k"]) == {}


def test_a_database_that_cannot_hold_a_ledger(server, tmp_path):
    url = server.database()
    with pytest.raises(LedgerError, match="holds no ledger"):
        Ledger(Database(url), read_only=True)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE answers (question text)")
    with pytest.raises(
        LedgerError, match="a table 'answers' of another program; make one for ledgers with: createdb"
    ):
        Ledger(Database(url))
    for bad, told in ((server.url("nowhere"), "nowhere"), ("postgresql://127.0.0.1:1/x", "cannot reach it")):
        with pytest.raises(LedgerError, match=told):
            Ledger(Database(bad))
    later = Database(server.database())
    Ledger(later).close_now()
    with psycopg.connect(later.url, autocommit=True) as connection:
        connection.execute("UPDATE ledger_format SET version = 9")
    with pytest.raises(LedgerError, match="of another version of distillgen"):
        Ledger(later)


def test_an_address_is_written_without_its_password():
    url = "postgresql://me:secret@db:5432/ledger?sslmode=require&password=hidden"
    assert str(read_place(url)) == repr(read_place(url)) == "postgresql://me@db:5432/ledger?sslmode=require"
    assert str(read_place("postgresql:///ledger")) == "postgresql:///ledger"
    assert resolved(read_place(url)) == resolved(read_place("postgresql://me@db:5432/ledger?sslmode=require"))


def test_a_run_keeps_its_name_and_names_the_runs_in_its_folder(tmp_path):
    place = Database("postgresql:///x")
    name = name_in(place, tmp_path / "mine")
    assert name.startswith("mine-") and name_in(place, tmp_path / "mine") == name
    assert name_in(place, tmp_path / "mine/seed-1") == f"{name}/seed-1"
    assert name_in(place, tmp_path / "other/mine") not in (name, "mine")
    assert name_in(tmp_path / "ledger.sqlite3", tmp_path / "mine") == "mine"


def start(project, name, url, *args):
    command = [
        sys.executable,
        "-m",
        "distillgen",
        "run",
        "ask",
        "-o",
        f"runs/{name}",
        "--ledger",
        url,
        "-q",
        *args,
    ]
    return ForkedCommand(command, project.path, project.env())


def test_runs_with_one_database_buy_no_answer_twice(project, server):
    url = server.database().replace("me@", "me:secret@")
    with Endpoint(latency_s=0.2) as endpoint:
        project.ask_pipeline(endpoint.url, 60, model=", max_concurrency: 4")
        both = [start(project, name, url) for name in "ab"]
        for process in both:
            ended(process)
        assert endpoint.asked.total() == len(endpoint.asked) == 60
        assert corpus(project, "a") == corpus(project, "b")
        text = (project.path / "pipelines/ask.yaml").read_text()
        project.write("pipelines/ask.yaml", text + "ledger: ${ANSWERS}\n")
        project.cli("run", "ask", "-o", "runs/c", "-q", env={"ANSWERS": url})
        assert corpus(project, "c") == corpus(project, "a") and endpoint.asked.total() == 60
    written = b"".join(file.read_bytes() for file in (project.path / "runs").rglob("*") if file.is_file())
    assert b"secret" not in written
    usage = [distillgen.Run(project.path / f"runs/{name}").state for name in "abc"]
    assert sum(state["totals"]["requests"] for state in usage) == 60
    plain = url.replace(":secret", "")
    assert {state["ledger"] for state in usage} == {plain}
    assert "answer" in project.cli("show", "a", "-n", "1").stdout
    assert "60 rows (ok 60), 0 faults" in project.cli("ledger", "verify", "a").stdout
    told = project.cli("run", "ask", "--ledger", plain, "--salvage", check=2, env={"ANSWERS": url}).stderr
    assert "--salvage is for files" in told


@pytest.mark.slow
def test_shards_survive_kills_and_crashes_of_the_server(project, server):
    """Four workers, each killed at random, and a server that crashes twice: the corpus is as of one."""
    url = server.database()
    with Endpoint(latency_s=0.1) as endpoint:
        project.ask_pipeline(endpoint.url, 400, model=", max_concurrency: 8")
        project.cli("run", "ask", "-o", "runs/one", "-q")
        endpoint.asked.clear()
        pending, deaths = {f"{i}/4" for i in range(4)}, 0
        for moment in range(8):
            running = {}
            for shard in sorted(pending):
                folder = f"all/shard-{shard.replace('/', '-of-')}"
                running[shard] = start(project, folder, url, "--shard", shard)
            time.sleep(1.2)
            if moment in (2, 4):
                server.stop("immediate")
                server.start()
            if moment < 5:
                for process in running.values():
                    process.kill()
            for shard, process in running.items():
                errors = process.communicate(timeout=120)[1].decode()
                if process.returncode == 0:
                    pending.remove(shard)
                else:  # killed, or begun while the server was away
                    assert process.returncode == -signal.SIGKILL or "cannot reach it" in errors, errors
                    deaths += 1
            if not pending:
                break
        assert deaths >= 4 and not pending
        bought = endpoint.asked.total()
        assert len(endpoint.asked) == 400 and bought - 400 <= 8 * deaths
        shards = [f"runs/all/shard-{i}-of-4" for i in range(4)]
        project.cli("gather", *shards, "-o", "runs/all", "-q", "--ledger", url)
        assert endpoint.asked.total() == bought and corpus(project, "all") == corpus(project, "one")
