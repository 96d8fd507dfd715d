"""Commands that look at a run while another process begins it, ends it, or writes its rows anew."""

import fcntl
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

import distillgen
from distillgen.cli import show_records
from distillgen.errors import ConfigError, DistillgenError
from distillgen.record import Record, dumps
from distillgen.runs import directory as run_directory
from distillgen.runs import export as export_module
from distillgen.runs import hub
from distillgen.runs.directory import Run, read_records
from distillgen.runs.export_rows import ExportOptions
from distillgen.runs.lock import directory_lock
from distillgen.state_files import PARTIAL, Damaged, is_whole, partial_file, replace_text
from distillgen.viewer.row_index import RowIndex, folder_for
from distillgen.viewer.selection import Selection, count_of


def lines(count, text="answer"):
    records = (Record(f"{i:04x}", {"answer": f"{text} {i}"}, (), f"seeds:{i}") for i in range(count))
    return b"".join(dumps(one.row(), sort_keys=False) + b"\n" for one in records)


@pytest.fixture
def rows(tmp_path):
    """The rows that left a stage, in the file that a run is writing."""
    path = tmp_path / "stages" / "01-source.jsonl"
    path.parent.mkdir()
    path.with_name(path.name + PARTIAL).write_bytes(lines(3))
    return path


def as_it_is_opened(monkeypatch, path, act):
    """Do something in the moment before a file is opened."""
    real = Path.open

    def opened(self, *args, **options):
        if self == path and path.exists():
            act()
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "open", opened)


@pytest.mark.parametrize("reader", ["rows", "index"])
def test_rows_that_a_run_renames_as_they_are_opened_are_read(monkeypatch, rows, reader):
    partial = rows.with_name(rows.name + PARTIAL)
    as_it_is_opened(monkeypatch, partial, lambda: os.replace(partial, rows))
    if reader == "rows":
        assert len(list(read_records(rows))) == 3
    else:
        index = RowIndex(rows, folder_for(rows.parent.parent))
        index.update()
        assert index.whole and index.count == 3


def test_a_record_is_shown_whose_stage_ends_at_this_moment(monkeypatch, project, rows, capsys):
    distillgen.run(
        {
            "version": 1,
            "models": {},
            "stages": [{"source": {"path": str(project.rows("s.jsonl", [{"a": 1}]))}}],
        },
        out=rows.parent.parent / "run",
    )
    run = Run(rows.parent.parent / "run")
    stage = next((run.directory / "stages").iterdir())
    (record,) = read_records(stage)
    os.replace(stage, partial := stage.with_name(stage.name + PARTIAL))
    find = show_records._complete_id

    def found_just_before(*args):
        record_id = find(*args)
        os.replace(partial, stage)
        return record_id

    monkeypatch.setattr(show_records, "_complete_id", found_just_before)
    show_records.lineage(run, record.id[:6], False)
    assert record.id in capsys.readouterr().out


def test_a_run_that_ends_between_two_looks_was_not_killed(monkeypatch, tmp_path):
    state = dict.fromkeys(run_directory.STATE, None)
    file = tmp_path / "usage.json"
    file.write_text(json.dumps(state | {"state": "running"}))
    assert Run(tmp_path).state["state"] == "killed"  # the control

    def is_running(directory):
        file.write_text(json.dumps(state | {"state": "finished"}))
        return False

    monkeypatch.setattr(run_directory, "is_running", is_running)
    assert Run(tmp_path).state["state"] == "finished"


def test_a_run_begins_while_a_command_looks_whether_it_goes_on(tmp_path):
    (tmp_path / "run.lock").touch()
    looking, looks = (tmp_path / "run.lock").open(), threading.Event()

    def look():
        fcntl.flock(looking, fcntl.LOCK_SH)
        looks.set()
        time.sleep(0.2)
        looking.close()

    thread = threading.Thread(target=look)
    thread.start()
    looks.wait()
    with directory_lock(tmp_path), pytest.raises(ConfigError, match=f"process {os.getpid()}"):  # the control
        with directory_lock(tmp_path):
            pass
    thread.join()


def test_who_reads_the_rows_of_a_killed_run_keeps_them_when_the_next_begins(rows):
    with rows.with_name(rows.name + PARTIAL).open("rb") as reader:
        with partial_file(rows) as stream:
            stream.write(lines(1))
            stream.flush()
            assert reader.read() == lines(3)
    assert rows.read_bytes() == lines(1)


def test_an_index_of_rows_that_are_elsewhere_by_now_says_so(rows):
    index = RowIndex(rows, folder_for(rows.parent.parent))
    index.update()
    places = [place[1:] for place in index.read("SELECT position, start, stop FROM rows")]
    text = Selection(text="answer 1")
    assert len(index.records(places)) == 3 and count_of(index, text) == 1
    for content in (lines(1), b"", lines(3, "a much longer answer")):
        os.replace(rows.with_name(rows.name + PARTIAL), rows.with_name("old"))
        rows.with_name(rows.name + PARTIAL).write_bytes(content)
        with pytest.raises(DistillgenError, match="anew at this moment"):
            index.records(places)
        assert count_of(index, text) == 0
    rows.with_name(rows.name + PARTIAL).unlink()
    with pytest.raises(DistillgenError, match="anew at this moment"):
        index.records(places)
    assert count_of(index, text) == 0
    index.path.unlink()
    assert index.count == 0 and not index.path.exists()


