"""The data and the effect of each objective, on models of a few ten thousand random weights."""

import importlib.util
import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from distillgen.errors import ConfigError
from distillgen.inference.logprobs import Signal
from distillgen.objectives.classifier import TextClassifier
from distillgen.objectives.distil import Distil
from distillgen.objectives.dpo import Dpo
from distillgen.objectives.kto import Kto
from distillgen.objectives.rationale import Rationale
from distillgen.objectives.sft import Sft
from distillgen.plugins import names
from distillgen.project import Project
from distillgen.record import Record
from distillgen.stages.train import Train
from distillgen.training import students
from distillgen.training.inputs import TrainingInputs
from distillgen.training.job import RowData, TrainingJob
from distillgen.training.objective import objective_class
from distillgen.training.rows import RowSelection, Unusable
from distillgen.training.token_rows import alternatives, refuse_renormalised

HERE = Project(Path())
COLOURS = ("red", "green", "blue")


def soft(hard: float = 0.5, weight: float = 0.5, **options) -> dict:
    """The options of a language model that learns the likeliest tokens of a stage 'ask', and its texts."""
    losses = [
        {"divergence": {"teacher": "ask", "weight": weight, **options}},
        {"cross_entropy": {"weight": hard}},
    ]
    return {"objective": "distil", "losses": losses, "teachers": {"ask": {"stage": "ask"}}}


SOFT = {name: value for name, value in soft().items() if name != "objective"}


def record(scores: dict | None = None, **fields) -> Record:
    return Record("", fields, source="data:1", scores=scores or {})


def turns(*texts: str) -> list[dict]:
    return [
        {"role": role, "content": text} for role, text in zip(["user", "assistant"] * 9, texts, strict=False)
    ]


# Rows, without torch


def test_there_is_an_objective_a_file_and_each_says_what_it_is():
    assert names("objectives", HERE) == [
        "classifier",
        "cross_encoder",
        "distil",
        "dpo",
        "embedder",
        "gkd",
        "kto",
        "marginal",
        "mend",
        "rationale",
        "sft",
    ]
    assert all(
        objective_class(name, HERE).__doc__ and objective_class(name, HERE).__module__.endswith(name)
        for name in names("objectives", HERE)
    )


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        ({"messages": turns("a", "b")}, {"prompt": turns("a"), "completion": turns("a", "b")[1:]}),
        (
            {"messages": turns("a", "b", "c", "d")},
            {"prompt": turns("a", "b", "c"), "completion": turns("c", "d")[1:]},
        ),
        ({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "b"}),
        (
            {"prompt": turns("a"), "completion": "b"},
            {"prompt": turns("a"), "completion": turns("a", "b")[1:]},
        ),
        (
            {"messages": turns("a", "b", "c")},
            "the last of several turns in 'messages' is not the assistant's",
        ),
        ({"messages": []}, "'messages' holds no chat turns"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "a turn in 'messages' is not a role with a text",
        ),
        ({"prompt": 3, "completion": "b"}, "'prompt' holds no chat turns"),
    ],
)
def test_sft_rows(fields, row):
    if isinstance(row, dict):
        assert Sft().row(record(**fields), {}) == row
    else:
        with pytest.raises(Unusable, match=row):
            Sft().row(record(**fields), {})


def test_kto_rows_have_a_label_that_is_true_or_false():
    row = Kto().row(record(prompt="a", completion="b", label=False), {})
    assert row == {"prompt": "a", "completion": "b", "label": False}
    for label in (None, 1, "true"):
        with pytest.raises(Unusable, match="'label' is neither true nor false"):
            Kto().row(record(prompt="a", completion="b", label=label), {})


def test_dpo_rows_with_a_recorded_reference_from_scores_or_fields():
    dpo = Dpo(reference_chosen="won.logprob", reference_rejected="lost")
    row = dpo.row(record({"won.logprob": -3.5}, prompt="a", chosen="b", rejected="c", lost=-4), {})
    assert row == {
        "prompt": "a",
        "chosen": "b",
        "rejected": "c",
        "ref_chosen_logps": -3.5,
        "ref_rejected_logps": -4.0,
    }
    with pytest.raises(Unusable, match="'won.logprob' holds no log-probability"):
        dpo.row(record(prompt="a", chosen="b", rejected="c", lost=-4), {})
    with pytest.raises(Unusable, match="both answers are the same"):
        Dpo().row(record(prompt="a", chosen="b", rejected="b"), {})


def test_classifier_rows():
    assert TextClassifier().row(record(text="a", label="x"), {}) == {
        "texts": ["a"],
        "classes": ["x"],
        "shares": [1.0],
    }
    soft = TextClassifier().row(record(text="a", label={"x": 0.6, "y": 0.2}), {})
    assert soft["classes"] == ["x", "y"] and soft["shares"] == pytest.approx([0.75, 0.25])
    scorer = TextClassifier(task="score", label="judge.score")
    assert scorer.row(record({"judge.score": 7.0}, text="a"), {}) == {"texts": ["a"], "label": 7.0}
    for label, why in ((None, "no class"), ({"x": 3}, "no class"), ({"x": 0.1}, "sum to 0.10")):
        with pytest.raises(Unusable, match=why):
            TextClassifier().row(record(text="a", label=label), {})


def test_rationale_rows():
    assert Rationale().row(record(prompt="a", rationale="because", label=3), {}) == {
        "prompt": "a",
        "rationale": "because",
        "label": "3",
    }
    with pytest.raises(Unusable, match="'rationale' holds no text"):
        Rationale().row(record(prompt="a", rationale=" ", label=3), {})


