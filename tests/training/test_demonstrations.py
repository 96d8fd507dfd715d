"""MEND: the loss by hand, what learns and what does not, and the trained student as later stages ask it."""

import json
from collections import Counter
from pathlib import Path

import pytest

from distillgen.errors import ConfigError
from distillgen.inference.opening import text_start
from distillgen.inference.weights import weights_identity
from distillgen.objectives.mend import Mend
from distillgen.project import Project
from distillgen.stages.train import Train
from distillgen.teachers.transformers import TransformersSpec
from distillgen.training import students
from distillgen.training.inputs import TrainingInputs
from distillgen.training.options import Tiny
from distillgen.training.rows import RowSelection
from tests.objectives.test_asked import asked

torch = pytest.importorskip("torch")
datasets = pytest.importorskip("datasets")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SMALL = Tiny(layers=2, width=16, heads=2, tokens="words")
WIDER = {"tiny": {"layers": 1, "width": 24, "heads": 2}}
PAIRS = [" kiwi red", " plum blue", " fig gold", " lime green"]


def row(i: int) -> dict[str, str]:
    """Between one and four pairs, which are not all of one length."""
    shown = [PAIRS[(i + place) % 4] for place in range(1 + i % 4)]
    _, fruit, colour = PAIRS[i % 4].split(" ")
    return {"demos": "".join(shown), "prompt": f" {fruit}", "completion": f" {colour} {fruit}" * (1 + i % 2)}


