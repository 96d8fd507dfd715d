"""Losses and weights in a pipeline: what fits passes the check, and what does not is refused in it."""

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext
from distillgen.inference.logprobs import Signal
from distillgen.objectives.distil import Distil
from distillgen.project import Project
from distillgen.record import Record
from distillgen.training.rows import Unusable
from tests.objectives.test_distil import filled, kd, pipeline  # noqa: F401  a project with teachers
from tests.stages.test_train import installed  # noqa: F401  as if every package were there

SPLIT = {"format": {"fields": {"grade": "{{ id }}", "split": "validation"}}}
ALPHA = {"alpha": {"trilateral": {"teacher": "says"}}}
ROUTE = {"route": {"gate": {"over": 2}}}
TUTOR = {"tutor": {"peer": {"mlp": [8]}}}


@pytest.mark.parametrize(
    "options",
    [
        {"losses": [{"taid": {"teacher": "says"}}]},
        {"losses": [{"plackett_luce": {"teacher": "says", "temperature": 4}}], "label": "label"},
        {
            "losses": [{"subclasses": {"teacher": "says", "embedding": "sees", "head": "sub"}}],
            "student": {"mlp": [4], "heads": {"sub": {"groups": 4}}},
        },
        {"losses": [{"features": {"teacher": "sees", "kind": "cosine", "rate": 0.1}}]},
        {"losses": [{"features": {"teacher": "image"}}]},
        {"losses": [{"information": {"teacher": "sees", "alpha": 0}}]},
        {
            "losses": [{"attention_relations": {"teacher": "tutor"}}],
            "student": {"supernet": {"depth": [1, 2], "width": [4, 8]}},
            "teachers": {"tutor": {"peer": {"supernet": {"depth": 1, "width": 12}}}},
        },
        {"losses": [{"neighbours": {"teacher": "says"}}], "node": "id", "neighbours": "near"},
        {"losses": [kd(weight="alpha")], "label": "label", "weights": ALPHA},
        {"losses": [kd(["says", "votes"], weight="0.1 * route")], "weights": ROUTE},
        {"losses": [kd(weight="w")], "weights": {"w": {"field": {"name": "grade"}}}},
        {
            "losses": [kd("tutor", weight="ahead"), kd("student", of="tutor", kind="reverse")],
            "teachers": TUTOR,
            "weights": {"ahead": {"surer": {"teacher": "tutor"}}},
        },
        {"losses": [kd(), "contrast"], "draw": {"confident": {"teacher": "votes", "share": "1 - progress"}}},
        {
            "losses": [kd(["says", "votes"], weight="4 * trust"), {"prototypes": {"teacher": "image"}}],
            "weights": {"trust": {"sure": {"of": ["says", "votes"]}}},
            "label": "label",
            "blend": {"start": 0.3, "average": 0.9},
        },
        {"losses": [kd(weight="far")], "weights": {"far": {"disagreement": {"teacher": "says"}}}},
        {"losses": [{"adapt": {"teacher": "sees"}}], "label": "label", "group": "text"},
        {
            "losses": [{"adapt": {"teacher": "tutor", "leave_out": "id"}}],
            "teachers": TUTOR,
            "label": "label",
            "group": "text",
        },
    ],
)
def test_what_is_right_passes_the_check(filled, options):  # noqa: F811
    distillgen.load(pipeline(SPLIT, **{"label": "label", **options}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"losses": [{"taid": {"teacher": "says", "start": 0.9, "end": 0.5}}]}, "'end' is at least 'start'"),
        ({"losses": ["taid"]}, "'taid': it learns from a teacher: give teacher"),
        ({"losses": [{"plackett_luce": {"teacher": "sees"}}]}, "'sees' records no log-probabilities"),
        ({"losses": [{"subclasses": {"teacher": "says"}}]}, "embedding"),
        ({"losses": [{"subclasses": {"teacher": "says", "embedding": "says"}}]}, "'says' records no vectors"),
        (
            {"losses": [{"subclasses": {"teacher": "says", "embedding": "sees"}}]},
            "the head 'class' has no subclasses; give it some: heads: {class: {groups: 8}}",
        ),
        (
            {
                "losses": [{"subclasses": {"teacher": "says", "embedding": "sees", "head": "b"}}],
                "student": {"mlp": [4], "heads": {"a": {"groups": 2}, "b": {}}},
            },
            "the head 'b' has no subclasses",
        ),
        ({"losses": [{"features": {"teacher": "says"}}]}, "'says' records no vectors; name a stage embed"),
        ({"losses": [{"neighbours": {"teacher": "says"}}]}, "edges between rows needs the field 'node'"),
        ({"losses": [kd()], "weights": ALPHA}, "'alpha': it learns from labels: name their field"),
        ({"losses": [kd(weight="route")], "weights": ROUTE}, "'route' weighs 2 teachers, and the loss has 1"),
        (
            {"losses": [kd(["says", "votes", "image"], weight="1 - route")], "weights": ROUTE},
            "'route' weighs 2 teachers, and the loss has 3",
        ),
        ({"losses": [kd()], "weights": {"w": {"gate": {"over": 1}}}}, "over"),
        ({"losses": [kd()], "weights": {"w": {"field": {"name": "grad"}}}}, "needs the field 'grad'"),
        ({"losses": [kd()], "weights": {"w": {"field": {"name": "says"}}}}, "'says' is a teacher, too"),
        (
            {
                "losses": [kd()],
                "weights": {"w": {"field": {"name": "t"}}},
                "teachers": {"t": {"stage": "says"}},
            },
            "'t' is a teacher, too: copy the field to another name",
        ),
        ({"losses": [kd()], "weights": {"w": {"surer": {"teacher": "sees"}}}}, "'sees' records no log-prob"),
        (
            {"losses": [{"token_relations": {"teacher": "tutor"}}], "teachers": TUTOR},
            "body 'mlp' has none; take",
        ),
        ({"losses": [{"layers": {"teacher": "says"}}]}, "'says' was recorded, and layers are not; name an"),
        (
            {"losses": [{"layers": {"teacher": "tutor"}}], "teachers": TUTOR},
            "'layers': it compares layers of attention; it is for language models, without 'inputs'",
        ),
        (
            {"losses": [kd(), "contrast"], "draw": {"confident": {"teacher": "votes"}}, "group": "text"},
            "'draw' and 'group' both choose the rows of a batch",
        ),
        ({"losses": [{"information": {"teacher": "says"}}]}, "'says' records no vectors; name a stage embed"),
        ({"losses": [{"information": {"teacher": "sees", "alpha": 1.1}}]}, "less than or equal to 1"),
        (
            {"losses": [{"attention_relations": {"teacher": "tutor"}}], "teachers": TUTOR},
            "body 'mlp' has none; take {supernet: {depth: 2, width: 32}}",
        ),
        (
            {
                "losses": [{"attention_relations": {"teacher": "tutor", "heads": 3}}],
                "student": {"supernet": {"depth": 1, "width": [12, 8]}},
                "teachers": TUTOR,
            },
            "heads: 3 do not divide the width 8 of the student",
        ),
        (
            {"losses": [{"attention_relations": {"teacher": "sees"}}]},
            "'sees' was recorded, and queries, keys and values are not; name an earlier student or a peer",
        ),
        ({"losses": [kd()], "student": {"supernet": {"depth": 1, "width": 6}}}, "4 heads do not divide the"),
        (
            {
                "losses": [kd("tutor")],
                "teachers": {"tutor": {"peer": {"supernet": {"depth": [1, 2], "width": 8}}}},
            },
            "the peer 'tutor' has several sizes; give it one, or make it the student",
        ),
        ({"losses": [kd()], "student": {"supernet": {"width": 8}}}, "depth"),
        ({"losses": [kd()], "student": {"supernet": {"depth": [], "width": 8}}}, "at least 1"),
        ({"losses": [{"surer": {"teacher": "says"}}]}, "list it under 'weights'"),
        (
            {"losses": [{"adapt": {"teacher": "sees"}}], "label": "label"},
            "'adapt': it takes batches of one domain: name the field of the domain with group",
        ),
        ({"losses": [{"adapt": {"teacher": "sees"}}], "group": "text"}, "it learns from labels"),
        (
            {"losses": [{"adapt": {"teacher": "says"}}], "label": "label", "group": "text"},
            "records no vectors",
        ),
        (
            {"losses": [{"adapt": {"teacher": ["sees", "image"]}}], "label": "label", "group": "text"},
            "the student steps towards one teacher",
        ),
        (
            {
                "losses": [{"adapt": {"teacher": "sees", "of": "tutor"}}],
                "teachers": TUTOR,
                "label": "label",
                "group": "text",
            },
            "leave out 'of'",
        ),
        ({"losses": [kd()], "group": "txt"}, "'group' needs the field 'txt'"),
        ({"losses": [kd()], "weights": {"w": "taid"}}, "list it under 'losses'"),
        (
            {"losses": [{"prototypes": {"teacher": "sees"}}]},
            "'prototypes': it learns from labels: name their",
        ),
        ({"losses": [kd()], "weights": {"w": {"sure": {"of": ["says"]}}}}, "of"),
        (
            {"losses": [kd(weight="w")], "weights": {"w": {"sure": {"of": ["says", "votes"]}}}},
            "'w' weighs 2 teachers, and the loss has 1",
        ),
        ({"losses": [kd()], "blend": {"start": 1}}, "start"),
        (
            {"losses": [kd("last")], "teachers": {"last": {"model": "previous"}}},
            "teachers: 'previous' is the student of the round before: use it inside rounds that start with",
        ),
        ({"losses": [kd()], "draw": "taid"}, "'taid' is a loss: list it under 'losses'"),
        ({"losses": [{"confident": {"teacher": "says"}}]}, "'confident' is a chance: give it as 'draw'"),
        ({"losses": [kd()], "draw": "confident"}, "teacher"),
        (
            {"losses": [kd()], "draw": {"confident": {"teacher": "sees"}}},
            "'sees' records no log-probabilities",
        ),
        (
            {"losses": [kd()], "draw": {"confident": {"teacher": "says", "share": "alpha"}}},
            "'confident': share: 'alpha' is neither progress nor epoch",
        ),
        (
            {"losses": [kd()], "draw": {"confident": {"teacher": "says", "share": "f(1)"}}},
            "'confident': share: 'f(1)' is no arithmetic",
        ),
        (
            {"losses": ["contrast"], "inputs": ["text"], "student": {"bag": [4]}},
            "it changes the numbers of rows: student body 'bag' reads texts, and no numbers that mix; leave",
        ),
        (
            {"losses": ["contrast"], "student": {"graph": "gcn"}, "node": "id", "neighbours": "near"},
            "it changes the numbers of rows: student body 'graph' reads a graph, and no numbers that mix",
        ),
    ],
)
def test_what_is_wrong_is_refused(filled, options, message):  # noqa: F811
    with pytest.raises(ConfigError) as error:
        distillgen.load(pipeline(SPLIT, **options))
    assert message in str(error.value)


