"""Judging stored rows again after thresholds were edited: by kept numbers, with no teacher call and no
embedding.

Regenerate: python -m tests.benchmarks.rejudge --rows 1000000
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEACHER = """
import hashlib

def say(request, sample):
    said = hashlib.sha256(repr(request.messages).encode()).digest()
    if request.schema:
        return '{"reason": "It reads well.", "score": %d}' % (1 + said[0] % 10)
    return "The answer is " + " ".join(WORDS[byte % len(WORDS)] for byte in said[:12]) + "."

WORDS = "river stone cloud maple iron salt ember tide wolf lantern copper meadow frost harbour violet\
 canyon".split()
"""
PIPELINE = """version: 1
models:
  teacher: {{provider: scripted, model: teacher.py:say}}
stages:
  - source: {{path: questions.jsonl}}
  - generate: {{model: teacher, template: "{{{{ question }}}}", output: answer}}
  - filter:
      - length: {{field: answer, at_least: {at_least}}}
      - relevance: {{field: answer, to: question, embedder: embedder, min_cosine: {min_cosine}}}
      - judge: {{model: teacher, rubric: 'Does it answer?', fields: [question, answer],\
 min_score: {min_score}}}
"""
WORDS = (
    "river stone cloud maple iron salt ember tide wolf lantern copper meadow frost harbour violet "
    "canyon the answer is"
).split()


def embedder(folder: Path) -> None:
    """A real embedder of model2vec's kind, small because what is measured is that it is not used."""
    import numpy
    from model2vec import StaticModel
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(["[UNK]", *WORDS])}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    vectors = numpy.random.default_rng(0).normal(size=(len(WORDS) + 1, 64)).astype(numpy.float32)
    StaticModel(vectors, tokenizer).save_pretrained(str(folder))


def carried_out(folder: Path, what: str, **thresholds: float) -> dict:
    """Run the pipeline in a process of its own, and tell what it took."""
    (folder / "pipeline.yaml").write_text(PIPELINE.format(**thresholds))
    command = [sys.executable, "-m", "distillgen", "run", "pipeline.yaml", "--out", "out", "--json"]
    begun = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    assert status == 0, f"the run ended with {status}; look at {folder / 'out/run.log'}"
    state = json.loads((folder / "out/usage.json").read_text())
    measured = ", ".join(
        f"{name} {cost['measured']:,.0f} of {cost['rows']:,.0f}"
        for name, cost in state["stages"][-1]["costs"].items()
    )
    print(
        f"{what}: {seconds:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of CPU, "
        f"{used.ru_maxrss / 1024:.0f} MB peak; {state['kept']:,} kept; "
        f"measured anew: {measured}; {state['totals']['requests']:,} requests since the beginning",
        flush=True,
    )
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    print("python -m tests.benchmarks.rejudge", *sys.argv[1:])
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        (folder / "teacher.py").write_text(TEACHER)
        embedder(folder / "embedder")
        with (folder / "questions.jsonl").open("w") as stream:
            for i in range(given.rows):
                stream.write(
                    json.dumps(
                        {"question": f"Where is the {WORDS[i % 16]} {WORDS[i // 16 % 16]} of number {i}?"}
                    )
                    + "\n"
                )
        first = carried_out(folder, "asked and measured", at_least=3, min_cosine=0.0, min_score=3)
        again = carried_out(
            folder, "judged again with other thresholds", at_least=4, min_cosine=0.05, min_score=5
        )
        assert again["totals"]["requests"] == first["totals"]["requests"] and again["kept"] < first["kept"]
        assert not any(again["stages"][-1]["costs"][name]["measured"] for name in ("relevance", "judge"))


if __name__ == "__main__":
    main()
