"""Trainings of networks as runs: each kind is killed in the middle, goes on, and ends with the same bits."""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytestmark = [pytest.mark.slow]

KILLER = '''
"""killer: 0 for every row; ends its process once, in the middle of a training, where KILL names a folder."""
import os, signal
from pathlib import Path
from distillgen.training.part import Loss
class Killer(Loss):
    """Nothing, or the end."""
    teaching = False
    name: str
    def rows(self, step, module):
        folder = os.environ.get("KILL")
        if folder and step.learning and step.count == 25:
            mark = Path(folder, self.name)
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return step.per_row(step.label * 0.0)
'''
SCRIPT = '''
"""Two teachers: each is right about every other row."""
import json, math
from distillgen.inference.request import Completion
def _say(right, row):
    text = "abc"[row % 3 if right else (row + 1) % 3]
    top = [[name, math.log(0.8 if name == text else 0.08)] for name in "abc"]
    return Completion(text, logprobs=[[text, math.log(0.8), top]])
def one(request, sample):
    row = int(request.messages[-1]["content"])
    return _say(row % 2, row)
def two(request, sample):
    row = int(request.messages[-1]["content"])
    return _say(not row % 2, row)
'''


def rows(count: int = 90) -> list[dict]:
    def values(i: int) -> list[float]:
        return [float(i % 3 == place) + 0.1 * (i % 7) for place in range(3)] + [float(i % 2)]

    parts = ["train"] * 6 + ["validation", "test", "train"]
    return [
        {
            "number": i,
            "x": values(i),
            "label": "abc"[i % 3],
            "split": parts[i % 9],
            "node": f"n{i}",
            "neighbours": [f"n{(i + step) % count}" for step in (3, 6, 12)],
        }
        for i in range(count)
    ]


def training(name: str, *losses, **options) -> dict:
    learning = {
        "name": name,
        "objective": "distil",
        "inputs": ["x"],
        "label": "label",
        "student": {"mlp": [8]},
    }
    killer = {"killer": {"name": name, "weight": 0.0}}
    common = {"batch_size": 8, "max_steps": 40, "learning_rate": 0.01, "save_every_s": 0.0}
    return {"train": {**learning, **common, "losses": [*losses, killer], **options}}


def writing(name: str, *losses, **options) -> dict:
    """The training of a language model."""
    stage = training(name, *losses, student={"tiny": {"layers": 1, "width": 16, "heads": 2}}, **options)
    return {"train": {key: value for key, value in stage["train"].items() if key not in ("inputs", "label")}}


def asked(name: str) -> dict:
    options = {
        "name": name,
        "model": name,
        "template": "{{ number }}",
        "output": f"said_{name}",
        "logprobs": 3,
    }
    return {"generate": options}


def kd(teacher, **options) -> dict:
    return {"divergence": {"teacher": teacher, **options}}


KINDS = [
    training(
        "parts",  # a state, a controller that looks ahead, and a router, with dropout
        {"taid": {"teacher": "one"}},
        kd("one", weight="alpha"),
        {"cross_entropy": {"weight": "1 - alpha"}},
        kd(["one", "two"], weight="0.5 * route"),
        student={"mlp": [8], "dropout": 0.3},
        weights={"alpha": {"trilateral": {"teacher": "one", "rate": 0.01}}, "route": {"gate": {"over": 2}}},
    ),
    training(
        "peer",  # of a network over a graph
        "cross_entropy",
        kd("tutor"),
        {"cross_entropy": {"of": "tutor"}},
        kd("student", of="tutor"),
        student={"graph": "gcn", "sizes": [8], "dropout": 0.3},
        teachers={"tutor": {"peer": {"mlp": [16]}}},
    ),
    training(
        "live",  # the teacher of its masks is the network behind them
        kd("student-parts", head="0"),
        student={"masked": "student-parts", "layers": [0]},
        schedule="linear",
    ),
    writing("words", {"taid": {"teacher": "one"}}),  # a state, of a language model
]