def test_a_weight_that_learns_from_validation_records_needs_some(filled):  # noqa: F811
    with pytest.raises(ConfigError, match="learns from validation records, and there are none"):
        distillgen.load(pipeline(losses=[kd(weight="alpha")], weights=ALPHA, label="label"))


def test_losses_of_one_class_a_row_are_not_for_language_models(filled):  # noqa: F811
    words = {"format": {"fields": {"prompt": "q", "completion": "{{ text }}"}}}
    for loss in ("plackett_luce", "features", "information", "token_relations", "attention_relations"):
        options = {"inputs": None, "student": "tiny", "losses": [{loss: {"teacher": "says"}}]}
        with pytest.raises(ConfigError, match="takes one class a row, and the student writes texts"):
            distillgen.load(pipeline(words, **options))


def learning(reads: list[str], **source) -> Distil:
    teachers = {"t": {**source, "reads": reads}}
    return Distil(inputs=["x"], losses=["cross_entropy"], label="y", teachers=teachers)


RECORD = Record.read({"x": 1, "y": "a", "votes": ["a"], "vector": [1, 2], "grade": 3}, "r:1")


@pytest.mark.parametrize(
    ("field", "reads", "columns"),
    [
        ("votes", ["classes"], {"names", "logprobs"}),
        ("vector", ["vector"], {"vector"}),
        ("grade", ["number"], {"vector"}),
        ("grade", ["classes"], {"names", "logprobs"}),
        ("votes", [], set()),
    ],
)
def test_a_row_has_the_columns_that_are_read(field, reads, columns):
    row = learning(reads, field=field).row(RECORD, {})
    assert {name.removeprefix("teacher.t.") for name in row if name.startswith("teacher.")} == columns


