"""The built wheel, in an empty environment outside the checkout, works as the checkout does."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import distillgen
from distillgen.project import home

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "-q", "--outdir", folder, ROOT], check=True)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    assert distillgen.__version__ in sdist.name and distillgen.__version__ in wheel.name
    return sdist, wheel


def run(*command, **options):
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True, **options).stdout


@pytest.mark.slow
def test_the_wheel_holds_our_package_alone_and_the_sdist_what_builds_and_tests_it(archives):
    sdist, wheel = archives
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in files} == {"distillgen"}, (
        "a stranger's folder in site-packages"
    )
    assert {"distillgen/py.typed", "distillgen/terms.yaml", "distillgen/runs/report.html.jinja"} <= files
    with tarfile.open(sdist) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    tracked = set(run("git", "ls-files", cwd=ROOT).splitlines())
    assert source - {"PKG-INFO"} == tracked


@pytest.mark.slow
def test_a_type_checker_sees_the_types_of_an_installed_distillgen(archives, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    run(python, "-m", "pip", "install", "-q", archives[1])
    client = tmp_path / "client.py"
    client.write_text("import distillgen\nreveal_type(distillgen.run('hello'))\ndistillgen.run(3)\n")
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, client],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=elsewhere,
    ).stdout
    assert 'Revealed type is "distillgen.runs.directory.Run"' in checked, checked
    assert 'matches argument type "int"' in checked and "Found 1 error" in checked, checked


def container_lines(keyword):
    """The arguments of the Containerfile's lines that begin with a keyword."""
    text = (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.partition(" ")[2] for line in text.splitlines() if line.startswith(f"{keyword} ")]


def test_the_container_gets_what_the_wheel_is_built_from_and_runs_without_rights():
    copied = {word for line in container_lines("COPY") for word in line.split()[:-1]}
    included = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    shipped = {*included["targets"]["wheel"]["packages"], *included["targets"]["wheel"]["force-include"]}
    assert shipped | {"pyproject.toml", "README.md", "LICENSE"} <= copied
    assert container_lines("USER") == ["1000"] and container_lines("ENTRYPOINT") == ['["distillgen"]']


@pytest.mark.slow
def test_the_lines_of_the_container_that_install_work_in_an_empty_environment(project, tmp_path):
    """No container engine is needed: pip's lines run in a virtual environment, /wheels and /src elsewhere."""
    venv.create(tmp_path / "venv", with_pip=True)
    elsewhere = {
        **project.env(),
        "PATH": f"{tmp_path / 'venv/bin'}:{os.environ['PATH']}",
        "EXTRAS": "embedded",
    }
    elsewhere.pop("PYTHONPATH", None)
    source = tmp_path / "src"
    for line in container_lines("COPY"):
        *files, target = line.split()
        if not line.startswith("--"):
            source.mkdir(exist_ok=True)
            for name in files:
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, source / name if target == "./" else source / target)
    for line in container_lines("RUN"):
        if line.startswith("pip "):
            run("sh", "-c", line.replace("/wheels", str(tmp_path / "wheels")), cwd=source, env=elsewhere)
    (entry,), (arguments,) = map(container_lines, ("ENTRYPOINT", "CMD"))
    command = [*json.loads(entry), *json.loads(arguments)]
    assert "Usage: distillgen" in run(*command, cwd=project.path, env=elsewhere)
    run("distillgen", "check", "hello", cwd=project.path, env=elsewhere)


@pytest.mark.slow
def test_the_wheel_runs_every_shipped_pipeline_as_the_checkout_does(archives, project, tmp_path):
    wheel = archives[1]
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
