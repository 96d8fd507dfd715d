"""Students of the Hub, and what losses ask of networks: what cannot run is refused by the check."""

import json

import pytest

import distillgen
from distillgen.bodies import _families
from distillgen.errors import ConfigError
from tests.objectives.test_distil import LABELS, TUTOR, filled, kd, pipeline  # noqa: F401  a project with teachers
from tests.stages.test_train import installed  # noqa: F401  as if every package were there

SIZE = {"height": 32, "width": 32}
FOLDERS = {  # the configuration, and that of the processor
    "vit": ({"model_type": "vit", "patch_size": 8, "hidden_size": 16}, {"size": SIZE}),
    "half": (
        {"model_type": "vit", "patch_size": [4, 4], "hidden_size": 8},
        {"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": {"height": 16, "width": 16}},
    ),
    "fine": ({"model_type": "vit", "patch_size": 4, "hidden_size": 18}, {"size": 32}),
    "resnet": ({"model_type": "resnet"}, {"size": {"shortest_edge": 32}}),
    "timm": ({"pretrained_cfg": {}}, {}),
    "hears": ({"model_type": "wav2vec2"}, {}),
    "bert": ({"model_type": "bert"}, {}),
}
TOKENS = {"token_relations": {"teacher": "student-big"}}
ATTENTION = {"attention_relations": {"teacher": "student-big"}}


@pytest.fixture
def folders(filled, monkeypatch):  # noqa: F811
    """Folders of the Hub that hold configurations alone, and families as transformers declares them."""
    vit = dict.fromkeys(("patch_size", "num_attention_heads", "num_hidden_layers"), frozenset({"int"}))
    staged = {**vit, "depths": frozenset({"list"})}
    monkeypatch.setattr(_families, "families", lambda: {"vit": vit, "swin": staged, "resnet": {}})
    attending = _families.attending.__wrapped__()
    kinds = {"seeing": {"vit", "swin", "resnet"}, "hearing": {"wav2vec2"}, "attending": attending}
    for name, names in kinds.items():
        monkeypatch.setattr(f"distillgen.bodies.pretrained.{name}", lambda names=names: names)
    for name, (config, processor) in FOLDERS.items():
        filled.write(f"{name}/config.json", json.dumps(config))
        filled.write(f"{name}/preprocessor_config.json", json.dumps(processor))
    monkeypatch.setattr("distillgen.bodies.pretrained.need", lambda *_: None)
    return filled


def big(student, **options) -> dict:
    """The training of a teacher before the student's."""
    learning = {"objective": "distil", "inputs": ["image"], **LABELS, **options}
    return {"train": {"name": "big", "student": student, **learning}}


def hub(model: str, *losses, teacher: str = "vit", **options) -> dict:
    """A student of the Hub that learns by losses from another."""
    listed = {"losses": ["cross_entropy", *losses], "label": "label", "student": {"pretrained": model}}
    return pipeline(big({"pretrained": teacher}), **{**listed, **options})


