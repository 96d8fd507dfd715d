import json
import random
import re
import shutil
import subprocess
import sys
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import distillgen
from distillgen.record import Dropped, Record, dumps
from distillgen.runs.card import write_card
from distillgen.runs.charts import BARS, histogram, thresholds
from distillgen.runs.report import SAMPLE, write_report
from distillgen.runs.templates import template
from distillgen.text.display import visible

HOSTILE = [
    "<script>document.title='owned'</script>",
    "</style></title></textarea><svg onload=alert(1)>",
    '" onmouseover="alert(1)" x="',
    "<img src=https://evil.example/x.png onerror=alert(1)>",
    "<iframe src=javascript:alert(1)></iframe>",
    "[click](javascript:alert(1)) ![x](https://evil.example/y.png) | a | b |",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[31mred\x1b[0m\x00\x07\x9b2J\x7f\r",
    "user\u202egnp.exe\u2066x\u2069",
    "\U000e0041hidden",
]
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
FILTER = '''
from distillgen import FieldName, Filter
def words(*, field: FieldName = "answer", max_words: int = 3, note: str = "") -> Filter:
    """Drop long ones."""
    return Filter(
        measure=lambda records: [len(str(r.fields[field]).split()) for r in records],
        decide=lambda n: f"{n:g} words > {max_words} {note}" if n > max_words else None,
    )
'''


class Page(HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.texts, self.inside = [], [], [], []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.texts))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in ("meta", "br", "rect", "path"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, data):
        if "style" not in self.inside:
            self.texts.append(data)


def write_project(root, rows, *, model="echo", about="demo.yaml: a demonstration", note="", price=True, n=1):
    (root / "filters").mkdir()
    (root / "filters" / "words.py").write_text(FILTER)
    (root / "seeds.jsonl").write_bytes(b"".join(dumps(row) + b"\n" for row in rows))
    teacher = {"provider": "scripted", "model": model, "max_tokens": 1000, "max_concurrency": 2}
    if price:
        teacher["price"] = {"input": 1.0, "output": 2.0}
    stages = [
        {"source": {"path": "seeds.jsonl"}},
        {
            "generate": {
                "name": "ask",
                "model": "teacher",
                "template": "{{ question }}",
                "output": "answer",
                "n": n,
            }
        },
        {"filter": {"name": "check", "filters": [{"words": {"max_words": 3, "note": note}}]}},
        {"format": {"messages": [{"user": "{{ question }}"}, {"assistant": "{{ answer }}"}]}},
    ]
    recipe = yaml.safe_dump({"version": 1, "models": {"teacher": teacher}, "stages": stages})
    (root / "demo.yaml").write_text(f"# {about}\n{recipe}")
    return root / "demo.yaml", root / "runs" / "demo"


def carry_out(root, rows, answer, **project):
    pipeline, directory = write_project(root, rows, **project)
    distillgen.run(pipeline, out=directory, teachers={"teacher": answer})
    return directory


def carry_out_elsewhere(root, rows, answer, options=""):
    """In a process of its own, which may be stopped."""
    (root / "teach.py").write_text(answer)
    pipeline, directory = write_project(root, rows, model="teach.py:answer")
    call = f"import distillgen; distillgen.run({str(pipeline)!r}, out={str(directory)!r}{options})"
    done = subprocess.run([sys.executable, "-c", call], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode, "the run was to be stopped"
    return directory, done.stderr, json.loads((directory / "usage.json").read_text())


def page_of(directory):
    return Page((directory / "report.html").read_text(encoding="utf-8"))


def assert_harmless(html):
    page = Page(html)
    assert set(page.tags) <= set(
        "html head meta title style body main header section article footer h1 h2 h3 p b br "
        "span div dl dt dd ol ul li nav a"
        " table thead tbody tfoot tr th td svg rect path pre details summary".split()
    )
    for tag, name, value in page.attributes:
        assert not name.startswith("on") and name not in (
            "src",
            "action",
            "xlink:href",
            "srcdoc",
            "background",
        )
        assert name != "href" or tag == "a" and re.fullmatch("#.+", value)
        assert name != "style" or re.fullmatch(r"width: [\d.]+%", value)
        assert name == "aria-label" or not re.search("//|javascript", value or "")
        assert tag == "meta" or "url(" not in (value or "")
    assert page.tags.count("style") == page.tags.count("h1") == 1
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in style and "url(" not in style
    assert (
        "meta",
        "content",
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    ) in page.attributes
    assert not CONTROL.search(html)
    return page


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """20 seeds, two answers each: sample 1 of every fifth is refused as empty; every fourth seed has long
    answers.
    """

    def answer(request, sample):
        i = int(request.messages[-1]["content"].split()[-1])
        if i % 5 == 0 and sample == 1:
            return ""
        return " ".join(["word"] * (5 + i % 3 if i % 4 == 0 else 2))

    rows = [{"question": f"What is number {i}"} for i in range(20)]
    return carry_out(tmp_path_factory.mktemp("finished"), rows, answer, n=2)


def test_figures_equal_the_planted_counts(finished):
    page = page_of(finished)
    state = json.loads((finished / "usage.json").read_text())
    # 40 answers; 4 empty (seeds 0, 5, 10, 15); long: seeds 0, 4, 8, 12, 16, twice, less seed 0's empty one
    assert "Source records 20 became 40" in page.text
    assert "Kept 27 67.5%" in page.text and "Dropped 13 32.5%" in page.text
    assert "Requests 40" in page.text and "Finished with 4 answers that could not be used" in page.text
    assert re.search(r"ask generate .*?malformed −4 20 in → 36 kept 4 dropped", page.text)
    assert re.search(r"words −9 36 in → 27 kept 9 dropped", page.text)
    assert "A demonstration." in page.text and "words check max_words: 3" in page.text
    assert "9 5 words > 3" in page.text and "4 the answer is empty" in page.text
    assert "36 measured; kept 2; dropped here 5 to 7" in page.text
    cost = (state["totals"]["input_tokens"] + 2 * state["totals"]["output_tokens"]) / 1e6
    assert f"Cost ${cost:.2g}" in page.text and "$0.00 " not in page.text
    assert "Kept 12 of 27" in page.text and "Dropped 13 of 13" in page.text
    assert "distillgen run demo" in page.text
    for sha in yaml.safe_load((finished / "pipeline.lock.yaml").read_text())["files"].values():
        assert sha in page.text


def test_what_filters_cost_and_what_another_order_would_have_spared(tmp_path):
    """6 records; the judge is asked about all, and `words` behind it drops 2 that the judge kept."""
    rows = [{"question": "a b c d" if i < 2 else "a b", "i": i} for i in range(6)]
    pipeline, directory = write_project(tmp_path, rows)
    recipe = yaml.safe_load(pipeline.read_text())
    judge = {"judge": {"model": "teacher", "rubric": "Is it good?", "fields": ["question", "i"]}}
    words = {"words": {"field": "question", "max_words": 3}}
    for order, requests in (([judge, words], 6), ([words, judge], 4)):
        recipe["stages"][1:] = [{"filter": {"name": "check", "filters": order}}]
        pipeline.write_text(yaml.safe_dump(recipe))
        out = directory / str(requests)
        distillgen.run(
            pipeline, out=out, teachers={"teacher": lambda request, sample: '{"reason": "so", "score": 9}'}
        )
        page = page_of(out)
        assert re.search(rf"judge check.*? {requests} {requests} {requests} \$0\.00\d+", page.text), page.text
        assert re.search(r"words check 6 6 [\d,.e+]+ 0", page.text)
        assert ("2 of its kept records were dropped by later filters, which ask no model" in page.text) == (
            requests == 6
        )
        assert len((out / "corpus.jsonl").read_text().splitlines()) == 4
        assert_harmless((out / "report.html").read_text())


def test_lineage_names_every_step_and_messages_are_turns(finished):
    page = page_of(finished)
    first = json.loads((finished / "corpus.jsonl").read_text().splitlines()[0])
    made = first["meta"]["made"][0]
    for shown in (
        first["meta"]["id"],
        first["meta"]["source"],
        first["meta"]["parents"][0],
        made["prompt"],
        made["key"][:12],
    ):
        assert shown in page.text
    assert made["key"] not in page.text
    assert page.tags.count("details") >= 12 + 9
    assert f"user {first['question']} assistant {first['answer']}" in page.text
    assert '"role"' not in page.text


def test_the_same_run_gives_the_same_bytes(finished):
    before = (finished / "report.html").read_bytes(), (finished / "README.md").read_bytes()
    write_report(finished)
    write_card(finished)
    assert ((finished / "report.html").read_bytes(), (finished / "README.md").read_bytes()) == before


@pytest.mark.parametrize("full", [False, True])
def test_the_report_is_written_without_a_temporary_folder(finished, monkeypatch, tmp_path, full):
    def no_room(*args, **kwargs):
        raise OSError(28, "No space left on device")

    before = (finished / "report.html").read_bytes()
    (finished / "report.html").unlink()
    if full:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.setattr("jinja2.bccache.tempfile.NamedTemporaryFile", no_room)
    else:
        monkeypatch.setattr("tempfile.tempdir", "/there/is/no/such/folder")
    template.cache_clear()
    write_report(finished)
    template.cache_clear()
    assert (finished / "report.html").read_bytes() == before


def test_contents_thresholds_and_prompts(finished):
    html = (finished / "report.html").read_text()
    page = page_of(finished)
    sections = re.findall(r'<h2 id="([^"]+)">([^<]+)</h2>', html)
    assert re.findall(r'<a href="#([^"]+)">([^<]+)</a>', html) == sections and len(sections) >= 7
    # 2, 5, 6 and 7 words at bars 1 wide from 2 on: the line of "at most 3" is behind the bar of 3
    assert '<path class="threshold" d="M20.0 0V100">' in html and "max_words 3 36 measured" in page.text
    assert "27 records" in page.text  # the tallest bar: all kept records have 2 words
    assert "ask (template) {{ question }}" in page.text


def test_thresholds_are_options_that_bound_the_score():
    options = {"min_words": 2, "max_words": 9, "max_mean": 0.5, "threshold": 4, "field": "x", "min_x": None}
    lock = {"stages": [{"filter": {"filters": [{"label": "check", "options": options}]}}]}
    all_options = {"min_words": 2, "max_words": 9, "threshold": 4}
    assert dict(thresholds(lock, "check", (2, 4))) == all_options  # a mean of at most 0.5 would keep none
    assert dict(thresholds(lock, "check.words", (2, 9))) == {"min_words": 2, "max_words": 9}
    assert dict(thresholds(lock, "check.mean", (0, 0.5))) == {"max_mean": 0.5, "threshold": 4}
    assert thresholds(lock, "checks", (2, 9)) == [] and len(thresholds(lock, "check", None)) == 4


def test_examples_are_a_sample_of_all_rows(finished, tmp_path):
    directory = Path(shutil.copytree(finished, tmp_path / "many"))
    rows = [Record(f"{i:05}", {"text": f"row {i}"}) for i in range(1000)]
    rows = [row.drop("check", "words", "why") if i % 2 else row for i, row in enumerate(rows)]
    (directory / "stages" / "04-format.jsonl").write_bytes(b"".join(dumps(row.row()) + b"\n" for row in rows))
    write_report(directory)
    places = [int(place) for place in re.findall(r"row (\d+)", page_of(directory).text)]
    kept, dropped = [p for p in places if p % 2 == 0], [p for p in places if p % 2]
    assert len(kept) == len(dropped) == 12 and kept == sorted(kept) and dropped == sorted(dropped)
    assert max(kept) > 500 and max(dropped) > 500 and min(kept) < 500


def test_hostile_text_is_only_ever_shown(tmp_path):
    rows = [{"question": text, text: [text, {text: text}], "n": i} for i, text in enumerate(HOSTILE)]
    note = "".join(HOSTILE).replace("{", "(")
    directory = carry_out(
        tmp_path,
        rows,
        lambda request, sample: request.messages[-1]["content"],
        about=HOSTILE[0] + HOSTILE[1],
        note=note,
    )
    page = assert_harmless((directory / "report.html").read_text(encoding="utf-8"))
    for text in HOSTILE:
        assert re.sub(r"\s+", " ", visible(text)) in page.text
    assert "␛[31mred" in page.text and "user⟨U+202E⟩gnp.exe" in page.text and "⟨U+009B⟩" in page.text
    card = (directory / "README.md").read_text(encoding="utf-8")
    assert not CONTROL.search(card)
    prose = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", card)  # a block of code shows its text
    assert not re.search(r"(?<!\\)<", prose.replace("n<1K", "")) and not re.search(r"(?<!\\)\]\(", prose)
    tables = [block.splitlines() for block in card.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4 and all(
        len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1 for table in tables
    )


def test_reasons_of_strangers_are_escaped(finished, tmp_path):
    directory = Path(shutil.copytree(finished, tmp_path / "copy"))
    for_all = "".join(HOSTILE)
    row = Record(
        "1", {"x": for_all}, (for_all,), for_all, ({"stage": for_all, "model": for_all, "new": {for_all: 1}},)
    )
    dropped = Record(
        **{name: getattr(row, name) for name in ("id", "fields", "parents", "source", "made")},
        scores={for_all: 1.5},
        dropped=Dropped(for_all, for_all, for_all),
    )
    (directory / "stages" / "04-format.jsonl").write_bytes(dumps(dropped.row()) + b"\n")
    write_report(directory)
    assert_harmless((directory / "report.html").read_text(encoding="utf-8"))


def test_nothing_kept(tmp_path):
    directory = carry_out(
        tmp_path, [{"question": "a b c d"}] * 3, lambda request, sample: "one two three four"
    )
    page = page_of(directory)
    assert (
        "Kept 0 0.0%" in page.text and "Dropped 3 100.0%" in page.text and "No record was kept." in page.text
    )
    card = (directory / "README.md").read_text()
    assert "0 rows of synthetic data" in card and "- n<1K" in card


def test_nothing_dropped_and_no_price(tmp_path):
    directory = carry_out(tmp_path, [{"question": "a"}] * 3, lambda request, sample: "one", price=False)
    page = page_of(directory)
    assert "Kept 3 100.0%" in page.text and "Dropped 0 0.0%" in page.text
    assert page.text.count("No record was dropped.") == 2
    assert "Cost no price given" in page.text and "$" not in page.text
    assert "cost: no price given" in (directory / "README.md").read_text()


def test_an_interrupted_run_says_so_first(tmp_path):
    answer = """
import os, signal
def answer(request, sample):
    if request.messages[-1]["content"] == "q 30":
        os.kill(os.getpid(), signal.SIGINT)
    return "one"
"""
    directory, errors, state = carry_out_elsewhere(
        tmp_path, [{"question": f"q {i}"} for i in range(400)], answer
    )
    assert "Stopped" in errors and state["state"] == "interrupted" and state["kept"] < 400
    page = page_of(directory)
    assert (
        "This run is not complete: interrupted." in page.text
        and "of 400 source records were read" in page.text
    )
    assert page.text.index("not complete") < page.text.index("Requests")
    assert f"Kept {state['kept']}" in page.text
    assert "**Not complete**" in (directory / "README.md").read_text()


def test_a_run_stopped_by_its_budget_says_so(tmp_path):
    rows = [{"question": f"q {i}"} for i in range(50)]
    answer = "def answer(request, sample): return 'one ' * 200"
    directory, errors, state = carry_out_elsewhere(tmp_path, rows, answer, ", max_cost_usd=0.006")
    assert "BudgetStop" in errors and state["state"] == "stopped by budget"
    assert "This run is not complete: stopped by budget." in page_of(directory).text


def test_a_run_up_to_a_stage_is_about_what_left_that_stage(tmp_path):
    pipeline, directory = write_project(tmp_path, [{"question": f"q {i}"} for i in range(7)])
    distillgen.run(pipeline, out=directory, until="ask")
    write_report(directory)
    page = page_of(directory)
    assert "This run is not complete: carried out up to the stage ask." in page.text
    assert "Kept 7 100.0%" in page.text and page.text.count("not reached") == 2 and "Kept 7 of 7" in page.text


def test_a_finished_run_does_not_say_that_it_is_not(finished):
    assert (
        "not complete" not in page_of(finished).text
        and "Not complete" not in (finished / "README.md").read_text()
    )


def test_the_card_tells_what_is_known(finished):
    text = (finished / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "configs": [{"config_name": "default", "data_files": "corpus.jsonl"}],
        "license": "unknown",
        "task_categories": ["text-generation"],
        "tags": ["synthetic", "distillgen"],
        "size_categories": ["n<1K"],
    }
    assert (
        "27 rows of synthetic data" in body
        and "seeds.jsonl, 20 records read" in body
        and "Licence: not stated" in body
    )
    assert re.search(r"\| ask \| 20 \| 36 \| 4 \| malformed 4 \|", body)
    assert re.search(r"\| check \| 36 \| 27 \| 9 \| words 9 \|", body)
    assert "| messages | chat turns | 27 |" in body and "| question | text | 27 |" in body
    assert "distillgen run demo" in body


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(st.characters()),
    value=st.recursive(st.text(st.characters()) | st.none() | st.floats(), st.lists),
)
def test_any_text_can_be_shown(finished, tmp_path, name, value):
    directory = tmp_path / "any"
    if not directory.exists():
        shutil.copytree(finished, directory)
    row = Record("1", {name: value, "messages": [{"role": name, "content": value}]}, source=name).row()
    (directory / "corpus.jsonl").write_bytes(dumps(row) + b"\n")
    rows = dumps(row) + b"\n" + dumps(Record("2", {}).drop(name, name, name).row()) + b"\n"
    (directory / "stages" / "04-format.jsonl").write_bytes(rows)
    write_report(directory)
    write_card(directory)
    assert_harmless((directory / "report.html").read_text(encoding="utf-8"))


def test_memory_does_not_grow_with_the_rows(finished, tmp_path):
    directory = Path(shutil.copytree(finished, tmp_path / "large"))
    path = directory / "stages" / "04-format.jsonl"
    with path.open("wb") as stream:
        for i in range(3000):
            dropped = Record(
                str(i), {"text": f"{i} " * 800}, scores={"words": i / 7, "other": 1.5 ** (i % 900)}
            )
            stream.write(
                dumps(dropped.drop("check", "words", f"reason{'abcdefgh'[i % 8] * (i % 300)} {i}").row())
                + b"\n"
            )
    assert path.stat().st_size > 10_000_000
    write_report(directory)  # compiles what is compiled once
    tracemalloc.start()
    write_report(directory)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000
    assert "Dropped 12 of" in page_of(directory).text


def test_of_many_rows_a_fixed_sample_is_told(finished, tmp_path):
    directory = Path(shutil.copytree(finished, tmp_path / "large"))
    rows = [dumps(Record(str(i), {}, scores={"words": i}).row()) + b"\n" for i in range(SAMPLE + 500)]
    (directory / "stages" / "04-format.jsonl").write_bytes(b"".join(rows))
    usage = json.loads((directory / "usage.json").read_text())
    usage["stages"][-1]["kept"] = len(rows)
    (directory / "usage.json").write_text(json.dumps(usage))
    pages = []
    for _ in range(2):
        write_report(directory)
        pages.append((directory / "report.html").read_bytes())
    assert pages[0] == pages[1] and "Drawn from a fixed sample of 5,000 records." in page_of(directory).text


def test_what_is_dropped_first_behind_the_sample_has_its_example_too(finished, tmp_path):
    directory = Path(shutil.copytree(finished, tmp_path / "large"))
    rows = [Record(str(i), {"text": f"plain {i}"}) for i in range(20 * SAMPLE)]
    rows[-2] = Record("late", {"text": "the late one"}).drop("check", "words", "came late")
    (directory / "stages" / "04-format.jsonl").write_bytes(
        b"".join(dumps(row.row(), sort_keys=False) + b"\n" for row in rows)
    )
    write_report(directory)
    assert "the late one" in page_of(directory).text


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=60), st.randoms())
def test_a_histogram_loses_nothing_and_knows_no_order(values, shuffle):
    found = histogram([(value, "k") for value in values])
    assert sum(bar.total() for bar in found["bars"]) == len(values) and len(found["bars"]) <= BARS
    shuffle.shuffle(values)
    again = histogram([(value, "k") for value in values])
    assert {**again, "tones": 0} == {**found, "tones": 0}


