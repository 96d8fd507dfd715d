"""Whatever `check` accepts can be trained: every objective with its options, arm and kind of student."""

import importlib.util
import itertools
import json
from pathlib import Path

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.inference.request import Completion
from distillgen.objectives.dpo import LOSSES
from distillgen.plugins import names
from distillgen.project import Project
from distillgen.training.job import TrainingJob

OBJECTIVES = names("objectives", Project(Path()))
PACKAGES = ("torch", "trl", "peft", "datasets", "accelerate", "sentence_transformers")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in PACKAGES), reason="needs the extra train"
    ),
]

HALF = '''"""Half of all."""
from distillgen import Filter

def half():
    """Keep every other row. Costs nothing."""
    return Filter(lambda rs: [r.fields["n"] % 2 for r in rs], lambda odd: "odd" if odd else None)
'''
MARKED = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}</s>{% endgeneration %}"
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
PLAIN = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + PLAIN
)
STUDENTS = ("tiny", "marked", "plain", "no_system", "bare", "bert", "t5", "adapter")
WITHOUT_TURNS = ("classifier", "embedder", "cross_encoder")  # their students need no chat template
TEMPLATES = ("plain", "no_system", "bare")  # students that differ from `marked` in the chat template alone

TEXTS = {"prompt": "question", "completion": "answer"}
DIALOGUES = {
    "messages": {
        "chat": [{"user": "{{ question }}"}, {"assistant": "{{ answer }}"}],
        "kind": [{"system": "Be kind"}, {"user": "{{ question }}"}, {"assistant": "{{ answer }}"}],
    }
}
CHAT, SYSTEM = {"messages": "chat"}, {"messages": "kind"}
PAIRS = {"fields": ["question", "answer"], "score": "score"}
THREE = {"fields": ["question", "answer", "other"], "score": "score"}
PREFERENCE = {"prompt": "question", "chosen": "answer", "rejected": "other"}
SOFT = [{"divergence": {"teacher": "generate", "weight": 0.5}}, {"cross_entropy": {"weight": 0.5}}]
GKD = {"teacher": "plain", "max_new_tokens": 2}
SMALL = {"tiny": {"layers": 1, "width": 16, "heads": 1}}
MESSAGES = (TEXTS, CHAT, SYSTEM)
OPTIONS = {  # each with texts, a dialogue, and a dialogue with a system turn; the first are the defaults
    "sft": (
        {},
        {"loss": "assistant"},
        {"loss": "all"},
        {"packing": True},
        {"text": "question", "pack": 32},
        {"lora": {"r": 2}},
    ),
    "distil": (
        {"losses": ["cross_entropy"]},
        {"losses": SOFT},
        {"losses": [{"divergence": {"teacher": "generate", "kind": "reverse"}}]},
        {"losses": SOFT, "lora": {"r": 2}},
    ),
    "gkd": ({**GKD}, {**GKD, "on_policy": 1}, {**GKD, "lora": {"r": 2}}),
    "kto": ({"label": "liked"}, {"label": "liked", "lora": {"r": 2}}),
}
OTHERS = [
    *[
        ("dpo", {**PREFERENCE, **options})
        for options in (
            {},
            {"lora": {"r": 2}},
            {"reference_chosen": "won", "reference_rejected": "lost"},
            {"prompt": "asked"},
        )
    ],
    *[
        ("rationale", {"prompt": "question", "rationale": "other", "label": "answer", **options})
        for options in ({}, {"lora": {"r": 2}})
    ],
    *[
        ("classifier", {"fields": ["question"], "label": "label", **options})
        for options in (
            {},
            {"head_only": True},
            {"lora": {"r": 2}},
            {"head_only": True, "lora": {"r": 2}},
            {"label": "score", "task": "score"},
        )
    ],
    *[("embedder", {**PAIRS, "loss": loss}) for loss in ("cosent", "cosine")],
    ("embedder", {**THREE, "loss": "margin_mse"}),
    ("embedder", {"fields": ["question", "answer"], "loss": "ranking"}),
    ("embedder", {"fields": ["question", "answer", "other"], "loss": "ranking"}),
    *[("cross_encoder", {**PAIRS, "loss": loss}) for loss in ("bce", "mse")],
    ("cross_encoder", {**THREE, "loss": "margin_mse"}),
    *[
        (
            "marginal",
            {"template": "{{ demonstration.said }} {{ question }}", "completion": "answer", **options},
        )
        for options in ({}, {"score": "near"}, {"lora": {"r": 2}})
    ],
    *[
        (
            "mend",
            {"demos": "other", "prompt": "question", "completion": "answer", "distiller": SMALL, **options},
        )
        for options in ({}, {"kl": 0}, {"text": "question", "share": 0.5})
    ],
]


