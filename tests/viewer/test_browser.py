"""The viewer in a browser: keys, clicks, sizes, rows that arrive; and hostile rows, which run nothing."""

import os
import re
import shutil

import pytest

import distillgen
from distillgen.viewer.server import served
from distillgen.viewer.viewed_run import ViewedRun
from tests.runs.test_report import HOSTILE, carry_out
from tests.viewer.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look with")


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Hostile questions with themselves as answers, and 60 plain rows; long ones are dropped."""
    rows = [{"question": text, text: text} for text in HOSTILE]
    rows += [{"question": f"number {i}" + " and more" * (i % 3 == 0)} for i in range(60)]
    root = tmp_path_factory.mktemp("hostile")
    return carry_out(root, rows, lambda request, sample: request.messages[-1]["content"])


@pytest.fixture
def address(hostile, browser):
    browser.requests.clear()
    browser.complaints.clear()
    browser.size(1440)
    with served([ViewedRun(distillgen.Run(hostile))]) as address:
        yield address


def test_keys_open_rows_and_nothing_hostile_runs(browser, address):
    browser.open(address)
    browser.until("document.querySelectorAll('.card').length == 50")
    for place in range(len(HOSTILE)):
        browser.press("j")
        browser.until(f"new URLSearchParams(location.search).get('place') == {str(place)!r}")
        browser.until("document.querySelector('article.row')")
    browser.press("m")
    browser.until("location.search.includes('plain=1')")
    browser.press("k", "k")
    browser.until("location.search.includes('place=7')")
    browser.press("Escape")
    browser.until("!document.querySelector('article.row')")
    browser.press("n")
    browser.until("document.querySelectorAll('.card').length == 20")
    browser.press("j", "k")
    browser.until("document.querySelector('.card[aria-current]')")
    browser.press("?")
    browser.until("document.querySelector('dialog').open")
    browser.press("?")
    browser.until("!document.querySelector('dialog').open")
    browser.run("history.back()")
    browser.until("location.search.includes('page=1')")
    assert browser.run("document.title").endswith("distillgen view")
    assert browser.complaints == []
    assert {url.split("?")[0] for url in browser.requests} <= {
        address + n for n in ("", "view.css", "view.js")
    }


def test_search_and_a_click_on_a_bar(browser, address):
    browser.open(address)
    browser.until("document.querySelector('figure svg a')")
    browser.press("/")
    browser.call("Input.insertText", text="NUMBER 5")
    browser.press("Enter")
    browser.until("document.querySelectorAll('.card').length == 11")
    browser.until("document.querySelector('.total').textContent == '11 rows'")
    assert browser.run("document.querySelector('.card mark').textContent") == "number 5"
    browser.run("document.querySelector('.chips a').click()")
    browser.until("document.querySelectorAll('.card').length == 50")
    dropped = browser.run("document.querySelector('.drop').textContent")
    browser.run("document.querySelector('.drop').click()")
    browser.until("location.search.includes('drop=check')")
    count = browser.run("document.querySelector('.total').textContent")
    assert dropped.split("−")[1] == count.split()[0]
    browser.run(
        "document.querySelectorAll('figure svg a')[1].dispatchEvent(new MouseEvent('click', "
        "{bubbles: true, cancelable: true}))"
    )
    browser.until("location.search.includes('score=words')")
    assert browser.complaints == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_all_without_sideways_scrolling(browser, address, dark):
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.call("Emulation.setEmulatedMedia", features=[scheme])
    browser.size(390, 844)
    browser.open(address)
    browser.until("document.querySelector('.card')")
    assert browser.run("document.documentElement.scrollWidth") == 390
    browser.press("j")
    browser.until("document.querySelector('article.row')")
    assert browser.run("document.documentElement.scrollWidth") == 390
    assert not browser.run("document.querySelector('.list').checkVisibility()")
    red = re.match(r"rgb\((\d+)", browser.run("getComputedStyle(document.body).backgroundColor"))[1]
    assert (int(red) < 60) is dark
    browser.run("document.querySelector('[data-key=x]').click()")
    browser.until("document.querySelector('.list').checkVisibility()")


def test_rows_that_arrive_are_shown(browser, hostile, tmp_path):
    directory = shutil.copytree(hostile, tmp_path / "growing")
    file = directory / "stages" / "04-format.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    partial = file.with_name(file.name + ".partial")
    file.unlink()
    partial.write_bytes(b"".join(lines[:20]))
    browser.size(1440)
    with served([ViewedRun(distillgen.Run(directory))]) as address:
        browser.open(address)
        browser.until("document.querySelectorAll('.card').length == 20")
        with partial.open("ab") as stream:
            stream.write(b"".join(lines[20:]))
        os.replace(partial, file)
        browser.until(f"document.querySelector('.total').textContent == '{len(lines)} rows'")
        browser.until("document.querySelectorAll('.card').length == 50")
        browser.until("!document.querySelector('[data-growing]')")
