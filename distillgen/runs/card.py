"""The card of a data set or a student on the Hugging Face Hub: what is known of it and, of the rest, that it is unknown."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from markupsafe import Markup

from distillgen.pipeline import transparency
from distillgen.pipeline.card_options import Statement
from distillgen.privacy import public
from distillgen.record import META
from distillgen.runs.directory import read_rows
from distillgen.runs.report import facts_of
from distillgen.runs.templates import is_turns, template
from distillgen.state_files import load_state
from distillgen.text import display

UNKNOWN = "unknown: check"
MOST_FIELDS = 200

_MARKDOWN = re.compile(r"[\\`*_{}\[\]()<>#|~!&@^]|\$(?!\d)|:(?=//)|^\s*[-+=]")
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
_TYPES = {str: "text", bool: "true or false", int: "number", float: "number", dict: "object", list: "list"}


class Census:
    """How many rows there are, and of which kinds of values each field is."""

    def __init__(self) -> None:
        self.rows = 0
        self.fields = defaultdict[str, Counter[str]](Counter)

    def see(self, row: Mapping[str, Any]) -> None:
        """Count a row."""
        self.rows += 1
        for name, value in row.items():
            if name != META and (name in self.fields or len(self.fields) < MOST_FIELDS):
                kind = _TYPES.get(type(value), "null")
                self.fields[name]["chat turns" if kind == "list" and is_turns(value) else kind] += 1


def write_card(directory: Path) -> None:
    """Write `README.md` beside a run's corpus, which makes the run directory a data set of the Hub."""
    census = Census()
    for row in read_rows(directory / "corpus.jsonl"):
        census.see(row)
    (directory / "README.md").write_text(card(directory, census, "corpus.jsonl"), encoding="utf-8")


def card(directory: Path, census: Census, data_files: str | Mapping[str, Sequence[str]]) -> str:
    """The card of a data set made by the run in `directory`, whose files are `data_files` (by split)."""
    facts = _facts(directory, "data")
    stated, fields = facts["stated"], census.fields
    files = (
        data_files
        if isinstance(data_files, str)
        else [{"split": s, "path": list(own)} for s, own in data_files.items()]
    )
    front = {
        **({"configs": [{"config_name": "default", "data_files": files}]} if data_files else {}),
        **_licence(stated),
        **({"language": stated["languages"]} if stated["languages"] else {}),
        "task_categories": stated["tasks"] or ["text-generation"],
        "tags": ["synthetic", "distillgen"],
        "size_categories": [_SIZES[max(len(str(census.rows)) - 3, 0)]],
    }
    return _rendered(
        facts, front, rows=census.rows, fields=fields, marked=data_files == "corpus.jsonl", publishes="data"
    )


def student_card(directory: Path) -> str:
    """The card of the student of the run in `directory`."""
    facts = _facts(directory, "student")
    student = facts["student"]
    base = str(student.get("base") or "")
    front = {
        **_licence(facts["stated"]),
        **({"base_model": base} if re.fullmatch(r"[\w.-]+/[\w.-]+", base) else {}),
        "library_name": "peft" if student.get("kind") == "adapter" else "transformers",
        **({"language": facts["stated"]["languages"]} if facts["stated"]["languages"] else {}),
        "tags": ["distillgen", "distillation"],
    }
    return _rendered(facts, front, rows=facts["state"]["kept"], fields={}, marked=False, publishes="student")


def _licence(stated: Mapping[str, Any]) -> dict[str, str]:
    names = {"license_name": stated["license_name"]} if stated["license_name"] else {}
    return {"license": stated["license"] or "unknown", **names}


def _rendered(facts: dict[str, Any], front: Mapping[str, Any], **more: Any) -> str:
    shown = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=False)
    page = template(Path(__file__).with_name("card.md.jinja"), markdown, autoescape=False)
    return page.render(**facts, **more, front=Markup(shown))


def _facts(directory: Path, publishes: str) -> dict[str, Any]:
    facts = facts_of(directory)
    lock, state = facts["lock"], facts["state"]
    student, evaluation = (_told(directory / name) for name in ("student/manifest.json", "evaluation.json"))
    stated = Statement(**lock.get("card", {})).model_dump()
    told = transparency.Told(lock, state, student, evaluation, publishes)
    answers = transparency.report(told)
    stages = [options for stage in lock["stages"] for options in stage.values()]
    teachers = [(name, terms) for name, model in lock["models"].items() for terms in terms_of(model)]
    facts |= {
        "commands": _fenced(facts["command"]),
        "stated": stated,
        "citation": _fenced(stated["citation"] or ""),
        "student": student,
        "evaluation": evaluation,
        "teachers": teachers,
        "restricted": [name for name, terms in teachers if terms["restricts"] == "yes"],
        "unknown": UNKNOWN,
        "asked": [options for options in stages if options.get("model") in lock["models"]],
        "transparency": answers,
        "points": transparency.points(answers),
    }
    return facts


def _told(path: Path) -> dict[str, Any]:
    """A JSON file of a run, or nothing."""
    return dict(public(load_state(path))) if path.exists() else {}


def terms_of(model: Mapping[str, Any]) -> list[dict[str, str]]:
    """What is known of the terms that a model's output stands under: those of the host that is asked, and those of the model,
    which is known by its name.
    """
    if model["provider"] == "scripted":
        return [
            {
                "teacher": "a script",
                "restricts": "no",
                "says": "No model was asked.",
                "version": "",
                "address": "",
            }
        ]
    host = (
        urlsplit(
            str(model.get("base_url", "https://api.openai.com" if model["provider"] == "openai" else ""))
        ).hostname
        or ""
    )
    name = str(model["model"]).lower()
    names = (name, name.removeprefix("hub:").rpartition("/")[2])
    found = [entry for entry in _table() if host and entry.get("host") == host]
    named = [e for e in _table() if "model" in e and any(re.search(e["model"], one) for one in names)][:1]
    found += [entry for entry in named if entry["teacher"] not in [other["teacher"] for other in found]]
    if not found:
        found = [{"teacher": UNKNOWN, "restricts": "unknown", "says": UNKNOWN, "version": "", "address": ""}]
    return found


@cache
def _table() -> list[dict[str, str]]:
    """What `terms.yaml` says of well-known teachers."""
    table: list[dict[str, str]] = yaml.safe_load(
        Path(__file__).parent.with_name("terms.yaml").read_text(encoding="utf-8")
    )
    return [entry | {"address": Markup(entry["address"])} for entry in table]


def _fenced(text: str) -> Markup:
    """Text of several lines in a code block that it cannot end."""
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=2) + 1)
    return Markup(f"{fence:`<3}\n{display.visible(text.strip())}\n{fence:`<3}") if text else Markup("")


def markdown(text: str) -> str:
    """One line of text that Markdown shows as it is."""
    line = display.visible(re.sub(r"\s+", " ", text))
    return _MARKDOWN.sub(lambda m: m[0][:-1] + "\\" + m[0][-1], line)
