"""Share a run among machines: each worker runs a shard of the rows, and one gathers what they brought.

A shard runs the stages up to the first one that needs all records. Gathering copies the answers of all shards
into one ledger and runs the whole pipeline on it: the answers are there, and everything else is derived from
them. So the corpus is the one of a single machine, to the byte.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.inference.ledger_files import merge
from distillgen.inference.places import Place, resolved
from distillgen.pipeline.load import Pipeline
from distillgen.runs.directory import Run, name_in
from distillgen.stages.source import SHARD

SAME = ("seed", "models", "stages", "files")  # the parts of the lock file that shards share


def override(pipeline: Pipeline, shard: str) -> str:
    """Return the override that gives a pipeline its shard. Raise ConfigError for another form than I/N."""
    if not re.fullmatch(SHARD, shard):
        raise ConfigError(f"--shard takes I/N, such as 0/4 for the first of four workers, not '{shard}'")
    return f"{pipeline.source.name}.shard={shard}"


def folder(shard: str) -> str:
    """Return the name of a shard's folder in the run directory."""
    return f"shard-{shard.replace('/', '-of-')}"


def row_wise(pipeline: Pipeline) -> int:
    """Return the number of stages before the first one that needs all records."""
    scopes = [bound.scope for bound in pipeline.bound_stages]
    return scopes.index("set") if "set" in scopes else len(scopes)


def pipeline_of(runs: Sequence[Run]) -> tuple[str, list[str]]:
    """Return the argument that names the pipeline of shards, and its overrides.

    Raise ConfigError if the runs are not finished shards of one run.
    """
    shards: dict[int, Run] = {}
    locks = [run.lock for run in runs]
    total = _shard(runs[0], locks[0])[1]
    for run, lock in zip(runs, locks, strict=True):
        number, of = _shard(run, lock)
        if of != total:
            raise ConfigError(
                f"'{run.directory}' is one of {of} shards, '{runs[0].directory}' one of {total}"
            )
        if number in shards:
            raise ConfigError(
                f"'{shards[number].directory}' and '{run.directory}' are both shard {number}/{of}"
            )
        shards[number] = run
        for part in SAME:
            if _unsharded(lock)[part] != _unsharded(locks[0])[part]:
                raise ConfigError(
                    f"'{runs[0].directory}' and '{run.directory}' are shards of different runs: their "
                    f"'{part}' differ. Compare their pipeline.lock.yaml, and run one of them again"
                )
        if (state := run.state["state"]) != "finished":
            again = lock["commands"][0]
            raise ConfigError(f"the shard '{run.directory}' is {state}, not finished; go on with: {again}")
    if missing := sorted({*range(total)} - shards.keys()):
        names = ", ".join(f"{number}/{total}" for number in missing)
        raise ConfigError(f"there is no run of shard {names}: give the runs of all {total} shards")
    return _argument_and_sets(locks[0]["commands"][0], str(_source(locks[0])["name"]))


def bring_together(runs: Sequence[Run], ledger: Place, directory: Path) -> int:
    """Copy the answers of shards to a ledger, as those of the run in `directory`; return their number."""
    name = name_in(ledger, directory)
    count = 0
    for run in runs:
        if resolved(run.ledger) != resolved(ledger):
            inside = f"{name}/{run.directory.resolve().name}"
            renamed = {
                str(use["run"]): inside for use in run.state["usage"]
            }  # the folder may have moved since
            count += merge(ledger, [run.ledger], renamed=renamed)
    return count


def _shard(run: Run, lock: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number of a shard, and how many there are."""
    if not (shard := _source(lock).get("shard")):
        raise ConfigError(f"'{run.directory}' is no shard: it was run without --shard")
    number, _, of = str(shard).partition("/")
    return int(number), int(of)


def _source(lock: Mapping[str, Any]) -> dict[str, Any]:
    return dict(next(iter(lock["stages"][0].values())))


def _unsharded(lock: Mapping[str, Any]) -> dict[str, Any]:
    """Return a lock file without its shard."""
    source = {name: value for name, value in _source(lock).items() if name != "shard"}
    return {**lock, "stages": [source, *lock["stages"][1:]]}


def _argument_and_sets(words: str, source: str) -> tuple[str, list[str]]:
    """Return the pipeline and the overrides of a recorded command, without the shard."""
    typed = shlex.split(words)
    sets = [word for before, word in zip(typed, typed[1:], strict=False) if before == "--set"]
    return typed[2], [word for word in sets if not word.startswith(f"{source}.shard=")]
