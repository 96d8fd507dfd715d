"""Pictures and sounds in an export: files in a folder that `datasets` loads, or bytes in typed columns."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.record import Unrenderable, is_reference
from distillgen.rows.array_readers import METADATA
from distillgen.rows.media import AUDIO, ENDINGS, IMAGE, look_up

FOLDERS = {IMAGE: "images", AUDIO: "audio"}
_BUILDERS = {IMAGE: "imagefolder", AUDIO: "audiofolder"}


def names_file(value: Any) -> bool:
    """Return whether a value is a reference to a whole file, and not to a row of an array."""
    return is_reference(value) and "index" not in value


class ExportedMedia:
    """The columns of an export that hold pictures or sounds: references, or lists of references."""

    def __init__(self, root: Path) -> None:
        """`root` is the project that references are relative to."""
        self.root = root
        self.columns: dict[str, tuple[str, bool]] = {}
        """The kind of file of each column, and whether it holds lists."""
        self.types = Counter[str]()
        """The number of different files by type."""
        self._names: dict[str, str] = {}

    def see(self, row: Mapping[str, Any]) -> None:
        """Look at a row. Raise Unrenderable if a file is gone, changed or of no use, ConfigError if a column
        holds pictures and sounds.
        """
        for column, value in row.items():
            references = _references(value)
            if not references or not all(map(names_file, references)):
                continue
            for reference in references:
                kind = self._see(column, reference)
                if self.columns.setdefault(column, (kind, isinstance(value, list))) != (
                    kind,
                    isinstance(value, list),
                ):
                    mistake = f"'{column}' holds pictures and sounds, or single files and lists of them"
                    raise ConfigError(f"{mistake}; leave it out (--keep), or make two fields of it")

    def _see(self, column: str, reference: Mapping[str, Any]) -> str:
        try:
            file = look_up(str(reference["path"]), self.root, self.root)
        except ValueError as error:
            raise Unrenderable(f"'{column}': {error}") from error
        if file.sha256 != reference["sha256"]:
            raise Unrenderable(f"'{column}': '{reference['path']}' has changed since the row was made")
        kind = file.media.partition("/")[0]
        if file.sha256 not in self._names:
            self.types[file.media] += 1
            self._names[file.sha256] = f"{FOLDERS[kind]}/{file.sha256}{ENDINGS[file.media][0]}"
        return kind

    @property
    def builder(self) -> str:
        """The builder of `datasets` that loads the folder. Raise ConfigError if it holds two kinds."""
        kinds = {kind for kind, _ in self.columns.values()}
        if len(kinds) > 1:
            raise ConfigError(
                "the rows hold pictures and sounds, and a folder for 'datasets' holds one kind: "
                "give --format parquet, or leave one out (--keep)"
            )
        return _BUILDERS[kinds.pop()]

    def name_files(self, row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Return a row of metadata.jsonl, whose files are copied to `folder` unless they are there."""
        fields: dict[str, Any] = {}
        for name, value in row.items():
            if name not in self.columns:
                fields[name] = value
                continue
            kind, many = self.columns[name]
            ending = "file_names" if many else "file_name"
            plain = name == (f"{kind}s" if many else kind)
            names = [self._copied(one, folder) for one in _references(value)]
            fields[ending if plain else f"{name}_{ending}"] = names if many else next(iter(names), None)
        return fields

    def _copied(self, reference: Mapping[str, Any], folder: Path) -> str:
        name = self._names[reference["sha256"]]
        if not (place := folder / name).exists():
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(self.root / reference["path"], place)
        return name

    def embed_files(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row with the bytes of its files, as columns of the types Image and Audio hold them."""
        return {
            name: self._content(value) if name in self.columns and value is not None else value
            for name, value in row.items()
        }

    def _content(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._content(one) for one in value]
        name = self._names[value["sha256"]].rpartition("/")[2]
        return {"bytes": (self.root / value["path"]).read_bytes(), "path": name}

    def schema(self, schema: Any) -> Any:
        """Return a schema with these columns as `datasets` and the Hub recognize them."""
        import pyarrow as pa

        features, content = {}, pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        for name, (kind, many) in self.columns.items():
            place = schema.get_field_index(name)
            schema = schema.set(place, pa.field(name, pa.list_(content) if many else content))
            one = {"_type": kind.capitalize()}
            features[name] = {"feature": one, "_type": "List"} if many else one
        return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _references(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def refers_to_files(row: Mapping[str, Any]) -> bool:
    """Return whether a row of a run refers to a picture or a sound."""
    return any(names_file(one) for value in row.values() for one in _references(value))


def metadata_names(splits: Sequence[str]) -> dict[str, list[str]]:
    """Return the name of the file of rows of each split; without splits it lies in the outer folder."""
    return {split: [f"{split}/{METADATA}"] for split in splits} if splits else {"train": [METADATA]}
