"""The stage capacity: what counts once, what is counted, and mistakes that are refused."""

import json
import math

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.inference.request import Completion
from distillgen.inference.weights import parameters_of

TRUTH = {"name": -math.log(3), "city": -0.5, "street": -0.25}
CAPACITY = {
    "person": "name",
    "parameters": 100,
    "names": {"name.logprob": ["name"]},
    "values": {"city.logprob": ["city"]},
}


def pipeline(*stages, capacity=None, draw=None):
    """Three people from lists; `name` and `city` are scored before the measure."""
    fields = {"name": ["Ann", "Bob", "Cyd", "Dov"], "city": ["Rome", "Oslo", "Bern", "Riga", "Kyiv"]}
    draw = draw or {"n": 3, "unique": ["name"], "fields": fields}
    return {
        "version": 1,
        "models": {"m": {"provider": "scripted", "model": "echo"}},
        "stages": [
            {"source": {"draw": draw}},
            *stages,
            {"score": {"name": "name", "model": "m", "context": "", "target": "{{ name }}"}},
            {"score": {"name": "city", "model": "m", "context": "{{ name }}", "target": "{{ city }}"}},
            {"capacity": CAPACITY | (capacity or {})},
        ],
    }


def scripted(request, sample):
    kind = "name" if request.prompt == "" else "city"
    return Completion(logprobs=[["x", TRUTH[kind] / 2, []]] * 2)


def measured(pipeline, teacher=scripted, out="run"):
    run = distillgen.run(pipeline, out=out, teachers={"m": teacher})
    stages = json.loads((run.directory / "usage.json").read_text())["stages"]
    return next(stage["measured"] for stage in stages if stage["name"] == "capacity")


def test_it_adds_names_and_values_and_divides_by_the_parameters(project):
    figures = measured(pipeline())
    names, values = 3 * math.log2(4 / 3), 3 * (math.log2(5) - 0.5 / math.log(2))
    assert figures["bits_per_parameter"] == pytest.approx((names + values) / 100)
    assert figures["most_bits_per_parameter"] == pytest.approx((names + 3 * math.log2(5)) / 100)
    assert figures["name_nats"] == pytest.approx(math.log(3)) and figures["value_nats"] == pytest.approx(0.5)
    assert (figures["people"], figures["facts"], figures["parameters"]) == (3, 3, 100)
    assert "string_nats" not in figures and "records_without_scores" not in figures


def test_several_texts_of_a_person_count_once_with_their_mean(project):
    """The control: as many records of different people are as many facts."""
    draws = {"format": {"draws": 4, "vary": {"way": [0, 1, 2, 3]}, "fields": {"text": "{{ way }}"}}}
    assert measured(pipeline(draws), out="a") == measured(pipeline(), out="b")
    twelve = {
        "n": 12,
        "unique": ["name"],
        "fields": {"name": [f"P{i}" for i in range(12)], "city": ["A", "B"]},
    }
    assert measured(pipeline(draw=twelve), out="c")["facts"] == 12


def test_an_attribute_of_each_record_makes_facts_of_the_same_person(project):
    cross = {"cross": {"rows": [{"attribute": name} for name in "xyz"]}}
    figures = measured(pipeline(cross, capacity={"attribute": "attribute"}))
    assert (figures["people"], figures["facts"]) == (3, 9)
    sets = {"city.logprob": {"strings": 5, "choices": [8, 8]}}
    figures = measured(pipeline(cross, capacity={"attribute": "attribute", "sets": sets}), out="b")
    bits = 3 * math.log2(4 / 3) + 9 * (math.log2(5) - 0.5 / math.log(2))
    bits += 3 * 5 * (math.log2(64 / 5) - 0.5 / math.log(2))
    assert figures["bits_per_parameter"] == pytest.approx(bits / 100) and figures["string_nats"] == 0.5


def test_several_values_of_a_record_multiply_their_choices(project):
    street = {"score": {"name": "street", "model": "m", "context": "{{ name }}", "target": "{{ city }}"}}
    capacity = {"values": {"city.logprob": ["city"], "street.logprob": [5, 7]}}
    figures = measured(pipeline(street, capacity=capacity))
    expected = 3 * math.log2(4 / 3) + 3 * math.log2(5 * 5 * 7)
    assert figures["most_bits_per_parameter"] == pytest.approx(expected / 100)
    assert figures["value_nats"] == pytest.approx(1.0) and figures["facts"] == 6


