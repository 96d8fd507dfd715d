"""The server of the viewer's pages, for this machine only."""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from distillgen.errors import ConfigError, DistillgenError
from distillgen.viewer import pages
from distillgen.viewer.comparison import Comparison, figures_of, totals_of
from distillgen.viewer.row_index import RowIndex
from distillgen.viewer.selection import Selection, count_of
from distillgen.viewer.viewed_run import ViewedRun

if TYPE_CHECKING:
    from distillgen.runs.seeds import Seeds

POLICY = "; ".join(
    [
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "connect-src 'self'",
        "img-src data:",
        "media-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
_WAIT_S = 1.0  # until a file is looked at again for new rows


@contextmanager
def served(viewed: Sequence[ViewedRun], port: int = 0, seeds: Seeds | None = None) -> Iterator[str]:
    """Serve pages about the runs, or about those of several seeds, for this machine only, and index their
    rows, until the block ends.

    Gives the address. It contains a secret, so that no other page or user of the machine can read the rows.
    Raise ConfigError if the port cannot be used.
    """
    path = f"/{secrets.token_urlsafe(16)}/"
    runs = [*viewed, *_further_runs(seeds, viewed)]
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), _page_class(runs, path, seeds))
    except OSError as error:
        problem = f"port {port} cannot be used: {error.strerror}"
        raise ConfigError(f"{problem}; give another --port, or none") from error
    server.daemon_threads = True
    server.socket.listen(128)  # a browser opens several connections at once; the usual 5 are few
    _look(runs[:1], None)  # so that an address with a row of few opens it at once
    over = threading.Event()
    threads = [
        threading.Thread(target=server.serve_forever, args=(0.1,)),
        threading.Thread(target=_index, args=(runs, over, seeds)),
    ]
    with server:
        for thread in threads:
            thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{path}"
        finally:
            over.set()
            server.shutdown()
            for thread in threads:
                thread.join()


def _further_runs(seeds: Seeds | None, runs: Sequence[ViewedRun]) -> list[ViewedRun]:
    """Return the runs of seeds that have begun since."""
    numbers = range(len(runs), seeds.summary["seeds"]) if seeds else ()
    return [ViewedRun(run) for run in takewhile(bool, map(seeds.run, numbers)) if run] if seeds else []


def _index(runs: list[ViewedRun], over: threading.Event, seeds: Seeds | None) -> None:
    """Index the rows of all runs until the end."""
    while not over.is_set():
        over.wait(0.0 if _look(runs, seeds) else _WAIT_S)


def _look(runs: list[ViewedRun], seeds: Seeds | None) -> bool:
    """Index rows of the runs for a moment; return whether there are more."""
    try:
        runs += _further_runs(seeds, runs)
        return any([run.update() for run in runs])
    except DistillgenError as error:  # a file of the run is damaged: the pages say the same
        for run in runs[:1]:
            run.problem = str(error)
        return False


def _page_class(runs: Sequence[ViewedRun], path: str, seeds: Seeds | None) -> type[BaseHTTPRequestHandler]:
    files = {
        "view.css": ("text/css", pages.styles().encode()),
        "view.js": ("text/javascript", (pages.HERE / "view.js").read_bytes()),
    }

    compared = _Compared(runs)

    class Page(BaseHTTPRequestHandler):
        timeout = 30  # seconds; browsers open connections that they do not use

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            name = address.path.removeprefix(path)
            host = self.headers.get("Host", "").rpartition(":")[0]
            if not address.path.startswith(path) or host not in ("127.0.0.1", "localhost"):
                self.send_error(404)
            elif name in files:
                self._send(*files[name])
            elif name == "file":
                self._send_file(dict(parse_qsl(address.query)))
            elif name in ("", "count"):
                selection = Selection.of(dict(parse_qsl(address.query)))
                self._send(*_answer(runs, seeds, compared, name, selection))
            else:
                self.send_error(404)

        def _send_file(self, query: dict[str, str]) -> None:
            """Send a picture or sound that a row refers to, or the part of it that is asked for."""
            number = query.get("run", "")
            run = runs[int(number)] if number.isdecimal() and int(number) < len(runs) else None
            try:
                if run is None:
                    raise ValueError("there is no such run")
                kind, content = pages.file_content(run, query.get("path", ""), query.get("sha256", ""))
            except (ValueError, OSError, DistillgenError):
                self.send_error(404)
                return
            part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first = int(part[1]) if part else 0
            if not part or first >= len(content):
                self._send(kind, content)
                return
            last = min(int(part[2] or len(content)), len(content) - 1)
            self._send(kind, content[first : last + 1], f"bytes {first}-{last}/{len(content)}")

        def _send(self, kind: str, content: bytes, part: str = "") -> None:
            self.send_response(206 if part else 200)
            self.send_header(
                "Content-Type", kind if kind.startswith(("image/", "audio/")) else f"{kind}; charset=utf-8"
            )
            self.send_header("Accept-Ranges", "bytes")
            if part:
                self.send_header("Content-Range", part)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    return Page


class _Compared:
    """The comparison of two runs, made behind the page when all of their rows are indexed, and again when
    rows have come.
    """

    def __init__(self, runs: Sequence[ViewedRun]) -> None:
        self._runs = runs
        self._lock = threading.Lock()
        self._counts: list[int] = []
        self._problem = ""
        self._result: tuple[Comparison, dict[str, Any]] | None = None

    def page(self, selection: Selection) -> str:
        """Return the page of the comparison; without rows while they are being compared."""
        first, second = (run.run for run in self._runs)
        indexes = [run.index(run.place(-1, state), state) for run in self._runs for state in [run.state]]
        counts = [index.count for index in indexes]
        with self._lock:
            if all(index.whole for index in indexes) and counts != self._counts:
                self._counts, self._result, self._problem = counts, None, ""
                threading.Thread(target=self._compare, args=(counts, indexes), daemon=True).start()
        comparison, figures = self._result or (None, totals_of(first, second))
        return pages.compare_page(self._runs, selection, comparison, figures, self._problem)

    def _compare(self, counts: list[int], indexes: Sequence[RowIndex]) -> None:
        first, second = (run.run for run in self._runs)
        try:
            comparison = Comparison(*indexes)
            result = comparison, figures_of(first, second, comparison)
        except (DistillgenError, OSError, sqlite3.Error) as error:
            self._problem = f"The rows cannot be compared: {error}"
            return
        if counts == self._counts:
            self._result = result


def _answer(
    runs: Sequence[ViewedRun], seeds: Seeds | None, compared: _Compared, name: str, selection: Selection
) -> tuple[str, bytes]:
    """Return the content type and the content of a page, or of a number that a page asks for."""
    try:
        if name == "count":
            run = runs[selection.run if 0 <= selection.run < len(runs) else 0]
            state = run.state
            count = count_of(run.index_for(selection.file, selection.stage, state), selection)
            return "application/json", json.dumps({"count": count}).encode()
        if seeds and (selection.view != pages.ROWS or not runs):
            return "text/html", pages.seeds_page(seeds, runs, selection).encode()
        if len(runs) == 2 and not seeds and selection.view:
            return "text/html", compared.page(selection).encode()
        return "text/html", pages.rows_page(runs, selection, seeds).encode()
    except DistillgenError as error:
        return "text/html", pages.problem_page(runs, str(error)).encode()
