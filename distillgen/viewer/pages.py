"""The pages of the viewer. Every text of a row passes `visible` and is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import jinja2

from distillgen.record import GATHERED, Record, text_of
from distillgen.rows.media import look_up
from distillgen.runs.charts import threshold_lines, thresholds
from distillgen.runs.directory import project_root
from distillgen.runs.export_media import names_file
from distillgen.runs.templates import is_turns, template
from distillgen.runs.thumbnails import MOST_SHOWN, Thumbnail, are_files, shown_files
from distillgen.text import display
from distillgen.viewer import markup
from distillgen.viewer.comparison import KINDS, Comparison, Pair
from distillgen.viewer.row_files import RowFile, metrics_of
from distillgen.viewer.row_index import REASON, RowIndex
from distillgen.viewer.selection import (
    DROPPED,
    KEPT,
    PAGE_ROWS,
    Selection,
    count_of,
    drops_of,
    rows_of,
    score_names,
)
from distillgen.viewer.viewed_run import ViewedRun, field_changes

if TYPE_CHECKING:
    from distillgen.runs.seeds import Seeds

HERE = Path(__file__).parent
SNIPPET = 170  # characters of a field in the list
PAIRS = 20  # on a page of two runs
ROWS = "rows"  # the view of the rows, where the page without a view is another one
SNIPPETS = 3  # fields of a row in the list


class Snippet(NamedTuple):
    """The beginning of a field in the list, or the part around the text that is searched for."""

    name: str
    before: str
    match: str
    after: str


def rows_page(runs: Sequence[ViewedRun], selection: Selection, seeds: Seeds | None = None) -> str:
    """Return the page of the rows of a run, and of the one that is open."""
    run = runs[selection.run if 0 <= selection.run < len(runs) else 0]
    state, lock = run.state, run.lock
    stage, files = run.place(selection.stage, state), run.files()
    file = next((one for one in files if one.name == selection.file), None)
    index = run.index_of(file) if file else run.index(stage, state)
    run.on_page = index
    all_indexed = index.whole  # before the rows are read: some may be indexed meanwhile
    places = rows_of(index, selection, page=selection.page)
    records = index.records([(start, stop) for _, start, stop in places[:PAGE_ROWS]])
    last = run.place(-1, state)
    earlier = [
        *([index] if file else []),
        *(run.index(one, state) for one in range(last if file else stage, -1, -1)),
    ]
    record = _open(run, selection, records, earlier)
    histograms = [
        {**bars, "lines": threshold_lines(bars, thresholds(lock, bars["name"], bars["kept"]))}
        for bars in run.histograms(index)
    ]
    return _template("rows").render(
        runs=runs,
        seeds=seeds,
        run=run,
        state=state,
        lock=lock,
        stage=None if file else stage,
        file=file,
        files=files,
        words=("right", "wrong") if file and file.evaluation else ("kept", "dropped"),
        metrics_of=metrics_of,
        selection=selection,
        index=index,
        all_indexed=all_indexed,
        growing=state["state"] == "running" or not all_indexed or run.drawing or not run.is_drawn(index),
        records=records,
        more=len(places) > PAGE_ROWS,
        first=selection.page * PAGE_ROWS,
        total=None if selection.text else count_of(index, selection),
        fields=_fields(index, records),
        snippets=[list(_snippets(one, selection)) for one in records],
        drops=drops_of(index),
        histograms=histograms,
        scores=score_names(index),
        chips=list(_chips(selection, file)),
        are_files=are_files,
        most_shown=MOST_SHOWN,
        shown_files=partial(shown_files, root=project_root(run.run.directory)),
        place_of_file=partial(_place_of_file, runs.index(run)),
        part_file=partial(_part_file, record),
        **(_opened(run, record, selection, earlier, histograms) if record else {"record": None}),
    )


def _place_of_file(run: int, file: Thumbnail) -> str:
    """Return the address of a picture or sound as it is."""
    path, sha256 = file.reference
    return f"file?{urlencode({'run': run, 'path': path, 'sha256': sha256})}"


def _part_file(record: Record | None, part: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the reference of the record to the file that a part of a request has by its hash."""
    fields = record.fields.values() if record else ()
    files = (one for value in fields for one in (value if isinstance(value, list) else [value]))
    return next((one for one in files if names_file(one) and one["sha256"] == part.get("sha256")), None)


