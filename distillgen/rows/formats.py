"""The formats of exported files. Rows are written as they come, so memory does not grow with their number."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from distillgen.errors import ConfigError
from distillgen.record import dumps
from distillgen.text.display import visible

BATCH = 1000
MOST_PENDING = 64 << 20  # bytes of pictures and sounds in a row group
TRIPLE = ("head", "relation", "tail")
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_LABEL = "<http://www.w3.org/2000/01/rdf-schema#label>"
_BASE = "urn:distillgen:"


class Writer:
    """A file of rows that have the same columns. `identifier` is the column of ids, or ""."""

    suffix: ClassVar[str]
    typed: ClassVar[bool] = False
    """Whether it needs a schema with a type for each column."""
    of_triples: ClassVar[bool] = False

    def __init__(self, path: Path, columns: Sequence[str], schema: Any, identifier: str) -> None:
        self.columns, self.identifier = columns, identifier
        self.open(path, schema)

    def open(self, path: Path, schema: Any) -> None:
        """Begin the file."""
        self.stream: IO[str] = path.open("w", encoding="utf-8", newline="")

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows."""
        raise NotImplementedError

    def close(self) -> None:
        """End the file."""
        self.stream.close()


class Jsonl(Writer):
    """One JSON object a line."""

    suffix = ".jsonl"

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows."""
        self.stream.writelines(dumps(row, sort_keys=False).decode() + "\n" for row in rows)


class Csv(Writer):
    """Comma-separated values with a heading; a cell that is not text or a number holds JSON."""

    suffix = ".csv"

    def open(self, path: Path, schema: Any) -> None:
        """Begin the file with its heading."""
        super().open(path, schema)
        self.csv = csv.writer(self.stream, lineterminator="\n")
        self.csv.writerow(self.columns)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows."""
        for row in rows:
            cells = (row[name] for name in self.columns)
            self.csv.writerow(
                [dumps(cell).decode() if isinstance(cell, dict | list | bool) else cell for cell in cells]
            )


class Parquet(Writer):
    """A Parquet file; a row group has one batch or more."""

    suffix = ".parquet"
    typed = True

    def open(self, path: Path, schema: Any) -> None:
        """Begin the file."""
        from pyarrow.parquet import ParquetWriter

        self.schema, self.writer = schema, ParquetWriter(path, schema)
        self.pending: list[Mapping[str, Any]] = []
        self.pending_bytes = 0

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows, in groups that are large enough for fast reading."""
        self.pending += rows
        self.pending_bytes += sum(map(_file_bytes, rows))
        if len(self.pending) >= 10 * BATCH or self.pending_bytes > MOST_PENDING:
            self._flush()

    def _flush(self) -> None:
        self.writer.write_table(table(self.pending, self.schema))
        self.pending, self.pending_bytes = [], 0

    def close(self) -> None:
        """Write the pending rows and the footer."""
        if self.pending:
            self._flush()
        self.writer.close()


class Arrow(Writer):
    """A stream of Arrow record batches, as `datasets` stores them."""

    suffix = ".arrow"
    typed = True

    def open(self, path: Path, schema: Any) -> None:
        """Begin the file."""
        import pyarrow as pa

        self.schema, self.writer = schema, pa.ipc.new_stream(str(path), schema)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows."""
        self.writer.write_table(table(rows, self.schema))

    def close(self) -> None:
        """End the stream."""
        self.writer.close()


class Triples(Writer):
    """RDF 1.1 N-Triples: an edge for each row, a label for each node and relation, and, with ids, the edge's
    record.

    Memory grows with the number of distinct names.
    """

    suffix = ".nt"
    of_triples = True

    def open(self, path: Path, schema: Any) -> None:
        """Begin the file."""
        super().open(path, schema)
        self.labelled: set[bytes] = set()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows."""
        for row in rows:
            parts = [
                self._name(kind, row[part])
                for kind, part in zip(("node", "relation", "node"), TRIPLE, strict=True)
            ]
            self.stream.write(f"{' '.join(parts)} .\n")
            if self.identifier:
                statement = f"<{_BASE}record:{quote(row[self.identifier], safe='')}>"
                self.stream.write(f"{statement} <{_RDF}type> <{_RDF}Statement> .\n")
                for role, part in zip(("subject", "predicate", "object"), parts, strict=True):
                    self.stream.write(f"{statement} <{_RDF}{role}> {part} .\n")

    def _name(self, kind: str, text: str) -> str:
        name = f"<{_BASE}{kind}:{quote(text, safe='')}>"
        if _unseen(name, self.labelled):
            self.stream.write(f"{name} {_LABEL} {json.dumps(text, ensure_ascii=False)} .\n")
        return name


class Turtle(Triples):
    """The same file under another ending: N-Triples are also Turtle."""

    suffix = ".ttl"


class GraphML(Writer):
    """A directed graph: nodes with their text as label, edges with their relation and the id of their record.

    Memory grows with the number of distinct nodes.
    """

    suffix = ".graphml"
    of_triples = True

    def open(self, path: Path, schema: Any) -> None:
        """Begin the graph."""
        super().open(path, schema)
        self.declared: set[bytes] = set()
        self.stream.write(
            '<?xml version="1.0" encoding="UTF-8"?>\n<graphml '
            'xmlns="http://graphml.graphdrawing.org/xmlns">\n'
            '<key id="label" for="node" attr.name="label" attr.type="string"/>\n'
            '<key id="relation" for="edge" attr.name="relation" attr.type="string"/>\n<graph '
            'edgedefault="directed">\n'
        )

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows."""
        for row in rows:
            head, tail = self._node(row["head"]), self._node(row["tail"])
            edge_id = f" id={quoteattr(row[self.identifier])}" if self.identifier else ""
            relation = _xml(row["relation"])
            self.stream.write(
                f'<edge{edge_id} source="{head}" target="{tail}"><data '
                f'key="relation">{relation}</data></edge>\n'
            )

    def _node(self, text: str) -> str:
        name = hashlib.sha256(text.encode()).hexdigest()[:24]
        if _unseen(name, self.declared):
            self.stream.write(f'<node id="{name}"><data key="label">{_xml(text)}</data></node>\n')
        return name

    def close(self) -> None:
        """End the graph."""
        self.stream.write("</graph>\n</graphml>\n")
        super().close()


