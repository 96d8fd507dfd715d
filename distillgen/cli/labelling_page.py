"""Labelling on a web page, for this machine only."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

from distillgen.cli.labelling import QUIT, Labelling
from distillgen.errors import ConfigError
from distillgen.runs.templates import template
from distillgen.text import display


def label_on_page(labelling: Labelling, port: int, ready: Callable[[str], None]) -> None:
    """The same on a web page for this machine only, until all is done or the person quits; `ready` is told
    its address.

    The address holds a secret, so that no other page or user of the machine can label; a record's text is
    only ever text.
    """
    lock = threading.Lock()
    path = f"/{secrets.token_urlsafe(16)}/"

    class Page(BaseHTTPRequestHandler):
        timeout = 30  # of a connection that a browser opens ahead and does not use

        def do_GET(self) -> None:
            if self.path != path:
                self.send_error(404)
                return
            with lock:
                self._show()

        def do_POST(self) -> None:
            size = self.headers.get("Content-Length", "")
            if self.path != path or not size.isdigit() or int(size) > 1000:
                self.send_error(404)
                return
            form = parse_qs(self.rfile.read(int(size)).decode("ascii", "replace"))
            key, asked = (form.get(name, [""])[0] for name in ("key", "id"))
            with lock:
                if key == QUIT or asked == (
                    labelling.current.id if labelling.current else ""
                ):  # else a key pressed twice
                    labelling.press(key)
                if key == QUIT or not labelling.current:
                    self._show(over=True)
                    threading.Thread(target=server.shutdown).start()
                    return
            self.send_response(303)
            self.send_header("Location", path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _show(self, *, over: bool = False) -> None:
            nonce = secrets.token_urlsafe(16)
            page = (
                template(
                    Path(__file__).with_name("labelling_page.html.jinja"), display.visible, autoescape=True
                )
                .render(
                    labelling=labelling,
                    record=None if over else labelling.current,
                    nonce=nonce,
                    done=sum(record.id in labelling.said for record in labelling.records),
                )
                .encode()
            )
            own = f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; form-action 'self'"
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.send_header("Content-Security-Policy", f"{own}; base-uri 'none'; frame-ancestors 'none'")
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the page tells all."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Page)
    except OSError as error:
        raise ConfigError(
            f"port {port} cannot be used: {error.strerror}; give another --port, or none"
        ) from error
    server.daemon_threads = True
    with server:
        ready(f"http://127.0.0.1:{server.server_port}{path}")
        server.serve_forever(poll_interval=0.1)
