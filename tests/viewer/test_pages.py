"""The viewer's pages over HTTP: the rows with their histories, and hostile rows that are only ever shown."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

import distillgen
from distillgen.text.display import visible
from distillgen.viewer.markup import as_markdown
from distillgen.viewer.server import served
from distillgen.viewer.viewed_run import ViewedRun
from tests.runs.test_report import CONTROL, HOSTILE, Page, carry_out

TAGS = set(
    "html head meta title link script body header h1 h2 h3 h4 h5 h6 p b br span div dl dt dd ol ul li nav a"
    " button aside section svg rect path figure figcaption main form input select option mark article details"
    " summary pre code dialog kbd ins del em strong s table thead tbody tr th td blockquote hr"
    " math mrow mi mn mo mfrac msup msub mtext".split()
)


class Viewer:
    def __init__(self, address):
        self.address = address

    def get(self, **query):
        with urllib.request.urlopen(f"{self.address}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return answer.read().decode()

    def page(self, **query):
        return assert_harmless(self.get(**query))

    def ids(self, **query):
        return re.findall(r'class="card[^>]*href="\?[^"]*row=(\w+)', self.get(**query))


def assert_harmless(html):
    page = Page(html)
    assert set(page.tags) <= TAGS, set(page.tags) - TAGS
    for tag, name, value in page.attributes:
        assert not name.startswith("on") and name not in ("style", "srcdoc", "formaction", "xlink:href")
        if name in ("href", "src", "action"):
            assert (tag, value) in (("link", "view.css"), ("script", "view.js"), ("form", "")) or (
                tag == "a" and re.match(r"\?[\w.%+&=-]*$", value)
            ), (tag, name, value)
    assert page.tags.count("script") == 1 and not CONTROL.search(html)
    return page


@pytest.fixture
def viewed():
    """Opens runs, and waits until all of their rows are indexed."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def open_runs(*directories):
            runs = [ViewedRun(distillgen.Run(directory)) for directory in directories]
            viewer = Viewer(stack.enter_context(served(runs)))
            end = time.monotonic() + 30
            while "data-growing" in viewer.get(run=len(runs) - 1):
                assert time.monotonic() < end
                time.sleep(0.02)
            time.sleep(0.05)
            return viewer

        yield open_runs


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    """12 questions, two answers each; long ones, of every third question, are dropped."""

    def answer(request, sample):
        number = int(request.messages[-1]["content"].split()[-1])
        return f"**{number}** of sample {sample}" + " and more" * (number % 3 == 0)

    rows = [{"question": f"What is number {i}"} for i in range(12)]
    return carry_out(tmp_path_factory.mktemp("sums"), rows, answer, n=2, note="at most")


def rows_in(directory, name):
    return [json.loads(line) for line in (directory / name).read_text().splitlines()]


def test_rows_are_listed_filtered_and_sorted(viewed, sums):
    viewer = viewed(sums)
    kept = [row["meta"]["id"] for row in rows_in(sums, "corpus.jsonl")]
    lost = [row["meta"]["id"] for row in rows_in(sums, "dropped.jsonl")]
    assert viewer.ids(drop="kept") == kept and viewer.ids(drop="check/words") == lost and len(lost) == 24
    assert sorted(viewer.ids()) == sorted(kept + lost)
    assert viewer.ids(text="number 11") == viewer.ids(text="NUMBER 11", field="question") != []
    assert viewer.ids(text="6 words", field="reason of the drop")
    assert "24 rows" in viewer.page(stage=1).text and "12 rows" in viewer.page(stage=0).text
    for senseless in ({"stage": 99}, {"run": 7}, {"low": "nan"}, {"page": "x"}, {"place": "1e999"}):
        assert "24 rows" in viewer.page(**senseless).text


def test_a_row_has_its_history(viewed, sums):
    viewer = viewed(sums)
    row = rows_in(sums, "dropped.jsonl")[0]
    sibling = rows_in(sums, "dropped.jsonl")[1]
    page = viewer.page(row=row["meta"]["id"])
    assert f"check · words {row['meta']['dropped']['reason']}" in page.text
    assert re.search(r"Prompt as it was sent user What is number 0 ", page.text)
    assert "Raw answer **0** of sample 0 and more" in page.text
    assert "max_words 3" in page.text and "tokens in" in page.text and "Source: seeds.jsonl:1" in page.text
    assert re.search(f"Parents 1 {row['meta']['parents'][0][:12]}", page.text)
    assert re.search(f"Siblings 1 {sibling['meta']['id'][:12]}", page.text)
    compared = viewer.get(row=row["meta"]["id"], other=sibling["meta"]["id"])
    assert "<del>1</del><ins>0</ins>" in compared and "the same" in compared
    parent = viewer.page(stage=0, row=row["meta"]["parents"][0])
    assert "Children 2" in parent.text and "No model was asked for this row." in parent.text


