"""One process carries out all trainings of a run: each begins as in a fresh process, and fails alone."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

import distillgen
from distillgen.training.supervise import one_training_process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.filterwarnings("ignore"),
]
SFT = {"student": "tiny", "max_steps": 2, "batch_size": 4, "held_out": 0}
NETWORK = {
    "objective": "distil",
    "student": {"mlp": [4], "dropout": 0.5},
    "inputs": ["x"],
    "label": "label",
    "losses": ["cross_entropy"],
    "max_steps": 3,
    "held_out": 0,
}
BROKEN = """
import os, signal
from distillgen.objectives.sft import Sft

class {0}(Sft):
    def prepare(self, inputs):
        print("the last line")
        {1}
"""


def processes() -> set[int]:
    """The children of this process that train, or wait for a training."""
    children = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children")).split()
    return {
        int(child)
        for child in children
        if b"distillgen.training.process" in Path(f"/proc/{child}/cmdline").read_bytes()
    }


@pytest.fixture
def trained(project):
    """Train with options, in a run or several stages of one; gives the weights of each student."""
    for module in ("torch", "trl", "datasets", "accelerate"):
        pytest.importorskip(module)
    rows = [{"prompt": f"say {i}", "completion": "one", "x": [i, 1], "label": str(i % 2)} for i in range(24)]
    project.rows("rows.jsonl", rows)
    project.write("objectives/failing.py", BROKEN.format("Failing", "raise ValueError('no such loss')"))
    project.write("objectives/dying.py", BROKEN.format("Dying", "os.kill(os.getpid(), signal.SIGKILL)"))

    def trained(out, **stages):
        trainings = [{"train": {"name": name, **options}} for name, options in stages.items()]
        pipeline = {"version": 1, "stages": [{"source": {"path": "rows.jsonl"}}, *trainings]}
        run = distillgen.run(pipeline, out=out)
        folders = {name: run.directory / f"student-{name}" for name in stages}
        for folder in folders.values():
            assert json.loads((folder / "manifest.json").read_text())["steps"] > 1
        return {name: (folder / "model.safetensors").read_bytes() for name, folder in folders.items()}

    return trained


def test_a_training_after_others_gives_the_bytes_of_one_in_a_fresh_process(trained):
    with one_training_process() as process:
        process.end()  # whatever tests before this one have started
        first = trained("first", text=SFT)
        (number,) = processes()
        later = trained("later", network=NETWORK, text=SFT, again=NETWORK, other=NETWORK | {"seed": 1})
        assert processes() == {number}
        process.end()
        assert not processes()
        fresh = trained("fresh", network=NETWORK)
    assert later["text"] == first["text"]
    assert later["again"] == later["network"] == fresh["network"] != later["other"]


def test_a_training_that_fails_or_is_killed_fails_alone(trained, project):
    with one_training_process() as process:
        trained("before", text=SFT)
        numbers = processes()
        with pytest.raises(
            distillgen.DistillgenError, match="failing.py:8: stage 'text' raised ValueError: no such loss"
        ):
            trained("fails", text=SFT | {"objective": "failing"})
        with pytest.raises(
            distillgen.DistillgenError, match="was killed by somebody .SIGKILL.; memory had not .*last line"
        ):
            trained("dies", text=SFT | {"objective": "dying"})
        assert processes() == numbers and len(numbers) == 1
        output = (project.path / "fails/student-text.partial/output.txt").read_text()
        assert "the last line" in output and "Traceback" in output
        os.kill(*numbers, signal.SIGKILL)
        trained("after", text=SFT)
        assert len(processes()) == 1 and processes() != numbers
        process.end()
        assert not processes()


KILLED = """
import os, signal, sys
from pathlib import Path
from transformers import PreTrainedModel
from distillgen.objectives.sft import Sft

def is_killed(owner, name, before=lambda *args, **options: None):
    def die(*args, **options):
        before(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, die)

moment = Path({0!r}).read_text()
if moment == "half of the base":
    is_killed(PreTrainedModel, "save_pretrained", lambda self, to, **_: self.config.save_pretrained(to))
elif moment == "all but the manifest":
    is_killed(sys.modules["__main__"], "_write_manifest")

class Killed(Sft):
    pass
"""


def test_a_training_that_is_killed_while_it_writes_goes_on(trained, project):
    moment = project.write("moment", "never")
    project.write("objectives/killed.py", KILLED.format(str(moment)))
    options = SFT | {"objective": "killed"}
    whole = trained("whole", one=options)
    for moment_text in ("half of the base", "all but the manifest"):
        moment.write_text(moment_text)
        with pytest.raises(distillgen.DistillgenError, match="was killed"):
            trained("out", one=options)
        assert (project.path / "out/student-one.partial").is_dir()
    moment.write_text("never")
    assert trained("out", one=options) == whole
    assert (project.path / "out/student-one/base/model.safetensors").exists()
    assert [path.name for path in (project.path / "out").glob("*student*")] == ["student-one"]