def cases(turn: int) -> list[tuple[str, dict]]:
    """The defaults of an objective with each form of its text, and each further option with one form of
    them: the next one at the next turn. So three turns have every pair.
    """
    return [
        *[(name, {**form, **options[0]}) for name, options in OPTIONS.items() for form in MESSAGES],
        *[
            (name, {**MESSAGES[(turn + place) % 3], **more})
            for name, options in OPTIONS.items()
            for place, more in enumerate(options[1:])
        ],
        *OTHERS,
    ]


GENERAL = (
    {"gradient_checkpointing": True},
    {"accumulate": 3},
    {"batch_size": 64},
    {"max_length": 96},
    {"held_out": 0.5},
    {"dtype": "bfloat16"},
)


def answered(request, sample):
    text = f"It is {request.messages[-1]['content'].split()[-1]}"
    return Completion(text=text, logprobs=[[char, -0.3, [[char, -0.3], ["~", -2.0]]] for char in text])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A project with students of each kind."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from distillgen.training import students
    from tests.tiny_models import bert, t5

    root = tmp_path_factory.mktemp("combinations")
    texts = [
        "What is the sum of It is ? good bad because of that Be kind " + " ".join(map(str, range(40)))
    ] * 9
    for name, template in {"marked": MARKED, "plain": PLAIN, "no_system": NO_SYSTEM, "bare": None}.items():
        students.ready("tiny", root, root / name, texts)
        tokenizer = AutoTokenizer.from_pretrained(root / name)
        (root / name / "chat_template.jinja").unlink(missing_ok=True)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(root / name)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(root / "marked"),
        LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    model.peft_config["default"].base_model_name_or_path = str(root / "marked")
    model.save_pretrained(root / "adapter")
    AutoTokenizer.from_pretrained(root / "marked").save_pretrained(root / "adapter")
    bert(root / "bert", texts)
    t5(root / "t5", texts)
    (root / "filters").mkdir()
    (root / "filters/half.py").write_text(HALF)
    rows = [
        {
            "n": i,
            "question": f"What is the sum of {i}",
            "other": f"because of {i}",
            "label": "good" if i % 3 else "bad",
            "liked": i % 3 > 0,
            "score": i / 40,
            "won": -1.0 - i,
            "lost": -9.0,
            "asked": [{"role": "user", "content": f"What is {i}"}],
            "demonstrations": [{"said": f"It is {i + more}", "near": 1.0 - more} for more in range(2)],
        }
        for i in range(24)
    ]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture
def outcome(folder, monkeypatch):
    """Check a training, and carry out what `check` passes in this process: the message of a refusal, or the
    manifest.
    """
    monkeypatch.chdir(folder)
    counts = itertools.count()

    async def here(work, stage, notes):
        from distillgen.training.process import train

        train(work, TrainingJob.model_validate_json((work / "job.json").read_bytes()))

    monkeypatch.setattr("distillgen.stages.train.supervise", here)

    def outcome(objective, options, *, student="tiny", **general):
        train = {
            "objective": objective,
            "student": student,
            "held_out": 0.25,
            "max_steps": 1,
            "batch_size": 4,
            **options,
            **general,
        }
        stages = [
            {"source": {"path": "rows.jsonl"}},
            {
                "generate": {
                    "model": "t",
                    "template": "{{ question }}",
                    "output": "answer",
                    **({"logprobs": 2} if objective == "distil" else {}),
                }
            },
            {"filter": ["half"]},
            {"format": DIALOGUES},
            {"train": train},
        ]
        written = {"version": 1, "models": {"t": {"provider": "scripted", "model": "echo"}}, "stages": stages}
        try:
            distillgen.load(written)
        except ConfigError as error:
            return str(error)
        run = distillgen.run(
            written, out=f"out-{student}-{objective}-{next(counts)}", teachers={"t": answered}
        )
        return json.loads((run.directory / "student/manifest.json").read_text())

    return outcome


