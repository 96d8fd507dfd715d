"""The objective distil: what is wrong is told before anything is paid for; rows of all kinds of teachers."""

import math

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.inference.logprobs import Signal
from distillgen.objectives.distil import Distil
from distillgen.record import Record
from distillgen.training.rows import Unusable
from distillgen.training.sources import of_field, of_signal
from tests.stages.test_train import installed  # noqa: F401  as if every package were there

ROWS = [
    {
        "image": [i, 1.0],
        "label": "a" if i % 2 else None,
        "votes": ["a", "b"],
        "text": "x",
        "id": i,
        "near": [0],
    }
    for i in range(20)
]
SCRIPT = '''
"""A teacher of classes and vectors."""
from distillgen.inference.request import Completion
def classes(request, sample):
    return Completion("a", logprobs=[["a", -0.1, [["a", -0.1], ["b", -3.0]]]])
def vectors(request, sample):
    return Completion("", embedding=[1.0, 2.0])
'''
NETWORK = {"objective": "distil", "student": {"mlp": [4]}, "inputs": ["image"]}


def kd(teacher="says", **options) -> dict:
    return {"divergence": {"teacher": teacher, **options}}


def pipeline(*stages: dict, **options) -> dict:
    learning = {**NETWORK, "losses": [kd()], **options}
    return {
        "version": 1,
        "models": {
            "teacher": {"provider": "scripted", "model": "teachers.py:classes"},
            "eye": {"provider": "scripted", "model": "teachers.py:vectors"},
        },
        "stages": [
            {"source": {"path": "data/rows.jsonl"}},
            {
                "generate": {
                    "name": "says",
                    "model": "teacher",
                    "template": "{{ image | json }}",
                    "output": "guess",
                    "logprobs": 5,
                }
            },
            {"generate": {"name": "words", "model": "teacher", "template": "{{ text }}", "output": "word"}},
            {"embed": {"name": "sees", "model": "eye", "template": "{{ image | json }}"}},
            *stages,
            {"train": learning},
        ],
    }


@pytest.fixture
def filled(project, monkeypatch, installed):  # noqa: F811
    project.rows("data/rows.jsonl", ROWS)
    project.write("teachers.py", SCRIPT)
    project.write("pipelines/.keep", "")
    monkeypatch.chdir(project.path)
    return project


GCN = {"graph": "gcn"}
EDGES = {"node": "id", "neighbours": "near"}
LABELS = {"losses": ["cross_entropy"], "label": "label"}
TUTOR = {"tutor": {"peer": {"mlp": [8]}}}
BIG = {"train": {**NETWORK, "name": "big", "losses": [kd()]}}
HELD = {"format": {"fields": {"split": "validation"}}}
TINY = {"format": {"fields": {"prompt": "q", "completion": "{{ text }}"}}}


@pytest.mark.parametrize(
    ("stages", "options"),
    [
        ((), {}),
        ((HELD,), {"student": {"mlp": [4], "heads": ["x", "y"], "read": {"x": 1, "y": [0, 0.5]}}}),
        ((), {"losses": ["cross_entropy"], "label": "label"}),
        ((), {"losses": [kd("votes")]}),
        ((), {"losses": [kd(["says", "votes"])]}),
        ((BIG,), {"losses": [kd("student-big")]}),
        ((BIG,), {"student": "student-big"}),
        ((), {"teachers": {"tutor": {"peer": {"mlp": [8]}}}, "losses": [kd("tutor"), kd(of="tutor")]}),
        ((), {"losses": [kd(weight="1 - progress")]}),
        ((), {"batch_size": "all", "on": "shuffled"}),
        ((), {"on": "shuffled", "shuffle": ["says"]}),
        ((BIG,), {"on": "shuffled", "losses": [kd("student-big")], "shuffle": ["student-big"]}),
        ((BIG,), {"losses": [kd("student-big"), "cross_entropy"], "label": "label", "mixup": {"share": 0.1}}),
        ((), {"teachers": TUTOR, "losses": [kd("tutor"), kd("student", of="tutor")], "mixup": {}}),
    ],
)
def test_what_is_right_passes_the_check(filled, stages, options):
    distillgen.load(pipeline(*stages, **{"label": "label", **options}))


