"""The built wheel, in an empty environment outside the checkout, works as the checkout does."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from distillgen.project import home

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_runs_every_shipped_pipeline_as_the_checkout_does(project, tmp_path):
    built = tmp_path / "dist"
    subprocess.run([sys.executable, "-m", "build", "-q", "--wheel", "--outdir", built, ROOT], check=True)
    wheel = next(built.glob("*.whl"))
    names = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", wheel], capture_output=True, text=True, check=True
    ).stdout
    top = {line.split("/")[0] for line in names.splitlines()[1:]}
    assert {name.split("-")[0] for name in top} == {"distillgen"}, (
        "something but our package lands in site-packages"
    )
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", f"{wheel}[embedded]"], check=True)
    code = """
import json, sys, distillgen
from pathlib import Path
assert Path(distillgen.__file__).is_relative_to(sys.prefix), distillgen.__file__
from distillgen.teachers.scripted import instance
for name in sys.argv[1:]:
    try:
        models = distillgen.load(name, need_env=False).models
    except distillgen.ConfigError as error:
        assert "pip install" in str(error), error
        continue
    distillgen.run(name, out=f"wheel/{name}", teachers=dict.fromkeys(models, instance))
"""
    recipes = sorted(
        path.stem for path in home("pipelines").glob("*.yaml") if "- train:" not in path.read_text()
    )  # torch is no part of it
    assert "quickstart" in recipes
    elsewhere = {
        name: value for name, value in project.env().items() if name != "PYTHONPATH"
    }  # or it finds the checkout
    subprocess.run(
        [python, "-W", "error::RuntimeWarning", "-c", code, *recipes],
        check=True,
        cwd=project.path,
        env=elsewhere,
    )
    checkout = code.replace("wheel/", "checkout/").replace("assert Path", "# assert Path")
    subprocess.run(
        [sys.executable, "-c", checkout, *recipes], check=True, cwd=project.path, env=project.env()
    )
    ran = [path.name for path in (project.path / "wheel").iterdir()]
    assert "quickstart" in ran
    for name in ran:
        for file in ("corpus.jsonl", "dropped.jsonl"):
            mine, theirs = (project.path / folder / name / file for folder in ("wheel", "checkout"))
            assert (
                mine.read_bytes() == theirs.read_bytes()
                and (project.path / "wheel" / name / "report.html").exists()
            )
    script = tmp_path / "venv/bin/distillgen"
    listed = subprocess.run(
        [script, "list"], capture_output=True, text=True, check=True, cwd=project.path
    ).stdout
    assert "quickstart" in listed