@pytest.mark.parametrize(
    ("field", "reads", "reason"),
    [
        ("votes", ["vector"], "'votes' gives no vector"),
        ("vector", ["classes"], "'vector' gives no classes"),
        ("vector", ["number"], "'vector' holds no number"),
        ("votes", ["number"], "'votes' holds no number"),
    ],
)
def test_a_row_whose_teacher_says_something_else_is_left_out(field, reads, reason):
    with pytest.raises(Unusable, match=reason):
        learning(reads, field=field).row(RECORD, {})


def test_a_stage_that_recorded_one_of_two_signals_leaves_the_row_out():
    with pytest.raises(Unusable, match="'s' gives no vector"):
        learning(["classes", "vector"], stage="s").row(RECORD, {"s": Signal("a", [["a", -0.1, []]])})


def test_a_teacher_gives_all_signals_that_parts_need(filled):  # noqa: F811
    losses = ["cross_entropy", kd("votes"), {"features": {"teacher": "votes"}}]
    learning = Distil(inputs=["x"], losses=losses, label="y")
    context = CheckContext(fields=frozenset({"votes"}), models={}, project=Project(filled.path))
    assert learning.bound(context, {}).teachers["votes"].reads == ["classes", "vector"]


HEADED = """
from distillgen.networks.body import Body


class Headed(Body):
    def heads(self):
        return ["a"]
"""


