"""What a run did, as one HTML page for people and as a dataset card. Each reads the run's files once, memory flat."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from distillgen.record import Dropped, Record
from distillgen.runs import Run, read_records

KEPT_EXAMPLES, DROPPED_EXAMPLES = 12, 40
LONGEST = 10_000  # characters of one value on the page; the rest is in corpus.jsonl
MOST_BINS, MOST_BARS, MOST_FIELDS = 512, 32, 200
MOST_REASONS, SHOWN_REASONS = 60, 6  # kinds of reason, of each filter

_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]")
_VARIES = re.compile(r"""('[^']*'|"[^"]*"|(?<!\w)[+-]?\w*\d\w*(?:[.,]\d+)*)""")
_MARKDOWN = re.compile(r"[\\`*_{}\[\]()<>#|~!&@^]|\$(?!\d)|:(?=//)|^\s*[-+=]")
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
_TYPES = {str: "text", bool: "true or false", int: "number", float: "number", dict: "object", list: "list"}


def write_report(directory: Path) -> None:
    """Write `report.html`: one page without scripts or network, on which what others wrote is only ever text."""
    facts, seen = _facts(directory), _Seen()
    for record in _records(directory, facts["state"]):
        seen.add(record)
    counts = Counter({(s["name"], f): n for s in facts["state"]["stages"] for f, n in s["dropped"].items()})
    counts |= Counter({drop: sum(g.count for g in groups.values()) for drop, groups in seen.reasons.items()})
    page = _environment(visible, autoescape=True).get_template("report.html.jinja").render(
        **facts,
        drops=[
            {"stage": stage, "filter": name, "count": n, "reasons": _summary(seen.reasons.get((stage, name), {}))}
            for (stage, name), n in counts.most_common()
        ],
        histograms=[(name, bins.bars()) for name, bins in sorted(seen.scores.items())],
        kept_examples=seen.kept, dropped_examples=seen.spread(), longest=LONGEST,
    )  # fmt: skip
    _replace(directory / "report.html", page)


def write_card(directory: Path) -> None:
    """Write `README.md`, a Hugging Face dataset card that says what is known and, of the rest, that it is not."""
    facts = _facts(directory)
    fields: dict[str, Counter[str]] = {}
    rows = 0
    for record in read_records(directory / "corpus.jsonl"):
        rows += 1
        for name, value in record.fields.items():
            if name in fields or len(fields) < MOST_FIELDS:
                kind = "chat turns" if _is_turns(value) else _TYPES.get(type(value), "null")
                fields.setdefault(name, Counter())[kind] += 1
    size = _SIZES[max(len(str(rows)) - 3, 0)]
    card = _environment(_as_markdown, autoescape=False).get_template("card.md.jinja")
    _replace(directory / "README.md", card.render(**facts, rows=rows, size=Markup(size), fields=fields))


def visible(value: Any) -> Any:
    """Text with what a terminal or browser would obey instead of show (controls, bidi overrides, tags) spelt out."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _HIDDEN.sub(lambda m: chr(0x2400 + ord(m[0])) if m[0] < " " else f"⟨U+{ord(m[0]):04X}⟩", value)


def _as_markdown(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return _MARKDOWN.sub(lambda m: m[0][:-1] + "\\" + m[0][-1], visible(re.sub(r"\s+", " ", value)))
    return value


def _facts(directory: Path) -> dict[str, Any]:
    """What page and card both tell, from `usage.json` and the lock."""
    state = Run(directory).state
    lock = yaml.safe_load((directory / "pipeline.lock.yaml").read_text(encoding="utf-8"))
    steps, into = [], None
    for stage in state["stages"]:
        counted = bool(stage["rows"] or stage["complete"])  # not where --from took an earlier session's records
        steps.append(stage | {"counted": counted, "into": into, "out": stage["kept"] + sum(stage["dropped"].values())})
        into = stage["kept"] if counted else None
    partial, kept = state["state"] if state["state"] != "finished" else "", state["kept"]
    if not partial and not steps[-1]["counted"]:  # --until
        reached = [step for step in steps if step["counted"]][-1]
        partial, kept = f"carried out up to the stage {reached['name']}", reached["kept"]
    name, about, place = str(lock["pipeline"]), lock["about"].strip(), directory.resolve()
    out = f"runs/{place.name}" if place.parent.name == "runs" else place.name
    words = ["distillgen", "run", name, *(["--out", out] if out != f"runs/{name}" else [])]
    command = " ".join(map(shlex.quote, words))
    return {
        "state": state, "partial": partial, "kept": kept, "lock": lock, "steps": steps, "uses": _uses(state, lock),
        "about": about and about[0].upper() + about[1:] + "." * (about[-1] not in ".!?…"),
        "lost": sum(state["dropped"].values()), "priced": {n for n, m in lock["models"].items() if m.get("price")},
        "command": Markup(command) if re.fullmatch(r"[\w./' -]+", command) else command,
        "at": datetime.fromisoformat(state["updated_at"]).strftime("%-d %B %Y, %H:%M UTC"),
    }  # fmt: skip


def _uses(state: Mapping[str, Any], lock: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was asked, by stage and model, in the order of the stages."""
    place = {stage["name"]: i for i, stage in enumerate(state["stages"])}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for usage in state["usage"]:
        row = rows.setdefault((usage["stage"], usage["model"]), dict.fromkeys(state["totals"], 0))
        row.update({key: row[key] + usage[key] for key in row})
    asked = sorted(rows, key=lambda key: (place.get(key[0], len(place)), key))
    return [{**rows[s, m], "stage": s, "model": m, "shown": lock["models"].get(m, {}).get("model", "")} for s, m in asked]


