"""A person labels records in a terminal or on a page, and resumes after any interruption."""

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter

import pytest

import distillgen
from distillgen.cli.labelling import Labelling, sample
from distillgen.errors import ConfigError
from tests.runs.test_report import HOSTILE, Page

SOME = [{"question": f"What is {i}?", "answer": " ".join(["word"] * (i % 5 + 1)), "n": i} for i in range(200)]
PIPELINE = {
    "version": 1,
    "stages": [
        {"source": {"path": "rows.jsonl"}},
        {
            "filter": [
                {"word_count": {"name": "short", "field": "answer", "max_words": 3}},
                {"word_count": {"name": "long", "field": "answer", "min_words": 2}},
            ]
        },
    ],
}  # 40 % are dropped by short, 20 % by long


@pytest.fixture
def run(project):
    project.rows("rows.jsonl", SOME)
    return distillgen.run(PIPELINE, out="runs/some")


def labels(project, name="data/labels.jsonl"):
    return [(row["n"], row["label"]) for row in project.read(name)]


def test_a_sample_is_of_kept_and_dropped_in_proportion_and_by_seed(run):
    def kinds(records):
        return Counter(record.dropped.filter if record.dropped else "kept" for record in records)

    first = sample(run, 50, fields=[], seed=0)
    assert kinds(first) == {"short": 20, "kept": 20, "long": 10}
    assert (
        [r.id for r in first]
        == [r.id for r in sample(run, 50, fields=[], seed=0)]
        != [r.id for r in sample(run, 50, fields=[], seed=1)]
    )
    assert [r.id for r in first[:20]] == [r.id for r in sample(run, 20, fields=[], seed=0)]
    assert all(abs(kinds(first[:n])["kept"] - 0.4 * n) <= 1.5 for n in range(1, 51))
    numbers = [r.fields["n"] for r in first]
    assert sorted(numbers) != numbers and len(set(numbers)) == 50
    assert len(sample(run, 1000, fields=[], seed=0)) == 200


def test_records_without_the_fields_or_twice_are_left_out(project):
    project.rows(
        "rows.jsonl",
        [{"answer": "a b", "n": 1}, {"answer": "a b", "n": 1}, {"answer": "a b", "n": 2, "extra": 1}],
    )
    run = distillgen.run(PIPELINE, out="runs/few")
    assert [r.fields["n"] for r in sample(run, 9, fields=["extra"], seed=0)] == [2]
    assert sorted(r.fields["n"] for r in sample(run, 9, fields=[], seed=0)) == [1, 2]
    with pytest.raises(
        ConfigError, match="no record to label in .* with the field 'extar'; did you mean 'extra'"
    ):
        sample(run, 9, fields=["extar"], seed=0)


def labelling(run, path, count=5, **options):
    return Labelling(sample(run, count, fields=[], seed=0), path, **options)


def pressed(one, keys):
    assert all(one.press(key) for key in keys)
    return one


def test_what_is_labelled_is_not_asked_again(run, project):
    path = project.path / "new" / "labels.jsonl"
    one = pressed(labelling(run, path), "yns")
    assert one.progress() == "3 of 5: 1 valid, 1 not valid, 1 skipped" and one.position == 3
    again = labelling(run, path)
    assert again.position == 3 and again.progress() == one.progress()
    more = pressed(labelling(run, path, 8), "yyyyy")
    assert more.current is None and more.progress() == "8 of 8: 6 valid, 1 not valid, 1 skipped"
    assert [row["label"] for row in project.read("new/labels.jsonl")] == [1, 0, None, 1, 1, 1, 1, 1]


def test_back_corrects_and_goes_on_where_nothing_was_said(run, project):
    one = pressed(labelling(run, project.path / "l.jsonl"), "yybb")
    assert one.position == 0 and one.earlier_label() == "valid"
    pressed(one, "n")
    assert (
        one.position == 2 and one.earlier_label() == "" and one.progress() == "2 of 5: 1 valid, 1 not valid"
    )
    assert not one.press("x") and not one.press("") and not one.press("yy") and one.position == 2
    assert pressed(one, "bbbbb").position == 0


def test_a_label_keeps_the_whole_record_and_can_be_a_source(run, project):
    one = pressed(labelling(run, project.path / "l.jsonl"), "yyyyy")
    rows = project.read("l.jsonl")
    assert all({"question", "answer", "n", "meta", "label"} == set(row) for row in rows)
    assert [row["meta"]["id"] for row in rows] == [record.id for record in one.records]
    again = distillgen.run({"version": 1, "stages": [{"source": {"path": "l.jsonl"}}]}, out="runs/again")
    assert [row["meta"]["parents"][0] for row in project.read("runs/again/corpus.jsonl")] == [
        row["meta"]["id"] for row in rows
    ]
    assert again.state["kept"] == 5


def test_nothing_that_sways_a_judgement_is_shown(run, project):
    one = labelling(run, project.path / "l.jsonl", 200)
    while one.current:
        assert [name for name, _ in one.texts()] == ["question", "answer", "n"]
        one.press("y")