@pytest.fixture
def filled(project):
    project.rows("data/rows.jsonl", rows())
    project.write("losses/killer.py", KILLER)
    project.write("teachers.py", SCRIPT)
    models = {name: {"provider": "scripted", "model": f"teachers.py:{name}"} for name in ("one", "two")}
    texts = {"format": {"fields": {"prompt": "{{ number }}", "completion": "{{ said_one }}"}}}
    stages = [{"source": {"path": "data/rows.jsonl"}}, asked("one"), asked("two"), texts, *KINDS]
    pipeline = {"version": 1, "models": models, "stages": stages}
    project.write("pipelines/kinds.yaml", json.dumps(pipeline))
    return project


def weights(project, out: str) -> dict[str, bytes]:
    """The bytes of all weights, of tables of nodes, and of what weights of losses gave."""
    folder = project.path / out
    files = [*folder.rglob("student-*/**/*.safetensors"), *folder.rglob("student-*/weights.jsonl")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_a_kill_in_the_middle_of_each_kind_of_training_changes_no_bit(filled):
    filled.cli("run", "kinds", "-o", "runs/whole", timeout=300)
    (filled.path / "kills").mkdir()
    ends = []
    while not ends or ends[-1]:
        assert len(ends) < 12, ends
        env = {"KILL": str(filled.path / "kills")}
        ends.append(
            filled.cli("run", "kinds", "-o", "runs/killed", check=None, env=env, timeout=300).returncode
        )
    names = [stage["train"]["name"] for stage in KINDS]
    assert sorted(path.name for path in (filled.path / "kills").iterdir()) == sorted(names)
    for name in names:
        whole, killed = (
            json.loads((filled.path / f"runs/{run}/student-{name}/manifest.json").read_text())
            for run in ("whole", "killed")
        )
        assert len(killed["sessions"]) == 2 and killed["sessions"][1]["from_step"] > 0, name
        if name != "peer":  # a network over a graph evaluates no held-out rows while it trains
            assert killed["held_out"]["base"] == whole["held_out"]["base"], "before the first step of all"
    whole, killed = weights(filled, "runs/whole"), weights(filled, "runs/killed")
    assert len(whole) == len(KINDS) + 4  # a peer, what is said of each node, the values of weights, a base
    assert {name for name in whole if whole[name] != killed[name]} == set()


WITNESS = '''
"""witness: 0 for every row; writes what this process holds of all weights and states."""
import hashlib, os
from pathlib import Path
from distillgen.training.part import Loss
class Witness(Loss):
    """Nothing."""
    teaching = False
    def rows(self, step, module):
        if step.learning and step.count == 30:
            learner = step._learner
            values = {**dict(learner.named_parameters()), **dict(learner.named_buffers())}
            total = hashlib.sha256()
            for name in sorted(values):
                total.update(values[name].detach().numpy().tobytes())
            line = f"{total.hexdigest()} {step.batch['row'].tolist()}"
            Path(os.environ["WITNESS"], os.environ["RANK"]).write_text(line)
        return step.batch["label"] * 0.0
'''


def test_two_processes_hold_the_same_student_controller_and_state(filled):
    """Each has other rows of a batch, and the gradients and states of both are those of all rows."""
    filled.write("losses/witness.py", WITNESS)
    parts = json.loads((filled.path / "pipelines/kinds.yaml").read_text())
    learning = next(stage["train"] for stage in parts["stages"] if "train" in stage)
    learning |= {"losses": [*learning["losses"][:-1], "witness"], "processes": 2}
    parts["stages"] = [stage for stage in parts["stages"] if "train" not in stage] + [{"train": learning}]
    filled.write("pipelines/two.yaml", json.dumps(parts))
    (filled.path / "seen").mkdir()
    filled.cli("run", "two", "-o", "runs/two", env={"WITNESS": str(filled.path / "seen")}, timeout=300)
    (one, rows), (other, others) = (
        (filled.path / "seen" / rank).read_text().split(" ", 1) for rank in ("0", "1")
    )
    assert one == other and rows != others
    assert json.loads((filled.path / "runs/two/student-parts/manifest.json").read_text())["processes"] == 2