@pytest.mark.parametrize(
    "written",
    [
        hub("vit", kd("student-big"), mixup={"share": 0.1}),
        hub("resnet", kd("student-big"), teacher="resnet", mixup={}),
        hub("timm", kd("student-big"), "contrast", teacher="resnet"),
        hub("hears", kd("student-big"), teacher="hears"),
        hub("half", TOKENS, ATTENTION),
        hub("half", TOKENS, ATTENTION, mixup={}),
        hub("owner/name", TOKENS, ATTENTION, "contrast", teacher="owner/other"),
        hub("vit", TOKENS, student={"pretrained": "vit", "inputs": ["image"]}, inputs=["image", "text"]),
        hub("vit", TOKENS, student="student-big", inputs=["image", "text"]),
    ],
)
def test_what_can_run_passes_the_check(folders, written):
    distillgen.load(written)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            hub("hears", teacher="hears", mixup={}),
            "mixup: student body 'pretrained' reads sounds, and no num",
        ),
        (
            hub("hears", "contrast"),
            "'contrast': it changes the numbers of rows: student body 'pretrained' reads",
        ),
        (
            hub("vit", kd("student-big"), teacher="hears", mixup={}),
            "mixup: student body 'pretrained' reads sou",
        ),
        (hub("resnet", TOKENS), "it compares tokens, and student body 'pretrained' has none; take a picture"),
        (hub("timm", TOKENS), "student body 'pretrained' has none; take a picture model"),
        (hub("hears", TOKENS), "student body 'pretrained' has none; take a picture model"),
        (
            hub("vit", TOKENS, teacher="resnet"),
            "'student-big' gives no tokens: student body 'pretrained' has none",
        ),
        (hub("resnet", ATTENTION), "student body 'pretrained' has none; take {supernet"),
        (
            hub("vit", ATTENTION, teacher="timm"),
            "'student-big' gives no queries, keys and values: student body",
        ),
        (hub("fine", TOKENS, teacher="half"), "the student has 64 tokens a row, and 'student-big' 16; give"),
        (hub("fine", TOKENS), "the student has 64 tokens a row, and 'student-big' 16; give both as many"),
        (
            hub("vit", ATTENTION, teacher="fine"),
            "the student has 16 tokens a row, and 'student-big' 64; give",
        ),
        (
            hub("vit", {"attention_relations": {"teacher": "student-big", "heads": 16}}, teacher="half"),
            "heads: 16 do not divide the width 8 of 'student-big'",
        ),
        (
            hub("vit", inputs=["image", "text"]),
            "student body 'pretrained' reads one input, and not image, text: name one with",
        ),
        (
            hub("vit", inputs=["image", "text"], student={"supernet": {"depth": 1, "width": 8}}),
            "student body 'supernet' reads one input, and not image, text",
        ),
        (
            hub("vit", kd("student-big"), student={"mlp": [4]}),
            "'image' is a file for one network, and numbers for another, 'student-big'; give all",
        ),
        (
            hub("vit", student={"aggregate": ["student-big", "student-big"]}),
            "student body 'aggregate': 'student-big' reads files; take students that read numbers or texts",
        ),
        (
            pipeline(
                big({"mlp": [4]}),
                student={"pretrained": "vit"},
                label="label",
                losses=[kd("t")],
                teachers={"t": {"peer": {"masked": "student-big"}}},
            ),
            "'image' is a file for one network, and numbers for another, 't'; give all a body",
        ),
        (
            hub("vit", kd("tutor"), teachers=TUTOR),
            "'image' is a file for one network, and numbers for another, 'tutor'; give all a body",
        ),
    ],
)
def test_what_cannot_run_is_refused(folders, written, message):
    with pytest.raises(ConfigError) as error:
        distillgen.load(written)
    assert message in str(error.value)


def test_the_files_of_a_model_on_the_hub_are_asked_where_they_are_there(folders, monkeypatch):
    """Unknown, a ResNet of the Hub passes; once its configuration is there, it is refused."""
    import huggingface_hub

    written = hub("owner/resnet", TOKENS, teacher="owner/vit")
    distillgen.load(written)
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda model, name, **_: str(place(folders, model, name))
    )
    with pytest.raises(ConfigError, match="it compares tokens, and student body 'pretrained' has none"):
        distillgen.load(written)
    nothing = object()  # the Hub's client says so that a model is known to have no such file
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: nothing)
    distillgen.load(written)


def place(folders, model: str, name: str):
    return folders.path / model.partition("/")[2] / name


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ("owner/resnet", "it compares tokens, and student body 'pretrained' has none"),
        ("owner/bert", "'owner/bert' is a bert, and classifies no pictures or sounds; texts are read by"),
    ],
)
def test_a_run_fetches_the_configurations_before_anything_is_asked(folders, monkeypatch, student, message):
    import huggingface_hub

    fetched = []

    def fetch(model, name, **_):
        fetched.append(name)
        return place(folders, model, name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda model, name, **_: str(place(folders, model, name)) if fetched else None,
    )
    written = hub(student, TOKENS, teacher="owner/vit")
    distillgen.load(written)
    assert not fetched, "a check reads nothing remote"
    with pytest.raises(ConfigError) as error:
        distillgen.run(written, out="out", teachers={"teacher": pytest.fail, "eye": pytest.fail})
    assert message in str(error.value)
    assert {"config.json", "preprocessor_config.json"} <= {*fetched}


