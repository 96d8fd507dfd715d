"""Resume a run: its ledger, its finished stages, and the commands that made its rows."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.inference.endpoint import Services, endpoint_class
from distillgen.inference.ledger import Ledger
from distillgen.inference.limits import Budget
from distillgen.inference.places import Place, is_there, place_beside, written_beside
from distillgen.inference.spec import Spec
from distillgen.inference.teacher import Teacher
from distillgen.pipeline.load import Done, Pipeline
from distillgen.privacy import command
from distillgen.project import Project, home
from distillgen.record import MET, PASSED_BY, digest
from distillgen.runs.directory import Run, stage_file
from distillgen.runs.state import Options, StageCount
from distillgen.state_files import Damaged, damaged_files, is_whole, remove_damaged, replace_text
from distillgen.teachers.scripted import Scripted

log = logging.getLogger("distillgen")


def made_place(pipeline: Pipeline, directory: Path, options: Options) -> Place:
    """Return the place of a run's ledger, and make the folder of the pipeline's or the project's ledger.

    Raise ConfigError if that cannot be made.
    """
    place = ledger_place(pipeline, directory, options)
    if isinstance(place, Path) and place in (pipeline.ledger_place(), pipeline.run_directory(place.name)):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot write to '{place.parent}': {error.strerror}. Choose another place with --ledger"
            ) from error
    return place


def ledger_place(pipeline: Pipeline, directory: Path, options: Options) -> Place:
    """Return the place of a run's ledger, whether it exists or not.

    That is the one in the options, or that of the pipeline, or the one that the directory used before, or the
    ledger of the project. A run in which Python functions answer has its own ledger, because a name does not
    identify a function.
    """
    own_ledger, stored_place = directory / "ledger.sqlite3", stored_state(directory).get("ledger")
    if options.ledger or options.scripts:
        return options.ledger or own_ledger
    if place := pipeline.ledger_place():
        return place
    if stored_place and is_there(before := place_beside(directory, stored_place)):
        return before
    if own_ledger.exists():
        return own_ledger
    return pipeline.run_directory("ledger.sqlite3")


def fingerprints(pipeline: Pipeline, teachers: Mapping[str, Teacher], limit: int | None) -> list[str]:
    """Return, for each stage, a digest of all that its output depends on besides the ledger."""
    stage_prints = pipeline.fingerprints(limit)
    identities = {name: teachers[name].identity for name in pipeline.models}
    return [digest([stage_print, identities]) for stage_print in stage_prints]


def done(pipeline: Pipeline, directory: Path, limit: int | None = None) -> list[Done]:
    """Return the progress of the first stages that have not changed since the run in `directory`. Ask
    nothing.
    """
    state = stored_state(directory)
    if not state["stages"] or not state["source_rows"] or not is_there(place := Run(directory).ledger):
        return []
    ledger = Ledger(place, read_only=True)
    try:
        services = Services(ledger, Budget(None), "", pipeline.project.root)
        teachers = {
            name: make_teacher(name, spec, services, Options(), pipeline.project)
            for name, spec in pipeline.models.items()
        }
        prints = fingerprints(pipeline, teachers, limit)
    finally:
        ledger.close_now()
    stages: list[Done] = []
    for stage, stage_print in zip(state["stages"], prints, strict=False):
        if stage["fingerprint"] != stage_print:
            break
        share = 1.0 if stage["complete"] else min(1.0, stage["sources"] / state["source_rows"])
        counts = [stage["measured"].get(name) for name in (MET, PASSED_BY)]
        met = counts[0] / sum(counts) if None not in counts and any(counts) else None
        stages.append(Done(share, stage["kept"] if stage["complete"] else None, met))
    return stages


def commands_of(
    pipeline: Pipeline, directory: Path, options: Options, before: Mapping[str, Any]
) -> list[str]:
    """Return the commands that give these rows: the run, then those that asked again for unusable answers."""
    folder = directory.resolve()
    out = f"runs/{folder.name}" if folder.parent.name == "runs" else folder.name
    words = ["distillgen", "run", _argument(pipeline), "--out", out]
    words += ["-n", str(options.limit)] * (options.limit is not None) + [
        "--until",
        options.until or "",
    ] * bool(options.until)
    words += [word for override_text in pipeline.sets for word in ("--set", override_text)]
    commands = [command(words)]
    earlier_commands = before.get("commands", [])
    if earlier_commands[:1] == commands:
        commands = earlier_commands
    if options.retry_failed:
        changed = [
            word for name, value in options.retry_with.items() for word in ("--retry-with", f"{name}={value}")
        ]
        commands = [*commands, command([*words, "--retry-failed", *changed])]
    return list(dict.fromkeys(commands))


def _argument(pipeline: Pipeline) -> str:
    """Return what names a pipeline on the command line, in its project's folder."""
    root, path = pipeline.project.root.resolve(), pipeline.path.resolve()
    by_name = path.parent in (root / "pipelines", home("pipelines").resolve())
    inside = path.is_file() and path.is_relative_to(root)
    return path.relative_to(root).as_posix() if inside and not by_name else pipeline.name


