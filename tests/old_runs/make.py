"""Write a run of this version, for `test_old_runs.py` of later ones: `python -m tests.old_runs.make NAME`.

A folder is made once, when a version is released or the form of a file has changed, and is never made again.
"""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

from tests.endpoint import Endpoint, completion, reply

HERE = Path(__file__).parent
PIPELINE = """# old.yaml: what a run of an earlier version holds
version: 1
models:
  teacher: {provider: openai, model: m, base_url: "http://127.0.0.1:18765/v1", price: {input: 1, output: 2}}
stages:
  - source: {path: data/rows.jsonl, held_out: 0.3}
  - generate:
      {model: teacher, template: "{{ question }}", output: answer, n: 2, seed: 5, max_tokens: 60}
  - generate:
      {name: sure, when: "{{ number % 2 }}", model: teacher, template: "Is {{ answer }} right?", logprobs: 2}
  - embed: {model: teacher, template: "{{ answer }}"}
  - generate: {name: fruit, model: teacher, prompt: fruit}
  - filter:
      - word_count: {field: answer, min_words: 1}
      - near_duplicate: {by: [answer]}
      - judge: {model: teacher, rubric: "A good answer", fields: [answer], min_score: 4}
  - format: {messages: [{user: "{{ question }}"}, {assistant: "{{ answer }}"}]}
"""
PROMPT = """---
about: a fruit
output: {json: {fruit: string}}
sampling: {temperature: 0, max_tokens: 40}
---
@user
Name a fruit. {{ question }}
"""


class Teacher(Endpoint):
    """An endpoint at a fixed port: its address is part of the keys."""

    want = 18765

    def usual(self, request, body):
        if "input" in body:
            vector = [math.sin(sum(map(ord, str(body["input"]))) + i) for i in range(4)]
            data = [{"index": 0, "embedding": vector}]
            return {"data": data, "model": "m", "usage": {"prompt_tokens": 3, "total_tokens": 3}}
        asked = str(body["messages"][-1]["content"])
        answer = completion(body)
        if "Name a fruit" in asked:
            answer["choices"][0]["message"]["content"] = json.dumps({"fruit": reply(body)})
        if "Rubric: " in asked:
            grade = {"reason": "so", "score": sum(map(ord, asked)) % 9 + 1}
            answer["choices"][0]["message"]["content"] = json.dumps(grade)
        if body.get("logprobs"):
            token = {"token": "yes", "logprob": -0.25, "top_logprobs": [{"token": "yes", "logprob": -0.25}]}
            answer["choices"][0]["message"]["content"] = "yes"
            answer["choices"][0]["logprobs"] = {"content": [token]}
        return answer


def main(name: str) -> None:
    """Make the folder."""
    folder = HERE / name
    for part in ("pipelines", "data", "prompts"):
        (folder / part).mkdir(parents=True)
    (folder / "pipelines/old.yaml").write_text(PIPELINE)
    (folder / "prompts/fruit.md").write_text(PROMPT)
    rows = [{"question": f"What is {i}, or “ü”?", "number": i} for i in range(12)]
    (folder / "data/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Teacher():
        subprocess.run([sys.executable, "-m", "distillgen", "run", "old"], cwd=folder, check=True)
    for file in ("run.log", "run.lock", "machine.json", "report.html"):
        (folder / "runs/old" / file).unlink(missing_ok=True)
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache)


if __name__ == "__main__":
    main(sys.argv[1])
