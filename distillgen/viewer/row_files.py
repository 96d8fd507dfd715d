"""The files of rows of a run besides those of its stages: the rounds of loops, and answers of evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillgen.record import META, Dropped, Record, digest
from distillgen.runs.directory import evaluations
from distillgen.state_files import PARTIAL

CAME = ("ok", "length")  # the status of a whole answer, and of one that was cut off


@dataclass(frozen=True)
class RowFile:
    """A file of rows in a run's folder."""

    run: Path
    name: str
    """Its path in the folder, without `.jsonl`; it stands in the address of a page."""
    rounds: tuple[tuple[str, int], ...] = ()
    """The loops around it, the outer first, each with the number of the round."""
    evaluation: Mapping[str, Any] | None = None
    """What the evaluation measured, if its rows are answers."""

    @property
    def path(self) -> Path:
        """The file."""
        return self.run / f"{self.name}.jsonl"

    @property
    def loop(self) -> str:
        """Its loop with the rounds around it, such as `outer/2/inner`; "" outside of loops."""
        names = [part for loop, number in self.rounds for part in (loop, str(number))]
        return "/".join(names[:-1])

    @property
    def number(self) -> int:
        """The number of its round."""
        return self.rounds[-1][1]

    @property
    def title(self) -> str:
        """Its name for people, such as `evaluate, rounds 2`."""
        places = [f"{loop} {number}" for loop, number in self.rounds]
        return ", ".join([*([str(self.evaluation["name"])] if self.evaluation else []), *places])

    def row(self, content: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a row of the file in the form of a record."""
        return content if self.evaluation is None or META in content else self._answer(content).row()

    def _answer(self, content: Mapping[str, Any]) -> Record:
        """Return an answer of an evaluation as a record. A wrong one counts as dropped, under the name of the
        model, by the metrics that it fails; an answer that did not come fails all.
        """
        assert self.evaluation
        model, reasons = str(content["model"]), content["reasons"]
        came = content["status"] in CAME
        failed = [name for name in metrics_of(self.evaluation, model) if not came or name in reasons]
        why = "\n".join(reasons[name] for name in failed if name in reasons)
        return Record(
            digest([content["item"], model, content["sample"]]),
            {"model": model, "gold": content["gold"], "answer": content["answer"]},
            (content["item"],),
            content["source"],
            ({"stage": self.evaluation["name"], "model": model, "key": content["key"]},),
            content["scores"],
            Dropped(model, ", ".join(failed), why or f"the answer is {content['status']}")
            if failed
            else None,
            content["item"],
        )


def metrics_of(evaluation: Mapping[str, Any], model: str) -> list[str]:
    """Return the metrics of a model's answers, without figures of all answers together."""
    report = evaluation["models"].get(model, {})
    return [name for name in report.get("metrics", {}) if name not in report.get("figures", {})]


def row_files(run: Path, inside: str = "", rounds: tuple[tuple[str, int], ...] = ()) -> Iterator[RowFile]:
    """Yield the files of a run, each round behind the one before."""
    for evaluation in evaluations(run / inside):
        yield RowFile(run, inside + str(evaluation["file"]), rounds, evaluation)
    for folder in sorted((run / inside).glob("*/[0-9][0-9]*"), key=_in_order):
        records = folder / "records.jsonl"
        if folder.name.isdecimal() and any(
            path.exists() for path in (records, records.with_name(records.name + PARTIAL))
        ):
            around = (*rounds, (folder.parent.name, int(folder.name)))
            place = f"{inside}{folder.parent.name}/{folder.name}/"
            yield RowFile(run, f"{place}records", around)
            yield from row_files(run, place, around)


def _in_order(folder: Path) -> tuple[str, int]:
    return folder.parent.name, int(folder.name) if folder.name.isdecimal() else -1