def test_hostile_rows_are_only_ever_shown(viewed, tmp_path):
    rows = [{"question": text, text: [text, {text: text}]} for text in HOSTILE]
    directory = carry_out(
        tmp_path, rows, lambda request, sample: request.messages[-1]["content"], note="".join(HOSTILE)
    )
    viewer = viewed(directory)
    label = '<span class="label">question</span> <span dir="auto">'  # a text has a direction of its own
    assert label in viewer.get()
    texts = viewer.page().text
    for row in rows_in(directory, "stages/04-format.jsonl"):
        for plain in (0, 1):
            page = viewer.page(row=row["meta"]["id"], plain=plain)
            texts += page.text
    for text in HOSTILE:
        assert re.sub(r"\s+", " ", visible(text)) in texts
        viewer.page(text=text, field=text, drop=text, score=text, sort=text, row=text, other=text)


def test_no_one_else_can_read_the_pages(viewed, sums):
    viewer = viewed(sums)
    with urllib.request.urlopen(viewer.address) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    root = viewer.address.rsplit("/", 2)[0]
    for address, host in ((root + "/", ""), (root + "/x/view.css", ""), (viewer.address, "evil.example:80")):
        request = urllib.request.Request(address, headers={"Host": host} if host else {})
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(request)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(viewer.address + "..%2f..%2fusage.json")


def test_the_run_is_not_changed(viewed, sums):
    def files():
        paths = (path for path in sums.rglob("*") if path.is_file() and path.parent.name != "view")
        return {path: path.read_bytes() for path in paths if not path.name.startswith("ledger")}

    before = files()
    viewer = viewed(sums)
    viewer.page(row=viewer.ids()[0])
    assert files() == before


def test_a_row_is_shown_without_its_ledger(viewed, sums, tmp_path):
    directory = shutil.copytree(sums, tmp_path / "copy")
    viewer = viewed(directory)
    row = viewer.ids()[0]
    (directory / "ledger.sqlite3").write_bytes(b"no ledger" * 100)
    assert re.search(
        "What is number 0 .* The answers cannot be read: .* is no ledger", viewer.page(row=row).text
    )
    (directory / "ledger.sqlite3").unlink()
    assert "The ledger does not hold this answer." in viewer.page(row=row).text


def test_dialogues_tool_calls_and_pictures(viewed, tmp_path):
    turns = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {}}],
        },
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Rome"}'}}],
        },
        {"role": "tool", "name": "weather", "content": "{}"},
    ]
    directory = carry_out(tmp_path, [{"question": "q", "turns": turns}], lambda request, sample: "fine")
    viewer = viewed(directory)
    text = viewer.page(row=viewer.ids()[0]).text
    assert re.search(r'user look a picture, .* assistant calls weather \{ "city" : "Rome" \}', text), text
    assert "tool weather" in text
    assert "messages q " in viewer.page().text, "of a dialogue, what the person says"


def test_markdown_is_shown_and_obeys_nothing():
    html = str(
        as_markdown(
            "**b** `c<d` [x](https://e.example/) ![y](https://e.example/p.png)\n\n```python\nx = '<b>'\n```"
        )
    )
    assert "<strong>b</strong>" in html and "c&lt;d" in html and "https://e.example/p.png" in html
    assert not re.search(r"<a|<img|href=|src=|style=", html) and "&lt;b&gt;" in html
    assert_harmless("<script></script>" + html)


def test_formulas_are_typeset_without_links():
    pytest.importorskip("latex2mathml")
    html = str(
        as_markdown(r"$e^{x}$ costs $5 and $6, \(a<b\), $\href{javascript:alert(1)}{z}$ \[\frac{1}{2}\]")
    )
    assert (
        html.count("<math") == 4 and "$5 and $6" in html and "javascript" not in html and "a&lt;" not in html
    )
    assert "<msup>" in html and 'display="block"' in html
    assert "<math" not in str(as_markdown("```\n$e^{x}$\n```"))
    for broken in (r"$\frac{$", r"$\left($", "$" + "{" * 900 + "x" + "}" * 900 + "$"):
        assert "<p>" in str(as_markdown(broken))


def test_of_mathml_only_presentation_is_taken(monkeypatch):
    converter = pytest.importorskip("latex2mathml.converter")
    hostile = (
        '<math><script>alert(1)</script><mi onclick="x" mathvariant="bold">y</mi><a href="/">z</a></math>'
    )
    monkeypatch.setattr(converter, "convert", lambda formula, display: hostile)
    html = str(as_markdown("$x$"))
    assert '<mi mathvariant="bold">y</mi>' in html and "<mrow>z</mrow>" in html
    assert not re.search("<script|onclick|href", html)


def test_a_damaged_run_is_said(viewed, sums, tmp_path):
    directory = shutil.copytree(sums, tmp_path / "copy")
    viewer = viewed(directory)
    (directory / "usage.json").write_bytes(b"{")
    assert "is damaged" in viewer.page().text


def test_the_command_ends_with_ctrl_c(sums, project):
    command = [sys.executable, "-m", "distillgen", "view", str(sums)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": project.env()}
    with subprocess.Popen(command, **options) as process:
        address = re.search(r"open (http://127\.0\.0\.1:\d+/\S+/)\n", process.stdout.readline())[1]
        assert "finished" in Viewer(address).page().text
        port = address.split(":")[2].split("/")[0]
        refused = project.cli("view", sums, "--port", port, check=2).stderr
        assert f"port {port} cannot be used" in refused and "give another --port" in refused
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0 and process.stderr.read() == ""
