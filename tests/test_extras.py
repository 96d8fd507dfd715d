"""Each extra installs the packages that the code expects of it, and messages name the smallest sufficient
extra.
"""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from distillgen.errors import ConfigError
from distillgen.extras import EXTRAS, need

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {
    "PIL": "pillow",
    "mlflow": "mlflow-skinny",
    "sklearn": "scikit-learn",
    "phonenumbers": "phonenumberslite",
    "stdnum": "python-stdnum",
}


def brought(extra: str) -> set[str]:
    """The distributions that an extra names, those of the extras that it names included."""
    names = set()
    for requirement in PROJECT["optional-dependencies"][extra]:
        if inner := re.fullmatch(r"distillgen\[(.*)\]", requirement):
            names |= set().union(*map(brought, inner[1].split(",")))
        else:
            names.add(re.match(r"[\w.-]+", requirement)[0])
    return names


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_its_modules(extra):
    wanted = {DISTRIBUTIONS.get(module, module.replace("_", "-")) for module in EXTRAS[extra].modules}
    assert wanted <= {name.replace("_", "-") for name in brought(extra)}


@pytest.mark.parametrize(
    "extra",
    ["lexical", "duplicates", "search", "math", "graph", "pictures", "embedded", "critics", "datasets"],
)
def test_what_needs_no_torch_brings_none(extra):
    assert not brought(extra) & {"torch", "transformers", "sentence-transformers", "trl"}


@pytest.mark.parametrize(
    "modules, extra, size",
    [
        (["rensa"], "duplicates", "80 MB"),
        (["numpy"], "duplicates", "80 MB"),
        (["bm25s", "numpy"], "search", "75 MB"),
        (["PIL"], "pictures", "95 MB"),
        (["sklearn"], "critics", "275 MB"),
        (["torch", "transformers"], "transformers", "6 GB"),
        (["sentence_transformers", "sklearn"], "embeddings", "6 GB"),
        (["torch", "trl"], "train", "6 GB"),
    ],
)
def test_the_message_names_the_smallest_extra_and_its_size(monkeypatch, modules, extra, size):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ConfigError, match=rf"^it needs the extra '{extra}' .*pip install 'distillgen\[{extra}\]' .*{size}"
    ):
        need("it", *modules)