@pytest.mark.parametrize(
    ("stages", "options", "message"),
    [
        ((), {"losses": []}, "losses"),
        ((), {"losses": ["cross_entrpy"]}, "there is no loss 'cross_entrpy'; did you mean 'cross_entropy'?"),
        ((), {"losses": [{"divergence": {"temperatur": 2}}]}, "loss 'divergence' has no option 'temperatur'"),
        ((), {"losses": ["divergence"]}, "'divergence': it learns from a teacher: give teacher"),
        ((), {"losses": ["cross_entropy"]}, "'cross_entropy': it learns from labels: name their"),
        ((), {"losses": [kd("sayz")]}, "'sayz' is no stage, no field and no"),
        ((), {"losses": [kd("words")]}, "'words' records no log-probabilities"),
        ((), {"losses": [kd("sees")]}, "'sees' records no log-probabilities"),
        ((), {"losses": [kd("student-big")]}, "'student-big' is no stage"),
        ((), {"losses": [kd(of="peer")]}, "no network 'peer' learns here"),
        ((), {"losses": [kd(head="soft")]}, "'student' has no head 'soft'"),
        ((), {"losses": [kd(weight="alpha")]}, "names 'alpha', which is no weight"),
        ((), {"losses": [kd(weight="f(1)")]}, "'f(1)' is no arithmetic"),
        ((), {"teachers": {"t": {"stage": "says", "field": "votes"}}}, "a teacher is one of"),
        ((), {"teachers": {"t": {"model": "student-x"}}}, "no earlier stage trains 'student-x'"),
        (
            (),
            {"teachers": {"t": {"peer": {"mpl": [4]}}}},
            "there is no student body 'mpl'; did you mean 'mlp'?",
        ),
        ((), {"shuffle": ["sees"]}, "shuffle: 'sees' is no teacher here, or is trained along"),
        ((), {"inputs": ["imag"]}, "'inputs' needs the field 'imag'"),
        ((), {"label": "labl"}, "'label' needs the field 'labl'"),
        ((), {"student": {"mlp": []}}, "student body 'mlp'"),
        ((), {"student": {"mlp": [4], "dropot": 0.1}}, "student body 'mlp' has no option 'dropot'"),
        ((), {"student": {"mlp": [4], "read": {"soft": 1}}}, "read: the student has no head 'soft'"),
        ((), {"student": {"mlp": [4], "read": {"class": [0, 0]}}}, "read: the shares of all heads are 0"),
        (
            (),
            {"student": {"mlp": [4], "read": {"class": {"temperature": [1, 2]}}}},
            "read: values are chosen on validation records, and there are none; give the source validation",
        ),
        (
            (),
            {"losses": [kd("tutor")], "teachers": TUTOR},
            "there is no class to learn; name the field of the",
        ),
        (
            (),
            {"student": {"supernet": {"depth": 1, "width": 8}, "shape": [8, 7]}},
            "student body 'supernet': patches of 2 do not fill a picture of [8, 7]",
        ),
        ((), {"student": {"heads": ["a"]}}, "names no body"),
        ((), {"student": {"mlp": [4]}, "lora": {"r": 4}}, "'lora'"),
        ((), {"student": "tiny"}, "fields as inputs are read by a network"),
        ((), {"student": "owner/name"}, "or {pretrained: owner/name} for pictures or sounds"),
        ((), {"objective": "sft", "inputs": None, "losses": None}, "objective 'sft' has no option"),
        ((TINY,), {"inputs": None}, "a network reads fields of numbers or texts: name them with inputs"),
        (
            (TINY,),
            {"inputs": None, "student": "tiny", "batch_size": "all"},
            "batch_size: all is for networks",
        ),
        (
            (BIG, TINY),
            {"inputs": None, "student": "tiny", "losses": [kd("student-big")]},
            "is a network, and the student is a language model",
        ),
        ((), {"losses": [kd("tutor")], "teachers": TUTOR, "shuffle": ["tutor"]}, "or is trained along"),
        ((), {"losses": [kd("votes")], "shuffle": ["vote"]}, "or is trained along; did you mean 'votes'?"),
        ((), {"mixup": {}}, "what 'says' said was recorded, and of no mixture; name an earlier student"),
        ((), {"losses": [kd("votes")], "mixup": {}}, "what 'votes' said was recorded"),
        (
            (),
            {"losses": [{"plackett_luce": {"teacher": "tutor"}}], "teachers": TUTOR, "mixup": {}},
            "'plackett_luce': it takes no mixtures of two rows; leave out 'mixup'",
        ),
        ((), {"mixup": {"share": 0}}, "share"),
        ((), {"mixup": {"share": 1.1}}, "share"),
        ((), {"mixup": {"beta": 0}}, "beta"),
        ((), {"mixup": {"shares": 1}}, "did you mean 'share'?"),
        (
            (),
            {"student": {"bag": [4]}, "inputs": ["text"], **LABELS, "mixup": {}},
            "mixup: student body 'bag' reads texts, and no numbers that mix; leave it out",
        ),
        (
            (),
            {"student": GCN, **EDGES, **LABELS, "mixup": {}},
            "mixup: student body 'graph' reads a graph, and no numbers that mix; leave it out",
        ),
        ((TINY,), {"inputs": None, "student": "tiny", "mixup": {}}, "'mixup' is for networks"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_asked(filled, stages, options, message):
    with pytest.raises(ConfigError) as error:
        distillgen.load(pipeline(*stages, **options))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("value", "shares"),
    [
        ({"a": 0.7, "b": 0.2}, {"a": 0.7, "b": 0.2}),
        ("a", {"a": 1.0}),
        (True, {"true": 1.0}),
        (["a", "b", "a", " b "], {"a": 0.5, "b": 0.5}),
    ],
)
def test_a_field_gives_a_distribution(value, shares):
    row = of_field(value, "f")
    told = dict(zip(row["names"], map(math.exp, row["logprobs"]), strict=True))
    assert told == pytest.approx(shares)


def test_a_field_of_numbers_is_a_vector():
    assert of_field([1, 2.5], "f") == {"vector": [1.0, 2.5]}


@pytest.mark.parametrize(
    "value", [None, [], {}, {"a": -0.1}, {"a": 0.9, "b": 0.9}, [1, "a", None], {"a": "b"}]
)
def test_a_field_that_says_nothing_is_left_out(value):
    with pytest.raises(Unusable, match="'f'"):
        of_field(value, "f")


def test_alternatives_are_matched_without_white_space_and_summed():
    signal = Signal(
        "a", [[" a", math.log(0.5), [[" a", math.log(0.5)], ["a", math.log(0.25)], ["b", math.log(0.1)]]]]
    )
    row = of_signal(signal, "s")
    assert dict(zip(row["names"], map(math.exp, row["logprobs"]), strict=True)) == pytest.approx(
        {"a": 0.75, "b": 0.1}
    )


def test_an_answer_of_several_tokens_is_one_outcome():
    tokens = [
        ["very", math.log(0.5), [["very", math.log(0.5)], ["not", math.log(0.5)]]],
        [" good", math.log(0.8), []],
    ]
    row = of_signal(Signal("very good", tokens), "s")
    assert row["names"] == ["very good"] and math.exp(row["logprobs"][0]) == pytest.approx(0.4)


def test_a_record_without_what_its_teacher_said_is_left_out(filled):
    with pytest.raises(Unusable, match="recorded no log-probabilities and no embedding"):
        of_signal(Signal("a"), "says")


@pytest.mark.parametrize("value", [None, "", [], [1, "a"], [[1, 2], [3]], {"a": 1}, [float("nan")]])
def test_an_input_that_is_neither_numbers_nor_text_is_left_out(value):
    learning = Distil(inputs=["x"], losses=["cross_entropy"], label="y")
    with pytest.raises(Unusable, match="'x' holds neither numbers nor a text"):
        learning.row(Record.read({"x": value, "y": "a"}, "r:1"), {})


def test_a_row_holds_inputs_and_a_label_or_none():
    learning = Distil(inputs=["x"], losses=["cross_entropy"], label="y")
    rows = [learning.row(Record.read({"x": 3, "y": y}, "r:1"), {}) for y in (1, None)]
    assert [row["label"] for row in rows] == [["1"], []] and rows[0]["input.x"] == [3]


def test_shuffled_gives_the_words_of_the_teachers_that_it_names_to_other_rows():
    sources = {"a": {"field": "a"}, "b": {"field": "b"}}
    learning = Distil(inputs=["x"], losses=["cross_entropy"], label="y", teachers=sources)
    assert {"teacher.a.names", "teacher.b.vector", "neighbours"} <= set(learning.answers())
    assert "label" not in learning.answers()
    one = learning.model_copy(update={"shuffle": ["b"]})
    assert set(one.answers()) == {"teacher.b.names", "teacher.b.logprobs", "teacher.b.vector"}
    live = {**sources, "c": {"model": "student-big"}}
    assert not Distil(inputs=["x"], losses=[kd("c"), kd("a")], teachers=live, shuffle=["c"]).answers()
    assert "label" in Distil(inputs=["x"], losses=["cross_entropy"], label="y").answers()


MADE = {"train": {**NETWORK, "name": "big", "student": {"mlp": [4, 4]}, "losses": [kd()]}}
PEERS = {
    "train": {
        **NETWORK,
        "name": "big",
        "teachers": {"tutor": {"peer": {"bag": [4, 4], "inputs": ["text"]}}},
        "losses": [kd(), kd(of="tutor")],
    }
}
SUPER = {
    "train": {
        **NETWORK,
        "name": "big",
        "student": {"supernet": {"depth": [1, 2], "width": [4, 8]}, "attention_heads": 2},
        "losses": [kd()],
    }
}
OVER = {"train": {**NETWORK, "name": "big", "student": GCN, **EDGES, "losses": [kd()]}}
MASK = {"train": {**NETWORK, "name": "mask", "student": {"masked": "student-big"}, "losses": [kd()]}}


@pytest.mark.parametrize(
    ("stages", "options"),
    [
        ((MADE,), {"student": {"masked": "student-big", "layers": [0, 1]}}),
        ((PEERS,), {"student": {"masked": "student-big-tutor"}, "inputs": ["text"]}),
        ((PEERS,), {"student": "student-big-tutor", "inputs": ["text", "image"]}),
        ((SUPER,), {"student": {"subnet": "student-big"}}),
        ((SUPER,), {"student": {"subnet": "student-big", "width": 4, "within": 128}}),
        ((), {"student": GCN, **EDGES}),
        ((OVER,), {"student": "student-big", **EDGES}),
        ((MADE,), {"teachers": {"t": {"peer": {"masked": "student-big"}}}, "losses": [kd("t")]}),
        ((MADE,), {"student": {"aggregate": ["student-big", "student-big"]}}),
    ],
)
def test_bodies_that_fit_pass_the_check(filled, stages, options):
    distillgen.load(pipeline(*stages, **{"label": "label", **options}))


@pytest.mark.parametrize(
    ("stages", "options", "message"),
    [
        ((MADE,), {"student": {"masked": "student-big", "layers": [2]}}, "no layer 2: its layers are 0 to 1"),
        ((MADE,), {"student": {"masked": "student-bog"}}, "'student-bog'; did you mean 'student-big'?"),
        ((MADE,), {"student": {"masked": "student-big", "heads": ["a"]}}, "has heads itself"),
        ((OVER,), {"student": {"masked": "student-big"}}, "has no layers to mask"),
        ((MADE,), {"student": {"subnet": "student-big"}}, "'student-big' is no supernet; train one with"),
        (
            (SUPER,),
            {"student": {"subnet": "student-big", "width": 6}},
            "'student-big' has no subnet of width 6; choose among 4, 8",
        ),
        (
            (SUPER,),
            {"student": {"subnet": "student-big", "depth": 2, "within": 255}},
            "within: the smallest such subnet of 'student-big' needs 256 multiplications",
        ),
        (
            (PEERS,),
            {"student": {"masked": "student-big-tutor"}},
            "reads the field 'text': name it under inputs",
        ),
        ((PEERS,), {"student": "student-big-tutor"}, "it reads 'text', which is not among 'inputs'"),
        (
            (MADE,),
            {"teachers": {"t": {"peer": {"masked": "student-bog"}}}, "losses": [kd("t")]},
            "no earlier stage trains 'student-bog'; did you mean 'student-big'?",
        ),
        (
            (PEERS,),
            {"teachers": {"t": {"peer": {"masked": "student-big-tutor"}}}, "losses": [kd("t")]},
            "reads the field 'text': name it under inputs",
        ),
        (
            (MADE, MASK),
            {"student": {"aggregate": ["student-big", "student-mask"]}},
            "'student-mask' gives no features of a row alone",
        ),
        ((OVER,), {"student": {"aggregate": ["student-big"] * 2}}, "gives no features of a row alone"),
        ((MADE,), {"student": {"aggregate": ["student-big"]}}, "at least 2 items"),
        ((), {"student": GCN}, "'graph' needs the field 'node'"),
        ((), {"student": GCN, "node": "id"}, "'graph' needs the field 'neighbours'"),
        ((), {"student": {"mlp": [4], "inputs": ["text"]}}, "it reads 'text', which is not among 'inputs'"),
        ((OVER,), {"losses": [kd("student-big")]}, "knows nodes by their ids; ask it in a stage"),
    ],
)
def test_bodies_that_do_not_fit_are_refused(filled, stages, options, message):
    with pytest.raises(ConfigError) as error:
        distillgen.load(pipeline(*stages, **options))
    assert message in str(error.value)