def test_two_that_index_the_same_rows_wait_for_each_other(monkeypatch, rows):
    """As two `view` of one run do, or `view` and `diff`."""
    first, second = (RowIndex(rows, folder_for(rows.parent.parent)) for _ in range(2))
    inside, add, problems = threading.Event(), RowIndex._add, []

    def add_later(self, *args):
        if self is first:
            inside.set()
            time.sleep(0.2)
        add(self, *args)

    def update_first():
        try:
            first.update()
        except Exception as problem:
            problems.append(problem)

    monkeypatch.setattr(RowIndex, "_add", add_later)
    thread = threading.Thread(target=update_first)
    thread.start()
    inside.wait()
    second.update()
    thread.join()
    assert problems == [] and first.count == second.count == 3


def test_an_index_that_was_deleted_is_made_again_while_it_is_looked_at(rows):
    index = RowIndex(rows, folder_for(rows.parent.parent))
    index.update()
    shutil.rmtree(index.path.parent)
    assert index.count == 0
    index.update()
    assert index.count == 3


@pytest.fixture
def run(project):
    project.rows("s.jsonl", [{"a": "one"}, {"a": "two"}])
    stages = [{"source": {"path": str(project.path / "s.jsonl")}}]
    return distillgen.run({"version": 1, "models": {}, "stages": stages}, out=project.path / "run")


def written_anew(run, text):
    """Replace the rows by others, which a run began to write before."""
    corpus, fresh = run.directory / "corpus.jsonl", run.directory / "fresh"
    fresh.write_bytes(corpus.read_bytes().replace(b"one", text))
    os.utime(fresh, ns=(corpus.stat().st_mtime_ns + 1, corpus.stat().st_mtime_ns + 1))
    os.replace(fresh, corpus)


@pytest.mark.parametrize("name", ["out", "out.jsonl"])
def test_an_export_during_which_a_run_writes_its_rows_anew_leaves_nothing(monkeypatch, run, name):
    write = export_module._write

    def write_after(*args):
        written_anew(run, b"other")
        write(*args)

    out = run.directory / name
    monkeypatch.setattr(export_module, "_write", write_after)
    with pytest.raises(ConfigError, match="anew meanwhile; export it again"):
        export_module.export(run, out, ExportOptions())
    assert not out.exists() and not list(run.directory.glob(".out*"))
    monkeypatch.setattr(export_module, "_write", write)
    assert export_module.export(run, out, ExportOptions()).rows == {"train": 2}


def test_the_rows_of_an_earlier_run_are_not_exported_as_those_of_one_that_was_killed(run):
    state = run.state | {"state": "running"}
    (run.directory / "usage.json").write_text(json.dumps(state))
    export_module.export(run, run.directory / "whole.jsonl", ExportOptions())  # killed after its last stage
    state["stages"] = [stage | {"complete": False} for stage in state["stages"]]
    (run.directory / "usage.json").write_text(json.dumps(state))
    with pytest.raises(ConfigError, match="has no corpus yet; run it to its end first"):
        export_module.export(run, run.directory / "out.jsonl", ExportOptions())


def test_a_run_that_has_begun_is_neither_exported_nor_pushed(run):
    with directory_lock(run.directory):  # usage.json is still of the run before
        assert run.state["state"] == "finished"
        with pytest.raises(ConfigError, match="is still running"):
            export_module.export(run, run.directory / "out.jsonl", ExportOptions())
        with pytest.raises(ConfigError, match="is still running"):
            hub.data_files(run)


def test_rows_that_were_written_anew_as_they_were_prepared_for_the_hub_are_pushed_the_next_time(
    monkeypatch, run
):
    def rows_to_publish():
        (rows,) = (file for file in hub.data_files(run) if file.name == "corpus.jsonl")
        return rows.content.read_bytes()

    line = hub.published_line

    def line_after(row):
        monkeypatch.setattr(hub, "published_line", line)
        written_anew(run, b"other")
        return line(row)

    monkeypatch.setattr(hub, "published_line", line_after)
    assert b"one" in rows_to_publish()
    assert b"other" in rows_to_publish()


def test_a_run_that_ends_while_its_files_are_checked_is_not_damaged(monkeypatch, run):
    whole = (run.directory / "usage.json").read_text()
    state = run.state
    state["stages"] = [stage | {"rows": 7} for stage in state["stages"]]
    (run.directory / "usage.json").write_text(json.dumps(state))
    with pytest.raises(Damaged, match="7 rows"):
        run.check()

    def is_whole_after(*args):
        replace_text(run.directory / "usage.json", whole)
        return is_whole(*args)

    monkeypatch.setattr(run_directory, "is_whole", is_whole_after)
    run.check()
