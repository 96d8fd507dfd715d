"""Printing the runs of a pipeline with several seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillgen.cli.show import say, usage
from distillgen.text.display import number

if TYPE_CHECKING:
    from distillgen.runs.seeds import Seeds


def figures(runs: Seeds) -> None:
    """Print the mean of each figure over seeds, and the paired differences of each two models.

    Numbers that a metric measures beside its own, such as `exact.f1`, are only in the files. Without models,
    the figures are those of the other stages.
    """
    from distillgen.runs.seed_figures import apart

    content = runs.summary
    rows, _ = apart([row for row in content["figures"] if row["model"]])
    say(f"\n{content['pipeline']}, {len(content['finished'])} of {content['seeds']} seeds", bold=True)
    for row in rows or content["figures"]:
        value = _share if row["share"] else number
        subject = f"{row['stage']}.{row['metric']}" if row["model"] else f"{row['stage']}: {row['metric']}"
        error = "" if row["standard_error"] is None else f" ± {value(row['standard_error'])}"
        say(f"  {subject:<28} {row['model']:<20} {value(row['mean'])}{error}")
    for row in apart(content["comparisons"])[0]:
        scale, unit = (100, " points") if row["share"] else (1, "")
        error = "" if row["standard_error"] is None else f" ± {number(scale * row['standard_error'])}"
        say(
            f"  {row['first']} against {row['second']}, {row['stage']}.{row['metric']}: "
            f"{scale * row['difference']:+.3g}{error}{unit}, larger in {row['wins']} and smaller in "
            f"{row['losses']} of {row['seeds']} seeds, p {row['p']:.3f}"
        )
    if content["comparisons"]:
        say("  ± is the standard error over seeds; p is that of the exact two-sided sign-flip test")
    say(f"figures  {runs.directory / 'seeds.json'}\nreport   {runs.directory / 'report.html'}")


def _share(value: float) -> str:
    return f"{value:.1%}"


def status(runs: Seeds, *, error: bool = False) -> None:
    """Print the state of the run of each seed, and how to continue."""
    state = runs.state
    lines = [f"{state['pipeline']}: {state['state']}, {state['seeds']} seeds"]
    for seed in range(state["seeds"]):
        run = state["runs"].get(seed)
        so_far = f"{run['state']:<12} kept {run['kept']:,}, {usage(run['totals'])}" if run else "not begun"
        lines.append(f"seed {seed:<4} {so_far}")
    if state["state"] not in ("finished", "running"):
        lines.append(f"the answers are safe in {runs.directory}; run the same command to go on")
    say("\n".join(lines), error=error)