MAPPED = {"features": {"teacher": "student-big", "mapping": "skip"}}
OVER_TEXT = big({"bag": [4, 4]}, inputs=["text"])
MASK = {"train": {**big({"masked": "student-big"}, inputs=["text"])["train"], "name": "mask"}}


@pytest.mark.parametrize(
    ("stages", "options", "message"),
    [
        (
            (big({"supernet": {"depth": 1, "width": 8}}),),
            {"losses": [MAPPED]},
            "'student-big' gives no layers: student",
        ),
        (
            (big({"mlp": [8]}),),
            {"losses": [MAPPED], "student": {"mlp": [4, 4]}},
            "the student has 2 layers, and 'stude",
        ),
        ((big({"mlp": [8]}),), {"losses": [kd("student-big.soft")]}, "'student-big' has no head 'soft'"),
        (
            (big({"mlp": [8], "heads": ["hard", "soft"]}),),
            {"losses": [kd("t")], "teachers": {"t": {"model": "student-big", "head": "sof"}}},
            "'student-big' has no head 'sof'; did you mean 'soft'?",
        ),
        (
            (),
            {"losses": [kd("tutor")], "teachers": {"tutor": {"peer": {"mlp": [8]}, "head": "soft"}}},
            "teachers: 'tutor' has no head 'soft'",
        ),
        (
            (OVER_TEXT,),
            {"losses": [kd("student-big")], "mixup": {}, "inputs": ["image"]},
            "mixup: student body 'bag' reads texts",
        ),
        (
            (OVER_TEXT, MASK),
            {"losses": [kd("student-mask")], "mixup": {}},
            "mixup: student body 'bag' reads texts",
        ),
        (
            (big({"mlp": [8]}), {"train": {**MASK["train"], "inputs": ["image"]}}),
            {"losses": [{"features": {"teacher": "student-mask"}}]},
            "'student-mask' gives no features: student body 'masked' has none; name a",
        ),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(filled, stages, options, message):  # noqa: F811
    with pytest.raises(ConfigError) as error:
        distillgen.load(pipeline(*stages, **options))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("stages", "options"),
    [
        ((big({"mlp": [8, 8]}),), {"losses": [MAPPED], "student": {"mlp": [4, 4]}}),
        (
            (big({"mlp": [8]}),),
            {
                "losses": [{"features": {"teacher": "student-big", "mapping": "emd"}}],
                "student": {"mlp": [4, 4]},
            },
        ),
        ((big({"mlp": [8], "heads": ["hard", "soft"]}),), {"losses": [kd("student-big.soft")]}),
        ((OVER_TEXT,), {"losses": [kd("student-big"), "contrast"]}),
    ],
)
def test_a_teacher_that_can_teach_passes(filled, stages, options):  # noqa: F811
    distillgen.load(pipeline(*stages, **options))


def over(*students, by, teacher="vit") -> dict:
    """A search over the first student of a training, behind a training of a teacher."""
    learning = {"name": "t", "student": {"mlp": [4]}, "objective": "distil", "inputs": ["image"], **LABELS}
    kind = {"pretrained": teacher} if isinstance(teacher, str) else teacher
    search = {"stages": [{"train": learning}], "space": {"t.student": [*students]}, "by": by}
    return {**pipeline(big(kind)), "stages": [*pipeline(big(kind))["stages"][:-1], {"search": search}]}


@pytest.mark.parametrize(
    ("students", "options", "message"),
    [
        (
            ({"mlp": [4]}, {"pretrained": "vit"}),
            {"by": "parameters"},
            "score 'parameters' is of networks with",
        ),
        (
            ({"mlp": [4]}, {"mlp": [8]}),
            {"by": {"diswot": {"teacher": "student-big"}}},
            "'diswot' is of networks with",
        ),
        (({"mlp": [4]}, {"mlp": [8]}), {"by": "parameters"}, ""),
        (
            ({"mlp": [4]}, {"mlp": [8]}),
            {"by": {"diswot": {"teacher": "student-big"}}, "teacher": {"mlp": [16]}},
            "",
        ),
    ],
)
def test_a_score_is_of_students_that_begin_with_random_weights(folders, students, options, message):
    if not message:
        distillgen.load(over(*students, **options))
        return
    with pytest.raises(ConfigError) as error:
        distillgen.load(over(*students, **options))
    assert message in str(error.value)