def test_a_histogram_shows_the_threshold_and_clips_outliers():
    numbers = [random.Random(i).random() for i in range(5000)]
    found = histogram([*((number, "l" if number > 0.75 else "k") for number in numbers), (1e12, "l")])
    assert len(found["bars"]) > 12 and found["high"] < 1.1 and found["most"] == 1e12
    assert sum(1 for bar in found["bars"] if bar["k"] and bar["l"]) <= 1
    assert [bool(bar["l"]) for bar in found["bars"]] == sorted(bool(bar["l"]) for bar in found["bars"])


def test_similar_drop_reasons_are_counted_together(finished, tmp_path):
    directory = Path(shutil.copytree(finished, tmp_path / "copy"))
    rows = []
    for i in range(100):
        rows.append(Record(str(i), {}).drop("check", "words", f"{i + 4} words > 3"))
        rows.append(Record(str(i), {}).drop("ask", "malformed", f"there is no JSON in the answer 'no {i}'"))
        rows.append(
            Record(str(i), {}).drop(
                "ask", "malformed", f"the teacher said: {'abcdefghij'[i // 10]}{'klmnopqrst'[i % 10]}"
            )
        )
    (directory / "stages" / "04-format.jsonl").write_bytes(b"".join(dumps(row.row()) + b"\n" for row in rows))
    write_report(directory)
    text = page_of(directory).text
    assert (
        "100 4 words > 3" in text
        and "100 there is no JSON in the answer 'no 0'" in text
        and "100 the teacher said: ak" in text
    )
    assert re.search(r"check · words \d+ words > 3 .*ask · malformed the.*check · words \d+ words > 3", text)


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to render with")
def test_a_browser_shows_the_figures_and_runs_nothing(tmp_path):
    rows = [{"question": text} for text in HOSTILE] + [{"question": "plain"}]
    directory = carry_out(tmp_path, rows, lambda request, sample: request.messages[-1]["content"])
    profile = tmp_path / "profile"
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    ).split()
    command = [
        CHROMIUM,
        *flags,
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={profile}",
        "--dump-dom",
    ]
    shown = subprocess.run(
        [*command, (directory / "report.html").as_uri()], capture_output=True, timeout=90, check=True
    )
    page = assert_harmless(shown.stdout.decode())
    state = json.loads((directory / "usage.json").read_text())
    assert f"Kept {state['kept']}" in page.text and state["kept"] > 0
    assert "demo · distillgen" in page.text and "owned'" in page.text
