"""Load a pipeline, carry it out and print its result, for several commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import distillgen
from distillgen.cli import show
from distillgen.errors import DistillgenError, Stopped
from distillgen.inference.faults import TeacherDown
from distillgen.text.display import counted, reasons

if TYPE_CHECKING:
    from distillgen.runs.state import Options


class FailedRows(DistillgenError):
    """The run is finished, but some of its answers could not be used."""

    exit_code = 3


@dataclass(frozen=True)
class Printing:
    """What a command prints of a run."""

    as_json: bool = False
    quiet: bool = False
    open_page: bool = False
    """Whether a browser shows the report at the end."""

    def show(self, content: Any, text: Callable[[], None]) -> None:
        """Print the content as JSON, or the text, or nothing."""
        if self.as_json:
            show.as_json(content)
        elif not self.quiet:
            text()

    def open(self, directory: Path) -> None:
        """Open the report of a run in a browser, if that is wanted and there is a report."""
        if self.open_page:
            show.open_page(directory / "report.html")


def load_pipeline(
    pipeline: str | Mapping[str, Any], sets: Sequence[str], *, quiet: bool = False, **options: Any
) -> distillgen.Pipeline:
    """Return the checked pipeline; print its notes on `--set`."""
    checked_pipeline = distillgen.load(pipeline, sets, **options)
    tell_notes(checked_pipeline, quiet=quiet)
    return checked_pipeline


def tell_notes(pipeline: distillgen.Pipeline, *, quiet: bool = False) -> None:
    """Print the notes on `--set`."""
    for note in () if quiet else pipeline.notes:
        show.say(f"note: {note}", error=True)


def refuse_failed(failed: int) -> None:
    """Raise FailedRows if some answers could not be used, with the command's option that asks again."""
    if failed:
        answers = counted(failed, "answer")
        raise FailedRows(f"{answers} could not be used; to ask for these again, add --retry-failed")


def carry_out(
    checked_pipeline: distillgen.Pipeline, directory: Path, options: Options, printing: Printing
) -> None:
    """Run a checked pipeline and print its result; raise FailedRows if rows failed or if nothing was kept."""
    from distillgen.runs.interpreter import interpreter_tuned
    from distillgen.runs.progress_lines import watch
    from distillgen.runs.run import run_pipeline

    run = distillgen.Run(directory)
    try:
        with interpreter_tuned():
            run_pipeline(checked_pipeline, directory, options, None if printing.quiet else watch)
    except Stopped:
        printing.show(run.state, lambda: show.status(run, error=True))
        raise
    except TeacherDown as error:
        if count := run.state["totals"]["answers"]:
            answers = f"{counted(count, 'answer')} {'is' if count == 1 else 'are'} safe in {directory}"
            error.add_note(f"{answers}; the same command goes on from there")
        raise
    printing.show(run.state, lambda: show.summary(run))
    printing.open(directory)
    state = run.state
    refuse_failed(state["failed"])
    is_share = checked_pipeline.source.stage.shards > 1  # `gather` says what all shares kept
    if state["stages"][-1]["complete"] and not state["kept"] and not is_share:
        dropped = state["dropped"]
        why = f"all rows were dropped ({reasons(dropped)})" if dropped else "the source has no rows"
        raise FailedRows(f"nothing was kept: {why}; see: distillgen show {directory} --dropped")
