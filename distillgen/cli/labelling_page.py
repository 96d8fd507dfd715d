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


def label_on_page(labelling: Labelling, port: int, announce: Callable[[str], None]) -> None:
    """Serve a page for this machine only, until all records are labelled or the person quits.

    `announce` gets the page's address. It contains a secret, so that no other page or user of the machine can
    label. The page escapes all texts of records.
    """
    lock = threading.Lock()
    path = f"/{secrets.token_urlsafe(16)}/"

    class Page(BaseHTTPRequestHandler):
        timeout = 30  # seconds; browsers open connections that they do not use

        def do_GET(self) -> None:
            if self.path != path:
                self.send_error(404)
                return
            with lock:
                self._send_page()

        def do_POST(self) -> None:
            size = self.headers.get("Content-Length", "")
            if self.path != path or not size.isdigit() or int(size) > 1000:
                self.send_error(404)
                return
            form = parse_qs(self.rfile.read(int(size)).decode("ascii", "replace"))
            key, record_id = (form.get(name, [""])[0] for name in ("key", "id"))
            with lock:
                current_id = labelling.current.id if labelling.current else ""
                try:
                    if key == QUIT or record_id == current_id:  # another id: the key was pressed twice
                        labelling.press(key)
                except OSError as error:
                    reason = f"cannot write to '{labelling.path}': {error.strerror}"
                    self.send_error(500, explain=f"The label was not stored: {reason}. Mend it and go back.")
                    return
                if key == QUIT or not labelling.current:
                    self._send_page(over=True)
                    threading.Thread(target=server.shutdown).start()
                    return
            self.send_response(303)
            self.send_header("Location", path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _send_page(self, *, over: bool = False) -> None:
            nonce = secrets.token_urlsafe(16)
            page = template(Path(__file__).with_suffix(".html.jinja"), display.visible, autoescape=True)
            html = page.render(
                labelling=labelling,
                record=None if over else labelling.current,
                nonce=nonce,
                done=sum(record.id in labelling.labels for record in labelling.records),
            ).encode()
            policy = [
                "default-src 'none'",
                f"style-src 'nonce-{nonce}'",
                f"script-src 'nonce-{nonce}'",
                "form-action 'self'",
                "base-uri 'none'",
                "frame-ancestors 'none'",
            ]
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(html)))
            self.send_header("Content-Security-Policy", "; ".join(policy))
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(html)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Page)
    except OSError as error:
        problem = f"port {port} cannot be used: {error.strerror}"
        raise ConfigError(f"{problem}; give another --port, or none") from error
    server.daemon_threads = True
    with server:
        announce(f"http://127.0.0.1:{server.server_port}{path}")
        server.serve_forever(poll_interval=0.1)
