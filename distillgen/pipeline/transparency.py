"""The technical transparency index of O1 Replication Journey, Part 2 (Huang et al. 2024): 25 items, 100
points.

The files of a run answer an item (its lock, counts, student's manifest and evaluation), or the pipeline does
under `card: stated:`. As in the paper, a declared non-use counts as yes. All other items are unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Item(NamedTuple):
    """An item: its key in `card: stated:`, its part of the index, its points and its question."""

    key: str
    part: str
    points: int
    asks: str


ITEMS = (
    Item("data_sources", "Data", 3, "Data sources"),
    Item("data_distribution", "Data", 3, "Distribution of the data"),
    Item("data_selection", "Data", 4, "Selection and filtering"),
    Item("data_synthesis", "Data", 4, "How data were synthesised"),
    Item("base_model", "Method", 4, "Base model"),
    Item("search", "Method", 6, "Search algorithm"),
    Item("reinforcement_learning", "Method", 6, "Reinforcement learning"),
    Item("long_thought", "Method", 6, "Synthesis of long thoughts"),
    Item("training_stages", "Method", 3, "Stages of the pipeline"),
    Item("compute", "Method", 2, "Compute"),
    Item("hyper_parameters", "Method", 2, "Hyper-parameters"),
    Item("ablations", "Method", 4, "Ablations"),
    Item("benchmarks", "Evaluation", 4, "Why these benchmarks"),
    Item("evaluation_level", "Evaluation", 4, "Level of the evaluation"),
    Item("metrics", "Evaluation", 4, "Metrics"),
    Item("custom_metrics", "Evaluation", 4, "Metrics of one's own"),
    Item("consistency", "Evaluation", 4, "The same for all baselines"),
    Item("conditions", "Evaluation", 4, "Conditions of the evaluation"),
    Item("post_training_data", "Open source", 3, "Post-training data"),
    Item("synthetic_data", "Open source", 5, "Synthetic data"),
    Item("weights", "Open source", 5, "Weights"),
    Item("training_code", "Open source", 4, "Training code"),
    Item("evaluation_code", "Open source", 4, "Evaluation code"),
    Item("guidance", "Open source", 4, "Guidance for use"),
    Item("paper", "Open source", 4, "Technical paper"),
)


@dataclass(frozen=True)
class RunFacts:
    """What the files of a run say. Without a student or an evaluation, these are empty."""

    lock: Mapping[str, Any]
    state: Mapping[str, Any]
    student: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    publishes: str
    """What is published with the report: data or student."""

    def stages(self, kind: str) -> list[Mapping[str, Any]]:
        """Return the options of all stages of a kind."""
        return [options for stage in self.lock["stages"] for name, options in stage.items() if name == kind]


def report(facts: RunFacts) -> list[tuple[Item, str, str]]:
    """Return each item with its answer (yes, no or unknown) and the evidence."""
    stated = facts.lock.get("card", {}).get("stated", {})
    answers = []
    for item in ITEMS:
        evidence = (
            str(stated[item.key])
            if item.key in stated
            else _EVIDENCE[item.key](facts)
            if item.key in _EVIDENCE
            else ""
        )
        answers.append((item, "yes" if evidence else "unknown", evidence))
    return answers


def points(answers: list[tuple[Item, str, str]]) -> int:
    """Return the index: the points of all items with the answer yes."""
    return sum(item.points for item, answer, _ in answers if answer == "yes")


def origin_of(source: Mapping[str, Any]) -> str:
    """Return where the rows of a stage `source` come from, by its options."""
    return str(
        source.get("path") or source.get("dataset") or source.get("script") or "rows drawn by the program"
    )


def _sources(facts: RunFacts) -> str:
    (source, *_) = facts.stages("source")
    path = source.get("path") or str(source.get("script") or "").partition(":")[0]
    values = source["draw"]["fields"].values() if source.get("draw") else ()
    hashes = [
        f"{'' if name == path else f'{name} '}SHA-256 {sha256[:12]}…"
        for name in (path, *(name for name in values if isinstance(name, str)))
        if (sha256 := facts.lock["files"].get(name))
    ]
    return ", ".join([origin_of(source), *hashes])


def _distribution(facts: RunFacts) -> str:
    measured = {name: value for stage in facts.state["stages"] for name, value in stage["measured"].items()}
    if not facts.stages("diversity") and not facts.stages("cluster"):
        return ""
    return ", ".join(f"{name} {value:.3g}" for name, value in measured.items())


def _selection(facts: RunFacts) -> str:
    kinds = ("filter", "critic", "select")
    names = [options["name"] for kind in kinds for options in facts.stages(kind)]
    return (
        f"{', '.join(names)}: options in pipeline.lock.yaml, counts above"
        if names
        else "nothing is selected or filtered"
    )


def _synthesis(facts: RunFacts) -> str:
    stages = [
        f"{options['name']} ({options.get('prompt') or 'template in the lock'})"
        for options in facts.stages("generate")
    ]
    return (
        f"{', '.join(stages)}; prompts' SHA-256 and sampling in pipeline.lock.yaml"
        if stages
        else "nothing is synthesised"
    )


def _hardware(facts: RunFacts) -> str:
    if not facts.student:
        return ""
    hardware = facts.student.get("hardware")
    description = (
        ", ".join(f"{name} {value}" for name, value in hardware.items())
        if isinstance(hardware, Mapping)
        else hardware
    )
    seconds, joules = (facts.student.get(name, "unknown") for name in ("seconds", "energy_joules"))
    return f"{description}; {seconds} s, energy {joules} J"


def _learning(facts: RunFacts) -> str:
    objective = facts.student.get("objective", "")
    return f"none: the objective is {objective}" if objective else ""


def _long_thought(facts: RunFacts) -> str:
    fields = [options["reasoning"] for options in facts.stages("generate") if options.get("reasoning")]
    return f"the teacher's reasoning, in the field {', '.join(fields)}" if fields else ""


def _consistency(facts: RunFacts) -> str:
    models = dict.fromkeys(name for options in facts.stages("evaluate") for name in options.get("models", ()))
    return f"{', '.join(models)} answer the same items" if facts.evaluation and len(models) > 1 else ""


_EVIDENCE: Mapping[str, Callable[[RunFacts], str]] = {
    "data_sources": _sources,
    "data_distribution": _distribution,
    "data_selection": _selection,
    "data_synthesis": _synthesis,
    "base_model": lambda facts: str(facts.student.get("base") or ""),
    "search": lambda facts: "none: answers are sampled",
    "reinforcement_learning": _learning,
    "long_thought": _long_thought,
    "training_stages": lambda facts: ", ".join(stage["name"] for stage in facts.state["stages"]),
    "compute": _hardware,
    "hyper_parameters": lambda facts: "student's manifest.json" if facts.student.get("options") else "",
    "metrics": lambda facts: "evaluation.json" if facts.evaluation else "",
    "consistency": _consistency,
    "conditions": lambda facts: "evaluation.json and pipeline.lock.yaml" if facts.evaluation else "",
    "post_training_data": lambda facts: "beside this card" if facts.publishes == "data" else "",
    "synthetic_data": lambda facts: "beside this card" if facts.publishes == "data" else "",
    "weights": lambda facts: "beside this card" if facts.publishes == "student" else "",
    "training_code": lambda facts: (
        f"distillgen {facts.lock['distillgen']}, stage train" if facts.student else ""
    ),
    "evaluation_code": lambda facts: (
        f"distillgen {facts.lock['distillgen']}, stage evaluate" if facts.evaluation else ""
    ),
    "guidance": lambda facts: "this card",
}