def test_a_file_that_ends_within_its_last_line_loses_nothing(run, project):
    path = project.write("l.jsonl", '{"question": "by hand", "label": 1}')
    pressed(labelling(run, path), "n")
    assert [row["label"] for row in project.read("l.jsonl")] == [1, 0]


@pytest.mark.parametrize(
    "text, options, message",
    [
        ('{"label": 3}\n', {}, "l.jsonl:1: the label '3' is not one of the labels 1 and 0"),
        ('{"label": 0}\n', {"graded": True}, "l.jsonl:1: the label '0' is not one of the grades from 1 to 5"),
        ('{"text": 0}\n', {}, "l.jsonl:1: the row has no 'label'; give another --label or --out"),
        ('{"label": 1}\n{"lab', {}, "l.jsonl:2: not JSON"),
        (
            "",
            {"label": "answer"},
            "the records have a field 'answer' already .*; give the labels another name with --label",
        ),
    ],
)
def test_a_file_of_something_else_is_refused(run, project, text, options, message):
    path = project.write("l.jsonl", text)
    with pytest.raises(ConfigError, match=message):
        labelling(run, path, **options)
    assert path.read_text() == text


def test_grades(run, project):
    one = pressed(labelling(run, project.path / "l.jsonl", graded=True), "15s3")
    assert one.progress() == "4 of 5: 1 wrong, 1 fair, 1 very good, 1 skipped" and not one.press("y")


class Terminal:
    """`distillgen label` at a terminal of its own."""

    def __init__(self, project, *args):
        self.fd, theirs = pty.openpty()
        command = [sys.executable, "-m", "distillgen", "label", "some", *args]
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=project.path,
            env=project.env() | {"TERM": "xterm"},
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def until(self, text):
        """What is shown up to and with the first match of `text`."""
        end = time.monotonic() + 60
        while not (found := re.search(text, self.seen, re.S)):
            assert select.select([self.fd], [], [], max(0, end - time.monotonic()))[0], self.seen
            try:
                self.seen += os.read(self.fd, 65536).decode("utf-8", "replace")
            except OSError as error:
                raise AssertionError(self.seen) from error
        shown, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return shown

    def press(self, key):
        """As a person does, who sees a record first: a key that is pressed before it is asked for counts for
        nothing.
        """
        while termios.tcgetattr(self.fd)[3] & termios.ICANON:
            time.sleep(0.01)
        os.write(self.fd, key.encode())


def test_in_a_terminal(run, project):
    at = Terminal(project, "-n", "3", "--fields", "question,answer")
    assert re.search(
        r"0 of 3.*question.*What is \d+\?.*answer.*word.*y valid   n not valid   s skip   b back   q quit",
        at.until("q quit"),
        re.S,
    )
    at.press("y")
    at.until("1 of 3: 1 valid.*q quit")
    at.press("\x1b[D")  # an arrow means nothing
    time.sleep(0.5)
    at.press("b")
    at.until("your label: valid")
    at.press("n")
    at.until("1 of 3: 1 not valid.*q quit")
    at.process.kill()
    at.process.wait()
    at = Terminal(project, "-n", "3", "--fields", "question,answer")
    at.until("1 of 3: 1 not valid.*q quit")
    at.press("y")
    at.until("2 of 3: 1 valid, 1 not valid.*q quit")
    at.press("q")
    assert "fields: [question, answer], target_recall: 0.8" in at.until(r"target_recall: 0.8\}")
    assert at.process.wait(10) == 0
    first, second = (record.fields["n"] for record in sample(run, 2, fields=[], seed=0))
    assert labels(project) == [(first, 1), (first, 0), (second, 1)]


def test_ctrl_c_leaves_what_was_said(run, project):
    at = Terminal(project, "-n", "3")
    at.until("q quit")
    at.press("y")
    at.until("1 of 3.*q quit")
    at.press("\x03")
    at.until("1 of 3: 1 valid; in data/labels.jsonl")
    assert at.process.wait(10) == 130 and len(labels(project)) == 1


def test_a_terminal_shows_hostile_text_and_does_not_obey_it(project):
    project.rows("rows.jsonl", [{"answer": text, "n": 1} for text in HOSTILE])
    distillgen.run(PIPELINE, out="runs/some")
    at = Terminal(project, "-n", "20")
    seen = at.until("q quit")
    for _ in range(len(HOSTILE) - 1):
        at.press("y")
        seen += at.until("q quit")
    obeyed = re.sub(
        r"\x1b\[(?:[0-9;]*m|2J|1;1H|H|[0-9;]*J)", "", seen
    )  # our own: bold, and the screen cleared
    assert (
        not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", obeyed)
        and "␛[31mred" in seen
        and "\x1b[31m" not in seen
    )
    at.press("q")
    at.process.wait(10)


