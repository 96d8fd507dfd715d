"""Rows with pictures: what is wrong is told in the check or leaves with its reason, and a student sees."""

import contextlib
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.objectives.sft import Sft
from distillgen.pipeline.load import load
from distillgen.record import Record
from distillgen.training.options import Tiny
from distillgen.training.pictures import fitting, open_pictures, pixel_rows, with_pictures
from distillgen.training.rows import RowSelection, Unusable
from tests.squares import squares
from tests.stages.test_train import installed, trains  # noqa: F401  as if every package were there
from tests.tiny_gguf import make_gguf, make_mmproj

VISION = {"tiny": {"kind": "vision", "layers": 1, "width": 16, "heads": 2, "tokens": "words"}}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


def reference(root: Path, name: str, data: bytes = PNG) -> dict:
    (root / name).write_bytes(data)
    return {"path": name, "sha256": hashlib.sha256(data).hexdigest()}


def pipeline(*, ask: dict | None = None, **options) -> dict:
    options = {"student": VISION, "images": ["picture"], "prompt": "question", **options}
    stages = [{"source": {"path": "rows.jsonl"}}, {"train": {"completion": "answer", **options}}]
    if ask:
        stages.append(
            {"generate": {"images": ["picture"], "template": "{{ question }}", "output": "said", **ask}}
        )
    return {"version": 1, "stages": stages}


@pytest.fixture
def filled(project, installed):  # noqa: F811
    picture = reference(project.path, "a.png")
    rows = [{"picture": picture, "question": f"{i}?", "answer": str(i), "tool": []} for i in range(20)]
    project.rows("rows.jsonl", rows)
    project.write("pipelines/.keep", "")
    project.write("blind.jinja", "{% for m in messages %}{{ m.content[-1].text }}{% endfor %}")
    project.write("texts.jinja", "{% for m in messages %}{{ m.role + m.content }}{% endfor %}")


@pytest.mark.parametrize(
    "options", [{}, {"lora": {"r": 2}}, {"lora": {"r": 2, "target": ["fc1", "linear_1"]}}]
)
def test_what_is_right_passes_the_check(filled, options):
    distillgen.load(pipeline(**options, ask={"model": "student"}))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"images": ["pictur"]}, "did you mean 'picture'?"),
        ({"student": "tiny"}, "it sees no pictures; give one that does: {tiny: {kind: vision}}"),
        ({"loss": "all"}, "leave out 'loss: all' or 'images'"),
        ({"packing": True}, "leave out 'packing' or 'images'"),
        ({"text": "answer"}, "leave out 'text' or 'images'"),
        ({"tools": "tool"}, "a dialogue with 'tool' has no pictures"),
        ({"chat_template": "blind.jinja"}, "its chat template has no place for pictures"),
        ({"chat_template": "texts.jinja"}, "its chat template does not take the turns"),
        ({"lora": {"r": 2, "target": ["wi"]}}, "it has down_proj, fc1, fc2, gate_proj"),
        ({"student": {"tiny": {"pixels": 32}}}, "a decoder sees no pictures: leave out 'pixels'"),
        ({"student": {"tiny": {"kind": "vision", "pixels": 20}}}, "pixels: 20 is no multiple of 8"),
        ({"objective": "kto", "images": None, "label": "tool"}, "and this is one that sees pictures"),
    ],
)
def test_what_is_wrong_is_refused(filled, options, says):
    options = {"student": VISION, "images": ["picture"], "prompt": "question", **options}
    options = {name: value for name, value in options.items() if value is not None}
    stages = [{"source": {"path": "rows.jsonl"}}, {"train": {"completion": "answer", **options}}]
    with pytest.raises(ConfigError) as error:
        distillgen.load({"version": 1, "stages": stages})
    assert says in str(error.value)


@pytest.mark.parametrize(("student", "sees"), [(VISION, True), ("tiny", False)])
def test_a_stage_may_show_pictures_to_a_student_that_sees(filled, student, sees):
    given = pipeline(student=student, ask={"model": "student"})
    if sees:
        distillgen.load(given)
        return
    del given["stages"][1]["train"]["images"]
    with pytest.raises(ConfigError, match="cannot do images"):
        distillgen.load(given)


def test_a_students_student_sees_as_the_first_does(filled):
    given = pipeline()
    given["stages"].append(
        {"train": {"name": "on", "student": "student", "prompt": "question", "completion": "answer"}}
    )
    assert load(given).made_models()["student-on"].images is True


