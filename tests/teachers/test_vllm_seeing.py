"""Pictures in vLLM's engine (slow, where it is installed): its answers are those of transformers.

How to install it without a GPU stands at the top of test_vllm.py. The engine reads a LLaVA only where
torchvision can be imported, which the CPU's torch refuses because of a missing operator: with torchvision
0.29, it is enough there to empty torchvision/_meta_registrations.py.
"""

import asyncio
import importlib.util
import json
from types import SimpleNamespace

import pytest

from distillgen.errors import ConfigError
from distillgen.inference.endpoint import Services
from distillgen.inference.faults import Rejected
from distillgen.inference.ledger import Ledger
from distillgen.inference.limits import Budget
from distillgen.inference.request import Request
from distillgen.pipeline.load import load
from distillgen.teachers.transformers import Transformers, TransformersSpec
from distillgen.teachers.vllm import VLLM, VLLMSpec
from tests.squares import squares
from tests.teachers.test_vllm import INSTALL, needs_vllm
from tests.tiny_llama import CPU, ENGINE

ANSWERED = {"temperature": 0, "max_tokens": 1, "logprobs": 5}


def test_check_asks_the_files_of_a_model_whether_it_sees(tmp_path):
    for name, config in (("seeing", {"vision_config": {}}), ("blind", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        entry = VLLMSpec(provider="vllm", model=name)
        assert "images" in entry.capabilities  # before its files are read
        assert ("images" in entry.with_files(tmp_path).capabilities) is (name == "seeing")
    for options in ({"images": False}, {"api": "completions"}):
        entry = VLLMSpec(provider="vllm", model="seeing", **options)
        assert "images" not in entry.with_files(tmp_path).capabilities


def test_check_refuses_pictures_for_a_model_of_texts(project, monkeypatch):
    pytest.importorskip("PIL")
    monkeypatch.setattr("distillgen.teachers.vllm.need", lambda *_: None)
    squares(project.path, 1)
    for name, config in (("seeing", {"vision_config": {}}), ("blind", {})):
        project.write(f"{name}/config.json", json.dumps(config))
        project.write(f"{name}/preprocessor_config.json", "{}")
    project.write(
        "pipelines/see.yaml",
        """version: 1
models:
  teacher: {provider: vllm, model: seeing}
stages:
  - source: {path: pictures}
  - generate: {model: teacher, template: "Which colour?", images: [image], output: answer}
""",
    )
    load("pipelines/see.yaml")
    for change in ("teacher.model=blind", "teacher.images=false", "teacher.api=completions"):
        with pytest.raises(ConfigError, match="cannot do images"):
            load("pipelines/see.yaml", sets=[change])


class Letters:
    """A tokenizer and a processor: a token is a letter, and `<image>` is the place of a picture."""

    image_token = "<image>"

    def encode(self, text, add_special_tokens=True):
        return [*(["^"] if add_special_tokens else []), *text]

    def apply_chat_template(self, messages, *, end="", **_options):
        kinds = {"image": "<image>"}
        parts = [part for message in messages for part in message["content"]]
        return "".join(kinds.get(part["type"], part.get("text", "")) for part in parts) + end


@pytest.fixture
def prompt(tmp_path):
    """Return what the engine is given for the content of a turn, without an engine."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    spec = VLLMSpec(provider="vllm", model="model")

    def prompt(content, *, template=None, write=None):
        async def main():
            ledger = Ledger(tmp_path / "ledger.sqlite3")
            teacher = VLLM("m", spec, Services(ledger, Budget(), "run", tmp_path))
            engine = SimpleNamespace(tokenizer=Letters(), processor=Letters())
            try:
                turns = [{"role": "user", "content": content}]
                return await teacher._prompt(engine, turns, template or {}, write)
            finally:
                await ledger.close()

        return asyncio.run(main())

    return prompt


def test_the_engine_gets_each_picture_with_its_hash_and_the_text_of_the_chat_template(tmp_path, prompt):
    Image = pytest.importorskip("PIL.Image")
    red, blue = [row["picture"] for row in squares(tmp_path, 2)]
    shown = [{"type": "image", **red}, {"type": "image", **blue}, {"type": "text", "text": "Which?"}]
    tokens, pictures = prompt(shown, template={"end": "!"})
    assert "".join(tokens) == "<image><image>Which?!"  # nothing is put before what the template wrote
    assert pictures["multi_modal_uuids"] == {"image": [red["sha256"], blue["sha256"]]}
    seen = [picture.tobytes() for picture in pictures["multi_modal_data"]["image"]]
    files = [Image.open(tmp_path / row["path"]).convert("RGB").tobytes() for row in (red, blue)]
    assert seen == files and seen[0] != seen[1]
    with pytest.raises(ValueError, match="opened after texts alone"):
        prompt(shown, write="user")
    with pytest.raises(ValueError, match="the model's token of a picture"):
        prompt([shown[0], {"type": "text", "text": "<image> Which?"}])
    with pytest.raises(Rejected, match="cannot be read"):
        prompt([{**shown[0], "path": "pictures/gone.png"}])
    with pytest.raises(Rejected):
        prompt([{**shown[0], "path": blue["path"]}])  # another picture than the hash says


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A project with pictures and a model, whose random weights are so large that each picture counts."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip(INSTALL)
    pytest.importorskip("torchvision")
    import os

    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForImageTextToText

    from distillgen.training.options import Tiny
    from distillgen.training.tiny import write_tiny

    os.environ.update(CPU)
    root = tmp_path_factory.mktemp("seeing")
    rows = squares(root, 16)
    torch.manual_seed(0)
    size = Tiny(kind="vision", layers=1, width=64, heads=2, tokens="words")
    texts = [f"{row['question']} {row['answer']} What is it?" for row in rows]
    folder = write_tiny(root / "model", size, None, texts, 300)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    for weights in model.parameters():
        weights.data *= 3
    model.save_pretrained(folder)
    # the names of checkpoints on the Hub, which vLLM 0.32 reads; transformers 5 leaves `vision_model` out
    weights = load_file(folder / "model.safetensors")
    tower = "vision_tower."
    named = {name.replace(tower, f"{tower}vision_model."): value for name, value in weights.items()}
    save_file(named, folder / "model.safetensors", {"format": "pt"})
    return root, [row["picture"] for row in rows]


@needs_vllm
def test_the_engine_answers_about_each_picture_as_transformers_does(place):
    root, pictures = place

    def request(*shown, text="What is it?", **options):
        parts = [{"type": "image", **picture} for picture in shown]
        content = [*parts, {"type": "text", "text": text}]
        options = {"sampling": ANSWERED} | options
        return Request("m", [{"role": "user", "content": content}], **options)

    # each picture twice, so that the second comes from the cache of processed pictures; pairs; and scores
    requests = [request(picture) for picture in pictures * 2]
    requests += [request(*pictures[:2]), request(*pictures[1::-1])]
    requests += [request(picture, target=" red", sampling={}) for picture in pictures[:4]]
    # longer than a block of the cache on a CPU, 128 tokens, with the same text behind each picture
    long = [request(picture, text="What is it? " * 50) for picture in pictures]
    gone = request({**pictures[0], "path": "pictures/gone.png"})

    async def answers(kind, spec):
        ledger = Ledger(root / f"{spec.provider}.sqlite3")
        teacher = kind("m", spec, Services(ledger, Budget(), "run", root))
        try:
            asked = [teacher.answer(one, [0], 0) for one in [*requests, gone]]
            *found, failure = await asyncio.gather(*asked, return_exceptions=True)
            for _ in range(2):  # the second time, the prompts are in vLLM's cache
                found += await asyncio.gather(*[teacher.answer(one, [0], 0) for one in long])
        finally:
            await teacher.close()
            await ledger.close()
        assert isinstance(failure, Rejected) and "cannot be read" in str(failure)
        return [completion for (completion,) in found]

    engine = asyncio.run(answers(VLLM, VLLMSpec(provider="vllm", model="model", **ENGINE)))
    local = asyncio.run(answers(Transformers, TransformersSpec(provider="transformers", model="model")))
    assert all(completion.cached_tokens >= 128 for completion in engine[-16:])
    chances = [completion.logprobs[0][1] for completion in engine[-32:]]
    assert chances[16:] == pytest.approx(chances[:16], abs=0.02)
    assert len({round(number, 2) for number in chances[16:]}) > 8
    engine, local = engine[:-32], local[:-32]
    for one, other in zip(engine, local, strict=True):
        assert one.logprobs[0][:2] == [other.logprobs[0][0], pytest.approx(other.logprobs[0][1], abs=0.02)]
        assert one.input_tokens == other.input_tokens or one.logprobs[0][0] == " red"
    first = [completion.logprobs[0][1] for completion in engine[:16]]
    assert first == pytest.approx([completion.logprobs[0][1] for completion in engine[16:32]], abs=0.02)
    assert len({round(number, 2) for number in first}) > 8  # another picture gives another answer
    assert abs(engine[32].logprobs[0][1] - engine[33].logprobs[0][1]) > 0.02  # and so does the other order