def test_a_body_with_heads_has_no_features(filled):  # noqa: F811
    filled.write("bodies/headed.py", HEADED)
    for options in (
        {"losses": [{"features": {"teacher": "sees"}}]},
        {"losses": [{"information": {"teacher": "sees"}}]},
        {"losses": [{"adapt": {"teacher": "sees"}}], "label": "label", "group": "text"},
        {"losses": [kd(["says", "votes"], weight="route")], "weights": ROUTE},
        {"losses": ["contrast"]},
        {"losses": [{"prototypes": {"teacher": "sees"}}], "label": "label"},
    ):
        with pytest.raises(ConfigError, match="it reads features, and student body 'headed' gives none"):
            distillgen.load(pipeline(SPLIT, student={"headed": None}, **options))
    peer = {"teachers": {"tutor": {"peer": {"headed": None}}}}
    of_peer = [{"features": {"teacher": "sees", "of": "tutor"}}]
    with pytest.raises(ConfigError, match="'features': it reads features"):
        distillgen.load(pipeline(SPLIT, losses=of_peer, **peer))


SEEING = """
from distillgen.networks.body import Body


class Seeing(Body):
    def tokens(self, project):
        return None
"""


def test_only_networks_with_tokens_give_tokens(filled):  # noqa: F811
    filled.write("bodies/seeing.py", SEEING)

    def loaded(teacher: str, **teachers):
        losses = [{"token_relations": {"teacher": teacher, "global": 0}}]
        options = {"losses": losses, "label": "label", "teachers": teachers}
        return distillgen.load(pipeline(student={"seeing": None}, **options))

    loaded("t", t={"peer": {"seeing": None}})
    for teacher, teachers in (("says", {}), ("votes", {}), ("t", {"t": {"field": "votes"}})):
        with pytest.raises(ConfigError, match=f"'{teacher}' was recorded, and tokens are not; name an earl"):
            loaded(teacher, **teachers)
