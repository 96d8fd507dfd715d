"""Language models on the loop: checkpoints, adapters, teachers of both kinds, control arms, accumulation."""

import json
import math
import random

import pytest

from distillgen.errors import ConfigError
from distillgen.project import Project
from distillgen.training import students
from distillgen.training.inputs import TrainingInputs
from distillgen.training.options import Lora, Tiny
from distillgen.training.part import PartEntry, losses_of, weights_of
from distillgen.training.rows import RowSelection
from distillgen.training.sources import Source

torch = pytest.importorskip("torch")
datasets = pytest.importorskip("datasets")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

COLOURS = ("red", "green", "blue")
SMALL = Tiny(layers=1, width=16, heads=2)
WORDS = [f"{i} {colour}" for i in range(10) for colour in COLOURS] * 3


def row(i: int) -> dict:
    return {"id": str(i), "prompt": f"{i % 10} {COLOURS[i % 3]}", "completion": f" {COLOURS[i % 3]}"}


def says(i: int, *, sure: float = 0.8) -> dict:
    """The row with what a teacher that is right recorded of its one token."""
    other = COLOURS[(i + 1) % 3]
    logprobs = [math.log(sure), math.log(0.9 - sure)]
    columns = {"tokens": [row(i)["completion"]], "logprobs": logprobs[:1]}
    tops = {"top_tokens": [[row(i)["completion"], f" {other}"]], "top_logprobs": [logprobs]}
    return {"id": str(i), "prompt": row(i)["prompt"], **columns, **tops}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("student")
    return students.ready("tiny", folder, folder / "tiny", WORDS, vocabulary=400, tiny=SMALL)


def loop(rows, losses, start, tmp_path, **options):
    """The loop of a language model over rows."""
    from distillgen.training.assembly import Lesson
    from distillgen.training.language_loop import language_loop

    project = Project(tmp_path)
    weights = {
        name: PartEntry(part=part, options=o) for name, (part, o) in options.pop("weights", {}).items()
    }
    lesson = Lesson(
        losses_of([PartEntry(part=name, options=o) for name, o in losses], project),
        weights_of(weights, project),
        {name: Source(**source) for name, source in options.pop("teachers", {}).items()},
        None,
        False,
        False,
    )
    asked = {name: options.pop(name) for name in ("models", "lora", "shuffled") if name in options}
    arguments = {
        "output_dir": str(tmp_path / "out"),
        "seed": 0,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.01,
        "max_steps": 30,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        **options,
    }
    parts = rows if isinstance(rows, dict) else {"train": rows}
    selection = RowSelection({name: datasets.Dataset.from_list(part) for name, part in parts.items()})
    torch.manual_seed(0)
    inputs = TrainingInputs(start, selection, arguments, 64, project=project, api="completions", **asked)
    return language_loop(lesson, inputs).trainer


def bits(trainer) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in trainer.model.state_dict().items()}


def right(trainer) -> float:
    """The share of rows whose colour is the likeliest first token."""
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(30)])
    with torch.no_grad():
        out = trainer.model.networks["student"].eval()(batch)
    first = [int((out.place == i).nonzero()[0]) for i in range(30)]
    ids = out.classes["class"].argmax(-1)[first].tolist()
    tokens = [trainer.model.networks["student"].tokenizer.decode([token]) for token in ids]
    return sum(token.strip() == COLOURS[i % 3] for i, token in enumerate(tokens)) / 30


def test_held_out_rows_are_evaluated_and_not_learnt(start, tmp_path):
    learnt = [row(i) for i in range(40)]
    other = [answer | {"completion": f" {COLOURS[(i + 1) % 3]}"} for i, answer in enumerate(learnt)]
    rows = {"train": learnt, "held_out": other}
    trainer = loop(rows, [("cross_entropy", {})], start, tmp_path, max_steps=120)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 1.0, "its answers are those of other rows"
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] < 0.5


RECORDED = {"t": {"stage": "ask"}}


@pytest.mark.parametrize("lora", [None, Lora(r=4, dropout=0.3)])
def test_a_training_goes_on_to_the_bit_and_its_checkpoint_holds_what_is_trained(start, tmp_path, lora):
    from safetensors.torch import load_file

    def prepared(folder: str, **options):
        rows = [says(i) for i in range(40)]
        return loop(
            rows,
            [("taid", {"teacher": "t"})],
            start,
            tmp_path / folder,
            teachers=RECORDED,
            lora=lora,
            **options,
        )

    whole = prepared("a")
    whole.train()
    prepared("b", save_strategy="steps", save_steps=13).train()
    checkpoint = tmp_path / "b" / "out" / "checkpoint-13"
    again = prepared("b")
    again.train(resume_from_checkpoint=str(checkpoint))
    assert bits(whole) == bits(again) != bits(prepared("c"))
    names = load_file(checkpoint / "model.safetensors").keys()
    assert "parts.loss 0.share" in names
    assert any("lora" in name for name in names) == bool(lora)
    assert any("embed_tokens" in name for name in names) != bool(lora)


