"""The log-probabilities and embeddings of a run, as Parquet."""

from __future__ import annotations

from collections.abc import Iterator
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
    """Write what the teachers gave besides text to a Parquet file, a row for each answer in a kept record's lineage, and
    return how many: the record's id, the stage, the teacher, its tokenizer (its SHA-256 or name), how many alternatives were
    recorded, tokens and log-probabilities (float32, natural logarithm), alternatives, the embedding. Memory stays flat.
    """
    need("export --signals", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if path.suffix != ".parquet":
        raise ConfigError(f"signals are exported as Parquet: give a name like {path.with_suffix('.parquet')}")
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
    lock = run.lock
    asked = {
        options["name"]: options.get("model", "") for stage in lock["stages"] for options in stage.values()
    }
    ledger = Ledger(run.ledger, read_only=True)
    rows = read_rows(run.directory / "corpus.jsonl")
    try:
        while some := list(islice(rows, BATCH)):
            made = [(row["meta"]["id"], each) for row in some for each in row["meta"]["made"]]
            found = ledger.find([bytes.fromhex(each["key"]) for _, each in made])
            for record, each in made:
                logprobs, embedding = unpack(found[bytes.fromhex(each["key"])][2])
                if logprobs or embedding:
                    yield {
                        "id": record,
                        "stage": each["stage"],
                        "teacher": each["model"],
                        "tokenizer": lock["tokenizers"].get(asked[each["stage"]], ""),
                        "top_k": max((len(top) for _, _, top in logprobs), default=0),
                        "tokens": [token for token, _, _ in logprobs],
                        "logprobs": [value for _, value, _ in logprobs],
                        "top_tokens": [[token for token, _ in top] for _, _, top in logprobs],
                        "top_logprobs": [[value for _, value in top] for _, _, top in logprobs],
                        "embedding": embedding,
                    }
    finally:
        ledger.close_now()