def test_a_record_that_no_model_scored_counts_for_nothing_and_is_counted(project):
    stages = pipeline()
    stages["stages"][2]["score"]["when"] = "{{ name != 'Bob' }}"
    stages["stages"][0]["source"]["draw"]["n"] = 4
    figures = measured(stages)
    assert figures["people"] == 3 and figures["records_without_scores"] == 1


def test_records_without_scores_alone_measure_nothing(project):
    stages = pipeline()
    stages["stages"][2]["score"]["when"] = "{{ false }}"
    assert measured(stages) == {"records_without_scores": 3}


def test_a_dropped_record_is_no_fact(project):
    def failing(request, sample):
        if request.target == "Bob":
            raise ValueError("no score")
        return scripted(request, sample)

    stages = pipeline()
    stages["stages"][0]["source"]["draw"]["n"] = 4
    figures = measured(stages, failing)
    assert figures["people"] == 3 and "records_without_scores" not in figures


TWICE = {"n": 2, "fields": {"name": ["Ann", "Bob"], "city": ["Rome", "Oslo", "Rome"]}}


@pytest.mark.parametrize(
    ("capacity", "draw", "message"),
    [
        ({"person": "nam"}, None, "'person' needs the field 'nam'.*'name'"),
        ({"attribute": "kind"}, None, "'attribute' needs the field 'kind'"),
        ({"names": {"nam.logprob": [4]}}, None, "'names' needs the score 'nam.logprob'.*'name.logprob'"),
        ({"values": {"cit.logprob": [4]}}, None, "'values' needs the score 'cit.logprob'"),
        (
            {"sets": {"cit.logprob": {"strings": 1, "choices": [4]}}},
            None,
            "'sets' needs the score 'cit.logprob'",
        ),
        ({"values": {"city": [4]}}, None, "'values' needs the score 'city'"),
        ({"values": {"city.logprob": ["town"]}}, None, "draws no field 'town'.*give the number"),
        ({}, TWICE, "a value of the field 'city' stands twice; remove"),
        ({"parameters": None}, None, "give either 'model'.*or their number"),
        ({"model": "m"}, None, "give either 'model'.*or their number"),
        ({"parameters": None, "model": "m"}, None, "'m' .scripted. cannot be counted; give their number"),
        ({"parameters": None, "model": "n"}, None, "there is no model 'n'"),
        ({"values": {}}, None, "values"),
        ({"names": {"name.logprob": [0]}}, None, "names"),
    ],
)
def test_mistakes_are_refused(project, capacity, draw, message):
    stages = pipeline(capacity={name: value for name, value in capacity.items()}, draw=draw)
    if capacity.get("parameters", 0) is None:
        del stages["stages"][-1]["capacity"]["parameters"]
    with pytest.raises(ConfigError, match=message):
        distillgen.load(stages)


def test_the_parameters_are_those_in_the_folder_of_the_model(project):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    project.write("folder/config.json", "{}")
    stages = pipeline(capacity={"model": "weights"})
    stages["models"]["weights"] = {"provider": "transformers", "model": "./folder"}
    del stages["stages"][-1]["capacity"]["parameters"]
    with pytest.raises(ConfigError, match="'weights' cannot be counted: './folder' is no folder with all"):
        measured(stages)
    safetensors(project.path / "folder/model.safetensors", {"a": [7, 9]})
    assert measured(stages)["parameters"] == 63


def safetensors(path, shapes):
    entries = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()
    }
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def test_parameters_are_counted_in_all_files_of_weights(tmp_path):
    safetensors(tmp_path / "model-1.safetensors", {"a": [3, 4], "scale": []})
    safetensors(tmp_path / "model-2.safetensors", {"b": [5]})
    assert parameters_of(tmp_path) == 12 + 1 + 5


def test_an_adapter_and_a_folder_without_weights_have_no_count(tmp_path):
    assert parameters_of(tmp_path) is None
    safetensors(tmp_path / "adapter_model.safetensors", {"a": [2, 2]})
    (tmp_path / "adapter_config.json").write_text("{}")
    assert parameters_of(tmp_path) is None