def _records(directory: Path, state: Mapping[str, Any]) -> Iterator[Record]:
    """What left the pipeline, or, of a run that did not go to its end, what left the last stage that it reached."""
    stages = state["stages"]
    reached = max((i for i, s in enumerate(stages) if s["rows"] or s["complete"]), default=0)
    if reached == len(stages) - 1:
        return chain(read_records(directory / "corpus.jsonl"), read_records(directory / "dropped.jsonl"))
    return read_records(directory / "stages" / f"{reached + 1:02d}-{stages[reached]['name']}.jsonl")


@dataclass
class _Reason:
    """Reasons that differ in numbers and quotations only, with the range of each."""

    words: tuple[str, ...]
    low: list[str]
    high: list[str]
    count: int = 0
    examples: list[Record] = field(default_factory=list)

    def add(self, values: list[str]) -> None:
        self.count += 1
        for i, value in enumerate(values):
            try:
                self.low[i] = min(self.low[i], value, key=float)
                self.high[i] = max(self.high[i], value, key=float)
            except ValueError:
                if value != self.low[i]:
                    self.low[i] = self.high[i] = "…"

    def __str__(self) -> str:
        spans = [low if low == high else f"{low} to {high}" for low, high in zip(self.low, self.high, strict=True)]
        return "".join(islice(chain.from_iterable(zip_longest(self.words, spans, fillvalue="")), 2 * len(self.words)))


def _summary(reasons: Mapping[Any, _Reason]) -> list[tuple[str, int]]:
    """The most common kinds of reason; where there are many, the rare ones go by what stands before their colon."""
    counts: Counter[str] = Counter()
    for reason in reasons.values():
        text = str(reason)
        if len(reasons) > SHOWN_REASONS and reason.count == 1 and ": " in text:
            text = text.split(": ", 1)[0] + ": …"
        counts[text] += reason.count
    shown = counts.most_common(SHOWN_REASONS)
    rest = counts.total() - sum(n for _, n in shown)
    return [*shown, *([("other reasons", rest)] if rest else [])]


@dataclass
class _Bins:
    """A histogram of any numbers in bounded memory: bins double in width when there are too many, in whatever order."""

    exponent: int = -40
    counts: dict[int, list[int]] = field(default_factory=dict)  # bin: kept, dropped here, dropped elsewhere
    ranges: dict[int, tuple[float, float]] = field(default_factory=dict)
    whole: bool = True

    def add(self, value: float, tone: int) -> None:
        while abs(value) >= math.ldexp(1.0, min(self.exponent + 52, 1023)) and self.exponent < 971:
            self.widen()
        index = math.floor(math.ldexp(value, -self.exponent))
        self.counts.setdefault(min(index, -1) if value < 0 else index, [0, 0, 0])[tone] += 1  # -1 where it underflows
        low, high = self.ranges.get(tone, (value, value))
        self.ranges[tone] = min(low, value), max(high, value)
        self.whole = self.whole and value.is_integer()
        if len(self.counts) > MOST_BINS:
            self.widen()

    def widen(self) -> None:
        fine, self.counts, self.exponent = self.counts, {}, self.exponent + 1
        for index, tones in fine.items():
            _tally(self.counts.setdefault(index >> 1, [0, 0, 0]), tones)

    def bars(self) -> dict[str, Any]:
        """Bars of equal width over the middle 98 %; what lies far outside joins the outermost bars."""
        order, total = sorted(self.counts), sum(map(sum, self.counts.values()))
        reached, inner = 0, []
        for index in order:
            if reached <= 0.99 * total and reached + sum(self.counts[index]) >= 0.01 * total:
                inner.append(index)
            reached += sum(self.counts[index])
        first, last = inner[0], inner[-1]
        if first == last or order[-1] - order[0] <= 4 * (last - first):
            first, last = order[0], order[-1]
        shift = max(0, -self.exponent) if self.whole else 0
        while (last >> shift) - (first >> shift) >= MOST_BARS:
            shift += 1
        columns = [[0, 0, 0] for _ in range((last >> shift) - (first >> shift) + 1)]
        for index, tones in self.counts.items():
            _tally(columns[(min(max(index, first), last) >> shift) - (first >> shift)], tones)
        return {
            "columns": columns, "tallest": max(map(sum, columns)), "total": total, "ranges": self.ranges,
            "low": min(low for low, _ in self.ranges.values()), "high": max(high for _, high in self.ranges.values()),
            "below": math.ldexp(first, self.exponent) if first > order[0] else None,
            "above": math.ldexp(last + 1, self.exponent) if last < order[-1] else None,
        }  # fmt: skip