TOP = [["Hel", -0.1, [["Hel", -0.1], ["Hi", -2.5]]], ["lo", -0.2, [["lo", -0.2], ["p", -3.0]]]]


def of_ask(**options) -> Distil:
    """A language model that learns from the answers of a stage 'ask'."""
    return Distil(losses=[{"divergence": {"teacher": "ask", **options}}], teachers={"ask": {"stage": "ask"}})


def test_distil_rows_come_from_the_answer_of_the_stage_that_teaches():
    row = Distil(**SOFT).row(
        record(prompt="a", completion="Hello"),
        {"score": Signal("", [["Hello", -1.0, []]]), "ask": Signal("Hello", [*TOP, ["", -0.1, []]])},
    )
    assert row["tokens"] == ["Hel", "lo"] and row["top_tokens"] == [["Hel", "Hi"], ["lo", "p"]]
    with pytest.raises(Unusable, match="its text differs from the recorded tokens"):
        Distil(**SOFT).row(record(prompt="a", completion="Hallo"), {"ask": Signal("Hello", TOP)})
    with pytest.raises(Unusable, match="no log-probabilities with alternatives were recorded"):
        Distil(**SOFT).row(
            record(prompt="a", completion="Hello"), {"ask": Signal("Hello", [["Hello", -1.0, []]])}
        )
    with pytest.raises(Unusable, match="no log-probabilities with alternatives were recorded"):
        Distil(**SOFT).row(record(prompt="a", completion="Hello"), {"other": Signal("Hello", TOP)})


def test_tokens_unknown_to_the_student_go_to_the_tail():
    ids = {"a": 1, "b": 2, "c": 3}
    found, shares = alternatives(
        "c", math.log(0.1), ["a", "b", "x"], [math.log(0.5), math.log(0.2), math.log(0.05)], ids, 4
    )
    assert found == [1, 2, 3, 3] and shares == pytest.approx([0.5, 0.2, 0.1, 0.0])


def test_renormalised_alternatives_are_refused():
    raw = {
        "top_logprobs": [[math.log(0.7), math.log(0.2)]] * 40 + [[math.log(0.9995), math.log(0.0004)]] * 40
    }
    refuse_renormalised([raw])
    refuse_renormalised(
        [{"top_logprobs": [[math.log(0.9995), math.log(0.0004)]] * 80}]
    )  # a teacher that is sure of all
    renormalised = {"top_logprobs": [[math.log(0.7 / 0.9), math.log(0.2 / 0.9)]] * 80}
    with pytest.raises(
        ConfigError, match="the alternatives of each of 80 unsure tokens sum to 1: they were renormalised"
    ):
        refuse_renormalised([renormalised])


# Training


def needs(*packages: str):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and the trainers, which are not ours
trains = [pytest.mark.slow, needs("torch", "trl", "peft", "datasets", "accelerate")]


