"""Read the stages that a pipeline lists, and bind them one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from distillgen.errors import ConfigError
from distillgen.flow.condition import check_condition
from distillgen.flow.per_value import for_values
from distillgen.flow.stage import BoundStage, CheckContext, EvaluationSet, Stage, stage_class
from distillgen.inference.sampling import Sampling
from distillgen.located_yaml import NAME, Places, validate
from distillgen.project import Project
from distillgen.prompting.media import NO_MEDIA
from distillgen.record import SPLIT

ARMS = "arms"  # the option of a stage that lists further stages, each with the options in which it differs


class _Placed(NamedTuple):
    """A stage, and where its options stand in the pipeline."""

    stage: Stage
    place: tuple[str | int, ...]

    @property
    def item(self) -> int:
        """The position in the list of the item that declares it."""
        return int(self.place[1])


def seeded(stage: Stage, seed: int) -> Stage:
    """Return the stage with the pipeline's seed added to its own option `seed`, modulo 2**32.

    The seed among sampling options is not such an option: the teacher adds to it, whoever gives it.
    """
    stage_seed = getattr(stage, "seed", None)
    if not seed or stage_seed is None or isinstance(stage, Sampling):
        return stage
    return stage.model_copy(update={"seed": (stage_seed + seed) % 2**32})


def read_stages(items: Sequence[Mapping[str, Any]], places: Places, project: Project) -> list[Stage]:
    """Return the stages of a list with their options checked, each with its arms behind it.

    A stage of the option `each` is there once for each value that it lists.

    Raise ConfigError.
    """
    return [placed.stage for placed in _placed(items, places, project)]


def _placed(items: Sequence[Mapping[str, Any]], places: Places, project: Project) -> list[_Placed]:
    return [placed for i, item in enumerate(items) for placed in _read_item(item, i, places, project)]


def _read_item(item: Mapping[str, Any], i: int, places: Places, project: Project) -> Iterator[_Placed]:
    """Yield the stage of an item, then its arms: the same stage with other options and a longer name."""
    if len(item) != 1:
        raise places.wrong(f"a stage has one key, its kind, not {sorted(item) or 'none'}", "stages", i)
    kind, options = next(iter(item.items()))
    if kind == "filter" and isinstance(options, list):
        options = {"filters": options}
    if isinstance(options, dict | None):
        options = {"name": kind, **(options or {})}
    with places.within("stages", i):
        cls = stage_class(kind, project)
    stage = validate(cls, options, owner=f"stage '{kind}'", places=places, place=("stages", i, kind))
    with places.within("stages", i, kind, prefix=f"stage '{stage.name}': "):
        yield from [_Placed(copy, ("stages", i, kind)) for copy in for_values(stage)]
    for arm, changes in (getattr(stage, ARMS) if ARMS in cls.model_fields else {}).items():
        place, owner = ("stages", i, kind, ARMS, arm), f"arm '{arm}' of stage '{stage.name}'"
        for option in sorted({"name", ARMS} & changes.keys()):
            raise places.wrong(f"{owner} takes no '{option}'; an arm is named by its key", *place, option)
        arm_options = {**options, **changes, "name": f"{stage.name}-{arm}"}
        del arm_options[ARMS]
        different = validate(cls, arm_options, owner=owner, places=places, place=place)
        if different == stage.model_copy(update={"name": different.name, ARMS: {}}):
            raise places.wrong(f"{owner} changes no option: name one that differs, or leave it out", *place)
        with places.within(*place, prefix=f"stage '{different.name}': "):
            yield from [_Placed(copy, place) for copy in for_values(different)]


def bind_stages(
    items: Sequence[Mapping[str, Any]], places: Places, context: CheckContext, *, loop: str = ""
) -> tuple[BoundStage, ...]:
    """Return the stages of a list, each bound to the fields and models before it. Raise ConfigError.

    `loop` is the name of the stage that contains the list. A list that evaluates gets a stage `decontaminate`
    before the first stage that trains or evaluates, unless it has one.
    """
    project, bound_stages = context.project, list[BoundStage]()
    stages = [
        placed._replace(stage=seeded(placed.stage, context.seed))
        for placed in _placed(items, places, project)
    ]
    _check_decontamination(items, project, places)
    _check_searches(items, places)
    guard = _decontaminate_options(items, stages, places, project, loop)
    names, labels = set[str](), dict[str, str]()

    def bind(placed: _Placed, added: bool = False) -> None:
        nonlocal context
        stage = placed.stage
        with places.within(*placed.place, prefix=f"stage '{stage.name}': "):
            if not NAME.fullmatch(stage.name):
                raise ConfigError(f"the name '{stage.name}' is not made of letters, digits, '-' and '_'")
            if not bound_stages and not loop and stage.kind != "source":
                raise ConfigError(f"the first stage must be a source, not '{stage.kind}'")
            bound = replace(stage.bind(context), added=added)
            check_condition(bound)
            for label, (filter, place) in bound.score_labels().items():  # labels are unique in the list
                if label in labels:
                    message = f"stages '{labels[label]}' and '{place}' both have a filter '{label}'"
                    raise ConfigError(f"{message}; give one of them another name: {filter}: {{name: …}}")
                labels[label] = place
            for name in bound.names():
                if name in names:
                    subject = stage.kind if name == stage.name else name
                    raise ConfigError(
                        f"two stages have the name '{name}'; name one of them: {subject}: {{name: …}}"
                    )
            names.update(bound.names())
            context = context.after(bound)
        bound_stages.append(bound)

    for placed in stages:
        if guard and _any(items[placed.item], "train", "evaluate"):
            if SPLIT in context.fields or guard["against"] or guard.get("report"):
                (added,) = _read_item({"decontaminate": guard}, placed.item, places, project)
                bind(added, added=True)
            guard = {}
        with places.within(*placed.place, prefix=f"stage '{placed.stage.name}': "):
            copies = for_values(placed.stage, context)
        for copy in copies:
            bind(placed._replace(stage=copy))
    return tuple(bound_stages)


def _decontaminate_options(
    items: Sequence[Mapping[str, Any]], stages: Sequence[_Placed], places: Places, project: Project, loop: str
) -> dict[str, Any]:
    """Return options of the `decontaminate` that the list lacks; {} if it evaluates nothing or has one."""
    if any(_any(item, "decontaminate") for item in items):
        return {}
    evaluation_sets = list[EvaluationSet]()
    for stage, place in stages:
        with places.within(*place, prefix=f"stage '{stage.name}': "):
            evaluation_sets += filter(None, [stage.evaluation_set(project)])
    if not evaluation_sets:
        return {}
    files = {
        about: list(dict.fromkeys(s.file for s in evaluation_sets if s.file and s.about_training == about))
        for about in (False, True)
    }
    options = {
        "name": f"decontaminate-{loop}" if loop else "decontaminate",
        "against": files[False],
        "questions": [items.question for items in evaluation_sets],
    }
    report = [file for file in files[True] if file not in files[False]]
    media = sum((items.media for items in evaluation_sets if items.file), NO_MEDIA).options
    return (
        options
        | {name: [*dict.fromkeys(fields)] for name, fields in media.items()}
        | ({"report": report} if report else {})
    )


def _check_decontamination(items: Sequence[Mapping[str, Any]], project: Project, places: Places) -> None:
    """Raise ConfigError if `decontaminate` comes after a training, or does not name an evaluation set."""
    at = next((i for i, item in enumerate(items) if _any(item, "train")), len(items))
    guards = {i: options for i, item in enumerate(items) for options in _of(item, "decontaminate")}
    evaluations = [options for item in items for options in _of(item, "evaluate") if options.get("data")]
    sets = {str(options["data"]) for options in evaluations if not options.get("about")}
    sets_about_training = {str(options["data"]) for options in evaluations if options.get("about")}
    evaluated = any(_any(item, "evaluate") for item in items)
    if at < len(items) and guards and evaluated:
        if min(guards) > at:
            message = "'decontaminate' comes after a stage that trains on the records that it would drop"
            raise places.wrong(f"{message}; put it before the first training", "stages", min(guards))
        searched_sets = {
            name for i, options in guards.items() if i <= at for name in options.get("against") or ()
        }
        for name in sorted((sets_about_training & searched_sets) - sets):
            message = f"'evaluate' asks about the training with '{name}', and 'decontaminate' drops what"
            remedy = f"write against without it, and report: [{name}]"
            raise places.wrong(f"{message} repeats it; {remedy}", "stages", min(guards))
        for name in sorted(sets - searched_sets):
            message = f"'evaluate' asks about '{name}', which 'decontaminate' does not look for"
            raise places.wrong(f"{message}; add it: against: [{name}]", "stages", min(guards))


def _check_searches(items: Sequence[Mapping[str, Any]], places: Places) -> None:
    """Raise ConfigError if an evaluation reports on a file by which a search chooses."""
    searches = [search for item in items for search in _of(item, "search")]
    inside = [o for search in searches for inner in search["stages"] for o in _of(inner, "evaluate")]
    chosen_by = {str(options["data"]) for options in inside if options.get("data")}
    for i, item in enumerate(items):
        for options in item.values():
            if "evaluate" in item and isinstance(options, Mapping) and options.get("data") in chosen_by:
                message = f"the search chooses by '{options['data']}', and figures of it would flatter"
                raise places.wrong(f"{message}; give 'data', a file of other items", "stages", i)


def _of(item: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    """Yield the options of every stage of this kind in an item of a list, and in the lists inside it."""
    for item_kind, options in item.items():
        if item_kind == kind:
            yield options if isinstance(options, Mapping) else {}
        if isinstance(options, Mapping) and isinstance(inner := options.get("stages"), list):
            for inner_item in inner:
                if isinstance(inner_item, Mapping):
                    yield from _of(inner_item, kind)


def _any(item: Mapping[str, Any], *kinds: str) -> bool:
    """Return whether an item of a list is, or contains, a stage of one of these kinds."""
    return any(True for kind in kinds for _ in _of(item, kind))