def file_content(run: ViewedRun, path: str, sha256: str) -> tuple[str, bytes]:
    """Return the type and the content of a picture or sound that a row refers to. Raise ValueError for any
    other file.
    """
    root = project_root(run.run.directory)
    file = look_up(path, root, root)
    if file.sha256 != sha256:
        raise ValueError("the file has changed since the row was made")
    return file.media, (root / path).read_bytes()


def seeds_page(seeds: Seeds, runs: Sequence[ViewedRun], selection: Selection) -> str:
    """Return the page of the runs of several seeds: their states and their figures."""
    state, content = seeds.state, seeds.summary
    plain = {  # without the numbers that a metric measures beside its own, such as `exact.f1`
        part: [row for row in content[part] if row.get("model") == "" or "." not in row["metric"]]
        for part in ("figures", "comparisons")
    }
    return _template("seeds").render(
        seeds=seeds,
        runs=runs,
        selection=selection,
        state=state,
        states=state["runs"],
        content={**content, **plain},
    )


def compare_page(
    runs: Sequence[ViewedRun],
    selection: Selection,
    comparison: Comparison | None,
    figures: Mapping[str, Any],
    problem: str = "",
) -> str:
    """Return the page of two runs side by side; without a comparison, what is known before."""
    _, _, kind = selection.view.partition("/")
    pairs = list[Pair]()
    if comparison:
        kind = kind if kind in KINDS else next((one for one in KINDS if comparison.counts[one]), "same")
        pairs = comparison.pairs(kind, max(0, selection.page) * PAIRS, PAIRS + 1)
    return _template("compare").render(
        runs=runs,
        selection=selection,
        comparison=comparison,
        problem=problem,
        figures=figures,
        kind=kind,
        kinds=KINDS,
        pairs=[(pair, _pair_changes(pair)) for pair in pairs[:PAIRS]],
        more=len(pairs) > PAIRS,
        first=max(0, selection.page) * PAIRS,
    )


def _pair_changes(pair: Pair) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the fields of a pair that differ, with the parts of their texts; all of a row that only one run
    keeps.
    """
    sides = [record for record in (pair.second, pair.first) if record and not record.dropped]
    if len(sides) < 2 or not (pair.first and pair.second):
        record = sides[0]
        return [(name, [("kept", text_of(value))]) for name, value in record.fields.items()]
    changes = field_changes(pair.first.fields, pair.second.fields)
    return [
        (name, [(kind, _shortened(text) if kind == "kept" else text) for kind, text in parts])
        for name, parts in changes
        if parts
    ]


def _shortened(text: str) -> str:
    """Return a long text without its middle."""
    return text if len(text) <= 2 * SNIPPET else f"{text[:SNIPPET]} … {text[-SNIPPET:]}"


def _open(
    run: ViewedRun, selection: Selection, records: Sequence[Record], indexes: Sequence[RowIndex]
) -> Record | None:
    """Return the record that is open: the one at a place on the page, or else that of an id."""
    if 0 <= selection.place < len(records) and selection.row in ("", records[selection.place].id):
        return records[selection.place]
    return run.find(selection.row, indexes) if selection.row else None


def _opened(
    run: ViewedRun,
    record: Record,
    selection: Selection,
    earlier: Sequence[RowIndex],
    histograms: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what the page shows of the open record."""
    state = run.state
    stages = [run.index(place, state) for place in range(run.place(-1, state), -1, -1)]
    later = [index for index in stages if index not in earlier[1:] or earlier[0] not in stages]
    other = run.find(selection.other, [*earlier, *stages]) if selection.other else None
    return {
        "record": record,
        "history": run.history(record, earlier, later),
        "bounds": {bars["name"]: bars["lines"] for bars in histograms},
        "indexing": not all(index.whole for index in earlier),
        "other": other,
        "changes": list(field_changes(other.fields, record.fields)) if other else [],
    }


def _fields(index: RowIndex, records: Sequence[Record]) -> list[str]:
    """Return the names of the fields of the first rows, and of those on the page."""
    first = index.read("SELECT start, stop FROM rows ORDER BY position LIMIT 20")
    sample = index.records([(start, stop) for start, stop in first]) if first else []
    return list(dict.fromkeys(name for record in (*sample, *records) for name in record.fields))