def questions(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """Questions with the colour that each ends with."""
    chance = random.Random(seed)
    colours = [chance.choice(COLOURS) for _ in range(n)]
    return [(f"Which colour comes after {chance.randrange(10, 99)}? {colour}", colour) for colour in colours]


def taught(folder: Path, rows: list[dict], *, held_out: int = 60, **options) -> dict:
    """The manifest of a student of these rows, trained in this process."""
    from distillgen.training.process import train

    folder.mkdir(parents=True, exist_ok=True)
    if options.get("objective") == "distil":
        rows = [{"id": str(i), **row} for i, row in enumerate(rows)]
    for name, some in (("train", rows[held_out:]), ("held_out", rows[:held_out]), ("validation", [])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    stage = Train.model_validate(
        {"name": "train", "student": "tiny", "learning_rate": 3e-3, "max_steps": 60, **options}
    )
    job = TrainingJob(
        fingerprint="",
        options=stage.options,
        objective=stage.learning(HERE).model_dump(),
        stage=stage.model_dump(),
        root=folder,
        start=stage.student if isinstance(stage.student, str) else "tiny" if stage.tiny else "",
        to=folder / "student",
        data=RowData(sha256="", rows={}),
        files={},
        versions={},
    )
    train(folder, job)
    return json.loads((folder / "student/manifest.json").read_text())


def shuffled(rows: list[dict], *columns: str) -> list[dict]:
    """The same rows, with these columns of other rows."""
    others = random.Random(1).sample(rows, len(rows))
    return [row | {name: other[name] for name in columns} for row, other in zip(rows, others, strict=True)]


@pytest.fixture
def training(tmp_path):
    """Builds what an objective is handed, for a student that already stands in `tmp_path/base`."""

    def inputs(rows: list[dict], **options) -> TrainingInputs:
        from datasets import Dataset

        texts = [text for row in rows for text in json.dumps(row).split('"')]
        student = students.ready("tiny", tmp_path, tmp_path / "base", texts)
        arguments = {
            "output_dir": str(tmp_path / "out"),
            "use_cpu": True,
            "bf16": False,
            "report_to": [],
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1,
        }
        selection = RowSelection({"train": Dataset.from_list(rows)})
        return TrainingInputs(student, selection, arguments, **{"max_length": 64, **options})

    return inputs


SMALL = {"layers": 1, "width": 32, "heads": 2}


class TestStudentsFromNothing:
    pytestmark = trains

    def scored(self, folder: Path, text: str, context: str | None = None) -> list[float]:
        """What a student gives the tokens of a text, behind a context or from its first token on."""
        from threading import Event

        from distillgen.teachers.transformers import Model, TransformersSpec

        model = Model(
            str(folder), None, TransformersSpec(provider="transformers", model=str(folder)), Event()
        )
        before = [] if context is None else model.tokenizer.encode(context)
        return [value for _, value, _ in model.scored([before], [text], 0)[0][0].logprobs]

    @pytest.mark.parametrize("pack", [{}, {"pack": 16}])
    def test_the_first_token_of_a_text_is_learnt(self, tmp_path, pack):
        """Texts of one token, three of four "a". A completion behind an empty prompt does not teach it."""
        facts = [{"text": "abaa"[i % 4]} for i in range(48)]
        student = {"tiny": {**SMALL, "tokens": "chars"}}
        taught(tmp_path / "text", facts, held_out=8, student=student, text="text", **pack)
        values = [self.scored(tmp_path / "text/student", text)[0] for text in "ab"]
        assert values == pytest.approx([math.log(0.75), math.log(0.25)], abs=0.35)
        assert self.scored(tmp_path / "text/student/base", "a")[0] < -2
        completions = [{"prompt": "", "completion": fact["text"]} for fact in facts]
        taught(tmp_path / "completion", completions, held_out=8, student=student)
        assert self.scored(tmp_path / "completion/student", "a")[0] < -1

    def test_what_follows_is_learnt_too_and_asked_as_it_was_trained(self, tmp_path):
        facts = [
            {"text": f"{name} is {colour}"} for name, colour in zip("ABC" * 20, COLOURS * 20, strict=True)
        ]
        student = {"tiny": {**SMALL, "tokens": "words"}}
        manifest = taught(
            tmp_path, facts, held_out=0, student=student, text="text", pack=24, learning_rate=0.01
        )
        assert manifest["api"] == "completions"
        for name, colour in zip("ABC", COLOURS, strict=True):
            (value,) = self.scored(tmp_path / "student", f" {colour}", f"{name} is")
            assert value > math.log(0.8)

    @pytest.mark.parametrize("objective", ["sft", "rationale"])
    def test_an_encoder_decoder_learns_what_its_prompt_ends_with(self, tmp_path, objective):
        names = (
            ("prompt", "completion", "completion") if objective == "sft" else ("prompt", "rationale", "label")
        )
        rows = [dict(zip(names, (q, a, a), strict=True)) for q, a in questions(200)]
        tiny = {**SMALL, "kind": "encoder-decoder", "tokens": "words"}
        taught(tmp_path, rows, student={"tiny": tiny}, objective=objective)
        prompts = {colour: question for question, colour in questions(20, 5)}
        shares = {
            c: {o: math.exp(sum(self.scored(tmp_path / "student", o, q))) for o in COLOURS}
            for c, q in prompts.items()
        }
        assert all(shares[colour][colour] > 0.5 for colour in prompts) and len(prompts) == 3


class TestWhatIsLearnt:
    pytestmark = trains

    def learnt(self, trainer) -> list[str]:
        """The tokens of each batch's rows that count in the loss, decoded."""
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(trainer.train_dataset))])
        return [
            trainer.processing_class.decode([i for i in row if i != -100]) for row in batch["labels"].tolist()
        ]

    def test_a_completion_is_only_the_last_answer_with_its_end(self, training):
        rows = [
            Sft().row(record(messages=turns("Say one", "One.", "And two", "Two!")), {}),
            Sft().row(record(messages=turns("Hi", "Hello")), {}),
        ]
        trainer = Sft().prepare(training(rows)).trainer
        assert self.learnt(trainer) == ["Two!<|im_end|>\n", "Hello<|im_end|>\n"]

    def test_a_completion_of_text_ends_with_the_end(self, training):
        assert self.learnt(Sft().prepare(training([{"prompt": "1 + 1 =", "completion": " 2"}])).trainer) == [
            " 2<|im_end|>"
        ]

    def test_assistant_turns_are_all_of_them_and_nothing_else(self, training):
        messages = [{"role": "system", "content": "Be kind"}, *turns("Say one", "One.", "And two", "Two!")]
        objective = Sft(loss="assistant")
        assert self.learnt(
            objective.prepare(training([objective.row(record(messages=messages), {})])).trainer
        ) == ["One.<|im_end|>Two!<|im_end|>"]

    def test_all_is_all(self, training):
        row = Sft(loss="all").row(record(messages=turns("Hi", "Hello")), {})
        assert self.learnt(Sft(loss="all").prepare(training([row])).trainer)[0].count("<|im_start|>") == 2

    def test_a_student_without_an_end_token_learns_no_texts(self, training, tmp_path):
        from transformers import AutoTokenizer

        inputs = training([{"text": "The sum is 2"}], api="completions")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
        tokenizer.eos_token = None
        tokenizer.save_pretrained(tmp_path / "base")
        with pytest.raises(ConfigError, match="text: the student's tokenizer has no end token"):
            Sft(text="text").prepare(inputs)

    def test_a_text_is_learnt_from_its_first_token_to_its_end(self, training):
        objective = Sft(text="fact")
        assert objective.api(objective.row(record(fact="The sum is 2"), {})) == "completions"
        inputs = training([objective.row(record(fact="The sum is 2"), {})], api="completions")
        trainer = objective.prepare(inputs).trainer
        tokenizer = trainer.processing_class
        assert self.learnt(trainer) == ["<|im_end|>The sum is 2<|im_end|>"]
        assert tokenizer.encode("The") == [
            tokenizer.eos_token_id,
            *tokenizer.encode("The", add_special_tokens=False),
        ]
        assert tokenizer.chat_template is None
        with pytest.raises(Unusable, match="'fact' holds no text"):
            objective.row(record(fact=""), {})

    @pytest.mark.parametrize("plain", [False, True])
    def test_packed_rows_lose_nothing_and_cannot_see_each_other(self, training, plain):
        import torch

        one, several = (Sft(text="fact"), Sft(text="fact", pack=48)) if plain else (Sft(), Sft(packing=True))
        rows = [
            one.row(record(messages=turns(question, answer), fact=f"{question} is {answer}"), {})
            for question, answer in questions(12)
        ]
        apart, packed = one.prepare(training(rows)).trainer, several.prepare(training(rows)).trainer
        assert len(packed.train_dataset) < 12
        sequences = packed.args.per_device_train_batch_size * packed.args.gradient_accumulation_steps
        assert sequences == 4  # in an update, also if they are computed one by one
        assert max(map(len, packed.train_dataset["input_ids"])) <= (several.pack or 64)

        def parts(trainer) -> list[str]:
            return sorted(filter(None, re.split(r"\n|<.im_end.>", "".join(self.learnt(trainer)))))

        assert parts(packed) == parts(apart)
        batch = packed.data_collator([packed.train_dataset[0]])
        alone = [
            batch["input_ids"][:, start : start + size]
            for start, size in pieces(packed.train_dataset[0]["seq_lengths"])
        ]
        with torch.no_grad():
            together = packed.model.eval()(
                input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
            ).logits
            each = torch.cat([packed.model(input_ids=ids, use_cache=False).logits for ids in alone], 1)
        assert len(alone) > 1 and torch.allclose(together, each, atol=1e-4)

    def test_what_does_not_fit_is_counted_and_never_silent(self, training):
        rows = [
            Sft().row(record(messages=turns(text, answer)), {})
            for text, answer in (("a", "b"), ("a " * 80, "b"), ("a", "b " * 80))
        ]
        prepared = Sft().prepare(training(rows))
        left_out, cut = (
            "left out: the prompt alone has max_length (64) tokens or more",
            "cut at max_length (64) tokens",
        )
        assert prepared.counts == {left_out: 1, cut: 1} and len(prepared.trainer.train_dataset) == 2
        with pytest.raises(ConfigError, match="no row is left to train on: 1 left out: the prompt alone"):
            Sft().prepare(training(rows[1:2]))

    def test_a_student_without_a_chat_template_says_so_and_takes_another(self, training):
        row = Sft().row(record(messages=turns("Hi", "Hello")), {})
        inputs = training([row])
        (Path(inputs.student) / "chat_template.jinja").unlink()
        with pytest.raises(
            ConfigError,
            match="the student has no chat template to put messages into; give one with chat_template",
        ):
            Sft().prepare(inputs)
        template = (
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|im_end|>{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}"
        )
        prepared = Sft().prepare(replace(inputs, chat_template=template))
        assert self.learnt(prepared.trainer) == ["Hello<|im_end|>"]


