"""The notebook of the tutorial runs in a kernel, and gives what the page shows."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs/tutorial/notebook.ipynb"


def shown(cells):
    """What the cells print and return; the progress of a run, which has times, as its first column."""
    texts = []
    for output in (output for cell in cells for output in cell.get("outputs", ())):
        text = output.get("text") or output["data"]["text/plain"]
        text = "".join(text)
        if output["output_type"] == "display_data":
            assert "<pre class='tex2jax_ignore" in "".join(output["data"]["text/html"])
            text = " ".join(line.partition(" ")[0] for line in text.splitlines())
        texts.append(text)
    return texts


@pytest.mark.filterwarnings("ignore")  # of the packages that run kernels
def test_the_notebook_gives_what_it_shows(tmp_path, project, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[2]))
    notebook = nbformat.read(NOTEBOOK, 4)
    expected = shown(json.loads(NOTEBOOK.read_text())["cells"])
    assert len(expected) == 7 and "stage source generate filter" in expected[0]
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3", resources=where).execute()
    assert shown(notebook.cells) == expected, (
        f"jupyter execute --inplace {NOTEBOOK.name}, in an empty folder, and bring it back"
    )
