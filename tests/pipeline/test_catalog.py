"""Every option of everything that ships has a description, and `distillgen help` prints it."""

import json
from pathlib import Path

import pytest

from distillgen.pipeline import catalog
from distillgen.project import Project
from tests.test_contributing import code


def undescribed(options):
    """Return the options, and keys of mappings, without a type or description."""
    return [name for name, option in options.items() if not option["description"] or not option["type"]] + [
        f"{name}.{key}" for name, option in options.items() for key in undescribed(option.get("options", {}))
    ]


def test_every_option_is_described():
    shipped = [entry for entry in catalog.manual(Project(Path("/nowhere"))) if "options" in entry]
    assert len(shipped) > 100
    for entry in shipped:
        name = f"{entry['kind']} {entry['name']}"
        assert not undescribed(entry["options"]), name
        assert entry["about"].endswith((".", ":")) and "cannot be read" not in entry["about"], name


@pytest.mark.parametrize(
    "topic, lines",
    [
        (
            "generate",
            [
                "stage generate",
                "n: whole number, at least 1; default: 1",
                "model: text or list of texts; required",
            ],
        ),
        ("openai", ["provider openai", "base_url: text; default", "up to and without /chat/completions"]),
        (
            "filter",
            ["filters: list of filters, entries: at least 1; required filters in order, each by its name"],
        ),
        (
            "train",
            [
                "lora: mapping train an adapter",
                "dropout: number, at least 0, less than 1; default: 0.0 share",
            ],
        ),
        ("cluster", ["reads: the text in `field`", "writes: the score `<name>.size`"]),
        ("sft", ["objective sft", "loss: "]),
        (
            "grounded",
            ["filter grounded", "sources: list of field names; required", "min_share: number; default: 0.8"],
        ),
        ("judge/rubric", ["prompt judge/rubric", "reads: fields, rubric"]),
        ("run", ["Usage: ", "--max-cost-usd"]),
        ("filter", ["stage filter", "Filter DATA"]),
        ("", ["distillgen run quickstart"]),
    ],
)
def test_help(project, topic, lines):
    shown = " ".join(project.cli("help", *filter(None, [topic])).stdout.split())
    assert all(line in shown for line in lines), shown


def test_a_stage_says_what_it_reads_and_writes():
    stages = catalog.stages(Project(Path("/nowhere")))
    assert len(stages) > 20 and not [s["name"] for s in stages if not s["reads"] or not s["writes"]]


def test_help_of_what_is_not_there_names_the_nearest(project):
    assert "did you mean 'generate'" in project.cli("help", "generat", check=2).stderr
    assert "distillgen list" in project.cli("help", "zzz", check=2).stderr


def test_a_filter_of_ones_own_has_its_manual(project):
    file = project.write("filters/shouting.py", code("A filter"))
    assert "largest share of capitals in a kept text" in project.cli("help", "shouting").stdout
    (entry,) = json.loads(project.cli("help", "shouting", "--json").stdout)
    assert entry["options"]["max_share"] == {
        "type": "number",
        "default": 0.5,
        "required": False,
        "description": "largest share of capitals in a kept text",
    }
    assert entry["about"] == "Drop texts with too large a share of capital letters."
    file.write_text(file.read_text().replace("max_share: largest", "max_shar: largest"))
    shown = " ".join(project.cli("help", "shouting").stdout.split())
    assert "docstring describes 'max_shar', which is no option; did you mean 'max_share'?" in shown


def test_what_a_stage_alone_takes_comes_before_what_others_take_too(project):
    (entry,) = json.loads(project.cli("help", "generate", "--json").stdout)
    names = list(entry["options"])
    assert names[0] == "model" and names.index("max_items") < names.index("temperature") < names.index("name")


@pytest.mark.parametrize(
    "kind, some",
    [("stages", "generate"), ("providers", "vllm"), ("objectives", "dpo"), ("filters", "unique")],
)
def test_list(project, kind, some):
    assert some in [entry["name"] for entry in json.loads(project.cli("list", kind, "--json").stdout)]
    assert f"\n{some} " in "\n" + project.cli("list", kind).stdout