def _snippets(record: Record, selection: Selection) -> Iterator[Snippet]:
    """Yield a few fields of a record: those with the text that is searched for, or the first and the last."""
    names = list(record.fields)
    chosen = list(dict.fromkeys([*names[:1], *names[1 - SNIPPETS :]]))
    needle = selection.text.casefold()
    if needle and selection.field != REASON:
        searched = [selection.field] if selection.field else names
        matches = [name for name in searched if needle in text_of(record.fields.get(name)).casefold()]
        chosen = list(dict.fromkeys([*matches, *chosen]))[:SNIPPETS]
    for name in chosen:
        text = text_of(record.fields.get(name))
        at = text.casefold().find(needle) if needle else -1
        if at < 0:
            yield Snippet(name, display.clipped(_beginning(record.fields.get(name)), SNIPPET), "", "")
            continue
        start, stop = max(0, at - SNIPPET // 3), at + len(needle)
        before, match, after = text[start:at], text[at:stop], text[stop : stop + SNIPPET]
        yield Snippet(
            name,
            "…" * (start > 0) + " ".join(before.split()) + " " * before.endswith((" ", "\n")),
            match,
            " " * after.startswith((" ", "\n"))
            + " ".join(after.split())
            + "…" * (len(text) > stop + SNIPPET),
        )


def _beginning(value: Any) -> str:
    """Return the beginning of a value; of a dialogue, what the person says first; of files their names."""
    if are_files(value):
        references = value if isinstance(value, list) else [value]
        return ", ".join(PurePosixPath(str(reference["path"])).name for reference in references)
    if is_turns(value):
        value = next((turn["content"] for turn in value if turn["role"] == "user"), value)
    return text_of(value)[: 4 * SNIPPET]


def _chips(selection: Selection, file: RowFile | None) -> Iterator[tuple[str, str]]:
    """Yield the filters of a selection in words, each with the address without it."""
    if selection.drop:
        answers = file is not None and file.evaluation is not None
        stage, _, name = selection.drop.partition("/")
        words = {KEPT: "right" if answers else "kept", DROPPED: "wrong" if answers else "dropped"}.get(
            selection.drop
        )
        if not words:
            did = "gathered" if name == GATHERED else f"wrong by {name}" if answers else f"dropped by {name}"
            words = f"{did}: {stage}" if answers else f"{did} in {stage}"
        yield words, selection.address(drop="")
    if selection.score:
        low, high = selection.low, selection.high
        ends = [f"from {low:g}" if low is not None else "", f"under {high:g}" if high is not None else ""]
        words = " ".join(filter(None, [selection.score, *ends])) + (
            " is measured" if low is None and high is None else ""
        )
        yield words, selection.address(score="", low=None, high=None)
    if selection.text:
        place = f" in {selection.field}" if selection.field else ""
        yield f"“{selection.text[:60]}”{place}", selection.address(text="", field="")


def text_block(value: Any, selection: Selection) -> Any:
    """Return a value of a record as HTML: a text as Markdown, or as it is if the person wants that."""
    if isinstance(value, str):
        return markup.as_code(value) if selection.plain else markup.as_markdown(value)
    return markup.as_json(value)


def arguments_of(call: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the name and the arguments of a tool call in any of its usual forms."""
    function = call.get("function")
    part = function if isinstance(function, Mapping) else call
    return str(part.get("name", "")), part.get("arguments", part.get("args", {}))


def problem_page(runs: Sequence[ViewedRun], problem: str) -> str:
    """Return a page that says what is wrong."""
    return _template("problem").render(runs=runs, problem=problem)


def _template(name: str) -> jinja2.Template:
    page = template(HERE / f"{name}.html.jinja", display.visible, autoescape=True)
    page.environment.globals.update(
        text_block=text_block,
        as_code=markup.as_code,
        as_json=markup.as_json,
        arguments_of=arguments_of,
        GATHERED=GATHERED,
        REASON=REASON,
    )
    return page


def styles() -> str:
    """Return the style sheet of all pages."""
    runs = HERE.parent / "runs"
    return "\n".join(
        [(runs / "palette.css").read_text("utf-8"), markup.colours(), (HERE / "view.css").read_text("utf-8")]
    )
