"""The arms of the recipe hierpref over seeds: the share of answers about the second village that begin with
the whole chain, with 95 % intervals, by level and number of facts, without and with noise passages; and the
share of all facts that a student still remembers. Then how the base reads: of 400 texts of another seed, the
share of names that it finds, by the text's level and number of facts.

A seed draws other exercises, other texts of the base and other weights. The intervals are over exercises,
of all seeds together. A finished run is not run again.

Regenerate: OMP_NUM_THREADS=1 python -m tests.benchmarks.hierpref --seeds 0
"""

import argparse
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import distillgen
from distillgen.algorithms.intervals import exact_interval
from distillgen.project import home, load_function
from distillgen.runs.directory import read_records

ARMS = ("base", "student", "student-unedited")


def counts(directory: Path) -> dict[str, int]:
    """The number of test exercises by case."""
    number = defaultdict(int)
    for record in read_records(directory / "corpus.jsonl"):
        if record.held_out:
            number[record.fields["case"]] += 1
    return number


def share(right: int, of: int) -> str:
    """A share with its interval, in percent."""
    low, high = exact_interval(right, of)[:2]
    return f"{right / of:.0%} ({100 * low:.0f}–{100 * high:.0f})"


def reading(folder: Path) -> None:
    """Print the share of names behind "is" that are the likeliest token, with the right text before them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = load_function("data/village.py:texts", home("data").parent)[0]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    right, of = Counter[tuple[str, int]](), Counter[tuple[str, int]]()
    for row in texts(n=400, seed=77):
        facts = re.split(" (?:Who is|Name|What is)", row["prompt"])[0].count(".")
        before, after = (tokenizer.encode(row[name]) for name in ("prompt", "completion"))
        words = [tokenizer.decode([token]) for token in after]
        with torch.inference_mode():
            likeliest = model(torch.tensor([before + after])).logits[0].argmax(-1).tolist()
        for place, word in enumerate(words[:-1]):
            if word == " is" and words[place - 4] == " The":
                of[row["level"], facts] += 1
                right[row["level"], facts] += likeliest[len(before) + place] == after[place + 1]
    for key in sorted(of):
        print(*key, share(right[key], of[key]), "of", of[key])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/hierpref-arms"))
    options = parser.parse_args()
    right: dict[tuple[str, str, str], int] = defaultdict(int)
    of: dict[tuple[str, str], int] = defaultdict(int)
    memory: dict[str, list[float]] = defaultdict(list)
    for seed in options.seeds:
        out = options.out / f"seed-{seed}"
        run = distillgen.run("hierpref", out=out, sets=[f"seed={seed}"])
        for prompt, file in (("gold", "evaluation-gold.json"), ("mixed", "evaluation.json")):
            figures = json.loads((run.directory / file).read_bytes())
            for case, number in counts(run.directory).items():
                of[prompt, case] += number
                for arm in ARMS:
                    right[prompt, case, arm] += round(number * figures["groups"][arm][case]["said"])
        for arm, figures in json.loads((run.directory / "evaluation-memory.json").read_bytes())[
            "models"
        ].items():
            memory[arm].append(figures["metrics"]["said"]["mean"])
    print("| | exercises |", " | ".join(ARMS), "|\n|---|---|" + "---|" * len(ARMS))
    for prompt, case in sorted(of):
        cells = [share(right[prompt, case, arm], of[prompt, case]) for arm in ARMS]
        print(f"| {prompt}, {case} | {of[prompt, case]} |", " | ".join(cells), "|")
    print("remembers:", {arm: [f"{value:.1%}" for value in values] for arm, values in memory.items()})
    reading(options.out / f"seed-{options.seeds[0]}" / "student-base")


if __name__ == "__main__":
    main()
