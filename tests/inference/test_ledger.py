"""The ledger: the parts of a key, and damaged, full or unwritable files."""

import asyncio
import os
import shutil
import signal
import sqlite3
import threading
from contextlib import closing, suppress
from dataclasses import fields, replace
from itertools import count
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distillgen
from distillgen.errors import LedgerError
from distillgen.inference import ledger_files
from distillgen.inference.ledger import Answer, Ledger
from distillgen.inference.ledger_files import compact, merge, salvage, verify
from distillgen.inference.logprobs import pack
from distillgen.inference.places import is_there
from distillgen.inference.request import Completion, Request
from distillgen.inference.sqlite_store import VERSION, as_ledger_errors
from distillgen.platforms import network_file_system
from tests.endpoint import Endpoint

BASE = Request(
    model="m",
    messages=[{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
    prompt=None,
    sampling={"temperature": 0.5, "seed": 1},
    schema={"type": "object"},
    grammar="root ::= x",
    tools=[{"type": "function"}],
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def key(request=BASE, endpoint="http://a/v1", sample=0):
    return request.keys(endpoint, sample + 1)[sample]


CHANGED = {
    "model": "m2",
    "messages": [{"role": "system", "content": "another system prompt"}, {"role": "user", "content": "q"}],
    "prompt": "p",
    "target": "t",
    "embed": "e",
    "sampling": {"temperature": 0.5, "seed": 2},
    "schema": {"type": "array"},
    "grammar": "root ::= y",
    "tools": [{"type": "other"}],
    "write": "user",
    "constraints": {"clauses": [{"any": ["red"], "at_least": 1}]},
}


def test_every_field_of_a_request_has_a_case_here():
    assert set(CHANGED) == {f.name for f in fields(Request)}


@pytest.mark.parametrize("name", sorted(CHANGED))
def test_changing_any_sent_field_asks_again(name):
    assert key(replace(BASE, **{name: CHANGED[name]})) != key()
    assert key(replace(BASE, **{name: None if name != "model" else ""})) != key() or name in (
        "prompt",
        "target",
        "embed",
        "write",
        "constraints",
    )


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["messages", "sampling", "schema", "tools", "grammar", "model"]),
    one=json_values,
    other=json_values,
)
def test_two_requests_share_a_key_only_if_they_say_the_same(name, one, other):
    wrap = {
        "messages": lambda v: [{"role": "user", "content": v}],
        "sampling": lambda v: {"extra": v},
        "schema": lambda v: {"const": v},
        "tools": lambda v: [{"x": v}],
        "grammar": repr,
        "model": repr,
    }[name]
    same = key(replace(BASE, **{name: wrap(one)})) == key(replace(BASE, **{name: wrap(other)}))
    assert same == (repr(_ordered(one)) == repr(_ordered(other)))


def _ordered(value):
    if isinstance(value, dict):
        return "mapping", sorted((k, _ordered(v)) for k, v in value.items())
    return [_ordered(v) for v in value] if isinstance(value, list) else value


def test_the_key_holds_endpoint_and_sample_but_no_option_order():
    assert len({key(), key(endpoint="http://b/v1"), key(sample=1)}) == 3
    assert key(replace(BASE, sampling={"seed": 1, "temperature": 0.5})) == key()


@pytest.mark.parametrize(
    "option",
    [
        "api_key: another-key-456",
        "timeout_s: 5",
        "max_concurrency: 3",
        "rpm: 60000",
        "max_retries: 1",
        "headers: {x-a: hello-there}",
        "price: {input: 1, output: 2}",
        "transport: openai",
    ],
)
def test_what_is_not_sent_does_not_ask_again(project, option):
    with Endpoint() as endpoint:
        path = project.ask_pipeline(endpoint.url, 3)
        project.cli("run", "ask")
        text = path.read_text().replace(
            ", api_key: secret-key-123", "" if option.startswith("api_key") else ", api_key: secret-key-123"
        )
        path.write_text(text.replace("provider: openai", f"provider: openai, {option}"))
        project.cli("run", "ask")
        assert len(endpoint.bodies) == 3


@pytest.mark.parametrize(
    "change",
    [
        ("model: m,", "model: m2,"),
        ("/v1", "/v1/../v1"),
        ("output: answer", "output: answer, temperature: 0.1"),
        ("output: answer", "output: answer, seed: 4"),
        ('"{{ question }}"', '"Say: {{ question }}"'),
    ],
)
def test_what_is_sent_does_ask_again(project, change):
    with Endpoint() as endpoint:
        path = project.ask_pipeline(endpoint.url, 3)
        project.cli("run", "ask")
        path.write_text(path.read_text().replace(*change))
        project.cli("run", "ask")
        assert len(endpoint.bodies) == 6


def answers(count, run="r", text="t", start=0):
    made = []
    for i in range(start, start + count):
        completion = Completion(text=f"{text}{i}").json()
        made.append(
            Answer(
                i.to_bytes(32, "big"), run, "s", "m", "ok", 1, 0, 0, 0, 2, 0.5, b'{"model":"m"}', completion
            )
        )
    return made


def fill(path, *batches):
    async def write():
        ledger = Ledger(path)
        await asyncio.gather(*(ledger.add([answer]) for batch in batches for answer in batch))
        await ledger.close()

    asyncio.run(write())


def contents(path):
    ledger = Ledger(path)
    found = ledger.find([i.to_bytes(32, "big") for i in range(5000)])
    rows = {key: orjson.loads(completion)["text"] for key, (_, completion, _) in found.items()}
    usage = ledger.usage()
    ledger.close_now()
    return rows, usage


def test_the_newest_answer_of_a_key_counts_and_all_are_kept(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    fill(path, answers(3), answers(2, text="again"))
    rows, usage = contents(path)
    assert [rows[i.to_bytes(32, "big")] for i in range(3)] == ["again0", "again1", "t2"]
    assert usage[0].answers == 5 and usage[0].cost_usd == 2.5 and usage[0].output_tokens == 10


def test_the_usage_of_a_run_holds_the_runs_in_its_folder_and_no_others(tmp_path):
    fill(tmp_path / "a", answers(1, "runs/a"), answers(1, "runs/a/round-1"), answers(1, "runs/ab"))
    ledger = Ledger(tmp_path / "a")
    assert {used.run for used in ledger.usage("runs/a")} == {"runs/a", "runs/a/round-1"}
    ledger.close_now()


def test_closing_commits_the_rows_that_wait(tmp_path):
    async def main():
        ledger = Ledger(tmp_path / "a")
        adding = [asyncio.ensure_future(ledger.add([answer])) for answer in answers(3)]
        await asyncio.sleep(0)
        await ledger.close()
        await asyncio.gather(*adding)

    asyncio.run(asyncio.wait_for(main(), 10))
    assert len(contents(tmp_path / "a")[0]) == 3


def test_merging_takes_what_is_missing_with_its_cost(tmp_path):
    fill(tmp_path / "a", answers(3, "a"))
    fill(tmp_path / "b", answers(4, "b", "other", start=1))
    assert merge(tmp_path / "a", [tmp_path / "b"]) == 2
    rows, usage = contents(tmp_path / "a")
    assert sorted(rows.values()) == ["other3", "other4", "t0", "t1", "t2"]
    assert {u.run: u.answers for u in usage} == {"a": 3, "b": 2}
    assert merge(tmp_path / "a", [tmp_path / "b"]) == 0


def keep_scores(path, scores):
    async def write():
        ledger = Ledger(path)
        await ledger.add_scores(scores)
        await ledger.close()

    asyncio.run(write())


def scores_in(path, keys):
    ledger = Ledger(path)
    found = ledger.find_scores(keys)
    ledger.close_now()
    return found


def test_merging_brings_what_filters_measured_and_keeps_its_own(tmp_path):
    keep_scores(tmp_path / "a", {b"one": 1, b"two": {"x": 2.5}})
    keep_scores(tmp_path / "b", {b"two": 7, b"three": 3})
    assert merge(tmp_path / "new", [tmp_path / "a", tmp_path / "b"]) == 0
    assert scores_in(tmp_path / "new", [b"one", b"two", b"three"]) == {
        b"one": 1,
        b"two": {"x": 2.5},
        b"three": 3,
    }


def test_merge_prefers_a_whole_answer_to_a_failed_one(tmp_path):
    good, bad = (
        answers(1, "good", "whole"),
        [answer._replace(status="failed") for answer in answers(1, "bad", "failed")],
    )
    fill(tmp_path / "good", good)
    fill(tmp_path / "bad", bad)
    assert (
        merge(tmp_path / "bad", [tmp_path / "good"]) == 1
        and contents(tmp_path / "bad")[0].popitem()[1] == "whole0"
    )
    assert merge(tmp_path / "bad", [tmp_path / "good"]) == 0
    (tmp_path / "bad").unlink()
    fill(tmp_path / "bad", bad)
    assert (
        merge(tmp_path / "good", [tmp_path / "bad"]) == 0
        and contents(tmp_path / "good")[0].popitem()[1] == "whole0"
    )


def test_what_cannot_be_merged_is_told_and_nothing_is_made(tmp_path):
    fill(tmp_path / "a", answers(1))
    (tmp_path / "text").write_text("no ledger " * 99)
    for other, told in (
        ("none", "cannot be opened"),
        ("text", "it does not begin as a ledger does"),
        ("new", "into itself"),
    ):
        with pytest.raises(LedgerError, match=told):
            merge(tmp_path / "new", [tmp_path / "a", tmp_path / other])
        assert not (tmp_path / "new").exists()


def test_ledgers_of_two_machines_are_merged_by_command(project):
    with Endpoint() as endpoint:
        for machine, part in (("one", range(4)), ("two", range(2, 9))):
            project.ask_pipeline(endpoint.url, 9)
            project.rows("data/seeds.jsonl", [{"question": f"What is {i}?"} for i in part])
            project.cli("run", "ask", "-o", f"runs/{machine}", "--ledger", f"{machine}.sqlite3")
        asked = len(endpoint.bodies)
        assert (
            project.cli("ledger", "merge", "all.sqlite3", "one", "two.sqlite3").stdout
            == "9 answers were copied to all.sqlite3\n"
        )
        assert '"answers": 0' in project.cli("ledger", "merge", "all.sqlite3", "runs/two", "--json").stdout
        project.rows("data/seeds.jsonl", [{"question": f"What is {i}?"} for i in range(9)])
        project.cli("run", "ask", "-o", "runs/both", "--ledger", "all.sqlite3")
        assert len(endpoint.bodies) == asked and len(project.read("runs/both/corpus.jsonl")) == 9
        assert (
            "is a folder without a run"
            in project.cli("ledger", "merge", "all.sqlite3", "data", check=2).stderr
        )


def test_compacting_gives_space_back_and_changes_no_sum_and_no_answer(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    long = "text " * 2000
    failed = [answer._replace(status="failed") for answer in answers(1, text="later failure", start=3)]
    fill(path, answers(40, text=long), answers(30, text="again"), failed)
    before, size = contents(path), path.stat().st_size
    done = compact(path)
    assert done.superseded == 30 and done.after < size / 2 and contents(path) == before
    assert compact(path)[0] == 0 and verify(path) == ({"ok": 70, "failed": 1}, [])


def test_a_superseded_answer_without_texts_stands_for_no_answer_elsewhere(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    fill(path, answers(3), answers(2, text="again"))
    compact(path)
    _, usage = contents(path)
    assert merge(tmp_path / "merged", [path]) == 5 and contents(tmp_path / "merged")[1] == usage
    assert merge(tmp_path / "merged", [path]) == 0
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM answers WHERE id > 3")  # the newer answers lie on a broken page
    assert salvage(path)[0] == 3
    assert contents(path)[0] == {(2).to_bytes(32, "big"): "t2"}


def test_a_ledger_in_use_is_not_compacted(tmp_path):
    path = tmp_path / "ledger.sqlite3"

    async def compact_while_asking():
        ledger = Ledger(path)
        await ledger.claim([b"k" * 32], "r", "s", "m")
        with pytest.raises(LedgerError, match="in use by another run; wait for it before you compact"):
            compact(path)
        await ledger.close()

    asyncio.run(compact_while_asking())
    assert compact(path).superseded == 0


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("key", b"short", "its key is no SHA-256"),
        ("status", "perhaps", "its status is 'perhaps'"),
        ("completion", b'{"text":', "not whole"),
        ("request", b"\0\0\0", "not whole"),
        ("cost_usd", -1.0, "is not a number from 0 on"),
        ("output_tokens", "many", "is not a number from 0 on"),
        ("signals", b"\xff\xff", "cannot be read"),
    ],
)
def test_verify_names_the_row_that_is_wrong(tmp_path, column, value, told):
    path = tmp_path / "ledger.sqlite3"
    fill(path, answers(5))
    assert verify(path) == ({"ok": 5}, [])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE answers SET {column} = ? WHERE id = 4", (value,))
    (fault,) = verify(path).faults
    assert fault.startswith("row 4: ") and told in fault


def test_ledgers_are_verified_compacted_and_exported_by_command(project):
    path = project.path / "l.sqlite3"
    signals = pack([["yes", -0.5, [["yes", -0.5], ["no", -1.0]]]], [])
    fill(path, answers(2), [answers(1, text="again")[0]._replace(signals=signals)])
    assert project.cli("ledger", "verify", "l.sqlite3").stdout == "l.sqlite3: 3 rows (ok 3), 0 faults\n"
    assert ": 1 answers were superseded" in project.cli("ledger", "compact", "l.sqlite3").stdout
    assert (
        project.cli("ledger", "export", "l.sqlite3", "-o", "a.jsonl").stdout
        == "3 rows were written to a.jsonl\n"
    )
    first, second, third = project.read("a.jsonl")
    assert first["superseded"] and first["completion"] is None and first["cost_usd"] == 0.5
    assert second["completion"] == {"text": "t1"} and second["key"] == (1).to_bytes(32, "big").hex()
    assert third["logprobs"][0][0] == "yes" and "superseded" not in third
    assert "exists already" in project.cli("ledger", "export", "l.sqlite3", "-o", "a.jsonl", check=2).stderr
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE answers SET status = 'perhaps' WHERE id = 2")
    told = project.cli("ledger", "verify", "l.sqlite3", check=3).stdout
    assert "row 2: its status is 'perhaps'" in told and "--salvage" in told
    assert '"rows": {' in project.cli("ledger", "verify", "l.sqlite3", "--json", check=3).stdout


def test_a_ledger_in_a_folder_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    fill(tmp_path / "l", answers(2))
    monkeypatch.setattr("os.access", lambda *_: False)
    ledger = Ledger(tmp_path / "l", read_only=True)
    assert ledger.usage()[0].answers == 2 and [path.name for path in tmp_path.iterdir()] == ["l"]
    ledger.close_now()


MOUNTS = """27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 27 0:50 / /home rw shared:2 - nfs4 server:/home rw
41 40 0:51 / /home/local\\040disk rw - xfs /dev/sdb rw
42 27 0:52 / /mnt/ssh rw - fuse.sshfs host: rw
43 27 0:53 / /mnt/ssh rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/me/runs", "nfs4"),
        ("/home", "nfs4"),
        ("/homes", ""),
        ("/home/local disk/runs", ""),
        ("/mnt/ssh", ""),
        ("/", ""),
    ],
)
def test_the_file_system_of_a_folder_is_that_of_its_deepest_mount(folder, kind):
    assert network_file_system(Path(folder), MOUNTS) == kind


def test_a_ledger_on_a_network_file_system_is_refused_and_can_be_read(tmp_path, monkeypatch):
    path = tmp_path / "ledger.sqlite3"
    fill(path, answers(1))
    monkeypatch.setattr("distillgen.inference.sqlite_store.network_file_system", lambda folder: "nfs4")
    with pytest.raises(
        LedgerError, match=r"network file system \(nfs4\).*--ledger postgresql://.*its own disk"
    ):
        Ledger(path)
    Ledger(path, read_only=True).close_now()


def test_salvaging_keeps_what_filters_measured(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    keep_scores(path, {i.to_bytes(4, "big"): {"n": i} for i in range(9000)})
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 4096 // 2 * 4096)
        stream.write(os.urandom(4096))
    salvage(path)
    found = scores_in(path, [i.to_bytes(4, "big") for i in range(9000)])
    assert len(found) > 8000 and all(
        value == {"n": int.from_bytes(key, "big")} for key, value in found.items()
    )


FORMAT_2 = """
CREATE TABLE answers (id INTEGER PRIMARY KEY, key, run, stage, model, status, requests, retries,\
 input_tokens, cached_tokens,
output_tokens, cost_usd, request, completion, signals, at DEFAULT CURRENT_TIMESTAMP);
CREATE INDEX answers_by_key ON answers (key);
CREATE INDEX answers_usage ON answers (run, stage, model, status, requests, retries,\
 input_tokens, cached_tokens, output_tokens, cost_usd);
CREATE TABLE scores (key PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE batches (uuid PRIMARY KEY, file, batch);
CREATE TABLE batch_lines (custom_id PRIMARY KEY, uuid);
PRAGMA user_version = 2;
"""


def as_format_2(path):
    """A file of the former format with the same answers."""
    older = path.with_name("older.sqlite3")
    with sqlite3.connect(older) as connection:
        connection.executescript(FORMAT_2)
        connection.execute("ATTACH ? AS now", (str(path),))
        columns = ", ".join(Answer._fields[:14])
        connection.execute(f"INSERT INTO answers ({columns}) SELECT {columns} FROM now.answers ORDER BY id")
    connection.close()
    path.unlink()
    return older.rename(path)


def test_a_ledger_of_the_former_format_still_works(tmp_path):
    fill(tmp_path / "a", answers(3))
    before = as_format_2(tmp_path / "a").read_bytes()
    looked_at = Ledger(tmp_path / "a", read_only=True)
    assert len(looked_at.find([i.to_bytes(32, "big") for i in range(5)])) == 3 and looked_at.usage()[0][
        4:
    ] == (3, 3, 0, 0, 0, 6, 1.5, 0, 0)
    looked_at.close_now()
    assert (tmp_path / "a").read_bytes() == before
    fill(tmp_path / "b", answers(2))
    assert merge(tmp_path / "b", [tmp_path / "a"]) == 1 and merge(tmp_path / "new", [tmp_path / "a"]) == 3
    (tmp_path / "c").write_bytes(before)
    assert salvage(tmp_path / "c")[0] == 3
    for name in ("a", "b", "c", "new"):
        rows, usage = contents(tmp_path / name)
        assert (
            len(rows) == 3
            and usage[0].answers == 3
            and usage[0].cost_usd == 1.5
            and usage[0].reasoning_tokens == 0
        )
        assert sqlite3.connect(tmp_path / name).execute("PRAGMA user_version").fetchone() == (VERSION,)
    fill(tmp_path / "a", answers(1, text="new", start=3))
    assert len(contents(tmp_path / "a")[0]) == 4


def test_a_run_goes_on_with_a_ledger_of_the_former_format(project):
    with Endpoint() as endpoint:
        project.ask_pipeline(endpoint.url, 5)
        run = distillgen.run("ask", limit=3)
        as_format_2(run.ledger)
        assert distillgen.run("ask").state["totals"]["answers"] == 5 and len(endpoint.bodies) == 5


@pytest.mark.parametrize("version", [1, VERSION + 1])
def test_a_ledger_of_another_format_is_refused(tmp_path, version):
    fill(tmp_path / "a", answers(1))
    with sqlite3.connect(tmp_path / "a") as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    for read_only in (False, True):
        with pytest.raises(LedgerError, match=f"another version.*format {version}"):
            Ledger(tmp_path / "a", read_only=read_only)


def test_payments_without_an_answer_are_merged_once(tmp_path):
    paid = answers(1)[0]._replace(key=b"0123456789abcdef", status="unusable")
    fill(tmp_path / "a", [*answers(2), paid])
    fill(tmp_path / "b", answers(2))
    assert [merge(tmp_path / "b", [tmp_path / "a"]) for _ in range(2)] == [1, 0]
    salvage(tmp_path / "a")
    ledger = Ledger(tmp_path / "a")
    assert ledger.is_alone and ledger.last_id == 3, "another process seems to have added to it"
    ledger.close_now()
    for name in "ab":
        usage = {u.status: (u.answers, u.cost_usd) for u in contents(tmp_path / name)[1]}
        assert usage == {"ok": (2, 1.0), "unusable": (0, 0.5)}


def test_what_is_promised_to_be_durable_is_on_the_disk(tmp_path):
    """Every commit waits for the disk: SQLite's FULL, at which a power loss takes nothing of what was
    committed.
    """
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    assert ledger.store.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert ledger.store.connection.execute("PRAGMA synchronous").fetchone() == (2,)
    ledger.close_now()


def test_a_truncated_ledger_is_refused_and_salvaged(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    fill(path, answers(3000))
    size = path.stat().st_size
    os.truncate(path, size * 3 // 4)
    with pytest.raises(LedgerError, match="cut short.*--salvage"):
        Ledger(path)
    count, kept = salvage(path)
    rows, usage = contents(path)
    assert 1000 < count < 3000 and len(rows) == count == usage[0].answers
    assert all(text == f"t{int.from_bytes(k, 'big')}" for k, text in rows.items())
    assert kept.stat().st_size == size * 3 // 4


def test_a_ledger_that_is_compacted_as_it_is_opened_is_not_cut_short(tmp_path, monkeypatch):
    path = tmp_path / "ledger.sqlite3"
    fill(path, answers(300, text="long " * 200), answers(300))
    stat, sizes = Path.stat, [path.stat().st_size]

    def compacted_just_before(self, **options):
        if self == path and len(sizes) == 1:
            sizes.append(0)
            sizes.append(compact(path).after)
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", compacted_just_before)
    Ledger(path, read_only=True).close_now()
    assert sizes[-1] < sizes[0]


def test_the_reserve_is_there_as_long_as_somebody_asks(tmp_path):
    async def share():
        path = tmp_path / "ledger.sqlite3"
        reserve = path.with_name(path.name + ".reserve")
        asks = Ledger(path)
        await asks.claims.take([b"k" * 16], "r", "s", "m", 0.0)
        Ledger(path).close_now()
        there = reserve.exists()
        await asks.close()
        return there, reserve.exists()

    assert asyncio.run(share()) == (True, False)


def killed_after(steps, action):
    """Carry out an action in a process that dies by SIGKILL in its step after so many; return whether it did.
    A step renames a file or copies an answer.
    """
    pid = os.fork()
    if not pid:
        left = [steps]

        def counted(step):
            def act(*args):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return step(*args)

            return act

        ledger_files.os.replace = counted(os.replace)
        ledger_files._with_texts = counted(ledger_files._with_texts)
        action()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_a_salvage_that_is_killed_at_any_step_loses_nothing(tmp_path):
    fill(tmp_path / "before.sqlite3", answers(4))
    for steps in count():
        path = tmp_path / str(steps) / "ledger.sqlite3"
        path.parent.mkdir()
        shutil.copyfile(tmp_path / "before.sqlite3", path)
        with closing(sqlite3.connect(path)) as live:
            live.execute("PRAGMA wal_autocheckpoint = 0")
            live.execute("UPDATE answers SET completion = replace(completion, 't3', 'in the log alone')")
            live.commit()
            files = {file: file.read_bytes() for file in path.parent.iterdir()}
        for file, content in files.items():
            file.write_bytes(content)
        if not killed_after(steps, lambda path=path: salvage(path)):
            break
        assert is_there(path), "a run would begin another ledger"
        rows = {i.to_bytes(32, "big"): f"t{i}" for i in range(4)}
        rows[(3).to_bytes(32, "big")] = "in the log alone"
        with suppress(LedgerError):
            assert contents(path)[0] == rows
        salvaged, kept = salvage(path)
        assert salvaged == 4 and contents(path)[0] == contents(kept)[0] == rows
        assert {file.name for file in path.parent.iterdir()} == {path.name, kept.name}
    assert steps > 5


def test_a_page_in_the_middle_overwritten_costs_only_its_rows(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    fill(path, answers(3000))
    pages = path.stat().st_size // 4096
    with path.open("r+b") as stream:
        stream.seek(pages // 2 * 4096)
        stream.write(os.urandom(4096))
    count, _ = salvage(path)
    assert 2800 < count <= 3000 and len(contents(path)[0]) == count


def _foreign(path, version=0):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE answers (question, answer)")
        connection.execute(f"PRAGMA user_version = {version}")


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda path: path.write_bytes(b"not a database at all, " * 20), "is no ledger: it does not begin"),
        (lambda path: path.write_bytes(b"SQLite format 3\0" + b"\xff" * 200), "damaged .*cut short"),
        (_foreign, "is no ledger: it is a database of another program"),
        (lambda path: _foreign(path, version=3), "is no ledger: it is a database of another program"),
    ],
)
def test_a_file_that_is_no_ledger_is_refused_and_left_as_it_was(tmp_path, make, told):
    path = tmp_path / "ledger.sqlite3"
    make(path)
    content = path.read_bytes()
    for use in (Ledger, verify, compact):
        with pytest.raises(LedgerError, match=told):
            use(path)
    with pytest.raises(LedgerError, match="no answer can be read from it. Restore a copy"):
        salvage(path)
    assert path.read_bytes() == content and [*tmp_path.iterdir()] == [path]
    path.write_bytes(b"")
    with pytest.raises(LedgerError, match="is no ledger: it is empty"):
        verify(path)
    Ledger(path).close_now()  # as if it were not there


def test_a_torn_write_ahead_log_keeps_all_that_was_committed(project):
    """The process dies while it writes: SQLite's log ends in half a transaction, which was never promised to
    anybody.
    """
    with Endpoint() as endpoint:
        project.ask_pipeline(endpoint.url, 40)
        project.cli("run", "ask")
        ledger = project.path / "runs/ledger.sqlite3"
        live = sqlite3.connect(ledger)
        live.execute("PRAGMA wal_autocheckpoint = 0")
        live.execute("UPDATE answers SET at = 0 WHERE id = 1")
        live.commit()
        wal = (ledger.parent / "ledger.sqlite3-wal").read_bytes()
        live.close()
        (ledger.parent / "ledger.sqlite3-wal").write_bytes(wal + wal[24:-100])
        project.cli("run", "ask")
        assert len(endpoint.bodies) == 40


def test_a_damaged_ledger_stops_the_run_and_salvage_asks_the_rest(project):
    with Endpoint() as endpoint:
        project.ask_pipeline(endpoint.url, 300)
        project.cli("run", "ask")
        corpus = (project.path / "runs/ask/corpus.jsonl").read_bytes()
        ledger = project.path / "runs/ledger.sqlite3"
        os.truncate(ledger, ledger.stat().st_size // 2)
        refused = project.cli("run", "ask", check=2)
        assert (
            "--salvage" in refused.stderr
            and "Traceback" not in refused.stderr
            and len(endpoint.bodies) == 300
        )
        project.cli("run", "ask", "--salvage")
        assert 300 < len(endpoint.bodies) < 600
        assert (project.path / "runs/ask/corpus.jsonl").read_bytes() == corpus


def test_a_full_disk_keeps_what_was_paid_for_and_says_so(project):
    with Endpoint() as endpoint:
        project.ask_pipeline(endpoint.url, 6000, stage=", max_tokens: 5")
        folder = project.path / "small"
        folder.mkdir()
        if os.geteuid() or os.system(f"mount -t tmpfs -o size=6m tmpfs {folder}"):
            pytest.skip("a small file system can only be mounted by root")
        try:
            full = project.cli("run", "ask", "-o", folder, "--ledger", folder / "ledger.sqlite3", check=2)
            assert (
                "no space left" in full.stderr
                and "run again to go on" in full.stderr
                and "Traceback" not in full.stderr
            )
            asked = len(endpoint.bodies)
            assert 100 < asked < 6000
            os.system(f"mount -o remount,size=60m {folder}")
            project.cli("run", "ask", "-o", folder, "--ledger", folder / "ledger.sqlite3")
            assert max(endpoint.asked.values()) == 1, "an answer that had been paid for was asked again"
            assert len(project.read("small/corpus.jsonl")) == 6000
        finally:
            os.system(f"umount {folder}")


def test_a_directory_that_cannot_be_written(project):
    with Endpoint() as endpoint:
        project.ask_pipeline(endpoint.url, 3)
        project.write("file", "")
        done = project.cli("run", "ask", "-o", "file/inside", check=2)
        assert "--out" in done.stderr and "Traceback" not in done.stderr and not endpoint.bodies


@pytest.mark.parametrize(
    "error, told",
    [
        (
            sqlite3.OperationalError("database or disk is full"),
            "no space left on the disk. The answers that were paid for are safe",
        ),
        (
            OSError(28, "No space left on device"),
            "no space left on the disk. The answers that were paid for are safe",
        ),
        (sqlite3.OperationalError("database is locked"), "another program has been writing it for over 30 s"),
        (
            sqlite3.OperationalError("attempt to write a readonly database"),
            "it cannot be written. Choose another",
        ),
        (sqlite3.OperationalError("unable to open database file"), "it cannot be opened. Choose another"),
        (PermissionError(13, "Permission denied"), "it cannot be opened. Choose another"),
        (
            sqlite3.DatabaseError("database disk image is malformed"),
            "is damaged .*distillgen run with --salvage",
        ),
        (sqlite3.DatabaseError("file is not a database"), "is damaged .*distillgen run with --salvage"),
        (
            sqlite3.OperationalError("something that nobody has seen yet"),
            "ledger.sqlite3: something that nobody has seen yet",
        ),
    ],
)
def test_what_sqlite_or_the_disk_says_is_told_with_a_remedy(tmp_path, error, told):
    with pytest.raises(LedgerError, match=told) as raised, as_ledger_errors(tmp_path / "ledger.sqlite3"):
        raise error
    assert raised.value.__cause__ is error


def test_an_answer_that_could_not_be_written_is_never_called_durable(tmp_path):
    async def main():
        ledger = Ledger(tmp_path / "ledger.sqlite3")
        pages = ledger.store.connection.execute("PRAGMA page_count").fetchone()[0]
        ledger.store.connection.execute(f"PRAGMA max_page_count = {pages}")
        big = answers(1)[0]._replace(completion=b"x" * 1_000_000)
        with pytest.raises(LedgerError, match="no space left on the disk"):
            await ledger.add([big])
        ledger.close_now()

    asyncio.run(main())


def test_an_error_of_any_kind_in_a_commit_reaches_all_who_wait(tmp_path, monkeypatch):
    async def main():
        ledger = Ledger(tmp_path / "x")

        def transact(work, *, alone=False):
            raise RuntimeError("a fault of the program")

        monkeypatch.setattr(ledger.store, "transact", transact)
        adding = [ledger.add_scores({b"%d" % i: i}) for i in range(3)]
        told = await asyncio.wait_for(asyncio.gather(*adding, return_exceptions=True), 5)
        assert [str(error) for error in told] == ["a fault of the program"] * 3
        monkeypatch.undo()
        await ledger.add_scores({b"later": 1})
        assert ledger.find_scores([b"later"]) == {b"later": 1}
        await ledger.close()

    asyncio.run(main())


def test_a_new_ledger_waits_for_another_process_that_makes_it(tmp_path):
    """SQLite itself waits for no other process when it begins the log of a file."""
    with closing(sqlite3.connect(tmp_path / "new", check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, other.rollback)
        timer.start()
        opened = Ledger(tmp_path / "new")
        timer.join()
        opened.close_now()
