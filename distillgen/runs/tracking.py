"""Report the figures of a run and of its trainings to experiment trackers while it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from distillgen import __version__
from distillgen.pipeline.load import Pipeline
from distillgen.runs.execute import Watch
from distillgen.runs.progress import Meter, Progress
from distillgen.runs.state import Live
from distillgen.runs.trackers import Tracker, check_trackers, open_trackers

REPORT_EVERY_S = 5.0

log = logging.getLogger("distillgen")


@contextlib.contextmanager
def tracking(
    names: Sequence[str], pipeline: Pipeline, directory: Path
) -> Iterator[Callable[[Watch | None], Watch | None]]:
    """Open these trackers, and close them when the block ends; give what makes a watch also report to them.

    A tracker that fails on the way is left out with a warning: the run goes on. Raises ConfigError for one
    that cannot be opened.
    """
    if not names:
        yield lambda watch: watch
        return
    check_trackers(names)
    kinds = ", ".join(stage.kind for stage in pipeline.stages)
    facts = {
        "pipeline": pipeline.name,
        "distillgen": __version__,
        "stages": kinds,
        "seed": str(pipeline.seed),
    }
    trackers = open_trackers(names, pipeline.name, directory, facts)

    def reporting(watch: Watch | None) -> Watch:
        async def both(live: Live) -> None:
            report = asyncio.ensure_future(_report(live, trackers))
            try:
                await (watch(live) if watch else report)
            finally:
                report.cancel()
                await asyncio.wait([report])

        return both

    finished = False
    try:
        yield reporting
        finished = True
    finally:
        _tell(trackers, lambda tracker: tracker.end(finished=finished))


async def _report(live: Live, trackers: dict[str, Tracker]) -> None:
    """Report every REPORT_EVERY_S until cancelled, and once more at the end."""
    meter = Meter(live)

    def report() -> None:
        figures = figures_of(meter.read(), live.directory)
        _tell(trackers, lambda tracker: tracker.log(figures))

    thread: asyncio.Future[None] | None = None
    try:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            thread = asyncio.ensure_future(asyncio.to_thread(report))
            await asyncio.shield(thread)
    finally:
        if thread:
            await thread
        await asyncio.to_thread(report)


def figures_of(progress: Progress, directory: Path) -> dict[str, float]:
    """Return the figures of a run by name: of stages, models, trainings, and the whole."""
    figures: dict[str, float | None] = {"elapsed_s": progress.elapsed_s, "cost_usd": progress.cost_usd}
    for stage in progress.stages:
        figures |= {
            f"{stage.name}/kept": stage.rows_out,
            f"{stage.name}/dropped": sum(stage.dropped.values()),
        }
        figures |= {f"{stage.name}/{title}": number for title, number in stage.measured.items()}
    for model in progress.models:
        figures |= {f"{model.name}/answered": model.answered, f"{model.name}/failed": model.failed}
        figures |= {f"{model.name}/tokens": model.input_tokens + model.output_tokens}
    figures |= _trainings(directory)
    return {
        re.sub(r"[^\w\-. /]", "_", name): float(number)
        for name, number in figures.items()
        if number is not None and math.isfinite(number)
    }


def _trainings(directory: Path) -> Mapping[str, float | None]:
    """Return step and loss of the trainings that go on."""
    figures: dict[str, float | None] = {}
    for path in directory.rglob("progress.json"):
        with contextlib.suppress(OSError, ValueError):  # the training has just ended
            state = json.loads(path.read_bytes())
            student = path.parent.name.partition(".")[0]
            figures |= {f"{student}/{name}": state[name] for name in ("step", "loss")}
    return figures


def _tell(trackers: dict[str, Tracker], work: Callable[[Tracker], None]) -> None:
    """Do the work for each tracker, and leave out one that fails."""
    for name, tracker in list(trackers.items()):
        try:
            with contextlib.redirect_stdout(sys.stderr):
                work(tracker)
        except Exception as error:  # whatever a foreign library raises: the run is worth more
            del trackers[name]
            log.warning(
                "--report-to %s: %s: %s; the run goes on without it", name, type(error).__name__, error
            )
