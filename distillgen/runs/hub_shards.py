"""Push the rows of a run while it goes on, as shards that the Hub gets once.

What the Hub has is the only state: a push first compares the run's rows with the shards of the repository, by
size and digest, and the Hub takes its commit only if no other came in between. So the push may be killed at
any moment, and so may the run, which gives the same rows again. If the rows have changed, after an edit
of the pipeline, they replace the shards from the first that differs.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from distillgen.errors import ConfigError, DistillgenError
from distillgen.platforms import lock
from distillgen.record import loads_own
from distillgen.runs.card import Census, card
from distillgen.runs.directory import Run, is_running
from distillgen.runs.export_media import refers_to_files
from distillgen.runs.hub import check, check_finished, described_files, published_line
from distillgen.runs.hub_repository import Entry, File, OtherCommit, PassingFault, Repository, open_repository
from distillgen.state_files import PARTIAL

LOOK_EVERY_S = 0.5  # seconds between two looks whether the run has ended
SHARD = re.compile(r"corpus-\d{5}\.jsonl")
SHARDS = "corpus-*.jsonl"


@dataclass
class _Place:
    """How far the rows of a run are in the repository."""

    inode: int = 0
    """The file that was read."""
    offset: int = 0
    """Its bytes that were compared with shards, or pushed."""
    shards: Sequence[Entry] = ()
    """The shards that hold these rows."""
    census: Census = field(default_factory=Census)


class ShardPush:
    """The rows of a run on their way to a repository."""

    def __init__(self, run: Run, repository: Repository, *, as_it_is: bool) -> None:
        """Push nothing yet. `as_it_is` pushes rows with names, paths or addresses of this machine, too."""
        self._run, self._repository, self._as_it_is = run, repository, as_it_is
        self._place = _Place()

    @property
    def rows(self) -> int:
        """Return the number of rows that are known to be in the repository."""
        return self._place.census.rows

    def push(self, *, finished: bool) -> bool:
        """Push the rows that the repository does not have; return whether there were any.

        If the run is `finished`, all rows are compared, and the final card and the lock file are pushed, too.
        """
        try:
            corpus = self._corpus().open("rb")
        except FileNotFoundError:  # this session of the run has not begun to write it, or renames it now
            return False
        with corpus, (self._run.directory / ".shard.jsonl").open("ab") as shard:
            try:
                lock(shard.fileno())
            except BlockingIOError:
                message = f"another process pushes '{self._run.directory}'; wait for it"
                raise ConfigError(message) from None
            shard.truncate(0)  # of a push that was killed
            try:
                return self._push(corpus, shard, finished)
            finally:
                shard.truncate(0)

    def _corpus(self) -> Path:
        """Return the file of the kept rows."""
        path = self._run.directory / "corpus.jsonl"
        partial = path.with_name(path.name + PARTIAL)
        if is_running(self._run.directory):
            return partial
        return partial if self._run.state["state"] == "killed" and partial.exists() else path

    def _push(self, corpus: IO[bytes], shard: IO[bytes], finished: bool) -> bool:
        head = self._repository.head()
        entries = [entry for entry in self._repository.entries() if SHARD.fullmatch(entry.name)]
        shards = self._compare(corpus, os.fstat(corpus.fileno()).st_ino, entries, finished)
        if shards is None:
            return False
        start, self._place = self._place, _Place()  # until the commit has succeeded
        rows = 0
        corpus.seek(start.offset)
        for line in _published(corpus, start):
            shard.write(line)
            rows += 1
        if refers_to_files(start.census.example):
            remedy = f"when it is finished, distillgen push {self._run.directory} uploads them, too"
            raise ConfigError(f"the rows of '{self._run.directory}' refer to pictures or sounds: {remedy}")
        shard.flush()
        replaced = [entry.name for entry in entries[len(shards) :]]
        if not rows and not replaced and not finished:
            self._place = start
            return False
        name = f"corpus-{len(shards):05d}.jsonl"
        new = [File(name, self._run.directory / ".shard.jsonl")] if rows else []
        files = [*new, *self._description(start.census, finished)]
        check(files, self._run.directory, as_it_is=self._as_it_is)
        self._repository.commit(files, [old for old in replaced if not rows or old != name], head)
        start.shards = [*shards, Entry(name, new[0].size, "")] if new else shards
        self._place = start
        return True

    def _compare(
        self, corpus: IO[bytes], inode: int, entries: Sequence[Entry], finished: bool
    ) -> Sequence[Entry] | None:
        """Go to the end of the rows that the first shards hold, and return these shards.

        Return None if the run has not come to the end of the last shard again.
        """
        names = [entry.name for entry in entries]
        standing = (self._place.inode, [shard.name for shard in self._place.shards])
        if not finished and standing == (inode, names) and self._place.offset <= _size(corpus):
            return entries
        while True:
            self._place = _Place(inode)
            corpus.seek(0)
            lines = _published(corpus, self._place)
            for number, entry in enumerate(entries):
                same = _holds(entry, lines)
                if same is None and not finished:
                    self._place = _Place()
                    return None
                if not same:
                    entries = entries[:number]
                    break
            else:
                return entries

    def _description(self, census: Census, finished: bool) -> list[File]:
        """Return the card; of a finished run, also the lock file and the usage."""
        directory = self._run.directory
        page = card(directory, census, SHARDS, directory.resolve().name)
        return [File("README.md", page.encode()), *(described_files(self._run) if finished else ())]


def _published(corpus: IO[bytes], place: _Place) -> Iterator[bytes]:
    """Give the next whole lines as they are published, and move `place` along."""
    for line in corpus:
        if not line.endswith(b"\n"):  # still being written
            return
        row = loads_own(line)
        published = published_line(row)
        place.offset += len(line)
        place.census.see(row)
        yield published


def _holds(entry: Entry, lines: Iterator[bytes]) -> bool | None:
    """Return whether the next lines are the content of a file; None if there are not enough of them yet."""
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % entry.size, usedforsecurity=False)
    size = 0
    while size < entry.size:
        if (line := next(lines, None)) is None:
            return None
        size += len(line)
        sha256.update(line)
        git.update(line)
    return size == entry.size and entry.digest in (sha256.hexdigest(), git.hexdigest())


def _size(corpus: IO[bytes]) -> int:
    return corpus.seek(0, 2)


def push_while_running(
    run: Run, name: str, *, every_s: float, public: bool, as_it_is: bool, say: Callable[[str], None]
) -> tuple[Repository, int]:
    """Push the rows of a run every `every_s` seconds until it ends; return the repository and the rows.

    Raises DistillgenError if the run ends before it is finished, after its rows so far were pushed. A fault
    of the Hub or the network that may pass is reported by `say`, and the push is tried again.
    """
    repository = open_repository(name, "dataset", public=public)
    shards = ShardPush(run, repository, as_it_is=as_it_is)
    while True:
        at = time.monotonic()
        going = is_running(run.directory)
        state = run.state["state"]
        finished = not going and state == "finished"
        if finished:
            check_finished(run)
        try:
            if shards.push(finished=finished):
                say(f"{shards.rows:,} rows are in {repository.name}")
        except OtherCommit:  # of a push that was killed, or from elsewhere: compared with it at once
            continue
        except PassingFault as fault:
            if not going:
                raise
            say(f"note: {fault}; tried again in {every_s / 60:.2g} minutes")
        if finished:
            return repository, shards.rows
        if not going:
            problem = (
                f"the run has ended and is not finished ({state}); its rows so far are in {repository.name}"
            )
            raise DistillgenError(f"{problem}: go on with the run, and give this command again")
        while is_running(run.directory) and time.monotonic() < at + every_s:
            time.sleep(LOOK_EVERY_S)