def pieces(sizes: list[int]) -> list[tuple[int, int]]:
    return [(sum(sizes[:i]), size) for i, size in enumerate(sizes)]


class TestObjectives:
    pytestmark = trains

    def test_an_encoder_decoder_learns_too(self, tmp_path):
        from tests.tiny_models import t5

        rows = [{"prompt": question, "completion": colour} for question, colour in questions(300)]
        student = str(t5(tmp_path / "t5", [text for row in rows for text in row.values()]))
        true = taught(tmp_path / "a", rows, student=student)["held_out"]
        mixed = taught(tmp_path / "b", shuffled(rows, "completion"), student=student)["held_out"]
        assert true["student"]["loss"] < 0.2 < 0.4 < mixed["student"]["loss"] < true["base"]["loss"]

    def test_rationale_learns_both_tasks_by_their_weights(self, tmp_path):
        rows = [
            {"prompt": q, "rationale": f"The question ends with {c}.", "label": c} for q, c in questions(300)
        ]
        both = taught(tmp_path / "a", rows, objective="rationale", accumulate=2, batch_size=4, max_steps=100)
        alone = taught(tmp_path / "b", rows, objective="rationale", weight=0.0, max_steps=100)
        assert both["held_out"]["student"]["loss"] < 0.2 < 3 < both["held_out"]["base"]["loss"]
        assert self.said(tmp_path / "a", "[label] Which colour comes after 50? blue") == "blue"
        assert self.said(tmp_path / "a", "[rationale] Which colour comes after 50? blue").endswith(
            "ends with blue."
        )
        assert "ends with" not in self.said(tmp_path / "b", "[rationale] Which colour comes after 50? blue")
        assert alone["held_out"]["base"]["loss"] == pytest.approx(
            both["held_out"]["base"]["loss"] / 2, rel=0.15
        )

    def said(self, folder: Path, asked: str) -> str:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer, model = (
            AutoTokenizer.from_pretrained(folder / "student"),
            AutoModelForCausalLM.from_pretrained(folder / "student"),
        )
        ids = tokenizer.apply_chat_template(
            turns(asked), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :]
        return tokenizer.decode(out, skip_special_tokens=True).strip()

    def test_kto_learns_labels_and_not_random_ones(self, tmp_path):
        chance = random.Random(0)
        rows = []
        for question, colour in questions(300):
            wrong = chance.choice([other for other in COLOURS if other != colour])
            label = chance.random() < 0.5
            completion = f"It is {colour if label else wrong}."
            rows.append({"prompt": question, "completion": completion, "label": label})
        drawn = [{**row, "label": chance.random() < 0.5} for row in rows]
        options = {"objective": "kto", "learning_rate": 1e-3, "max_steps": 80}
        true, chance_only = (
            taught(tmp_path / name, data, **options)["held_out"]["student"]
            for name, data in (("a", rows), ("b", drawn))
        )
        assert true["rewards/margins"] > 1 > abs(chance_only["rewards/margins"]), (true, chance_only)

    @pytest.mark.parametrize("loss", ["sigmoid", "ipo", ["sigmoid", "sft"]])
    def test_dpo_learns_real_preferences_and_not_random_ones(self, tmp_path, loss):
        chance = random.Random(0)
        rows = []
        for question, colour in questions(300):
            wrong = chance.choice([other for other in COLOURS if other != colour])
            rows.append({"prompt": question, "chosen": f"It is {colour}.", "rejected": f"It is {wrong}."})
        drawn = [
            row
            | dict(
                zip(("chosen", "rejected"), chance.sample([row["chosen"], row["rejected"]], 2), strict=True)
            )
            for row in rows
        ]
        options = {"objective": "dpo", "loss": loss, "learning_rate": 1e-3, "max_steps": 80}
        true, chance_only = (
            taught(tmp_path / "a", rows, **options)["held_out"],
            taught(tmp_path / "b", drawn, **options)["held_out"],
        )
        assert (
            true["student"]["rewards/accuracies"] > 0.95
            and 0.3 < chance_only["student"]["rewards/accuracies"] < 0.75
        )
        assert true["base"]["rewards/margins"] == 0.0

    def test_dpo_against_a_recorded_teacher_uses_its_numbers(self, tmp_path):
        rows = [{"prompt": q, "chosen": f"It is {c}.", "rejected": "It is none."} for q, c in questions(200)]
        recorded = [row | {"ref_chosen_logps": -5.0, "ref_rejected_logps": -25.0} for row in rows]
        options = {
            "objective": "dpo",
            "learning_rate": 1e-3,
            "max_steps": 3,
            "reference_chosen": "w",
            "reference_rejected": "l",
        }
        base = taught(tmp_path / "a", recorded, **options)["held_out"]["base"]
        margin = 0.1 * ((base["logps/chosen"] + 5) - (base["logps/rejected"] + 25))
        assert base["rewards/margins"] == pytest.approx(margin, abs=1e-3) and margin < -1
        assert base["loss"] == pytest.approx(math.log(1 + math.exp(-margin)), abs=0.02)

    def test_gkd_comes_close_to_a_teacher_on_this_machine(self, tmp_path):
        from transformers import AutoConfig

        rows = [
            {"prompt": turns(question), "completion": turns(question, colour)[1:]}
            for question, colour in questions(300)
        ]
        taught(tmp_path / "teacher", rows)
        teacher = tmp_path / "teacher/student"
        gkd = {
            "objective": "gkd",
            "teacher": str(teacher),
            "student": str(teacher / "base"),
            "max_new_tokens": 6,
            "max_steps": 40,
        }
        held_out = taught(tmp_path / "a", rows, **gkd)["held_out"]
        assert held_out["student"]["loss"] < held_out["base"]["loss"] / 3
        config = AutoConfig.from_pretrained(teacher)
        other = tmp_path / "other"
        config.vocab_size += 8
        from transformers import AutoModelForCausalLM, AutoTokenizer

        AutoModelForCausalLM.from_config(config).save_pretrained(other)
        AutoTokenizer.from_pretrained(teacher).save_pretrained(other)
        with pytest.raises(ConfigError, match="student and teacher have different vocabularies"):
            taught(tmp_path / "b", rows, **gkd | {"student": str(other)})

    @pytest.mark.parametrize("kind", ["labels", "probabilities", "score", "head"])
    def test_a_classifier_learns_labels_probabilities_and_scores(self, tmp_path, kind):
        from tests.tiny_models import bert

        rows, options = [], {"objective": "classifier", "max_steps": 80, "learning_rate": 1e-3}
        for question, colour in questions(400):
            row = {"texts": [question], "classes": [colour], "shares": [1.0]}
            if kind == "probabilities":
                row |= {
                    "classes": list(COLOURS),
                    "shares": [0.8 if other == colour else 0.1 for other in COLOURS],
                }
            rows.append(
                {"texts": [question], "label": float(COLOURS.index(colour))} if kind == "score" else row
            )
        options |= {"score": {"task": "score"}, "head": {"head_only": True, "learning_rate": 3e-2}}.get(
            kind, {}
        )
        texts = [row["texts"][0] for row in rows]
        student = (
            students.ready("tiny", tmp_path, tmp_path / "llama", texts)
            if kind == "head"
            else str(bert(tmp_path / "bert", texts))
        )
        columns = [name for name in rows[0] if name != "texts"]
        true = taught(tmp_path / "a", rows, student=student, **options)["held_out"]["student"]
        mixed = taught(tmp_path / "b", shuffled(rows, *columns), student=student, **options)["held_out"][
            "student"
        ]
        measure, good, poor = ("correlation", 0.95, 0.5) if kind == "score" else ("accuracy", 0.95, 0.6)
        assert true[measure] > good and mixed[measure] < poor
        if kind == "probabilities":  # the entropy of 0.8, 0.1, 0.1 is 0.639 nats
            assert 0.63 < true["loss"] < 0.75
        if kind == "head":
            assert frozen(student, tmp_path / "a/student")

    def test_a_bi_encoder_and_a_cross_encoder_learn_a_teachers_scores(self, tmp_path):
        pytest.importorskip("sentence_transformers")
        from tests.tiny_models import bert

        rows = [
            {"text_0": question, "text_1": "a red thing", "score": float(colour == "red")}
            for question, colour in questions(400)
        ]
        student = str(bert(tmp_path / "bert", ["a red thing", *(row["text_0"] for row in rows)]))
        options = {
            "student": student,
            "fields": ["a", "b"],
            "score": "s",
            "max_steps": 200,
            "learning_rate": 1e-3,
        }
        for objective, loss in (("embedder", "cosine"), ("cross_encoder", "bce")):
            true = taught(tmp_path / objective, rows, objective=objective, loss=loss, **options)["held_out"]
            mixed = taught(
                tmp_path / f"{objective}2", shuffled(rows, "score"), objective=objective, loss=loss, **options
            )["held_out"]
            assert (
                true["student"]["loss"] < 0.3 * true["base"]["loss"]
                and mixed["student"]["loss"] > 3 * true["student"]["loss"]
            )

    @pytest.mark.parametrize(
        ("objective", "loss"),
        [
            ("embedder", "margin_mse"),
            ("embedder", "cosent"),
            ("embedder", "ranking"),
            ("cross_encoder", "mse"),
            ("cross_encoder", "margin_mse"),
        ],
    )
    def test_the_other_losses_fall(self, tmp_path, objective, loss):
        pytest.importorskip("sentence_transformers")
        from tests.tiny_models import bert

        three, rows = loss in ("margin_mse", "ranking"), []
        for question, colour in questions(300):
            row = {"text_0": question, "text_1": f"a {colour} thing" if three else "a red thing"}
            rows.append(
                row
                | ({"text_2": "a thing of none"} if three else {})
                | ({} if loss == "ranking" else {"score": 2.0 if three else float(colour == "red")})
            )
        student = str(
            bert(tmp_path / "bert", [text for row in rows for name, text in row.items() if name != "score"])
        )
        fields = ["a", "b", "c"][: 3 if three else 2]
        score = {} if loss == "ranking" else {"score": "s"}
        held_out = taught(
            tmp_path / "a", rows, objective=objective, loss=loss, student=student, fields=fields, **score
        )["held_out"]
        assert held_out["student"]["loss"] < held_out["base"]["loss"] * 0.8
        if objective == "embedder":  # what the loss compares is what the folder's reader compares
            library = json.loads((tmp_path / "a/student/config_sentence_transformers.json").read_text())
            assert library["similarity_fn_name"] == ("dot" if loss == "margin_mse" else "cosine")