def test_no_terminal(run, project):
    assert "stdin is not a terminal; use --web" in project.cli("label", "some", check=2).stderr
    told = project.cli("label", "some", "--web", "-o", "/sys/labels.jsonl", check=2).stderr
    assert "cannot write to '/sys/labels.jsonl'" in told and "give another --out" in told


class Web:
    """`distillgen label --web`, and a browser's requests to it."""

    def __init__(self, project, *args):
        command = [sys.executable, "-u", "-m", "distillgen", "label", "some", "--web", *args]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=project.path, env=project.env()
        )
        self.address = re.search(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", self.process.stdout.readline())[0]
        self.get()

    def get(self, address=None, data=None, headers=()):
        body = urllib.parse.urlencode(data).encode() if data else None
        with urllib.request.urlopen(
            urllib.request.Request(address or self.address, body, dict(headers)), timeout=10
        ) as answer:
            self.html, self.headers = answer.read().decode(), answer.headers
        self.page = Page(self.html)
        self.id = next(
            (v for tag, n, v in self.page.attributes if tag == "input" and n == "value" and len(v) == 20),
            None,
        )
        return self.page.text

    def press(self, key, asked=None):
        return self.get(data={"key": key, "id": asked or self.id})


@pytest.fixture
def web(project):
    started = []

    def start(*args):
        started.append(Web(project, *args))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


def test_on_a_page_until_all_is_done(run, project, web):
    at = web("-n", "3", "--fields", "question,answer")
    assert "0 of 3" in at.page.text and "What is" in at.page.text
    first = at.id
    assert "1 of 3: 1 valid" in at.press("y")
    assert "1 of 3: 1 valid" in at.press("n", asked=first), (
        "a key pressed twice says nothing of the next record"
    )
    at.press("b")
    assert at.id == first and 'class=" said"' in at.html
    assert "1 of 3: 1 not valid" in at.press("n")
    at.press("s")
    assert "All are done" in at.press("y")
    assert at.process.wait(10) == 0
    assert [label for _, label in labels(project)] == [1, 0, None, 1]


def test_page_and_terminal_resume_from_the_same_file(run, project, web):
    at = web("-n", "3")
    at.press("y")
    file, first = project.path / "data/labels.jsonl", at.id
    file.rename(file.with_name("aside"))
    file.mkdir()
    with pytest.raises(urllib.error.HTTPError) as refused:
        at.press("n")
    assert (
        "was not stored: cannot write to 'data/labels.jsonl': Is a directory" in refused.value.read().decode()
    )
    file.rmdir()
    file.with_name("aside").rename(file)
    assert at.get() and at.id == first, "it goes on where it failed"
    assert "Until next time" in at.press("q") and at.process.wait(10) == 0
    again = web("-n", "3")
    assert "1 of 3: 1 valid" in again.page.text
    again.process.send_signal(signal.SIGINT)
    assert (
        again.process.wait(10) == 130
        and "1 of 3: 1 valid; in data/labels.jsonl" in again.process.stdout.read()
    )
    terminal = Terminal(project, "-n", "3")
    terminal.until("1 of 3: 1 valid.*q quit")
    terminal.press("q")
    assert terminal.process.wait(10) == 0


def test_only_who_knows_the_address_can_look_or_label(run, project, web):
    at = web("-n", "3")
    root = at.address.rsplit("/", 2)[0]
    for path, data in (
        ("/", None),
        ("/favicon.ico", None),
        ("/x/", {"key": "y", "id": at.id}),
        ("/", {"key": "q", "id": at.id}),
    ):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            at.get(root + path, data)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        at.get(data={"key": "y" * 2000, "id": at.id})
    assert not (project.path / "data/labels.jsonl").exists() and at.process.poll() is None
    policy = at.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    addresses = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
    for other in [a for a in addresses if ":" not in a]:
        with (
            pytest.raises(OSError),
            socket.create_connection((other, int(root.rsplit(":", 1)[1])), timeout=2),
        ):
            pass


def test_a_connection_that_a_browser_opens_ahead_holds_nobody_up(run, project, web):
    at = web("-n", "2")
    port = int(at.address.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port)):
        begun = time.monotonic()
        at.press("y")
        at.press("y")
        assert at.process.wait(10) == 0 and time.monotonic() - begun < 8


def test_a_page_shows_hostile_text_and_does_not_obey_it(project, web):
    project.rows("rows.jsonl", [{text: text, "answer": text, "n": 1} for text in HOSTILE])
    distillgen.run(PIPELINE, out="runs/some")
    at, tags = web("-n", "20"), set()
    for _ in HOSTILE:
        assert at.page.tags.count("script") == 1 and not re.search(
            "[\u202a-\u202e\u2066-\u2069\x1b\x00]", at.html
        )
        assert not any(
            name.startswith("on") or name in ("href", "src", "style", "action")
            for _, name, _ in at.page.attributes
        )
        tags |= set(at.page.tags)
        at.press("y")
    assert tags == set(
        (
            "html head meta title style body header p progress main dl dt dd footer form input "
            "button kbd script"
        ).split()
    )
    assert at.process.wait(10) == 0
