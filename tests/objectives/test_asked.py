"""The student of every objective is asked by the provider that its stage names."""

import asyncio
import json
import math
from pathlib import Path

import pytest

from distillgen.inference.endpoint import Services, endpoint_class
from distillgen.inference.ledger import Ledger
from distillgen.inference.limits import Budget
from distillgen.inference.request import Request
from distillgen.inference.teacher import Teacher
from distillgen.plugins import names
from distillgen.record import Record
from distillgen.stages.train import Train
from distillgen.training import students
from tests.objectives.test_objectives import HERE, needs, shuffled, taught
from tests.tiny_models import bert

COLOURS = ("red", "green", "blue")
TOKENS = {
    "tokens": ["red"],
    "logprobs": [-0.5],
    "top_tokens": [["red", "green"]],
    "top_logprobs": [[-0.5, -1.5]],
}
WRITERS = {
    "sft": {"completion": "red"},
    "dpo": {"chosen": "red", "rejected": "green"},
    "kto": {"completion": "red", "label": True},
    "rationale": {"rationale": "as it is red", "label": "red"},
    "gkd": {"completion": "red"},
}


def text_of(i: int) -> str:
    return COLOURS[i % 3]


def point(i: int) -> list[float]:
    return [float(i % 3 == place) for place in range(3)]


PAIRS = {"fields": ["a", "b"], "score": "s"}
NETWORKS = {
    "classifier": ({"fields": ["t"]}, lambda i: {"t": text_of(i)}),
    "embedder": (PAIRS, lambda i: {"a": text_of(i), "b": "red"}),
    "cross_encoder": (PAIRS, lambda i: {"a": text_of(i), "b": "red"}),
    "distil": (
        {"inputs": ["x"], "label": "label", "losses": ["cross_entropy"], "student": {"mlp": [8]}},
        lambda i: {"x": point(i)},
    ),
}


def row_of(learning, i: int, fields: dict) -> dict:
    fields = {**fields, "label": COLOURS[i % 3], "s": float(i % 3 == 0)}
    return learning.row(Record(str(i), fields, source="d:1", scores={}), {})


def trained(folder: Path, objective: str, encoder: Path, **more):
    """The entry with which later stages ask a student of an objective."""
    if objective in WRITERS:
        options = {"student": students.ready("tiny", folder, folder / "start", ["red green What colour"] * 9)}
        options |= {"teacher": options["student"], "max_new_tokens": 2} if objective == "gkd" else {}
        learning = Train.model_validate({"objective": objective, **options}).learning(HERE)
        one = {"prompt": "What colour is it?", **WRITERS[objective]}
        row = learning.row(Record("", one, source="d:1", scores={}), {})
        rows, steps = [row] * 12, 1
    else:
        options, fields = NETWORKS[objective]
        options = {"student": str(encoder), **options, **more}
        columns = options.pop("shuffled", ())
        learning = Train.model_validate({"objective": objective, **options}).learning(HERE)
        rows = [row_of(learning, i, fields(i)) for i in range(60)]
        rows = shuffled(rows, *columns) if columns else rows
        steps = 150
    options = {
        "objective": objective,
        "max_steps": steps,
        "learning_rate": 1e-2 if "lora" in options or objective == "distil" else 1e-3,
        **options,
    }
    taught(folder / "run", rows, held_out=0, **options)
    stage = Train.model_validate({"name": "train", **options})
    return stage.makes(folder / "run", HERE)


def asked(folder: Path, spec, *texts: str, embed: bool = False, **sampling):
    """The answers of a model."""

    async def main():
        ledger = Ledger(folder / "ledger.sqlite3")
        endpoint = endpoint_class(spec.provider, HERE)(
            "student", spec, Services(ledger, Budget(), "run", folder)
        )
        teacher = Teacher(endpoint)
        requests = [
            Request(teacher.model, embed=text)
            if embed
            else Request(
                teacher.model,
                sampling=sampling,
                **teacher.message_fields([{"role": "user", "content": text}]),
            )
            for text in texts
        ]
        try:
            begun = teacher.begin([(request, 1) for request in requests], stage="s")
            return [(await outcome)[0] for outcome in begun]
        finally:
            await teacher.close()
            await ledger.close()

    return asyncio.run(main())


