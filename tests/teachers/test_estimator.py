"""The estimator of scikit-learn that docs/concepts/teacher.md shows, as a teacher of a run."""

import math
import re
from pathlib import Path

import pytest

import distillgen
from distillgen.inference.ledger import Ledger
from distillgen.inference.request import Completion
from distillgen.runs.directory import Rows

PAGE = Path(__file__).parents[2] / "docs/concepts/teacher.md"


@pytest.mark.slow
def test_an_estimator_is_asked_as_a_script_says(project):
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    project.write("teachers.py", script)
    rows = [
        {"image": image.tolist(), "gold": str(gold)}
        for image, gold in zip(digits.data[300:400], digits.target[300:400], strict=True)
    ]
    project.rows("rows.jsonl", rows)
    ask = {"model": "digit", "template": "{{ image | json }}", "output": "guess", "logprobs": 10}
    pipeline = {
        "version": 1,
        "models": {"digit": {"provider": "scripted", "model": "teachers.py:digit"}},
        "stages": [{"source": {"path": "rows.jsonl"}}, {"generate": ask}],
    }
    run = distillgen.run(pipeline, out="out")
    records = list(Rows(run.directory / "corpus.jsonl"))
    assert len(records) == 100
    right = sum(r.fields["guess"] == r.fields["gold"] for r in records)
    exchanged = zip(records, records[1:] + records[:1], strict=True)
    assert right > 80 > 30 > sum(a.fields["guess"] == b.fields["gold"] for a, b in exchanged)
    ledger = Ledger(run.ledger, read_only=True)
    keys = [bytes.fromhex(record.made[0]["key"]) for record in records]
    for key, row in ledger.find(keys).items():
        answer = Completion.from_row(key, *row)
        ((token, _, classes),) = answer.logprobs
        assert token == answer.text == classes[0][0] and len(classes) == 10
        assert sum(math.exp(logprob) for _, logprob in classes) == pytest.approx(1, abs=2e-3)
    ledger.close_now()