def named(case):
    data = ("prompt", "completion", "fields", "teacher")
    return f"{case[0]}-{','.join(f'{k}={v}' for k, v in case[1].items() if k not in data)}"


def test_every_objective_is_among_them():
    assert {case[0] for case in cases(0)} == set(OBJECTIVES)


@pytest.mark.parametrize(
    "student, case",
    [
        (student, case)
        for turn, student in enumerate(STUDENTS)
        for case in cases(turn)
        if not (case[0] in WITHOUT_TURNS and student in TEMPLATES)
    ],
    ids=lambda value: value if isinstance(value, str) else named(value),
)
def test_each_kind_of_student_is_trained_or_refused(outcome, case, student):
    found = outcome(*case, student=student)
    if isinstance(found, dict):
        assert found["steps"] == 1 and found["data"]["rows"]["train"] > 1 and found["loss_curve"]
    else:
        assert "stage 'train': " in found


@pytest.mark.parametrize(
    "on, case",
    [
        (arm, case)
        for turn, arm in enumerate(("raw", "random", "shuffled"))
        for case in cases(turn)
        if "lora" not in case[1]  # it is the student's, and an arm is of the rows
    ],
    ids=lambda value: value if isinstance(value, str) else named(value),
)
def test_each_arm_is_trained_or_refused(outcome, case, on):
    found = outcome(
        *case, student="bert" if case[0] in ("embedder", "cross_encoder", "classifier") else "marked", on=on
    )
    if isinstance(found, dict):
        assert found["data"]["rows"]["rows that differ from the kept"] > 0
    else:
        plain = outcome(
            *case, student="marked" if case[0] not in ("embedder", "cross_encoder", "classifier") else "bert"
        )
        assert isinstance(plain, str) or on == "shuffled" and "shuffled" in found


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_of_dpo(outcome, loss):
    for options in ({}, {"reference_chosen": "won", "reference_rejected": "lost"}):
        found = outcome("dpo", {**PREFERENCE, "loss": loss, **options}, student="plain")
        assert isinstance(found, dict) or loss == "exo_pair" and "label_smoothing" in found
    assert isinstance(
        outcome("dpo", {**PREFERENCE, "loss": loss, "label_smoothing": 0.1}, student="plain"), dict
    )


@pytest.mark.parametrize("general", GENERAL, ids=str)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_general_option(outcome, objective, general):
    options = next(options for name, options in cases(0) if name == objective)
    found = outcome(
        objective,
        options,
        student="bert" if objective in ("embedder", "cross_encoder", "classifier") else "marked",
        **general,
    )
    assert isinstance(found, dict) and found["steps"] == 1


@pytest.mark.parametrize(
    "student, options, says",
    [
        (
            "no_system",
            SYSTEM,
            "its chat template does not take the turns system, user, assistant: System role not supported",
        ),
        ("plain", {**CHAT, "loss": "assistant"}, "its chat template does not mark the assistant's text"),
        ("bare", CHAT, "the student has no chat template to put messages into; give one with chat_template"),
        ("bert", TEXTS, "an encoder-decoder or one that sees pictures, and this is an encoder"),
        ("t5", {**TEXTS, "packing": True}, "an encoder-decoder learns the completion, unpacked"),
    ],
)
def test_what_could_not_be_trained_is_told_before_anything_is_paid_for(outcome, student, options, says):
    assert says in outcome("sft", options, student=student)


def test_what_they_take_is_trained(outcome):
    for student, options in (
        ("no_system", CHAT),
        ("marked", {**CHAT, "loss": "assistant"}),
        ("marked", SYSTEM),
        ("bare", TEXTS),
        ("t5", TEXTS),
    ):
        assert isinstance(outcome("sft", options, student=student), dict), (student, options)
