"""The technical transparency index of O1 Replication Journey, Part 2 (Huang et al. 2024): 25 items that add up to 100 points.

Each is answered from what a run wrote down (its lock, its counts, its student's manifest, its evaluation), or by what the
pipeline states under `card: stated:`; a declared non-use counts as yes, as in the paper. All else is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Item(NamedTuple):
    """One item: its key in `card: stated:`, its part of the index, its points and what it asks."""

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
class Told:
    """What a run wrote down; an absent student or evaluation is empty."""

    lock: Mapping[str, Any]
    state: Mapping[str, Any]
    student: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    publishes: str
    """What stands beside the report: data or student."""

    def stages(self, kind: str) -> list[Mapping[str, Any]]:
        """The options of all stages of a kind."""
        return [options for stage in self.lock["stages"] for own, options in stage.items() if own == kind]


def report(told: Told) -> list[tuple[Item, str, str]]:
    """Each item with its answer (yes, no or unknown) and on what it rests."""
    stated = told.lock.get("card", {}).get("stated", {})
    answers = []
    for item in ITEMS:
        evidence = (
            str(stated[item.key])
            if item.key in stated
            else _EVIDENCE[item.key](told)
            if item.key in _EVIDENCE
            else ""
        )
        answers.append((item, "yes" if evidence else "unknown", evidence))
    return answers


def points(answers: list[tuple[Item, str, str]]) -> int:
    """The index: points of all items that are answered with yes."""
    return sum(item.points for item, answer, _ in answers if answer == "yes")


def _sources(told: Told) -> str:
    (source, *_) = told.stages("source")
    origin = source.get("path") or source.get("dataset")
    sha256 = told.lock["files"].get(origin)
    return f"{origin}" + (f", SHA-256 {sha256[:12]}…" if sha256 else "")


def _distribution(told: Told) -> str:
    measured = {name: value for stage in told.state["stages"] for name, value in stage["measured"].items()}
    wanted = told.stages("diversity") or told.stages("cluster")
    return ", ".join(f"{name} {value:.3g}" for name, value in measured.items()) if wanted else ""


def _selection(told: Told) -> str:
    kinds = ("filter", "critic", "select")
    names = [options["name"] for kind in kinds for options in told.stages(kind)]
    return (
        f"{', '.join(names)}: options in pipeline.lock.yaml, counts above"
        if names
        else "nothing is selected or filtered"
    )


def _synthesis(told: Told) -> str:
    asked = [
        f"{options['name']} ({options.get('prompt') or 'template in the lock'})"
        for options in told.stages("generate")
    ]
    return (
        f"{', '.join(asked)}; prompts' SHA-256 and sampling in pipeline.lock.yaml"
        if asked
        else "nothing is synthesised"
    )


def _hardware(told: Told) -> str:
    if not told.student:
        return ""
    hardware = told.student.get("hardware")
    shown = (
        ", ".join(f"{name} {value}" for name, value in hardware.items())
        if isinstance(hardware, Mapping)
        else hardware
    )
    return f"{shown}; {told.student.get('seconds', 'unknown')} s, energy {told.student.get('energy_joules', 'unknown')} J"


def _learning(told: Told) -> str:
    objective = told.student.get("objective", "")
    return f"none: the objective is {objective}" if objective else ""


def _long_thought(told: Told) -> str:
    fields = [options["reasoning"] for options in told.stages("generate") if options.get("reasoning")]
    return f"the teacher's reasoning, in the field {', '.join(fields)}" if fields else ""


def _consistency(told: Told) -> str:
    asked = dict.fromkeys(name for options in told.stages("evaluate") for name in options.get("models", ()))
    return f"{', '.join(asked)} answer the same items" if told.evaluation and len(asked) > 1 else ""


_EVIDENCE: Mapping[str, Callable[[Told], str]] = {
    "data_sources": _sources,
    "data_distribution": _distribution,
    "data_selection": _selection,
    "data_synthesis": _synthesis,
    "base_model": lambda told: str(told.student.get("base") or ""),
    "search": lambda told: "none: answers are sampled",
    "reinforcement_learning": _learning,
    "long_thought": _long_thought,
    "training_stages": lambda told: ", ".join(stage["name"] for stage in told.state["stages"]),
    "compute": _hardware,
    "hyper_parameters": lambda told: "student's manifest.json" if told.student.get("options") else "",
    "metrics": lambda told: "evaluation.json" if told.evaluation else "",
    "consistency": _consistency,
    "conditions": lambda told: "evaluation.json and pipeline.lock.yaml" if told.evaluation else "",
    "post_training_data": lambda told: "beside this card" if told.publishes == "data" else "",
    "synthetic_data": lambda told: "beside this card" if told.publishes == "data" else "",
    "weights": lambda told: "beside this card" if told.publishes == "student" else "",
    "training_code": lambda told: (
        f"distillgen {told.lock['distillgen']}, stage train" if told.student else ""
    ),
    "evaluation_code": lambda told: (
        f"distillgen {told.lock['distillgen']}, stage evaluate" if told.evaluation else ""
    ),
    "guidance": lambda told: "this card",
}
