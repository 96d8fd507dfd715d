"""The arms of the recipe hierpref over seeds: the share of answers about the second village that begin with
the whole chain, by level and number of facts, without and with noise passages; and the share of all facts
that a student still remembers. Of one seed with the 95 % interval over exercises; of several the mean over
seeds with its standard error, and that of the difference between student and control, seed by seed. Then how
each base reads: of 400 texts of another seed, the share of names that it finds, by level and number of facts.

A seed draws other exercises, other texts of the base and other weights. A finished run is not run again.

Regenerate: OMP_NUM_THREADS=1 python -m tests.benchmarks.hierpref --seeds 0 1 2
"""

import argparse
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean, stdev

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


def spread(values: list[float]) -> str:
    """The mean over seeds with its standard error, in percent."""
    return f"{100 * mean(values):.0f} ± {100 * stdev(values) / len(values) ** 0.5:.0f}"


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
    right: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    of: dict[tuple[str, str], list[int]] = defaultdict(list)
    memory: dict[str, list[float]] = defaultdict(list)
    for seed in options.seeds:
        out = options.out / f"seed-{seed}"
        run = distillgen.run("hierpref", out=out, sets=[f"seed={seed}"])
        for prompt, file in (("gold", "evaluation-gold.json"), ("mixed", "evaluation.json")):
            figures = json.loads((run.directory / file).read_bytes())
            for case, number in counts(run.directory).items():
                of[prompt, case].append(number)
                for arm in ARMS:
                    right[prompt, case, arm].append(round(number * figures["groups"][arm][case]["said"]))
        for arm, figures in json.loads((run.directory / "evaluation-memory.json").read_bytes())[
            "models"
        ].items():
            memory[arm].append(figures["metrics"]["said"]["mean"])
    print(
        "| | exercises |", " | ".join(ARMS), "| student less control |\n|---|---|" + "---|" * (len(ARMS) + 1)
    )
    for prompt, case in sorted(of):
        numbers = of[prompt, case]
        shares = {
            arm: [a / b for a, b in zip(right[prompt, case, arm], numbers, strict=True)] for arm in ARMS
        }
        gains = [a - b for a, b in zip(shares["student"], shares["student-unedited"], strict=True)]
        if len(numbers) == 1:
            cells = [share(right[prompt, case, arm][0], numbers[0]) for arm in ARMS] + [f"{gains[0]:+.0%}"]
        else:
            cells = [spread(values) for values in [*shares.values(), gains]]
        print(f"| {prompt}, {case} | {sum(numbers)} |", " | ".join(cells), "|")
        if len(numbers) > 1:
            print("  by seed:", {arm: [f"{value:.0%}" for value in values] for arm, values in shares.items()})
    print("remembers:", {arm: [f"{value:.1%}" for value in values] for arm, values in memory.items()})
    for seed in options.seeds:
        print("seed", seed, "reads")
        reading(options.out / f"seed-{seed}" / "student-base")


if __name__ == "__main__":
    main()
