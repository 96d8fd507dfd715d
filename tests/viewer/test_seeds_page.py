"""The runs of several seeds on a page: each with its figures, and a link that opens its rows."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

import distillgen
from distillgen.viewer.server import served
from tests.runs.test_seeds import MODELS, sums
from tests.viewer.test_pages import Viewer


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return distillgen.run(sums(), out=tmp_path_factory.mktemp("three") / "out", seeds=3, teachers=MODELS)


def test_the_figures_of_all_seeds_lead_to_their_rows(three):
    (good,) = (row for row in three.summary["figures"] if (row["model"], row["metric"]) == ("good", "exact"))
    with served([], seeds=three) as address:
        viewer = Viewer(address)
        page = viewer.page()
        assert "with 3 seeds" in page.text and "All seeds seed-0 seed-1 seed-2" in page.text
        figures = " ".join(f"{value:.1%}" for value in good["values"])
        assert re.search(rf"evaluation: exact good [\d.]+% ± [\d.]+% {figures} ", page.text), page.text
        assert "good against poor" in page.text
        links = re.findall(r'<th scope="row"><a class="link" href="\?([^"]+)"', viewer.get())
        assert len(links) == 3
        query = dict(part.split("=") for part in links[2].replace("&amp;", "&").split("&"))
        source = json.loads((three.place(2) / "stages" / "01-source.jsonl").read_text().splitlines()[0])
        end = time.monotonic() + 20
        while source["meta"]["id"] not in viewer.ids(**query):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert source["meta"]["id"] not in viewer.ids(view="rows")
        assert "Side by side" not in viewer.page(**query).text


def test_a_seed_that_begins_later_joins(three, tmp_path):
    directory = shutil.copytree(three.directory, tmp_path / "copy", symlinks=True)
    (directory / "seed-1").rename(directory / "later")
    with served([], seeds=distillgen.Seeds(directory)) as address:
        viewer = Viewer(address)
        assert "seed-1 not begun" in viewer.page().text
        (directory / "later").rename(directory / "seed-1")
        end = time.monotonic() + 20
        while "All seeds seed-0 seed-1 seed-2" not in viewer.page().text:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_directory_without_a_run_yet_has_its_page(tmp_path):
    figure = {"stage": "s", "share": False, "mean": 1.5, "standard_error": None, "values": [1.5, None]}
    figures = [{**figure, "metric": "a.b", "model": ""}, {**figure, "metric": "exact.f1", "model": "m"}]
    content = {"pipeline": "p", "seeds": 2, "finished": [], "figures": figures, "comparisons": []}
    (tmp_path / "seeds.json").write_text(json.dumps(content))
    with served([], seeds=distillgen.Seeds(tmp_path)) as address:
        text = Viewer(address).page(view="rows").text
        assert "seed-0 not begun" in text and "s: a.b 1.5 1.5 none" in text and "exact.f1" not in text, text


def test_the_command_takes_seeds_alone(three, project):
    command = [sys.executable, "-m", "distillgen", "view", str(three.directory)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": project.env()}
    with subprocess.Popen(command, **options) as process:
        address = re.search(r"open (http://127\.0\.0\.1:\d+/\S+/)\n", process.stdout.readline())[1]
        assert "with 3 seeds" in Viewer(address).page().text
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0 and process.stderr.read() == ""
    refused = project.cli("view", three.directory, three.place(0), check=2).stderr
    assert "holds the runs of 3 seeds: give one of them" in refused