ROWS = [row(i) for i in range(24)]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A language model with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    path = students.ready("tiny", folder, folder / "tiny", ["".join(PAIRS)], tiny=SMALL)
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(8 if weights.dim() == 2 else 1)  # far from uniform, as trained ones are
    network.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def absolute(model, tmp_path_factory) -> str:
    """A language model with positions of its own and one matrix of embeddings, as GPT-2 has."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    folder, tokenizer = str(tmp_path_factory.mktemp("absolute")), AutoTokenizer.from_pretrained(model)
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def loop(student: str, folder: Path, rows=ROWS, *, held_out=(), options=(), models=(), **arguments):
    """The loop of a distiller over rows."""
    learning = Mend(**{"distiller": WIDER, "slots": 3, **dict(options)})
    arguments = {
        "output_dir": str(folder / "out"),
        "seed": 0,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.01,
        "max_steps": 6,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        **arguments,
    }
    parts = {"train": rows, **({"held_out": held_out} if held_out else {})}
    selection = RowSelection({name: datasets.Dataset.from_list([*part]) for name, part in parts.items()})
    torch.manual_seed(0)
    project, api = Project(folder), "completions"
    inputs = TrainingInputs(student, selection, arguments, 64, project=project, api=api, models=dict(models))
    return learning.prepare(inputs).trainer


def batch_of(trainer, count: int) -> dict:
    return trainer.data_collator([trainer.train_dataset[i] for i in range(count)])


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    """The folder of a trained student."""
    at = tmp_path_factory.mktemp("student")
    trainer = loop(model, at)
    trainer.train()
    trainer.save_model(str(at / "student"))
    return at / "student"


@pytest.mark.parametrize(("kind", "kl"), [("model", 0.0), ("model", 0.7), ("absolute", 0.7)])
def test_the_loss_is_that_of_rows_one_by_one_without_padding(kind, kl, request, tmp_path):
    start = request.getfixturevalue(kind)
    trainer = loop(
        start, tmp_path, options={"kl": kl, **({"distiller": start} if kind == "absolute" else {})}
    )
    student = trainer.model.networks["student"]
    tokenizer, frozen = student.tokenizer, student.model.eval()
    answers, divergences, reverse = [], [], []
    for entry in ROWS[:8]:
        demos, prompt, whole = (
            tokenizer(text)["input_ids"]
            for text in (entry["demos"], entry["prompt"], entry["prompt"] + entry["completion"])
        )
        demos = torch.tensor([text_start(tokenizer) + demos])
        query = torch.tensor([whole])
        with torch.no_grad():
            vectors = student.distiller(demos, torch.ones_like(demos))
            assert vectors.shape == (1, 3, 16)
            embedded = torch.cat([vectors, frozen.get_input_embeddings()(query)], 1)
            q = frozen(inputs_embeds=embedded).logits[0, 2:-1].log_softmax(-1)
            p = (
                frozen(input_ids=torch.cat([demos, query], 1))
                .logits[0, demos.shape[1] - 1 : -1]
                .log_softmax(-1)
            )
        answers.append(
            sum(-q[at, whole[at]] for at in range(len(prompt), len(whole))) / (len(whole) - len(prompt))
        )
        divergences.append(
            sum((p[at].exp() * (p[at] - q[at])).sum() for at in range(len(whole))) / len(whole)
        )
        reverse.append((q.exp() * (q - p)).sum(-1).mean())
    expected = sum(answers) / 8 + kl * sum(divergences) / 8
    loss = float(trainer.model(batch_of(trainer, 8)))
    assert loss == pytest.approx(float(expected), abs=1e-5)
    if kl:
        other = sum(answers) / 8 + kl * sum(reverse) / 8
        assert loss != pytest.approx(float(other), abs=1e-4), "the other direction is another loss"


def test_a_text_teaches_by_the_divergence_of_its_last_part_alone(model, tmp_path):
    text = "".join(PAIRS * 2)[: -len(" green")]
    trainer = loop(model, tmp_path, [{"text": text}] * 4, options={"text": "text", "share": 0.8, "kl": 2})
    (row,) = [trainer.train_dataset[0]]
    tokens = trainer.model.networks["student"].tokenizer(text)["input_ids"]
    assert len(tokens) == 15 and row["demos"][1:] == tokens[:12] and row["query"] == tokens[12:]
    assert {*row["labels"]} == {-100}
    twice = float(trainer.model(batch_of(trainer, 4)))
    trainer.model.kl = 1.0
    assert twice == pytest.approx(2 * float(trainer.model(batch_of(trainer, 4)))) and twice > 0


def test_the_gradient_reaches_the_distiller_and_its_slots_and_not_the_language_model(model, tmp_path):
    trainer = loop(model, tmp_path)
    trainer.model.train()
    trainer.model(batch_of(trainer, 8)).backward()
    gradients = {name: value.grad for name, value in trainer.model.named_parameters()}
    own = {name for name in gradients if ".distiller." in name}
    assert {name.split(".distiller.")[1].split(".")[0] for name in own} == {"network", "slots", "bridge"}
    for name, gradient in gradients.items():
        assert (gradient is not None and bool(gradient.any())) == (name in own), name
    assert not trainer.model.networks["student"].model.training, "a frozen model drops nothing out"


def test_the_language_model_stays_and_the_distiller_does_not(model, folder, tmp_path):
    for file in ("model.safetensors", "tokenizer.json"):
        assert (folder / file).read_bytes() == (Path(model) / file).read_bytes()
    untrained = loop(model, tmp_path)
    untrained.model.networks["student"].save(tmp_path)
    assert (folder / "distiller.safetensors").read_bytes() != (
        tmp_path / "distiller.safetensors"
    ).read_bytes()


def test_an_interrupted_training_goes_on_to_the_bit(model, tmp_path):
    def distiller(trainer) -> list[bytes]:
        student = trainer.model.networks["student"]
        return [value.numpy().tobytes() for value in student.distiller.state_dict().values()]

    whole = loop(model, tmp_path / "a")
    whole.train()
    loop(model, tmp_path / "b", save_strategy="steps", save_steps=4).train()
    checkpoint = tmp_path / "b" / "out" / "checkpoint-4"
    again = loop(model, tmp_path / "b")
    again.train(resume_from_checkpoint=str(checkpoint))
    assert distiller(whole) == distiller(again) != distiller(loop(model, tmp_path / "c"))
    from safetensors.torch import load_file

    names = load_file(checkpoint / "model.safetensors")
    assert any(".slots" in name for name in names) and not any("lm_head" in name for name in names)


def test_a_student_goes_on_with_its_distiller(folder, tmp_path):
    trainer = loop(str(folder), tmp_path, options={"distiller": None, "slots": None})
    trainer.model.networks["student"].save(tmp_path)
    for file in ("distiller.json", "distiller.safetensors"):
        assert (folder / file).read_bytes() == (tmp_path / file).read_bytes()


def test_a_distiller_begins_as_a_model_with_the_same_tokens(model, tmp_path):
    trainer = loop(model, tmp_path, options={"distiller": "big"}, models={"big": Path(model)})
    distiller = trainer.model.networks["student"].distiller
    first = distiller.network.get_input_embeddings().weight
    assert torch.equal(first, trainer.model.networks["student"].model.get_input_embeddings().weight)
    assert first.requires_grad and isinstance(distiller.bridge, torch.nn.Identity)
    other = students.ready("tiny", tmp_path, tmp_path / "other", ["x y z"], tiny=SMALL)
    with pytest.raises(ConfigError, match="has other tokens than the student"):
        loop(model, tmp_path, options={"distiller": other})


def test_rows_that_teach_nothing_or_are_too_long_are_left_out_and_counted(model, tmp_path):
    learning = Mend(distiller=WIDER)
    rows = [ROWS[0], {**ROWS[0], "demos": "".join(PAIRS) * 8}]
    inputs = TrainingInputs(
        model,
        RowSelection({"train": datasets.Dataset.from_list(rows)}),
        {"output_dir": str(tmp_path), "seed": 0},
        64,
    )
    assert dict(learning.prepare(inputs).counts) == {"left out: longer than max_length (64) tokens": 1}


# Asked later


def spec_of(path: Path | str, **options) -> TransformersSpec:
    return TransformersSpec(
        provider="transformers", model=str(path), demonstrations=True, api="completions", **options
    )


def said(folder: Path, tmp_path: Path, *pairs: tuple[str, str], **sampling) -> list:
    tmp_path.mkdir(exist_ok=True)
    texts = [json.dumps(pair) for pair in pairs]
    return asked(
        tmp_path, spec_of(folder), *texts, **{"temperature": 0, "max_tokens": 3, "logprobs": 2, **sampling}
    )


def test_the_answer_is_that_of_the_model_behind_the_vectors(folder, tmp_path):
    trainer = loop(str(folder), tmp_path, options={"distiller": None, "slots": None})
    student = trainer.model.networks["student"].eval()
    entries = [ROWS[i] for i in (0, 1, 2, 3, 1)]
    answers = said(folder, tmp_path, *((entry["demos"], entry["prompt"]) for entry in entries))
    alone = said(folder, tmp_path / "alone", (ROWS[2]["demos"], ROWS[2]["prompt"]))[0]
    for entry, answer in zip(entries, answers, strict=True):
        demos = torch.tensor([text_start(student.tokenizer) + student.tokenizer(entry["demos"])["input_ids"]])
        ids = student.tokenizer(entry["prompt"])["input_ids"]
        with torch.no_grad():
            for token, value, _ in answer.logprobs:
                query = student.model.get_input_embeddings()(torch.tensor([ids]))
                vectors = student.distiller(demos, torch.ones_like(demos))
                logprobs = (
                    student.model(inputs_embeds=torch.cat([vectors, query], 1)).logits[0, -1].log_softmax(-1)
                )
                likeliest = int(logprobs.argmax())
                assert student.tokenizer.decode([likeliest]) == token
                assert value == pytest.approx(float(logprobs.max()), abs=1e-4)
                ids = [*ids, likeliest]
    assert alone.text == answers[2].text, "a batch mixes nothing up"
    changed = said(folder, tmp_path / "changed", (ROWS[3]["demos"], ROWS[2]["prompt"]))[0]
    assert changed.logprobs != alone.logprobs, "the demonstrations count"


def test_the_model_sees_as_many_tokens_whatever_is_shown(folder, model, tmp_path, monkeypatch):
    from transformers import LlamaForCausalLM

    seen = Counter()
    forward = LlamaForCausalLM.forward

    def counting(self, input_ids=None, **options):
        seen["tokens"] += input_ids.numel()
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(LlamaForCausalLM, "forward", counting)

    def tokens(pairs: int, spec, place: str) -> tuple[int, int]:
        seen.clear()
        demos = PAIRS[0] * pairs
        text = json.dumps([demos, " kiwi"]) if spec.demonstrations else demos + " kiwi"
        (tmp_path / place).mkdir()
        (answer,) = asked(tmp_path / place, spec, text, temperature=0, max_tokens=1)
        return seen["tokens"], answer.input_tokens

    plain = TransformersSpec(provider="transformers", model=model, api="completions")
    student = spec_of(folder)
    assert [tokens(n, student, f"s{n}") for n in (1, 4, 16)] == [(4, 4)] * 3, "three slots and one token"
    assert [tokens(n, plain, f"p{n}") for n in (1, 4)] == [(3, 3), (9, 9)], "the control grows"


def test_a_model_with_positions_of_its_own_answers_in_a_batch_as_alone(absolute, tmp_path):
    options = {"distiller": absolute, "slots": 3}
    trainer = loop(absolute, tmp_path, options=options)
    trainer.train()
    trainer.save_model(str(tmp_path / "student"))
    entries = [(ROWS[i]["demos"], ROWS[i]["prompt"] * (1 + i)) for i in range(3)]
    answers = said(tmp_path / "student", tmp_path / "a", *entries)
    for place, entry in enumerate(entries):
        (alone,) = said(tmp_path / "student", tmp_path / f"b{place}", entry)
        assert alone.text == answers[place].text
        assert alone.logprobs[0][1] == pytest.approx(answers[place].logprobs[0][1], abs=1e-4)


def test_vectors_are_made_once_in_a_batch_and_then_forgotten(folder, tmp_path, monkeypatch):
    from distillgen.networks import distiller

    made, instances = [], []
    forward = distiller.Distiller.forward
    monkeypatch.setattr(
        distiller.Distiller, "forward", lambda self, *batch: made.append(1) or forward(self, *batch)
    )
    soft = distiller.SoftTokens.__init__
    monkeypatch.setattr(
        distiller.SoftTokens, "__init__", lambda self, *parts: instances.append(self) or soft(self, *parts)
    )
    pairs = [(PAIRS[0], " kiwi"), (PAIRS[0], " fig"), (PAIRS[1], " fig")]
    said(folder, tmp_path, *pairs)
    assert len(made) == 2, "two texts of three requests"
    one = spec_of(folder, max_concurrency=1)
    (tmp_path / "one").mkdir()
    asked(tmp_path / "one", one, *map(json.dumps, pairs), temperature=0, max_tokens=1)
    assert len(made) == 5 and len(instances[-1].ids) == 1


def test_a_score_is_given_behind_the_vectors(folder, tmp_path):
    from threading import Event

    from distillgen.inference.request import Request
    from distillgen.teachers.transformers import Model

    def scored(demos: str) -> float:
        asked_model = Model(str(folder), None, spec_of(folder), Event())
        context = asked_model.tokens(Request("m", prompt=json.dumps([demos, " kiwi"])))
        ((completion,),) = asked_model.scored([context], [" red"], 0)
        return completion.logprobs[0][1]

    trainer = loop(
        str(folder),
        tmp_path,
        [{"demos": PAIRS[0], "prompt": " kiwi", "completion": " red"}],
        options={"distiller": None, "slots": None, "kl": 0},
    )
    assert scored(PAIRS[0]) == pytest.approx(-float(trainer.model.eval()(batch_of(trainer, 1))), abs=1e-5)
    assert scored(PAIRS[0]) != scored(PAIRS[2])


@pytest.mark.parametrize("text", ["kiwi", '["kiwi"]', '{"demos": "a"}'])
def test_what_is_no_pair_fails_alone(folder, tmp_path, text):
    pair = json.dumps([PAIRS[0], " kiwi"])
    right, wrong = asked(tmp_path, spec_of(folder), pair, text, temperature=0, max_tokens=1)
    assert right.status == "length" and wrong.status == "failed"
    assert "JSON list of two texts" in wrong.error


def test_another_distiller_is_another_model_in_the_ledger(model, folder, tmp_path):
    trainer = loop(model, tmp_path, seed=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "student"))
    both = (folder, tmp_path / "student")
    assert len({weights_identity(str(path), tmp_path) for path in both}) == 2
    assert len({(path / "model.safetensors").read_bytes() for path in both}) == 1


def test_a_spec_says_what_its_folder_holds(model, folder, tmp_path):
    spec_of(folder).check(tmp_path)
    with pytest.raises(ConfigError, match="reads no demonstrations as vectors; write demonstrations: false"):
        spec_of(model).check(tmp_path)
    with pytest.raises(ConfigError, match="reads demonstrations as vectors; write demonstrations: true"):
        TransformersSpec(provider="transformers", model=str(folder)).check(tmp_path)


def test_a_stage_makes_a_student_that_reads_pairs(tmp_path):
    stage = Train.model_validate({"name": "train", "objective": "mend", "student": "folder"})
    (student,) = stage.makes(tmp_path, Project(tmp_path)).values()
    assert student.demonstrations and student.model == str(tmp_path / "student")