def stored_lock(directory: Path) -> dict[str, Any]:
    """Return the lock file of the run before; {} if it is missing or damaged."""
    try:
        return Run(directory).lock
    except (OSError, Damaged):
        return {}


def stored_state(directory: Path) -> dict[str, Any]:
    """Return `usage.json` of the run before; no stages if there is none that can be read."""
    try:
        return Run(directory).state
    except (ConfigError, Damaged):
        return {"stages": []}


def _standing_stages(
    pipeline: Pipeline, directory: Path, state: Mapping[str, Any], prints: Sequence[str]
) -> list[StageCount]:
    """Return the counts of the first stages whose stored records are those of this pipeline."""
    counts: list[StageCount] = []
    for stage, stage_print in zip(state["stages"], prints, strict=False):
        results = [stage_file(directory, len(counts), pipeline.stages[len(counts)].name)]
        if len(counts) == len(prints) - 1:
            results += [directory / "corpus.jsonl", directory / "dropped.jsonl"]
        results += pipeline.stages[len(counts)].products(directory)
        if (
            not stage["complete"]
            or stage["fingerprint"] != stage_print
            or not all(path.exists() for path in results)
        ):
            break
        rows = [stage["rows"], stage["kept"], stage["rows"] - stage["kept"]]
        files = zip(results, rows[: 3 if len(counts) == len(prints) - 1 else 1], strict=False)
        if torn := [path for path, count in files if not is_whole(path, count)]:
            log.warning("%s is damaged, and is made again from the ledger", torn[0])
            break
        counts.append(StageCount(**stage | {"dropped": Counter(stage["dropped"])}))
    return counts


def resumed_stages(
    pipeline: Pipeline,
    directory: Path,
    options: Options,
    ledger: Ledger,
    prints: Sequence[str],
    first: int,
    last: int,
    run_name: str,
) -> tuple[list[StageCount], int, int]:
    """Return the counts of the finished stages, the first stage to run, and the ledger row up to which they
    are current.

    Raise ConfigError if the stage before `--from` is not finished.
    """
    state = stored_state(directory)
    if damaged := damaged_files(directory):
        log.warning("%s is damaged, and is made again from the ledger", ", ".join(map(str, damaged)))
        if state["stages"]:  # or a kill before this run has written its own would leave those that stand
            unfinished = [stage | {"complete": False} for stage in state["stages"]]
            replace_text(directory / "usage.json", json.dumps(state | {"stages": unfinished}, indent=2))
        remove_damaged(damaged)
        state = {"stages": []}
    standing = _standing_stages(pipeline, directory, state, prints)
    if first > len(standing):
        before, stage = pipeline.stages[first - 1].name, pipeline.stages[first].name
        complete = state["stages"] and state["stages"][first - 1]["complete"]
        why = "has changed since it was run" if complete else "has not been run to its end"
        raise ConfigError(f"--from {stage}: the stage before it, '{before}', {why}; run without --from")
    same_ledger = written_beside(directory, ledger.place) == state.get("ledger")
    ledger_seen = state.get("ledger_seen", -1) if same_ledger else -1
    if options.first:
        return standing, first, ledger_seen
    source = pipeline.source.stage  # a remote data set, or a file that rows name, may have changed
    local = bool(pipeline.source.files or source.draw) and not source.media
    asks_again = options.retry_failed or options.salvage
    if local and not asks_again and ledger_seen >= 0 and not ledger.superseded_since(ledger_seen, run_name):
        first = min(len(standing), last + 1)
    return standing, first, ledger.last_id


def make_teacher(name: str, spec: Spec, services: Services, options: Options, project: Project) -> Teacher:
    """Return the teacher of a model: a Python function of the options, or its provider's."""
    if name in options.scripts:
        return Teacher(Scripted(name, spec, services, script=options.scripts[name]))
    return Teacher(endpoint_class(spec.provider, project)(name, spec, services))