FORMATS: dict[str, type[Writer]] = {
    "jsonl": Jsonl,
    "parquet": Parquet,
    "arrow": Arrow,
    "csv": Csv,
    "ntriples": Triples,
    "turtle": Turtle,
    "graphml": GraphML,
}


def _xml(text: str) -> str:
    """Return text for XML 1.0, with visible signs for forbidden characters."""
    return escape(visible(text).translate({0xFFFE: "\ufffd", 0xFFFF: "\ufffd"}))


def _unseen(name: str, hashes: set[bytes]) -> bool:
    """Whether a name is new; add its hash."""
    name_hash = hashlib.sha256(name.encode()).digest()[:16]
    if name_hash in hashes:
        return False
    hashes.add(name_hash)
    return True


def table(rows: Sequence[Mapping[str, Any]], schema: Any) -> Any:
    """Return rows as an Arrow table."""
    import pyarrow as pa

    voided = [field.name for field in schema if pa.types.is_null(field.type) or _holds_null(field.type)]
    if voided:
        rows = [
            {**row, **{name: _voided(row[name], schema.field(name).type) for name in voided}} for row in rows
        ]
    return pa.Table.from_pylist(list(rows), schema=schema)


def _file_bytes(row: Mapping[str, Any]) -> int:
    """Return the size of the pictures and sounds in a row."""
    values = (one for value in row.values() for one in (value if isinstance(value, list) else (value,)))
    return sum(len(value["bytes"]) for value in values if isinstance(value, dict) and "bytes" in value)


def _fields_of(kind: Any) -> list[Any]:
    """Return the fields inside a type; a simple type has none."""
    return [kind.field(i) for i in range(kind.num_fields)]


def _holds_null(kind: Any) -> bool:
    import pyarrow as pa

    return any(pa.types.is_null(field.type) or _holds_null(field.type) for field in _fields_of(kind))


def _voided(value: Any, kind: Any) -> Any:
    """Return a value with null for each object that never has a field, and so no type."""
    import pyarrow as pa

    if value is None or pa.types.is_null(kind):
        return None
    if pa.types.is_struct(kind):
        return {field.name: _voided(value.get(field.name), field.type) for field in _fields_of(kind)}
    return [_voided(part, kind.value_type) for part in value] if pa.types.is_list(kind) else value


def _parquet_type(kind: Any) -> Any:
    """Return the type for Parquet, which has null for an object without fields."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        fields = [pa.field(field.name, _parquet_type(field.type)) for field in _fields_of(kind)]
        return pa.struct(fields) if fields else pa.null()
    return pa.list_(_parquet_type(kind.value_type)) if pa.types.is_list(kind) else kind


def schema_of(batches: Iterable[Sequence[Mapping[str, Any]]]) -> Any:
    """Return the schema of all rows. Raise ConfigError if a column has values of different kinds.

    Objects that have no field in any row become null, because a column cannot hold them. Lists of numbers, of
    which some are not whole, have single precision where that holds all of them exactly, as it does what a
    network gave.
    """
    import pyarrow as pa

    columns: dict[str, Any] = {}
    single = dict[str, bool]()
    for rows in batches:
        for name in rows[0]:
            try:
                values = pa.array([row[name] for row in rows])
                single[name] = single.get(name, True) and _fits_single(values)
                column = pa.field(name, values.type)
                both = [pa.schema([field]) for field in (columns.get(name, column), column)]
                columns[name] = pa.unify_schemas(both, promote_options="permissive").field(name)
            except (pa.ArrowException, OverflowError) as error:
                problem = f"'{name}' holds values of different kinds, and a column has one ({error})"
                remedy = f"export JSONL, or give it one kind with a template, such as {{{{ {name} | json }}}}"
                raise ConfigError(f"{problem}; {remedy}") from error
    kinds = {name: _parquet_type(field.type) for name, field in columns.items()}
    return pa.schema([(name, _single(kind) if single[name] else kind) for name, kind in kinds.items()])


def _fits_single(values: Any) -> bool:
    """Return whether values are lists of numbers, or null, and single precision holds each number exactly."""
    import pyarrow as pa

    numbers = values
    while pa.types.is_list(numbers.type):
        numbers = numbers.flatten()
    if pa.types.is_null(numbers.type):
        return True
    kind = numbers.type
    if numbers is values or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return False
    doubles = numbers.cast(pa.float64(), safe=False)
    return bool(doubles.cast(pa.float32()).cast(pa.float64()).equals(doubles))


def _single(kind: Any) -> Any:
    """Return the type of lists of numbers with single in place of double precision."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        return pa.list_(_single(kind.value_type))
    return pa.float32() if pa.types.is_float64(kind) else kind