def right(answers) -> int:
    return sum(answer.text == COLOURS[i % 3] for i, answer in enumerate(answers))


@pytest.mark.slow
@needs("torch", "trl", "peft", "datasets", "accelerate", "sentence_transformers")
@pytest.mark.filterwarnings("default")
class TestStudents:
    @pytest.fixture(scope="class")
    def encoder(self, tmp_path_factory):
        return bert(tmp_path_factory.mktemp("bert"), ["a red green blue thing"])

    def test_there_is_a_student_of_every_objective(self):
        others = {"mend", "marginal"}  # tests/training/test_demonstrations.py, recipes/test_demonstrations.py
        assert sorted({*WRITERS, *NETWORKS, *others}) == names("objectives", HERE)

    @pytest.mark.parametrize("objective", sorted(WRITERS))
    def test_that_writes_texts(self, tmp_path, encoder, objective):
        models = trained(tmp_path, objective, encoder)
        (answer,) = asked(tmp_path, models["student"], "What colour is it?", max_tokens=4, logprobs=1)
        assert answer.status in ("ok", "length") and answer.logprobs

    @pytest.mark.parametrize("objective", ["classifier", "distil"])
    def test_that_knows_classes(self, tmp_path, encoder, objective):
        numbers = objective == "distil"
        texts = [json.dumps(point(i)) if numbers else text_of(i) for i in range(12)]
        labels = ("label",) if numbers else ("classes", "shares")
        true, wrong = (
            trained(tmp_path / name, objective, encoder, **options)
            for name, options in (("true", {}), ("wrong", {"shuffled": labels}))
        )
        assert [*true] == ["student"], "the student before its training has no classes"
        answers = asked(tmp_path, true["student"], *texts, logprobs=3)
        assert right(answers) == 12 and right(asked(tmp_path, wrong["student"], *texts)) < 9
        for answer in answers:
            ((token, value, classes),) = answer.logprobs
            assert token == answer.text == classes[0][0] and value == pytest.approx(classes[0][1], abs=2e-3)
            assert {name for name, _ in classes} == {*COLOURS}
            assert sum(math.exp(logprob) for _, logprob in classes) == pytest.approx(1, abs=2e-3)
        (vector,) = asked(tmp_path, true["student"], texts[0], embed=True)
        assert len(vector.embedding) == (8 if numbers else 64)

    def test_that_knows_classes_by_an_adapter(self, tmp_path, encoder):
        models = trained(tmp_path, "classifier", encoder, lora={"r": 8})
        texts = [text_of(i) for i in range(12)]
        assert right(asked(tmp_path, models["student"], *texts)) == 12

    @pytest.mark.parametrize("options", [{}, {"lora": {"r": 8}}], ids=["all weights", "an adapter"])
    def test_that_scores_texts(self, tmp_path, encoder, options):
        models = trained(tmp_path, "classifier", encoder, task="score", label="s", **options)
        answers = asked(tmp_path, models["student"], *map(text_of, range(3)))
        assert [float(answer.text) for answer in answers] == pytest.approx([1, 0, 0], abs=0.2)

    @pytest.mark.parametrize("loss", ["bce", "mse"])
    def test_that_scores_pairs(self, tmp_path, encoder, loss):
        models = trained(tmp_path, "cross_encoder", encoder, loss=loss)
        pairs = [json.dumps([text_of(i), "red"]) for i in range(3)]
        first, *others = [float(answer.text) for answer in asked(tmp_path, models["student"], *pairs)]
        assert first == pytest.approx(1, abs=0.2) and others == pytest.approx([0, 0], abs=0.2)

    def test_that_embeds(self, tmp_path, encoder):
        models = trained(tmp_path, "embedder", encoder, loss="cosine")
        pairs = [json.dumps([text_of(i), "red"]) for i in range(3)]
        cosines = {
            name: [float(answer.text) for answer in asked(tmp_path, spec, *pairs)]
            for name, spec in models.items()
        }
        near, *far = cosines["student"]
        assert near > 0.8 and max(far) < 0.4 and min(cosines["base"]) > 0.4
        (vector,) = asked(tmp_path, models["student"], "red", embed=True)
        assert len(vector.embedding) == 64
