"""Where a prompt shows pictures and sounds, and what the judging filters ask with them."""

import pytest

from distillgen.errors import ConfigError
from distillgen.pipeline.load import load
from distillgen.plugins import filter_factory
from distillgen.project import Project
from distillgen.prompting.media import Media
from distillgen.prompting.prompt import Prompt
from distillgen.record import Record, Unrenderable
from distillgen.rows.turns import turns_in
from tests.pictures import folder_of

PICTURE, CLIP = {"path": "a.png", "sha256": "a"}, {"path": "b.wav", "sha256": "b"}
FIELDS = {"picture": PICTURE, "clip": CLIP, "question": "q?", "said": "one", "other": "two"}


def test_they_stand_before_the_text_of_the_last_turn_of_the_user_pictures_first(tmp_path):
    media = Media(images=("picture",), audio=("clip",))
    text = "@system\ns\n@user\none\n@assistant\ntwo\n@user\n{{ question }}"
    prompt = Prompt.parse("", text, "template", Project(tmp_path), media=media)
    *before, last = prompt.render(FIELDS)
    assert [turn["content"] for turn in before] == ["s", "one", "two"]
    assert last["content"] == [
        {"type": "image", **PICTURE},
        {"type": "audio", **CLIP},
        {"type": "text", "text": "q?"},
    ]
    with pytest.raises(Unrenderable, match="'clip' holds no sound"):
        prompt.render({**FIELDS, "clip": None})
    with pytest.raises(
        Unrenderable, match="'picture' holds no picture; name it in `images` of the stage that reads it"
    ):
        prompt.render({**FIELDS, "picture": "a.png"})


def test_a_turn_has_a_text_or_parts():
    parts = [{"role": "user", "content": [{"type": "image", **PICTURE}]}]
    assert turns_in({"talk": parts}, "talk") == parts
    for content in ([], ["text"], None):
        with pytest.raises(Unrenderable, match="has no text"):
            turns_in({"talk": [{"role": "user", "content": content}]}, "talk")


ANSWERS = {"field": "said", "over": "other"}


@pytest.mark.parametrize(
    "name, options",
    [
        ("judge", {"model": "m", "fields": ["said"]}),
        ("panel", {"models": ["m", "n"], "fields": ["said"]}),
        ("preferred", {"model": "m", **ANSWERS}),
        ("graded_pair", {"model": "m", **ANSWERS}),
    ],
)
def test_a_judging_filter_shows_the_picture_in_each_request(name, options, tmp_path):
    project = Project(tmp_path)
    make = filter_factory(name, project)
    seeing = make(**options, rubric="r", images=["picture"], audio=["clip"], project=project)
    blind = make(**options, rubric="r", project=project)
    record = Record.read(FIELDS, "here")
    for request in seeing.asks(record):
        assert [part["sha256"] for part in request.parts] == ["a", "b"]
    assert not any(request.parts for request in blind.asks(record))
    assert seeing.media.capabilities == ["images", "audio"] and not blind.media.capabilities
    assert seeing.depends_on != blind.depends_on  # what was measured without the picture is measured anew


def test_evaluate_asks_only_models_that_see(project):
    folder_of(project.path / "data/pictures", [(1, 2, 3)])
    project.write(
        "pipelines/see.yaml",
        """version: 1
models:
  m: {provider: openai, model: m, base_url: "http://127.0.0.1:1/v1", api_key: k}
stages:
  - source: {path: data/pictures}
  - evaluate: {models: [m], template: "Which?", images: [image], gold: file, metrics: [exact]}
""",
    )
    load("pipelines/see.yaml")
    with pytest.raises(ConfigError, match="cannot do images"):
        load("pipelines/see.yaml", sets=["m.lacks=[images]"])
