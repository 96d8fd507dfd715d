"""A real PostgreSQL server in a folder of its own, and a network between it and its clients that fails."""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

PROGRAMS = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), Path())
USER = "postgres" if os.name == "posix" and os.getuid() == 0 else None  # the server refuses root


def program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=PROGRAMS)


FIELDS = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
STARTING = b"E" + (len(FIELDS) + 4).to_bytes(4) + FIELDS  # an ErrorResponse of the protocol


class Postgres:
    """A server; `with` starts it. Each database is a new one."""

    def __init__(self) -> None:
        if not program("initdb"):
            pytest.skip("needs PostgreSQL's server: apt install postgresql")
        self.folder = Path(tempfile.mkdtemp(prefix="pg"))
        if USER:
            shutil.chown(self.folder, USER)
        self._databases = 0
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def __enter__(self) -> "Postgres":
        self._run("initdb", "-D", "data", "-U", "me", "--auth=trust", "--no-sync", "--locale=C", "-E", "UTF8")
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c max_connections=60"
        self._run("pg_ctl", "-D", "data", "-w", "-s", "-l", "log", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """`immediate` is a crash: the server's log is read again when it starts."""
        self._run("pg_ctl", "-D", "data", "-w", "-s", "-m", mode, "stop")

    def database(self, port: int = 0) -> str:
        """The address of a new database, through a port."""
        self._databases += 1
        name = f"ledger{self._databases}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name, port)

    def url(self, name: str, port: int = 0) -> str:
        return f"postgresql://me@127.0.0.1:{port or self.port}/{name}"

    def _run(self, name: str, *args: str) -> None:
        subprocess.run(
            [program(name), *args], cwd=self.folder, user=USER, check=True, stdout=subprocess.DEVNULL
        )


class Network:
    """Carries connections to a server, and can lose the server's word that a transaction was committed."""

    def __init__(self, port: int) -> None:
        self._server = port
        self.lose = 0
        """The number of commits of which the client will not hear."""
        self.starting = 0
        """The number of connections that the server refuses since it is starting up."""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listening.accept()
            if self.starting:
                self.starting -= 1
                client.recv(65536)
                client.sendall(b"N")  # no SSL
                client.recv(65536)
                client.sendall(STARTING)
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._server))
            for ends in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, to: socket.socket, answers: bool) -> None:
        with suppress(OSError):  # the other way has ended it
            while data := source.recv(65536):
                if answers and self.lose and b"COMMIT\0" in data:
                    self.lose -= 1
                    break
                to.sendall(data)
        for end in (source, to):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()
