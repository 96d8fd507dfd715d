"""Spooled records and their vectors, for stages that read every record before the first one leaves."""

from __future__ import annotations

import asyncio
import base64
import math
import os
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.extras import need
from distillgen.flow.ordered import splice
from distillgen.flow.stage import CHUNK, CheckContext, Chunk, Chunks, Job, Stage
from distillgen.inference.ledger import Ledger
from distillgen.inference.weights import SHIPPED
from distillgen.local_models.embedder import WORDS, embed
from distillgen.record import Record, digest, dumps, loads_own, text_of

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


class Spool:
    """Records that wait in an unnamed file in the run's directory. The file disappears with the process."""

    def __init__(self, job: Job) -> None:
        job.services.whole.add(len(job.context.stages))
        self._file = tempfile.TemporaryFile(dir=job.context.directory)

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the space on the disk back."""
        self._file.close()

    def add(self, chunk: Chunk) -> None:
        """Append the records of a chunk to the file."""
        self._file.writelines(dumps(record.row(), sort_keys=False) + b"\n" for record in chunk)

    def chunks(self) -> Iterator[Chunk]:
        """Yield all records, in order. Several callers may read side by side."""
        self._file.seek(0, os.SEEK_END)
        position, end = 0, self._file.tell()
        while position < end:
            self._file.seek(position)
            lines = list(islice(self._file, CHUNK))
            position = self._file.tell()
            yield [Record.from_row(loads_own(line)) for line in lines]


async def in_blocks(chunks: Chunks, waits: Callable[[Chunk], bool], job: Job) -> Chunks:
    """Yield the same chunks, in order. A chunk whose live records wait is spooled until a later chunk does
    not wait, or there is none. `waits` is called for a chunk when the caller is done with those before it.
    """
    spool: Spool | None = None
    try:
        async for chunk in chunks:
            live = [record for record in chunk if not record.dropped]
            if waits(live) if live else spool:
                spool = spool or Spool(job)
                spool.add(chunk)
                continue
            if spool:
                for waiting in spool.chunks():
                    yield waiting
                spool.close()
                spool = None
            yield chunk
        for waiting in spool.chunks() if spool else ():
            yield waiting
    finally:
        if spool:
            spool.close()


class LinesOnDisk:
    """Lines in a temporary file, which are read by their number. Memory holds 8 bytes for each."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)
        self._starts = array("Q", [0])

    def __enter__(self) -> LinesOnDisk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def add(self, line: bytes) -> None:
        """Add a line. All lines are added before the first is read."""
        self._file.write(line)
        self._starts.append(self._starts[-1] + len(line))

    def __getitem__(self, number: int) -> bytes:
        self._file.seek(self._starts[number])
        return self._file.read(self._starts[number + 1] - self._starts[number])


class Placed(Stage):
    """A stage that compares records by vectors."""

    field: str | None = Field(None, description="field with the text to embed")
    embedder: str = Field(
        "minilm",
        description="embedding model: minilm, a local folder, a name on the Hugging Face Hub, or words, "
        "which compares content words without a model",
    )
    vector: str | None = Field(None, description="field with a list of numbers, used instead of an embedding")

    def check_vectors(self, context: CheckContext) -> None:
        """Raise ConfigError if a field or a package is missing. No model is loaded."""
        if self.vector is None and self.field is None:
            raise ConfigError("give 'field', a text to embed, or 'vector', a field that holds numbers")
        context.need(str(self.vector or self.field), "'vector'" if self.vector else "'field'")
        if self.vector or self.embedder == WORDS:
            need("it", "numpy")
        else:
            need(f"the embedder '{self.embedder}'", "sentence_transformers", "numpy")
        if not self.vector and self.embedder in SHIPPED:
            package = SHIPPED[self.embedder][0]
            try:
                metadata.version(package)
            except metadata.PackageNotFoundError as error:
                raise ConfigError(
                    f"the embedder '{self.embedder}' needs its package: pip install {package}"
                ) from error


class Vectors:
    """A vector of length 1 for each live record, in order."""

    def __init__(self, stage: Placed, job: Job) -> None:
        self._stage, self._job = stage, job
        self._parts: list[Array] = []
        self._size = 0

    async def add(self, chunk: Chunk) -> Chunk:
        """Add a vector for each live record. Return the chunk; a record without a vector is dropped."""
        live = [record for record in chunk if not record.dropped]
        if self._stage.vector is None:
            texts = [text_of(record.fields.get(str(self._stage.field))) for record in live]
            self._parts.append(await embedded(texts, self._stage.embedder, self._job.services.ledger))
            return chunk
        return splice(chunk, ([self._place(record, str(self._stage.vector))] for record in live))

    def _place(self, record: Record, name: str) -> Record:
        import numpy as np

        value = record.fields.get(name)
        if not value or not isinstance(value, list) or not all(isinstance(n, int | float) for n in value):
            return record.drop(self._stage.name, "unplaced", f"'{name}' holds no list of numbers")
        self._size = self._size or len(value)
        if len(value) != self._size:
            reason = f"'{name}' holds {len(value):,} numbers, that of the first record {self._size:,}"
            return record.drop(self._stage.name, "unplaced", reason)
        vector = np.array([value], np.float64)
        self._parts.append((vector / (np.linalg.norm(vector) or 1)).astype(np.float32))
        return record

    def all(self) -> Array:
        """Return an array with a row for each live record."""
        import numpy as np

        parts = [part for part in self._parts if len(part)]
        return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


async def embedded(texts: Sequence[str], model: str, ledger: Ledger) -> Array:
    """Return the embeddings of texts, with 16 bits a number.

    The ledger keeps them. Embeddings that it lacks are computed in a thread, so that the run goes on.
    """
    import numpy as np

    if model == WORDS:
        return np.asarray(embed(texts, model=model))
    keys = [digest(["embedding", model, text], 32).encode() for text in texts]
    stored_vectors = ledger.find_scores(keys)
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in stored_vectors}
    if missing:
        vectors = (await asyncio.to_thread(embed, list(missing.values()), model=model)).astype(np.float16)
        new = {
            key: base64.b64encode(vector.tobytes()).decode()
            for key, vector in zip(missing, vectors, strict=True)
        }
        await ledger.add_scores(new)
        stored_vectors |= new
    rows = [np.frombuffer(base64.b64decode(stored_vectors[key]), np.float16) for key in keys]
    return np.array(rows, np.float32)


def number_of(record: Record, name: str) -> float | None:
    """Return a score or a field by its name, if it is a number, or a text of one, such as the answer of a
    model that scores; else None.
    """
    value = record.scores.get(name, record.fields.get(name))
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
        return value if math.isfinite(value) else None
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value
        else None
    )
