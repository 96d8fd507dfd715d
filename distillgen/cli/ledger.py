"""The commands on ledgers: merge, verify, compact and export."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

import distillgen
from distillgen.cli import show
from distillgen.cli.arguments import AS_JSON, PathName
from distillgen.errors import ConfigError
from distillgen.inference.places import Database, Place, read_place
from distillgen.text.display import counted


@click.group()
def ledger() -> None:
    """Merge, check, compact and export ledgers, the files that hold the answers of models."""


@ledger.command()
@click.argument("into", metavar="INTO")
@click.argument("others", metavar="OTHER…", nargs=-1, required=True)
@AS_JSON
def merge(into: str, others: Sequence[str], as_json: bool) -> None:
    """Copy the answers and the filters' measurements of OTHER ledgers into the ledger INTO.

    A ledger is given by its file or its database, or by a run that uses it. INTO is created if it does not
    exist. Answers that it has already are not copied.

    \b
    distillgen ledger merge runs/ledger.sqlite3 from-another-machine/ledger.sqlite3
    """
    from distillgen.inference.ledger_files import merge

    path = _ledger_place(into, new=True)
    count = merge(path, [_ledger_place(other) for other in others])
    if as_json:
        show.as_json({"ledger": str(path), "answers": count})
    else:
        show.say(f"{count:,} answers were copied to {path}")


@ledger.command()
@click.argument("ledgers", metavar="LEDGER…", nargs=-1, required=True)
@AS_JSON
def verify(ledgers: Sequence[str], as_json: bool) -> None:
    """Read every page and every row of LEDGERs, and name what is wrong.

    A ledger is given by its file or its database, or by a run that uses it. The exit status is 3 if one is
    damaged.

    \b
    distillgen ledger verify runs/ledger.sqlite3
    """
    from distillgen.inference.ledger_files import verify

    verdicts = {str(path): verify(path) for path in map(_ledger_place, ledgers)}
    if as_json:
        show.as_json({path: verdict._asdict() for path, verdict in verdicts.items()})
    for path, (rows, faults) in () if as_json else verdicts.items():
        counts = ", ".join(f"{status} {count:,}" for status, count in sorted(rows.items()))
        row_counts = f"{counted(sum(rows.values()), 'row')} ({counts or 'none'})"
        show.say(f"{path}: {row_counts}, {counted(len(faults), 'fault')}")
        for fault in faults:
            show.say(f"  {fault}")
        if faults and not isinstance(read_place(path), Database):
            show.say("  distillgen run with --salvage copies every answer that can be read to a new ledger")
    if any(verdict.faults for verdict in verdicts.values()):
        sys.exit(3)  # some answers cannot be used


@ledger.command()
@click.argument("name", metavar="LEDGER")
@AS_JSON
def compact(name: str, as_json: bool) -> None:
    """Delete the texts of superseded answers, and give the freed space back to the disk.

    An answer is superseded if its request was asked again and was answered. Its tokens and its cost stay. No
    run may use the ledger meanwhile.

    \b
    distillgen ledger compact runs/ledger.sqlite3
    """
    from distillgen.inference.ledger_files import compact

    path = _ledger_place(name)
    done = compact(path)
    if as_json:
        show.as_json({"ledger": str(path), **done._asdict()})
    else:
        show.say(
            f"{path}: {done.superseded:,} answers were superseded; {done.before:,} bytes, now {done.after:,}"
        )


@ledger.command("export")
@click.argument("name", metavar="LEDGER")
@click.option("-o", "--out", "file", required=True, type=PathName(path_type=Path), help="The new file.")
def export_ledger(name: str, file: Path) -> None:
    """Write the rows of a ledger as JSON lines: the request, the completion, the tokens and the cost of each.

    \b
    distillgen ledger export runs/ledger.sqlite3 -o answers.jsonl
    """
    from distillgen.inference.ledger_files import export

    if file.exists():
        raise ConfigError(f"'{file}' exists already; name another file")
    count = export(_ledger_place(name), file)
    show.say(f"{count:,} rows were written to {file}")


def _ledger_place(name: str, *, new: bool = False) -> Place:
    """Return the place of a ledger, given by its file, its database or a run that uses it. Raise ConfigError
    if it does not exist, unless it may be `new`.
    """
    from distillgen.project import project_around

    runs = project_around(Path.cwd()) / "runs"
    for directory in (Path(name), runs / name):
        if (directory / "usage.json").exists():
            return distillgen.Run(directory).ledger
    if isinstance(place := read_place(name), Database):
        return place
    if Path(name).is_dir():
        raise ConfigError(f"'{name}' is a folder without a run; give the ledger's file")
    if not Path(name).exists() and not new:
        raise ConfigError(
            f"there is no ledger and no run '{name}'; give a ledger's file, a database as "
            "postgresql://USER@HOST/NAME, or a run by its name"
        )
    return place
