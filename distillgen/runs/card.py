"""The card of a data set or a student on the Hugging Face Hub. It says what is unknown."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import yaml
from markupsafe import Markup

from distillgen.pipeline import transparency
from distillgen.pipeline.card_options import Statement
from distillgen.privacy import public
from distillgen.record import META
from distillgen.runs.directory import read_rows
from distillgen.runs.prompt_texts import prompt_texts
from distillgen.runs.report import facts_of
from distillgen.runs.templates import is_turns, template
from distillgen.state_files import load_state, replace_text
from distillgen.text import display

UNKNOWN = "unknown: check"
MOST_FIELDS = 200
MOST_CHARACTERS = 500  # of a text in the example row
MOST_ITEMS = 12  # of a list there
_THIS_FOLDER = "  # this folder"

_MARKDOWN = re.compile(r"[\\`*_{}\[\]()<>#|~!&@^]|\$(?!\d)|:(?=//)|^\s*[-+=]")
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
_TYPES = {str: "text", bool: "true or false", int: "number", float: "number", dict: "object", list: "list"}


class Census:
    """The number of rows, the types of values of each field, and the first row."""

    def __init__(self) -> None:
        self.rows = 0
        self.example: Mapping[str, Any] = {}
        self.fields = defaultdict[str, Counter[str]](Counter)

    def see(self, row: Mapping[str, Any]) -> None:
        """Count a row."""
        self.example = self.example or row
        self.rows += 1
        for name, value in row.items():
            if name != META and (name in self.fields or len(self.fields) < MOST_FIELDS):
                kind = _TYPES.get(type(value), "null")
                self.fields[name]["chat turns" if kind == "list" and is_turns(value) else kind] += 1


def write_card(directory: Path) -> None:
    """Write `README.md` in a run directory, which makes the directory a data set of the Hub."""
    census = Census()
    for row in read_rows(directory / "corpus.jsonl"):
        census.see(row)
    replace_text(directory / "README.md", card(directory, census, "corpus.jsonl", directory.resolve().name))


def card(
    directory: Path,
    census: Census,
    data_files: str | Mapping[str, Sequence[str]],
    folder: str,
    load: str = "load_dataset",
    builder: str = "",
    media: Mapping[str, int] = MappingProxyType({}),
) -> str:
    """Return the card of a data set made by the run in `directory`.

    `data_files` are the files of the data set in its `folder`, by split. `load` is the function of `datasets`
    that reads the folder, or "", and `builder` the one that it is told. `media` counts the pictures and
    sounds by type.
    """
    facts = _facts(directory, "data")
    stated, fields = facts["stated"], census.fields
    files: Any = data_files
    if not isinstance(data_files, str):
        files = [{"split": split, "path": list(names)} for split, names in data_files.items()]
    front = {
        **({"configs": [{"config_name": "default", "data_files": files}]} if data_files else {}),
        **_licence(stated),
        **({"language": stated["languages"]} if stated["languages"] else {}),
        "task_categories": stated["tasks"] or ["text-generation"],
        "tags": ["synthetic", "distillgen"],
        "size_categories": [_SIZES[max(len(str(census.rows)) - 3, 0)]],
    }
    return _rendered(
        facts,
        front,
        rows=census.rows,
        fields=fields,
        load=_fenced(_loading(load, json.dumps(folder), builder) if load else "", "python"),
        media=", ".join(f"{count:,} {kind}" for kind, count in sorted(media.items())),
        example=_fenced(_shortened(census.example), "json"),
        prompts=[
            (name, text and _fenced(text)) for name, text in prompt_texts(directory, facts["lock"]).items()
        ],
        marked=data_files == "corpus.jsonl",
        publishes="data",
    )


def _loading(function: str, argument: str, builder: str) -> str:
    argument = f'"{builder}", data_dir={argument}' if builder else argument
    return f"from datasets import {function}\n\nrows = {function}({argument}){_THIS_FOLDER}"


def on_the_hub(card: str, repository: str) -> str:
    """Return a card that loads the data set from its repository, in the place of the folder."""
    line = re.compile(rf"(?m)^rows = load_dataset\(.*\){re.escape(_THIS_FOLDER)}$")
    return line.sub(lambda _: f'rows = load_dataset("{repository}")', card, count=1)


def student_card(directory: Path) -> str:
    """Return the card of the student of the run in `directory`."""
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
    more: dict[str, Any] = {
        "fields": {},
        "marked": False,
        "load": "",
        "media": "",
        "example": "",
        "prompts": [],
    }
    return _rendered(facts, front, rows=facts["state"]["kept"], publishes="student", **more)


def _licence(stated: Mapping[str, Any]) -> dict[str, str]:
    names = {"license_name": stated["license_name"]} if stated["license_name"] else {}
    return {"license": stated["license"] or "unknown", **names}


def _rendered(facts: dict[str, Any], front: Mapping[str, Any], **more: Any) -> str:
    front_matter = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=False)
    page = template(Path(__file__).with_name("card.md.jinja"), markdown, autoescape=False)
    return page.render(**facts, **more, front=Markup(front_matter))


def _facts(directory: Path, publishes: str) -> dict[str, Any]:
    facts = facts_of(directory)
    lock, state = facts["lock"], facts["state"]
    student, evaluation = (
        _public_state(directory / name) for name in ("student/manifest.json", "evaluation.json")
    )
    stated = Statement(**lock.get("card", {})).model_dump()
    answers = transparency.report(transparency.RunFacts(lock, state, student, evaluation, publishes))
    stages = [options for stage in lock["stages"] for options in stage.values()]
    teachers = [(name, terms) for name, model in lock["models"].items() for terms in terms_of(model)]
    facts |= {
        "commands": _fenced(facts["command"]),
        "origin": transparency.origin_of(lock["stages"][0]["source"]),
        "stated": stated,
        "citation": _fenced(stated["citation"] or ""),
        "student": student,
        "evaluation": evaluation,
        "teachers": teachers,
        "restricted": [name for name, terms in teachers if terms["restricts"] == "yes"],
        "unknown": UNKNOWN,
        "asked": [
            {**options, "model": ", ".join(names)}
            for options in stages
            if (names := [name for name in _names(options.get("model")) if name in lock["models"]])
        ],
        "transparency": answers if stated["self_report"] or stated["stated"] else [],
        "points": transparency.points(answers),
    }
    return facts


def _names(model: Any) -> list[Any]:
    """Return the names in the option `model` of a stage: one, a list of them, or none."""
    return model if isinstance(model, list) else [model]


def _public_state(path: Path) -> dict[str, Any]:
    """Return the publishable part of a JSON file of a run; {} if there is no such file."""
    return dict(public(load_state(path))) if path.exists() else {}


def terms_of(model: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the known terms of a model's host, and those of the model, found by its name."""
    if model["provider"] == "scripted":
        return [_terms("a script", "no", "No model was asked.")]
    default_url = "https://api.openai.com" if model["provider"] == "openai" else ""
    host = urlsplit(str(model.get("base_url", default_url))).hostname or ""
    name = str(model["model"]).lower()
    names = (name, name.removeprefix("hub:").rpartition("/")[2])
    terms = [entry for entry in _table() if host and entry.get("host") == host]
    for entry in _table():
        if "model" in entry and any(re.search(entry["model"], name) for name in names):
            if entry["teacher"] not in [other["teacher"] for other in terms]:
                terms.append(entry)
            break
    return terms or [_terms(UNKNOWN, "unknown", UNKNOWN)]


