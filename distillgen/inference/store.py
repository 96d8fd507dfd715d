"""The database of a ledger: what SQLite and PostgreSQL do differently.

The tables and their statements are written once, in the SQL that both understand, with `?` for a value.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from distillgen.inference.places import Place

ENOUGH = 32  # rows that a commit does not wait beyond, and rows that one INSERT takes

Row = tuple[Any, ...]
T = TypeVar("T")


class Statement(NamedTuple):
    """SQL that is executed for each row. An INSERT has `placeholders`, so that one step can insert several
    rows; with an `update`, a row takes the place of the one with the same first column.
    """

    sql: str
    placeholders: str = ""
    update: str = ""

    def text(self, rows: int = 1) -> str:
        """Return the SQL for a number of rows."""
        values = ", ".join([self.placeholders] * rows)
        return " ".join(filter(None, (self.sql, values, self.update)))


Write = Callable[[Statement, Sequence[Row]], "asyncio.Future[None]"]
"""Adds rows to the next group commit; what it returns waits until they are durable."""


def insert(into: str, columns: int) -> Statement:
    """Return an INSERT of rows with a number of columns; `into` is the SQL before VALUES."""
    return Statement(f"{into} VALUES", f"({', '.join('?' * columns)})")


def replacing(table: str, key: str, *others: str) -> Statement:
    """Return an INSERT of rows that take the place of those with the same key."""
    update = ", ".join(f"{name} = excluded.{name}" for name in others)
    columns = insert(f"INSERT INTO {table} ({', '.join((key, *others))})", 1 + len(others))
    return columns._replace(update=f"ON CONFLICT ({key}) DO UPDATE SET {update}")


class Session(Protocol):
    """An open transaction."""

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> Any:
        """Execute a statement; return its cursor."""

    def executemany(self, sql: str, rows: Iterable[Row], /) -> Any:
        """Execute a statement for each row."""


class Store(ABC):
    """An open database. `rows` is called by the thread that asks, all else by the ledger's thread."""

    place: Place
    read_only: bool
    random_key: str
    """The SQL of a random key."""
    order: str
    """The column of the answers that grows with each commit."""
    numbers_rows: bool
    """Whether `order` counts the rows from 1 on."""
    beat_s: float
    """Seconds between two looks at the other processes."""
    lease_s = 30.0
    """Seconds after which a process that hangs, or one on another machine, loses its claims."""

    @property
    @abstractmethod
    def now(self) -> str:
        """The SQL of the time in seconds, by a clock that all processes share."""

    @abstractmethod
    def holds(self, left_s: float) -> bool:
        """Return whether a lease with so many seconds left holds."""

    @abstractmethod
    def add(self, columns: Sequence[str]) -> Statement:
        """Return the INSERT of answers."""

    def stamped(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Return answers as `add` takes them."""
        return rows

    @abstractmethod
    def errors(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that raises errors of the database as a LedgerError with the remedy."""

    @abstractmethod
    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of a query, all of them committed."""

    @abstractmethod
    def has(self, table: str) -> bool:
        """Return whether there is a table. Ledgers of earlier versions that are only read lack later ones."""

    @abstractmethod
    def stream(self, query: str) -> Iterator[Row]:
        """Yield the rows of a long query without holding them all."""

    @abstractmethod
    def transact(self, work: Callable[[Session], T], *, alone: bool = False) -> T:
        """Do work in one transaction, which is durable when this returns; return what the work returns.

        The work of several processes that do it `alone` does not overlap. It may be done again if the
        database went away, so it changes nothing but the database.
        """

    @abstractmethod
    def execute(self, session: Session, statement: Statement, rows: Sequence[Row]) -> None:
        """Execute a statement for many rows, as fast as the database takes them."""

    @abstractmethod
    def last_id(self) -> int:
        """Return a number at or below which no new row will get its `order`."""

    @abstractmethod
    def tidy(self) -> None:
        """Give the space of deleted texts back to the disk."""

    @abstractmethod
    def faults(self, most: int) -> Iterator[str]:
        """Yield what the database itself finds wrong with its files."""

    @abstractmethod
    def size(self) -> int:
        """Return the size of the ledger in bytes."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections."""
