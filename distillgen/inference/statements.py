"""SQL statements for many rows."""

from __future__ import annotations

from typing import NamedTuple


class Statement(NamedTuple):
    """SQL that is executed for each row. An INSERT has `placeholders`, so that one step can insert several
    rows.
    """

    sql: str
    placeholders: str = ""

    def text(self, rows: int = 1) -> str:
        """Return the SQL for a number of rows."""
        return f"{self.sql} {', '.join([self.placeholders] * rows)}" if self.placeholders else self.sql


def insert(into: str, columns: int) -> Statement:
    """Return an INSERT of rows with a number of columns; `into` is the SQL before VALUES."""
    return Statement(f"{into} VALUES", f"({', '.join('?' * columns)})")