def _terms(teacher: str, restricts: str, says: str) -> dict[str, str]:
    return {"teacher": teacher, "restricts": restricts, "says": says, "version": "", "address": ""}


@cache
def _table() -> list[dict[str, str]]:
    """Return the table of well-known teachers in `terms.yaml`."""
    table: list[dict[str, str]] = yaml.safe_load(
        Path(__file__).parent.with_name("terms.yaml").read_text(encoding="utf-8")
    )
    return [entry | {"address": Markup(entry["address"])} for entry in table]


def _shortened(row: Mapping[str, Any]) -> str:
    """Return a row as JSON, without its lineage, and with the beginning of long texts and lists."""

    def short(value: Any) -> Any:
        if isinstance(value, str):
            return value if len(value) <= MOST_CHARACTERS else f"{value[:MOST_CHARACTERS]}…"
        if isinstance(value, list):
            return [short(item) for item in value[:MOST_ITEMS]] + ["…"] * (len(value) > MOST_ITEMS)
        return {name: short(item) for name, item in value.items()} if isinstance(value, Mapping) else value

    fields = {name: short(value) for name, value in row.items() if name != META}
    return json.dumps(fields, ensure_ascii=False, indent=2, default=str) if fields else ""


def _fenced(text: str, language: str = "") -> Markup:
    """Return text in a code block that no line of it can end."""
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=2) + 1)
    block = f"{fence:`<3}{language}\n{display.visible(text.strip())}\n{fence:`<3}"
    return Markup(block) if text else Markup("")


def markdown(text: str) -> str:
    """Return text as one line that Markdown shows unchanged."""
    line = display.visible(re.sub(r"\s+", " ", text))
    return _MARKDOWN.sub(lambda m: m[0][:-1] + "\\" + m[0][-1], line)
