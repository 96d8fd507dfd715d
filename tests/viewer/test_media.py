"""Pictures and sounds in the report and the viewer: small copies, players, and reasons for broken files."""

import html
import re
import urllib.error
import urllib.request
from urllib.parse import urlencode

import pytest

import distillgen
from distillgen.runs.report import write_report
from distillgen.runs.thumbnails import SIDE, are_files, shown_files
from distillgen.viewer.server import served
from distillgen.viewer.viewed_run import ViewedRun
from tests.media_files import png, png_of, wav
from tests.runs.test_report import assert_harmless
from tests.viewer.browser import CHROMIUM, Browser


@pytest.fixture
def directory(project):
    """A run of rows with a picture, a broken one, a sound, and a list of pictures."""
    files = project.path / "data/files"
    files.mkdir(parents=True)
    for name in "ab":
        (files / f"{name}.png").write_bytes(png(name, 400, 300))
    (files / "changes.png").write_bytes(png("before"))
    (files / "hidden.png").write_bytes(png_of(30, 20, b"no lines"))
    (files / "<img src=x onerror=alert(1)>.png").write_bytes(png("hostile"))
    (files / "clip.wav").write_bytes(wav("clip", 800))
    names = ["a.png", "changes.png", "hidden.png", "<img src=x onerror=alert(1)>.png"]
    rows = [{"question": "What?", "picture": f"files/{name}", "clip": None, "pair": None} for name in names]
    rows.append(
        {
            "question": "Both?",
            "picture": None,
            "clip": "files/clip.wav",
            "pair": ["files/a.png", "files/b.png"],
        }
    )
    project.rows("data/rows.jsonl", rows)
    source = {"path": "data/rows.jsonl", "images": ["picture", "pair"], "audio": ["clip"]}
    run = distillgen.run({"version": 1, "stages": [{"source": source}]}, out="runs/r")
    (files / "changes.png").write_bytes(png("after"))
    return run.directory


def test_the_report_shows_small_copies_and_runs_nothing(directory):
    pytest.importorskip("PIL")
    write_report(directory)
    page = (directory / "report.html").read_text()
    assert len(re.findall(r'<img src="data:image/(?:png|jpeg);base64,[^"]+" width="\d+"', page)) == 4
    assert f'width="{SIDE}" height="{SIDE * 3 // 4}"' in page
    assert "the file has changed since the row was made" in page
    assert "the picture cannot be shown: OSError" in page
    assert "<b>clip.wav</b> WAV, 2 kB" in page and "<audio" not in page
    assert html.escape("<img src=x onerror=alert(1)>.png").replace("&#x27;", "&#39;") in page
    assert_harmless(re.sub(r'<img src="data:image/[^"]+" width="\d+" height="\d+" alt="">', "", page))
    assert str(directory.resolve().parent.parent) not in page


def test_without_the_package_a_page_names_the_extra(directory, monkeypatch):
    monkeypatch.setattr("distillgen.runs.thumbnails.find_spec", lambda name: None)
    monkeypatch.setattr("distillgen.runs.thumbnails._small", distillgen.runs.thumbnails._small.__wrapped__)
    write_report(directory)
    page = (directory / "report.html").read_text()
    assert "<img" not in page and "<b>a.png</b> PNG, " in page and "distillgen[pictures]" in page


def test_a_value_is_files_or_is_none():
    one = {"path": "a.png", "sha256": "0"}
    assert are_files(one) and are_files([one, one])
    for value in ([], None, "a", [one, 1], {**one, "index": 1}, {**one, "x": 1}, [[one]]):
        assert not are_files(value), value


def test_large_pictures_are_not_decoded_for_a_page(project, monkeypatch):
    pytest.importorskip("PIL")
    from distillgen.rows.media import inside

    (project.path / "a.png").write_bytes(png("a", 30, 20))
    value = inside(project.path / "a.png", project.path).reference
    monkeypatch.setattr("distillgen.runs.thumbnails.MOST_PIXELS", 599)
    monkeypatch.setattr("distillgen.runs.thumbnails._small", distillgen.runs.thumbnails._small.__wrapped__)
    (shown,) = shown_files(value, project.path)
    assert shown.problem == "30 by 20 pixels are too many to be shown" and not shown.picture
    assert len(shown_files([value] * 20, project.path)) == 6


def get(address, **headers):
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
        return answer.status, dict(answer.headers), answer.read()


def test_the_viewer_gives_only_files_that_rows_refer_to_by_their_hash(directory, project):
    run = distillgen.Run(directory)
    clip = [record for record in run.kept][-1].fields["clip"]
    with served([ViewedRun(run)]) as address:

        def file(headers=None, **query):
            return get(f"{address}file?{urlencode({'run': 0, **clip, **query})}", **headers or {})

        status, headers, content = file()
        assert (status, content) == (200, wav("clip", 800)) and headers["Content-Type"] == "audio/wav"
        assert headers["X-Content-Type-Options"] == "nosniff"
        status, headers, content = file({"Range": "bytes=4-7"})
        assert (status, content) == (206, wav("clip", 800)[4:8])
        assert headers["Content-Range"] == f"bytes 4-7/{len(wav('clip', 800))}"
        assert file({"Range": "bytes=1000-"})[2] == wav("clip", 800)[1000:]
        (project.path.parent / "outside.png").write_bytes(png("o"))
        for query in (
            {"sha256": "0"},
            {"path": "data/rows.jsonl"},
            {"path": "data/files/a.png"},
            {"path": "../outside.png"},
            {"path": "/etc/passwd"},
            {"run": 7},
            {"run": "x"},
        ):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                file(**query)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look with")
def test_pictures_are_seen_and_sounds_load_in_a_browser(directory):
    pytest.importorskip("PIL")
    with Browser() as browser, served([ViewedRun(distillgen.Run(directory))]) as address:
        for width in (1440, 390):
            browser.size(width)
            browser.open(f"{address}?place=4")
            browser.until("document.querySelectorAll('.files img').length == 2")
            browser.until("[...document.images].every(one => one.complete && one.naturalWidth == 240)")
            assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        browser.run(
            "document.querySelector('audio').load(), document.querySelector('audio').preload = 'auto'"
        )
        browser.until("document.querySelector('audio').duration > 0.09")
        browser.open(f"{address}?place=1")
        browser.until("document.querySelector('.files .why').textContent.includes('has changed')")
        cards = browser.run("[...document.querySelectorAll('.card')].at(-1).textContent")
        assert "a.png, b.png" in cards and "sha256" not in cards
        assert browser.complaints == []
        assert all(url.startswith((address, "data:image/")) for url in browser.requests)