CHANGES = {
    "missing": (lambda file: file.unlink(), "a picture cannot be read: No such file"),
    "changed": (lambda file: file.write_bytes(PNG + b"more"), "a picture has changed"),
    "no picture": (lambda file: None, "a file is no picture of a kind"),
    "outside": (lambda file: file.rename(file.parent.parent / "a.png"), "a picture lies outside the project"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_whose_picture_is_gone_or_changed_leaves_with_a_reason_that_names_no_file(tmp_path, change):
    project = tmp_path / "project"
    project.mkdir()
    value = reference(project, "a.png", b"no picture" if change == "no picture" else PNG)
    make, reason = CHANGES[change]
    make(project / "a.png")
    value |= {"path": "../a.png"} if change == "outside" else {}
    with pytest.raises(Unusable) as error:
        open_pictures([value], project)
    assert reason in str(error.value) and "a.png" not in str(error.value)


class Rows(list):
    """Rows of a data set, for which that package is not needed."""

    def select(self, places):
        return Rows(self[i] for i in places)


def test_a_picture_is_read_once_before_the_first_batch(tmp_path, monkeypatch):
    picture = reference(tmp_path, "a.png")
    (tmp_path / "a.png").unlink()  # the row is made without it
    record = Record("1", {"prompt": "What?", "completion": "It.", "picture": picture})
    row = Sft(images=["picture"]).row(record, {})
    assert row["images"] == [picture]
    reads = []

    def read(part, root):
        reads.append(part["path"])
        raise SyntaxError

    monkeypatch.setattr("distillgen.training.pictures.picture", read)
    selected = RowSelection({"train": Rows([row])})
    with pytest.raises(ConfigError, match="no row is left to train on: 1 left out: a picture cannot be read"):
        fitting(selected, SimpleNamespace(tokenizer=None), tmp_path, 100)
    assert reads == ["a.png"]


@pytest.mark.parametrize("value", [None, [], "a.png", [None]])
def test_a_row_without_a_picture_leaves(tmp_path, value):
    with pytest.raises(Unusable):
        Sft(images=["picture"]).row(
            Record("1", {"prompt": "What?", "completion": "It.", "picture": value}), {}
        )


def test_a_text_is_a_turn_and_a_dialogue_stays_one(tmp_path):
    picture = reference(tmp_path, "a.png")
    row = Sft(images=["picture"]).row(
        Record("1", {"prompt": "What?", "completion": "It.", "picture": [picture] * 2}), {}
    )
    assert row["prompt"] == [{"role": "user", "content": "What?"}]
    assert row["completion"] == [{"role": "assistant", "content": "It."}] and row["images"] == [picture] * 2
    assert Sft(images=["picture"]).api(row) == "chat"


def test_pictures_stand_before_the_text_of_the_users_last_turn():
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user", "assistant")]
    placed = with_pictures(turns, 2)
    texts = [[{"type": "text", "text": turn["content"]}] for turn in turns]
    assert [turn["content"] for turn in placed[:3]] == texts[:3]
    assert placed[3]["content"] == [{"type": "image"}] * 2 + [{"type": "text", "text": "user"}]
    assert placed[4] == {"role": "assistant", "content": texts[4]}


def test_rows_are_measured_with_the_tokens_of_their_pictures_and_torn_pictures_leave(tmp_path):
    for package in ("torch", "transformers", "datasets", "PIL"):
        pytest.importorskip(package)
    from datasets import Dataset
    from transformers import AutoProcessor

    from distillgen.training.tiny import write_tiny

    student = write_tiny(tmp_path / "base", Tiny(**VISION["tiny"]), None, ["What? It."], 300)
    processor = AutoProcessor.from_pretrained(student)
    picture = squares(tmp_path, 1)[0]["picture"]
    torn = reference(tmp_path, "torn.png")

    def row(images, text="What?"):
        turns = {
            "prompt": [{"role": "user", "content": text}],
            "completion": [{"role": "assistant", "content": "It."}],
        }
        return {**turns, "images": images}

    rows = [row([picture]), row([picture] * 2), row([torn]), row([picture], "<image>")]
    selected = RowSelection({"train": Dataset.from_list(rows)})
    kept = fitting(selected, processor, tmp_path, 1024)
    assert len(kept.parts["train"]) == 2
    assert {*kept.counts} == {
        "left out: a picture cannot be read: UnidentifiedImageError",
        "left out: a text has '<image>', the student's token of a picture",
    }
    words = len(
        processor.tokenizer("<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    )
    longest = words + 16  # the tokens of a picture of 32 pixels, in patches of 8
    assert (
        len(fitting(selected, processor, tmp_path, longest + 1).parts["train"]) == 1
    )  # two pictures do not fit
    with pytest.raises(ConfigError, match="no row is left"):
        fitting(selected, processor, tmp_path, longest)
    batch = pixel_rows(kept, tmp_path)["train"][0:2]
    assert [len(pictures) for pictures in batch["images"]] == [1, 2]
    assert batch["prompt"][1][0]["content"][1] == {"type": "image"}
    assert open_pictures([picture], tmp_path)[0].size == (32, 32)


ASK = {"template": "{{ question }}", "temperature": 0, "max_tokens": 8}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A project with squares, one of which has changed, and a run in which a student learnt them."""
    pytest.importorskip("PIL")
    root = tmp_path_factory.mktemp("squares")
    rows = squares(root, 560, held_out=120)
    rows[0]["picture"]["sha256"] = "0" * 64
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "pipelines").mkdir()
    asks = [
        {"generate": {"name": name, "model": "student", "images": [field], "output": name, **ASK}}
        for name, field in (("said", "picture"), ("control", "other"))
    ]
    student = {"tiny": {"kind": "vision", "width": 64}}
    given = pipeline(student=student, epochs=24, batch_size=32, learning_rate=0.001)
    with contextlib.chdir(root):
        distillgen.run({**given, "stages": given["stages"] + asks}, out="runs/a")
        yield root


def right(rows: list[dict], name: str) -> float:
    return sum(row[name].strip() == row["answer"] for row in rows) / len(rows)


def held_out(file: Path) -> list[dict]:
    return [row for row in map(json.loads, file.read_text().splitlines()) if row["split"] == "test"]


class TestLearning:
    pytestmark = trains

    def test_a_student_sees_the_colour_and_the_place_of_a_square(self, learnt):
        rows = held_out(learnt / "runs/a/corpus.jsonl")
        assert len(rows) == 120 and right(rows, "said") >= 0.95
        assert right(rows, "control") <= 0.3  # with another row's picture
        manifest = json.loads((learnt / "runs/a/student/manifest.json").read_bytes())
        counts = manifest["data"]["rows"]
        (reason,) = (name for name in counts if "has changed since the row was made" in name)
        assert counts["train"] == 440 and counts[reason] == 1  # seen as its tokens are counted
        tokens = json.loads((learnt / "runs/a/student/tokenizer.json").read_bytes())["model"]["vocab"]
        assert not {"picture", "pictures"} & {*tokens}  # the paths of pictures are no texts

    def test_llama_cpp_sees_what_it_saw(self, learnt):
        for package in ("xllamacpp", "gguf"):
            pytest.importorskip(package)
        student = learnt / "runs/a/student"
        make_gguf(student, learnt / "small.gguf")
        make_mmproj(student, learnt / "mmproj.gguf")
        small = {"provider": "embedded", "model": "small.gguf", "mmproj": "mmproj.gguf", "context": 256}
        stages = [{"source": {"path": "rows.jsonl"}}]
        for name, field in (("said", "picture"), ("control", "other")):
            ask = {"name": name, "model": "small", "images": [field], "output": name, **ASK}
            stages.append({"generate": {**ask, "when": "{{ split == 'test' }}"}})
        with contextlib.chdir(learnt):
            distillgen.run({"version": 1, "models": {"small": small}, "stages": stages}, out="runs/b")
        rows = held_out(learnt / "runs/b/corpus.jsonl")
        assert len(rows) == 120 and right(rows, "said") == 1.0
        assert right(rows, "control") <= 0.3

    @pytest.mark.parametrize("loss", ["completion", "assistant"])
    def test_an_adapter_learns_and_goes_on_as_a_whole_model(self, project, loss):
        pytest.importorskip("PIL")
        rows = squares(project.path, 40)
        for row in rows:
            texts = [("user", "Look."), ("assistant", "Yes."), ("user", row["question"])]
            texts.append(("assistant", row["answer"]))
            row["messages"] = [{"role": role, "content": text} for role, text in texts]
        project.rows("rows.jsonl", rows)
        given = pipeline(lora={"r": 4}, epochs=1, loss=loss)
        again = {"name": "on", "student": "student", "images": ["picture"], "epochs": 1, "loss": loss}
        ask = {"model": ["student", "student-on"], "images": ["picture"], "output": "said", **ASK}
        given["stages"] += [{"train": again}, {"generate": ask}]
        distillgen.run(given, out="runs/a")
        assert (Path("runs/a/student-on") / "processor_config.json").is_file()
        lines = [
            line
            for name in ("corpus", "dropped")
            for line in Path(f"runs/a/{name}.jsonl").read_text().splitlines()
        ]
        assert len(lines) == 80 and not any("failed" in line for line in lines)
