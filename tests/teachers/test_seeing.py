"""Pictures in requests to a model of transformers: a random LLaVA, which answers each picture otherwise."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from distillgen.inference.endpoint import Services
from distillgen.inference.ledger import Ledger
from distillgen.inference.limits import Budget
from distillgen.inference.model_class import files_see
from distillgen.inference.request import Request
from distillgen.inference.teacher import Teacher
from distillgen.teachers.transformers import Transformers, TransformersSpec
from tests.squares import squares
from tests.tiny_llama import make_model


def test_the_files_of_a_model_say_whether_it_sees(tmp_path):
    def write(name: str, **config) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        return tmp_path / name

    seeing, blind = write("seeing", vision_config={}), write("blind")
    for base, sees in ((seeing, True), (blind, False)):
        adapter = tmp_path / f"adapter-{base.name}"
        adapter.mkdir()
        config = {"base_model_name_or_path": str(base)}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        assert files_see(base) is files_see(adapter) is sees
        spec = TransformersSpec(provider="transformers", model=base.name)
        assert ("images" in spec.with_files(tmp_path).capabilities) is sees
        assert "images" in spec.capabilities  # of the Hub, perhaps
    spec = TransformersSpec(provider="transformers", model="seeing", images=False)
    assert "images" not in spec.with_files(tmp_path).capabilities
    spec = TransformersSpec(provider="transformers", model="seeing", api="completions")
    assert "images" not in spec.with_files(tmp_path).capabilities


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A project with pictures and a model, whose random weights are so large that each picture counts."""
    for package in ("torch", "transformers", "PIL"):
        pytest.importorskip(package)
    import torch
    from transformers import AutoModelForImageTextToText

    from distillgen.training.options import Tiny
    from distillgen.training.tiny import write_tiny

    root = tmp_path_factory.mktemp("seeing")
    rows = squares(root, 8)
    torch.manual_seed(0)
    size = Tiny(kind="vision", layers=1, width=16, heads=2, tokens="words")
    folder = write_tiny(
        root / "model", size, None, [f"{row['question']} {row['answer']} What is it?" for row in rows], 300
    )
    model = AutoModelForImageTextToText.from_pretrained(folder)
    for weights in model.parameters():
        weights.data *= 4
    model.save_pretrained(folder)
    return root, [row["picture"] for row in rows]


@pytest.fixture
def ask(place, tmp_path):
    def ask(*requests, samples=1, model="model", **options):
        async def main():
            ledger = Ledger(tmp_path / f"{len(list(tmp_path.iterdir()))}.sqlite3")
            spec = TransformersSpec(provider="transformers", model=str(place[0] / model), **options)
            teacher = Teacher(Transformers("student", spec, Services(ledger, Budget(), "run", place[0])))
            try:
                begun = teacher.begin([(request, samples) for request in requests], stage="s")
                return [await outcome for outcome in begun]
            finally:
                await teacher.close()
                await ledger.close()

        return asyncio.run(main())

    return ask


def about(*pictures, text="What is it?", **sampling):
    parts = [{"type": "image", **picture} for picture in pictures]
    content = [*parts, {"type": "text", "text": text}]
    sampling = {"temperature": 0, "max_tokens": 3, "logprobs": 2, **sampling}
    return Request("student", [{"role": "user", "content": content}], sampling=sampling)


def numbers(completion):
    return [value for _, value, _ in completion.logprobs]


def test_a_batch_answers_each_picture_as_alone(place, ask):
    requests = [about(picture, text="What? " * (1 + i % 3)) for i, picture in enumerate(place[1])]
    together = ask(*requests, max_concurrency=8)
    alone = ask(*requests, max_concurrency=1)
    for (one,), (other,) in zip(together, alone, strict=True):
        assert one.text == other.text and numbers(one) == pytest.approx(numbers(other), abs=1e-4)
        assert one.input_tokens == other.input_tokens
    assert len({round(numbers(answer[0])[0], 4) for answer in ask(*map(about, place[1]))}) > 4


def test_the_tokens_of_pictures_count_and_their_order_does(place, ask):
    first, second = place[1][:2]
    shown = [about(), about(first), about(first, second), about(second, first)]
    plain = [replace(request, sampling={"temperature": 0, "max_tokens": 1}) for request in shown]
    none, one, two, _ = (answer.input_tokens for (answer,) in ask(*plain))
    assert one - none == two - one == 16
    _, _, (two,), (turned,) = ask(*shown)
    assert numbers(two) != pytest.approx(numbers(turned), abs=1e-4)


def test_several_answers_to_several_pictures_see_them_in_order(place, ask):
    sampling = {"temperature": 1.0, "max_tokens": 1, "logprobs": 4}
    requests = [about(*place[1][i : i + 2], **sampling) for i in (0, 2)]
    for (alone,), several in zip(ask(*requests), ask(*requests, samples=5), strict=True):
        answers = [answer for answer in (alone, *several) if answer.logprobs]  # not of an end alone
        shares = [dict(answer.logprobs[0][2]) for answer in answers]
        assert len(shares) > 3 and all(share == pytest.approx(shares[0], abs=1e-4) for share in shares)


def test_a_score_is_the_probability_with_that_picture(place, ask):
    ((said,),) = ask(about(place[1][0], max_tokens=1))
    target = said.logprobs[0][0]
    scored = [replace(about(picture), target=target, sampling={"logprobs": 0}) for picture in place[1][:2]]
    (own,), (other,) = ask(*scored)
    assert numbers(own)[0] == pytest.approx(numbers(said)[0], abs=1e-4)
    assert numbers(own)[0] != pytest.approx(numbers(other)[0], abs=1e-4)


def test_what_cannot_be_shown_fails_alone(place, ask):
    changed = {**place[1][0], "sha256": "0" * 64}
    gone = {"path": "pictures/none.png", "sha256": "1" * 64}
    sound = Request("student", [{"role": "user", "content": [{"type": "audio", **gone}]}])
    answers = ask(
        about(changed), about(gone), about(place[1][0], text="an <image>"), sound, about(place[1][0])
    )
    assert [answer[0].status for answer in answers] == ["failed"] * 4 + ["length"]
    reasons = ("has changed", "cannot be read", "the model's token of a picture", "texts and pictures")
    for (answer,), reason in zip(answers, reasons, strict=False):
        assert reason in answer.error


def test_a_model_that_sees_nothing_takes_no_picture(place, ask):
    make_model(place[0] / "blind")
    ((answer,),) = ask(about(place[1][0]), model="blind")
    assert "the model takes no pictures" in answer.error
