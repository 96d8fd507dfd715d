"""A list of stages as written becomes stages of which each can do its work on what those before it leave."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext, Stage, stage_class
from distillgen.located_yaml import NAME, Places, validate
from distillgen.project import Project
from distillgen.record import SPLIT


def checked(
    written: Sequence[Mapping[str, Any]], places: Places, context: CheckContext, *, inside: str = ""
) -> tuple[tuple[Stage, ...], tuple[frozenset[str], ...]]:
    """Every stage, checked against what the stages before it leave, and the fields after it; `inside` is the name of the stage
    whose stages they are. Raises ConfigError.
    """
    found: dict[str, tuple[Stage, frozenset[str]]] = {}
    labels: dict[str, str] = {}
    taken: set[str] = set()
    guard, due = _guard(written, context.project, inside), deque(enumerate(written))
    _check_guards(written, context.project, places)
    while due:
        i, item = due.popleft()
        if guard and _any(item, "train", "evaluate"):
            if SPLIT in context.fields or guard["against"]:
                due.appendleft((i, item))
                item = {"decontaminate": guard}
            guard = {}
        if len(item) != 1:
            raise places.wrong(f"a stage has one key, its kind, not {sorted(item) or 'none'}", "stages", i)
        kind, options = next(iter(item.items()))
        if kind == "filter" and isinstance(options, list):
            options = {"filters": options}
        if isinstance(options, dict | None):
            options = {"name": kind, **(options or {})}
        with places.within("stages", i):
            cls = stage_class(kind, context.project)
        stage = validate(cls, options, what=f"stage '{kind}'", places=places, place=("stages", i, kind))
        with places.within("stages", i, kind, what=f"stage '{stage.name}': "):
            if not NAME.fullmatch(stage.name):
                raise ConfigError(f"the name '{stage.name}' is not made of letters, digits, '-' and '_'")
            if not found and not inside and stage.kind != "source":
                raise ConfigError(f"the first stage must be a source, not '{kind}'")
            after = stage.check(context)
            for label, (filter, place) in stage.score_labels(
                context.project
            ).items():  # which no two filters may share
                if label in labels:
                    message = f"filter '{label}' stands in '{labels[label]}' and in '{place}'"
                    raise ConfigError(f"{message}; give one a name of its own: {filter}: {{name: …}}")
                labels[label] = place
            if twice := next((name for name in stage.names(context.project) if name in taken), None):
                which = kind if twice == stage.name else twice
                raise ConfigError(f"'{twice}' stands twice; name one of them: {which}: {{name: …}}")
            taken.update(stage.names(context.project))
            context = context.after(stage, after)
            for name, spec in stage.makes(Path(), context.project).items():
                if context.models.get(name, spec) != spec:
                    raise ConfigError(
                        f"it makes a model of the name '{name}', which another one has; rename that"
                    )
                context = replace(context, models={**context.models, name: spec})
        found[stage.name] = stage, context.fields
    stages, fields = zip(*found.values(), strict=True)
    return stages, fields


def guarded(
    written: Sequence[Mapping[str, Any]], project: Project, *, split: bool, inside: str
) -> list[Mapping[str, Any]]:
    """A list of stages with what `checked` would put between them, for records that are `split`, or not."""
    guard = _guard(written, project, inside)
    at = next((i for i, item in enumerate(written) if _any(item, "train", "evaluate")), len(written))
    due = [{"decontaminate": guard}] if guard and (split or guard["against"]) else []
    return [*written[:at], *due, *written[at:]]


def _check_guards(written: Sequence[Mapping[str, Any]], project: Project, places: Places) -> None:
    """A stage `decontaminate` that is written stands before what trains, and looks for what is evaluated on. Raises
    ConfigError.
    """
    at = next((i for i, item in enumerate(written) if _any(item, "train")), len(written))
    guards = {i: options for i, item in enumerate(written) for options in _of(item, "decontaminate")}
    sets = {
        str(options["data"]) for item in written for options in _of(item, "evaluate") if options.get("data")
    }
    evaluated = any(_any(item, "evaluate") for item in written)
    if at < len(written) and guards and evaluated:
        if min(guards) > at:
            message = (
                "'decontaminate' stands behind the first stage that trains, which would learn what it drops"
            )
            raise places.wrong(f"{message}; put it before that", "stages", min(guards))
        known = {name for i, options in guards.items() if i <= at for name in options.get("against") or ()}
        for name in sorted(sets - known):
            message = f"'evaluate' asks about '{name}', which 'decontaminate' does not look for"
            raise places.wrong(f"{message}; add it: against: [{name}]", "stages", min(guards))


def _of(item: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    """The options of every stage of this kind in an item of a list, and in the lists inside it."""
    for own, options in item.items():
        if own == kind:
            yield options if isinstance(options, Mapping) else {}
        if isinstance(options, Mapping) and isinstance(inner := options.get("stages"), list):
            yield from (found for each in inner if isinstance(each, Mapping) for found in _of(each, kind))


def _any(item: Mapping[str, Any], *kinds: str) -> bool:
    """Whether there is such a stage in it."""
    return any(True for kind in kinds for _ in _of(item, kind))


def guard_name(inside: str) -> str:
    """What the stage is called that stands unwritten between those of a stage."""
    return f"decontaminate-{inside}" if inside else "decontaminate"


def _guard(written: Sequence[Mapping[str, Any]], project: Project, inside: str) -> dict[str, Any]:
    """The options of the stage that keeps what is evaluated on out of what is trained on; none where nothing is evaluated."""
    sets, questions = list[str](), list[list[str]]()
    for options in (item["evaluate"] for item in written if "evaluate" in item):
        with suppress(ValueError, ConfigError):  # a mistake in it is told where it is checked
            if asked := stage_class("evaluate", project).model_validate(options).evaluation_set(project):
                sets += [asked.file] if asked.file else []
                questions.append(asked.question)
    written_out = any(_any(item, "decontaminate") for item in written)
    named = {"name": guard_name(inside), "against": list(dict.fromkeys(sets)), "questions": questions}
    return named if questions and not written_out else {}