def frozen(before: str, after: Path) -> bool:
    """Whether an encoder's weights are what they were."""
    import torch
    from transformers import AutoModel

    old, new = (AutoModel.from_pretrained(str(folder)).state_dict() for folder in (before, after))
    return all(torch.equal(old[name], new[name]) for name in old if "pooler" not in name)


class TestHowItIsAsked:
    """A student is asked in the form in which it has read its prompts, and its folder tells others so."""

    pytestmark = trains
    TOKENS = {
        "tokens": ["red"],
        "logprobs": [-0.5],
        "top_tokens": [["red", "green"]],
        "top_logprobs": [[-0.5, -1.5]],
    }
    CASES = [
        ("sft", {"completion": "red"}, {}),
        ("distil", TOKENS, {}),
        ("dpo", {"chosen": "red", "rejected": "green"}, {}),
        ("rationale", {"rationale": "as it is red", "label": "red"}, {}),
        ("gkd", {"completion": "red"}, {}),
    ]

    @pytest.mark.parametrize("as_text", [True, False])
    @pytest.mark.parametrize("objective, answer, options", CASES, ids=[case[0] for case in CASES])
    def test_of_each_objective(self, tmp_path, objective, answer, options, as_text):
        from transformers import AutoTokenizer

        if objective == "rationale" and not as_text:
            pytest.skip("it learns from texts alone")
        student = students.ready("tiny", tmp_path, tmp_path / "student", ["red green What colour is"] * 9)
        options = {"teacher": student, "max_new_tokens": 2} if objective == "gkd" else {}
        options = SOFT if objective == "distil" else options
        made = objective_class(objective, HERE).model_validate(options)
        rows = []
        for i in range(12):
            fields = {"prompt": f"Colour {i}?" if as_text else turns(f"Colour {i}?"), **answer}
            rows.append(fields if objective == "distil" else made.row(record(**fields), {}))
        told = taught(
            tmp_path / "a", rows, held_out=0, objective=objective, student=student, max_steps=1, **options
        )
        expected = "completions" if as_text and objective not in ("rationale", "gkd") else "chat"
        assert told["api"] == expected
        template = AutoTokenizer.from_pretrained(tmp_path / "a/student").chat_template
        assert bool(template) == (expected == "chat")


