"""The trials of a search: stages with choices put into their options, and what came of each."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from distillgen.errors import ConfigError, did_you_mean
from distillgen.record import dumps
from distillgen.state_files import Damaged, load_state, replace_bytes

FILE = "trial.json"


@dataclass
class Trial:
    """What came of one combination: a row of `trials.jsonl`."""

    trial: int
    """The place in the order in which the strategy proposed it."""
    choices: dict[str, Any]
    status: Literal["finished", "failed", "skipped"] = "finished"
    reason: str = ""
    value: float | None = None
    """The number by which the search chooses."""
    scores: dict[str, float] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    usd: float = 0.0
    seconds: float = 0.0

    def write(self, folder: Path, state: str) -> None:
        """Write `trial.json`, which marks the trial as ended."""
        folder.mkdir(parents=True, exist_ok=True)
        replace_bytes(folder / FILE, dumps({"state": state, "trial": asdict(self)}) + b"\n")


def ended_trial(folder: Path, state: str) -> Trial | None:
    """Return the trial that ended in a folder; None if none did, or one that depended on something else."""
    try:
        content = load_state(folder / FILE, "state", "trial")
    except (FileNotFoundError, Damaged):
        return None
    return Trial(**content["trial"]) if content["state"] == state else None


def with_choices(stages: Sequence[Mapping[str, Any]], choices: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a list of stages with other options. Raise ConfigError for a path that leads nowhere.

    A path is the name of a stage, or its kind, and the names of options, as of `--set`. In a list, a part of
    the path is a position, or the name of an entry.
    """
    changed = copy.deepcopy([dict(stage) for stage in stages])
    for path, value in choices.items():
        stage, *parts = path.split(".")
        if not parts:
            raise ConfigError(
                f"space: '{path}' is no option: write STAGE.OPTION, such as train.learning_rate"
            )
        target = _stage(changed, stage, path)
        for part in parts[:-1]:
            target = _inside(target, part, path)
        _put(target, parts[-1], value, path)
    return changed


def _stage(stages: Sequence[dict[str, Any]], name: str, path: str) -> Any:
    by_name = {}
    for stage in stages:
        for kind, options in stage.items():
            own_name = options.get("name", kind) if isinstance(options, dict) else kind
            if own_name in by_name:
                continue
            if options is None:
                stage[kind] = options = {}
            by_name[own_name] = options
    if name not in by_name:
        raise ConfigError(f"space: '{path}' names no stage of the search{did_you_mean(name, by_name)}")
    return by_name[name]


def _inside(target: Any, part: str, path: str) -> Any:
    if isinstance(target, list):
        place = _place(target, part, path)
        entry = target[place]
        if part.isdecimal():
            return entry
        if isinstance(entry, str):
            target[place] = entry = {entry: {}}
        (kind,) = entry
        if entry[kind] is None:
            entry[kind] = {}
        return entry[kind]
    if isinstance(target, dict):
        if target.get(part) is None:
            target[part] = {}
        return target[part]
    raise ConfigError(f"space: '{path}': '{part}' stands in what is no mapping and no list")


def _put(target: Any, part: str, value: Any, path: str) -> None:
    value = copy.deepcopy(value)
    if isinstance(target, dict):
        target[part] = value
    elif isinstance(target, list) and part.isdecimal():
        target[_place(target, part, path)] = value
    else:
        raise ConfigError(f"space: '{path}': '{part}' stands in what is no mapping")


def _place(entries: list[Any], part: str, path: str) -> int:
    """Return the position in a list: a number, or that of the entry of a name."""
    if part.isdecimal() and int(part) < len(entries):
        return int(part)
    names = []
    for entry in entries:
        kind, options = next(iter(entry.items())) if isinstance(entry, dict) and entry else (entry, None)
        names.append(str(options.get("name", kind) if isinstance(options, dict) else kind))
    if part not in names:
        raise ConfigError(f"space: '{path}': the list has no entry '{part}'{did_you_mean(part, names)}")
    return names.index(part)