def _tally(into: list[int], tones: list[int]) -> None:
    into[:] = [a + b for a, b in zip(into, tones, strict=True)]


@dataclass
class _Seen:
    """What one pass over the records leaves behind, however many there are."""

    kept: list[Record] = field(default_factory=list)
    reasons: dict[tuple[str, str], dict[Any, _Reason]] = field(default_factory=dict)
    scores: dict[str, _Bins] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        dropped = record.dropped
        if dropped is None:
            if len(self.kept) < KEPT_EXAMPLES:
                self.kept.append(record)
        else:
            self._sort(record, dropped)
        for name, value in record.scores.items():
            if value is None:  # JSON's word for a log-probability of -inf
                continue
            own = dropped is not None and f"{name}.".startswith(f"{dropped.filter}.")
            self.scores.setdefault(name, _Bins()).add(float(value), 0 if dropped is None else 1 if own else 2)

    def _sort(self, record: Record, dropped: Dropped) -> None:
        groups = self.reasons.setdefault((dropped.stage, dropped.filter), {})
        words, values = tuple((parts := _VARIES.split(dropped.reason[:500]))[::2]), parts[1::2]
        if words not in groups and len(groups) >= MOST_REASONS:
            before, colon, _ = dropped.reason[:100].partition(": ")
            words, values = ((before + ": …") if colon and len(groups) < 2 * MOST_REASONS else "other reasons",), []
        group = groups.setdefault(words, _Reason(words, list(values), list(values)))
        group.add(values)
        if len(group.examples) < (KEPT_EXAMPLES if len(groups) < SHOWN_REASONS else 3):
            group.examples.append(record)

    def spread(self) -> list[Record]:
        """Dropped examples: one of each filter in turn, and within a filter one of each kind of reason in turn."""
        found: list[list[Record]] = [[] for _ in self.reasons]
        for records, groups in zip(found, self.reasons.values(), strict=True):
            records += filter(None, chain(*zip_longest(*(group.examples for group in groups.values()))))
        return list(filter(None, chain(*zip_longest(*found))))[:DROPPED_EXAMPLES]


@cache
def _environment(finalize: Callable[[Any], Any], *, autoescape: bool) -> jinja2.Environment:
    """Every value that a template puts out passes through `finalize` first."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=autoescape, finalize=finalize,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"money": _money, "share": _share, "duration": _duration, "number": _number}
    environment.filters |= {"grouped": lambda n: f"{n:,}", "compact": lambda v: json.dumps(v, ensure_ascii=False)}
    environment.tests["turns"] = _is_turns
    return environment


def _is_turns(value: Any) -> bool:
    turns = value if isinstance(value, list) and value else [None]
    return all(isinstance(turn, Mapping) and {"role", "content"} <= set(turn) for turn in turns)


def _money(usd: float) -> str:
    if not usd or usd >= 0.01:
        return f"${usd:,.2f}"
    return f"${usd:.2g}" if usd >= 1e-4 else "under $0.0001"


def _share(part: int, whole: int) -> str:
    percent = 100 * part / whole if whole else 0.0
    if part and percent < 0.1:
        return "under 0.1%"
    return f"{min(percent, 99.9) if part < whole else percent:.1f}%"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds % 60)} s"


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e12 else f"{value:.3g}"


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)