def test_recorded_tokens_teach_and_those_of_other_rows_do_not(start, tmp_path):
    rows = [says(i) for i in range(60)]
    others = random.Random(1).sample(rows, len(rows))
    answers = ("tokens", "logprobs", "top_tokens", "top_logprobs")
    mixed = [
        {**row, **{name: other[name] for name in answers}} for row, other in zip(rows, others, strict=True)
    ]
    trainers = [
        loop(some, [("divergence", {"teacher": "t"})], start, tmp_path, teachers=RECORDED, max_steps=120)
        for some in (rows, mixed)
    ]
    for trainer in trainers:
        trainer.train()
    assert right(trainers[0]) > 0.9 > 0.7 > right(trainers[1])


@pytest.fixture(scope="module")
def teacher(start, tmp_path_factory):
    """A student that has learnt the colours."""
    folder = tmp_path_factory.mktemp("teacher")
    trainer = loop([row(i) for i in range(60)], [("cross_entropy", {})], start, folder, max_steps=120)
    trainer.train()
    trainer.save_model(str(folder / "big"))
    return folder / "big"


@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_a_live_teacher_teaches_all_its_tokens_and_is_not_in_the_checkpoint(start, teacher, tmp_path, kind):
    def trained(**options):
        rows = [{**row(i), "completion": f" {random.Random(i).choice(COLOURS)}"} for i in range(60)]
        live = {"teachers": {"big": {"model": "big"}}, "models": {"big": teacher}, "max_steps": 150}
        trainer = loop(
            rows, [("divergence", {"teacher": "big", "kind": kind})], start, tmp_path, **live, **options
        )
        trainer.train()
        return trainer

    learnt = trained()
    assert right(learnt) > 0.9
    assert not learnt.model.teachers.live["big"].training
    assert not any("big" in name for name in learnt.model.state_dict())
    assert right(trained(shuffled=True)) < 0.7


def test_a_folder_is_a_live_teacher_and_one_with_other_tokens_is_refused(start, teacher, tmp_path):
    losses, rows = [("divergence", {"teacher": "t"})], [row(i) for i in range(8)]
    source = {"t": {"model": str(teacher)}}
    loop(rows, losses, start, tmp_path, teachers=source, max_steps=1).train()
    other = students.ready("tiny", tmp_path, tmp_path / "other", ["x y z"] * 9, vocabulary=300, tiny=SMALL)
    with pytest.raises(ConfigError, match="has other tokens than the student"):
        loop(rows, losses, start, tmp_path, teachers={"t": {"model": other}})


def test_accumulated_batches_are_a_mean_over_rows(start, tmp_path):
    rows = [row(i) for i in range(32)]
    steps = {"max_steps": 4, "lr_scheduler_type": "constant", "optim": "sgd", "max_grad_norm": 0.0}

    def trained(**options):
        trainer = loop(rows, [("cross_entropy", {})], start, tmp_path, **steps, **options)
        trainer.train()
        return dict(trainer.model.named_parameters())

    once = trained(per_device_train_batch_size=8)
    twice = trained(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    wrong = trained(per_device_train_batch_size=4)
    assert all(torch.allclose(once[name], twice[name], atol=1e-6) for name in once)
    assert not all(torch.allclose(once[name], wrong[name], atol=1e-6) for name in once)


def test_the_last_values_of_a_weight_stand_beside_the_ids_of_the_rows(start, tmp_path):
    (tmp_path / "losses").mkdir()
    (tmp_path / "losses" / "place.py").write_text(
        '"""The place of a row."""\n'
        "from distillgen.training.part import Weight\n\n"
        "class Place(Weight):\n"
        '    """The place of a row in the data."""\n\n'
        "    def rows(self, step, module):\n"
        '        return step.batch["row"].float()\n'
    )
    rows = [row(i) for i in range(5)]
    losses = [("cross_entropy", {"weight": "place"})]
    trainer = loop(rows, losses, start, tmp_path, weights={"place": ("place", {})}, max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "student"))
    lines = (tmp_path / "student" / "weights.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"id": str(i), "place": float(i)} for i in range(5)]