def divergence(logits, ids, probabilities, kind):
    """The divergence at each position from a teacher whose likeliest tokens were recorded."""
    from distillgen.losses.divergence import Divergence
    from distillgen.training.signals import RecordedTokens

    pair = RecordedTokens().pair(logits, {"top_ids": ids, "top_probabilities": probabilities})
    return Divergence(kind=kind, teacher="ask")._positions(*pair)


class TestRecordedTokens:
    pytestmark = trains

    def test_the_divergence_is_that_over_the_alternatives_and_the_tail(self):
        import torch

        torch.manual_seed(0)
        logits, ids = (
            torch.randn(7, 20, dtype=torch.float64),
            torch.stack([torch.randperm(20)[:4] for _ in range(7)]),
        )
        p = torch.randn(7, 20, dtype=torch.float64).softmax(-1)
        top = p.gather(-1, ids)
        q = logits.softmax(-1).gather(-1, ids)
        p5, q5 = (torch.cat([some, 1 - some.sum(-1, keepdim=True)], -1) for some in (top, q))
        m = (p5 + q5) / 2
        exact = {
            "forward": (p5 * (p5 / q5).log()).sum(-1),
            "reverse": (q5 * (q5 / p5).log()).sum(-1),
            "jensen_shannon": ((p5 * (p5 / m).log()).sum(-1) + (q5 * (q5 / m).log()).sum(-1)) / 2,
        }
        for kind, value in exact.items():
            assert torch.allclose(divergence(logits, ids, top, kind), value, atol=1e-12)
            padded = divergence(
                logits, torch.cat([ids, ids[:, :2]], -1), torch.cat([top, torch.zeros(7, 2)], -1), kind
            )
            assert torch.allclose(padded, value)
            assert (
                divergence(
                    top.new_zeros(7, 20).scatter(
                        -1, ids, top.log() - ((1 - top.sum(-1, keepdim=True)) / 16).log()
                    ),
                    ids,
                    top,
                    kind,
                )
                .abs()
                .max()
                < 1e-9
            )
        sure = torch.tensor([[100.0, *[0.0] * 19]], requires_grad=True)
        for kind in exact:
            divergence(sure, torch.tensor([[0, 1]]), torch.tensor([[0.9, 0.1]]), kind).sum().backward()
            assert torch.isfinite(sure.grad).all()

    # The student's logits, the teacher's probabilities of tokens 0 to k - 1, and the divergences, in nats.
    HAND = [
        # k = V = 2, student 1/2, 1/2: .9 ln 1.8 + .1 ln .2 | ln(5/9)/2 + ln(5)/2 | from m = (.7, .3)
        ([0.0, 0.0], [0.9, 0.1], 0.3680642071684971, 0.5108256237659907, 0.10174922507919574),
        # the same of a student with two tokens more, which it gives e^-1000 of its probability
        (
            [0.0, 0.0, -1000.0, -1000.0],
            [0.9, 0.1],
            0.3680642071684971,
            0.5108256237659907,
            0.10174922507919574,
        ),
        # a teacher that is sure: -ln(1/4); m = (5/8, 3/8)
        ([0.0] * 4, [1.0], 1.3862943611198906, None, 0.38039566584857787),
        # one as sure as 1 - 1e-6, and the student is, too: nothing to learn
        ([math.log(1 - 1e-6), math.log(1e-6)], [1 - 1e-6], 0.0, 0.0, 0.0),
        # 1 - 1e-6 against 1/2: ln 2 - h(1e-6)
        (
            [0.0, 0.0],
            [1 - 1e-6],
            math.log(2) + (1 - 1e-6) * math.log1p(-1e-6) + 1e-6 * math.log(1e-6),
            None,
            None,
        ),
        # three of five: tail .1 against 2/5
        (
            [0.0] * 5,
            [0.5, 0.3, 0.1],
            0.5 * math.log(2.5) + 0.3 * math.log(1.5) - 0.1 * math.log(2) - 0.1 * math.log(4),
            None,
            None,
        ),
    ]

    @pytest.mark.parametrize("dtype, close", [("float64", 1e-9), ("float32", 2e-6)])
    @pytest.mark.parametrize("case", range(len(HAND)))
    def test_the_divergence_is_exact_in_the_limiting_cases(self, case, dtype, close):
        import torch

        logits, top, *values = self.HAND[case]
        ids, p = torch.arange(len(top))[None], torch.tensor([top], dtype=getattr(torch, dtype))
        for kind, value in zip(("forward", "reverse", "jensen_shannon"), values, strict=True):
            q = torch.tensor([logits], dtype=p.dtype, requires_grad=True)
            found = divergence(q, ids, p, kind)
            found.sum().backward()
            assert torch.isfinite(found).all() and torch.isfinite(q.grad).all()
            if value is not None:
                assert float(found.detach()) == pytest.approx(value, abs=close)
        wide = torch.tensor([[*logits]], dtype=p.dtype, requires_grad=True)
        divergence(wide, ids, p, "forward").sum().backward()
        shares, given = wide.detach().softmax(-1)[0], p[0]
        alone = torch.allclose(wide.grad[0, : len(top)], (shares[: len(top)] - given), atol=close)
        assert alone, (
            "the gradient of forward KL by a logit is what the student gives less what the teacher gives"
        )

    def test_the_best_student_is_the_teacher_itself_however_sure(self):
        """Followed to the minimum of the forward divergence: a clamp would pull a sure teacher down."""
        import torch

        for sure in (0.9, 1 - 1e-3, 1 - 1e-5):
            ids, p = torch.tensor([[0]]), torch.tensor([[sure]], dtype=torch.float64)
            at = torch.tensor([[math.log(sure / (1 - sure)), 0.0]], dtype=torch.float64, requires_grad=True)
            divergence(at, ids, p, "forward").sum().backward()
            assert at.grad.abs().max() < 1e-12
            off = (at.detach() + torch.tensor([[0.1, 0.0]])).requires_grad_()
            divergence(off, ids, p, "forward").sum().backward()
            assert off.grad.abs().max() > (1 - sure) * 0.05

    def test_rounded_probabilities_that_sum_to_more_than_one_do_no_harm(self):
        import torch

        p, ids = torch.tensor([[0.7002, 0.3003]]), torch.tensor([[0, 1]])
        for kind in ("forward", "reverse", "jensen_shannon"):
            logits = torch.tensor([[math.log(0.7), math.log(0.3), -20.0]], requires_grad=True)
            found = divergence(logits, ids, p, kind)
            found.sum().backward()
            assert 0 <= float(found.detach()) + 1e-6 < 1e-5 and torch.isfinite(logits.grad).all()

    def test_five_alternatives_need_a_tail_to_teach_well(self):
        """A linear student of a planted Markov chain; cross-entropy on fresh text, as in a published
        comparison.
        """
        import torch
        from torch.nn.functional import cross_entropy

        torch.manual_seed(0)
        chain = (torch.randn(30, 30) * 1.2).softmax(-1)
        before = torch.randint(30, (3000,))
        sampled = torch.multinomial(chain[before], 1)[:, 0]
        top = chain[before].topk(5)
        fresh = torch.randint(30, (20_000,))
        truth = torch.multinomial(chain[fresh], 1)[:, 0]

        def loss_of(loss) -> float:
            student = torch.zeros(30, 30, requires_grad=True)
            optimizer = torch.optim.Adam([student], lr=0.1)
            for _ in range(300):
                optimizer.zero_grad()
                loss(student[before]).mean().backward()
                optimizer.step()
            return float(cross_entropy(student[fresh], truth))

        tail = loss_of(
            lambda logits: (
                divergence(logits, top.indices, top.values, "forward") / 2
                + cross_entropy(logits, sampled) / 2
            )
        )
        hard = loss_of(lambda logits: cross_entropy(logits, sampled))
        renormalised = top.values / top.values.sum(-1, keepdim=True)
        wrong = loss_of(
            lambda logits: -(renormalised * logits.log_softmax(-1).gather(-1, top.indices)).sum(-1)
        )
        best = float(-(chain[fresh].gather(-1, truth[:, None])).log().mean())
        assert best < tail < hard < wrong and wrong > best + 0.5

    def test_a_student_learns_a_recorded_distribution(self, tmp_path):
        """The teacher says red 60 %, green 30 % and blue 10 % of the time; the records hold only its
        likeliest two.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        chance, rows = random.Random(0), []
        for i in range(240):
            said = chance.choices(COLOURS, (6, 3, 1))[0]
            top = [["red", "green"]], [[math.log(0.6), math.log(0.3)]]
            logprob = math.log({"red": 0.6, "green": 0.3, "blue": 0.1}[said])
            rows.append(
                {
                    "prompt": turns(f"Which colour is {i}?"),
                    "tokens": [said],
                    "logprobs": [logprob],
                    "top_tokens": top[0],
                    "top_logprobs": top[1],
                }
            )
        student = students.ready("tiny", tmp_path, tmp_path / "student", [*COLOURS, "Which colour is ?"] * 9)
        for kind in ("forward", "reverse", "jensen_shannon"):
            folder = tmp_path / kind
            told = taught(
                folder, rows, **soft(kind=kind, weight=0.8, hard=0.2), student=student, max_steps=100
            )
            assert told["held_out"]["student"]["loss"] < told["held_out"]["base"]["loss"] / 3
            tokenizer, model = (
                AutoTokenizer.from_pretrained(folder / "student"),
                AutoModelForCausalLM.from_pretrained(folder / "student"),
            )
            ids = tokenizer.apply_chat_template(
                turns("Which colour is 50?"),
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            )
            with torch.no_grad():
                shares = model(**ids).logits[0, -1].softmax(-1)
            red, green, blue = (float(shares[tokenizer.convert_tokens_to_ids(colour)]) for colour in COLOURS)
            assert (
                red == pytest.approx(0.6, abs=0.1)
                and green == pytest.approx(0.3, abs=0.1)
                and blue == pytest.approx(0.1, abs=0.07)
            )

    def test_a_tiny_student_gets_a_token_for_each_of_the_teachers(self, tmp_path):
        chance = random.Random(0)
        letters = "abcdefghijklmnopqrstuvwxyz"
        words = ["".join(chance.choices(letters, k=8)) for _ in range(1200)]
        rows = []
        for i in range(0, 1200, 10):
            own = [words[i], *(f" {word}" for word in words[i + 1 : i + 10])]
            rows.append(
                {
                    "prompt": "a",
                    "tokens": own,
                    "logprobs": [-0.5] * 10,
                    "top_tokens": [[token, "a"] for token in own],
                    "top_logprobs": [[-0.5, -1.5]] * 10,
                }
            )
        told = taught(tmp_path / "a", rows, held_out=0, **soft(), student="tiny", max_steps=1)
        assert not [why for why in told["data"]["rows"] if "not in the student's vocabulary" in why]

    def test_a_teacher_with_other_tokens_is_left_out_and_counted(self, tmp_path):
        rows = [
            {
                "prompt": "a",
                "tokens": ["red"],
                "logprobs": [-0.5],
                "top_tokens": [["red", "green"]],
                "top_logprobs": [[-0.5, -1.5]],
            }
        ] * 70
        rows += [rows[0] | {"tokens": ["vermilion-ish"], "top_tokens": [["vermilion-ish", "green"]]}] * 5
        student = students.ready("tiny", tmp_path, tmp_path / "student", ["red green"] * 9)
        told = taught(tmp_path / "a", rows, held_out=0, **soft(), student=student, max_steps=2)
        assert told["data"]["rows"] == {
            "left out: a token of the teacher is not in the student's vocabulary": 5
        }
