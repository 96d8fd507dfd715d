"""The log-probabilities and embeddings of a run, as Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.extras import need
from distillgen.inference.ledger import Ledger
from distillgen.inference.logprobs import unpack
from distillgen.rows.formats import BATCH
from distillgen.runs.directory import Run, read_rows


def export_signals(run: Run, path: Path) -> int:
    """Write the signals of a run to a Parquet file; return the number of rows.

    A row is an answer in a kept record's lineage: the record's id; the stage; the teacher; its tokenizer
    (SHA-256 or name; "" for an answer of an earlier run's stage); the number of recorded alternatives;
    tokens, their log-probabilities (float32, natural logarithm), and the alternatives of each; the embedding.
    Memory does not grow with the rows.
    """
    need("export --signals", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if path.suffix != ".parquet":
        raise ConfigError(
            f"signals are exported as Parquet; give a name such as {path.with_suffix('.parquet')}"
        )
    strings, floats = pa.list_(pa.string()), pa.list_(pa.float32())
    columns = {
        "id": pa.string(),
        "stage": pa.string(),
        "teacher": pa.string(),
        "tokenizer": pa.string(),
        "top_k": pa.int32(),
        "tokens": strings,
        "logprobs": floats,
        "top_tokens": pa.list_(strings),
        "top_logprobs": pa.list_(floats),
        "embedding": floats,
    }
    rows, count = _signals(run), 0
    with parquet.ParquetWriter(path, pa.schema(list(columns.items()))) as writer:
        while batch := list(islice(rows, BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, schema=writer.schema))
            count += len(batch)
    return count


def _signals(run: Run) -> Iterator[dict[str, Any]]:
    """Give a row for each answer with signals."""
    lock = run.lock
    models = dict(_models_by_stage(lock["stages"]))
    ledger = Ledger(run.ledger, read_only=True)
    rows = read_rows(run.directory / "corpus.jsonl")
    try:
        while batch := list(islice(rows, BATCH)):
            answers = [(row["meta"]["id"], answer) for row in batch for answer in row["meta"]["made"]]
            answer_rows = ledger.find([bytes.fromhex(answer["key"]) for _, answer in answers])
            for record_id, answer in answers:
                logprobs, embedding = unpack(answer_rows[bytes.fromhex(answer["key"])][2])
                if logprobs or embedding:
                    yield {
                        "id": record_id,
                        "stage": answer["stage"],
                        "teacher": answer["model"],
                        "tokenizer": lock["tokenizers"].get(
                            answer.get("teacher") or models.get(answer["stage"], ""), ""
                        ),
                        "top_k": max((len(top) for _, _, top in logprobs), default=0),
                        "tokens": [token for token, _, _ in logprobs],
                        "logprobs": [value for _, value, _ in logprobs],
                        "top_tokens": [[token for token, _ in top] for _, _, top in logprobs],
                        "top_logprobs": [[value for _, value in top] for _, _, top in logprobs],
                        "embedding": embedding,
                    }
    finally:
        ledger.close_now()


def _models_by_stage(stages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield the name of each stage, also of those inside `rounds`, and the model that it asks."""
    for stage in stages:
        for kind, options in stage.items():
            if isinstance(options, Mapping):  # a stage inside `rounds` is as the user wrote it
                yield options.get("name", kind), options.get("model", "")
                yield from _models_by_stage(options.get("stages", ()))
