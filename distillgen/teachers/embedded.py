"""A small model on this machine: llama.cpp's server (xllamacpp) in a process of its own, with continuous batching.

Weights come from a path, from installed packages whose parts are joined once, or from the Hugging Face Hub, in this
order. Packages of weights are never imported: their parts are read as data and must have the SHA-256 that stands here.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from pydantic import Field

from distillgen.errors import ConfigError, did_you_mean
from distillgen.extras import need
from distillgen.inference.endpoint import Endpoint
from distillgen.inference.faults import TeacherDown
from distillgen.inference.gguf_file import check_gguf
from distillgen.inference.request import Completion, Request
from distillgen.inference.spec import Spec
from distillgen.inference.weights import HUB, KNOWN_MODELS, find_weights, identity_of, weights_file
from distillgen.platforms import cores
from distillgen.teachers._openai_client import OpenAIClient
from distillgen.teachers._openai_spec import OpenAISpec


class EmbeddedSpec(Spec):
    """A GGUF model in llama.cpp, as a server process on this machine.

    `model` is a known name, a .gguf file, or hub:owner/repository/file.gguf.
    """

    max_concurrency: int = Field(4, ge=1, description="number of requests that the server answers at once")
    context: int = Field(2048, ge=128, description="number of tokens of a request and its answer together")
    threads: int | None = Field(
        None, ge=1, description="number of threads; default: the cores that this process may use"
    )
    timeout_s: float = Field(900.0, gt=0, description="longest wait for one answer, in seconds")

    @property
    def capabilities(self) -> frozenset[str]:
        """What llama.cpp's server does."""
        return frozenset({"logprobs", "json_schema", "grammar", "tools"})

    def check(self, root: Path) -> None:
        """Raise ConfigError where the model has no known source or the package for it is missing."""
        need("provider 'embedded'", "xllamacpp")
        if self.model in KNOWN_MODELS or self.model.startswith(HUB):
            return
        if not (path := weights_file(self.model, root)).is_file():
            known = did_you_mean(self.model, KNOWN_MODELS)
            raise ConfigError(
                f"there is no embedded model and no file '{self.model}'{known}, or give a .gguf file"
            )
        check_gguf(path)


class Embedded(Endpoint):
    """Starts the server when the first answer is missing: a run that only replays loads no model."""

    spec_type = EmbeddedSpec
    spec: EmbeddedSpec
    paid = False
    _endpoint: OpenAIClient | None = None

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        """That of the weights, wherever they lie."""
        return f"gguf:{identity_of(self.spec.model, self.services.root)}"

    @cached_property
    def model(self) -> str:
        """As it is known, or the file's name and the digest of its weights."""
        if self.spec.model in KNOWN_MODELS or self.spec.model.startswith(HUB):
            return self.spec.model
        return f"{Path(self.spec.model).name}@{self.identity.removeprefix('gguf:')[:12]}"

    def model_name(self, reported: str) -> str:
        """So, whatever the server makes of it."""
        return self.model

    @property
    def tokenizer(self) -> str:
        """It is in the weights' file."""
        return self.identity

    @cached_property
    def _starting(self) -> asyncio.Lock:
        return asyncio.Lock()

    @cached_property
    def _opened(self) -> contextlib.AsyncExitStack:
        return contextlib.AsyncExitStack()

    async def answer(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Ask the server; without a seed of its own a request gets one that follows from what it says.

        The first is answered alone, and what it has read is given to every slot: requests mostly begin alike
        (instructions, examples), and reading is what costs most on a CPU.
        """
        seed = int(hashlib.sha256(request.json).hexdigest()[:6], 16)
        sampling = {"seed": seed, **request.sampling}
        if "logprobs" in sampling:
            sampling["logprobs"] = max(
                1, sampling["logprobs"]
            )  # llama.cpp takes 0 for none, not for the sampled token's alone
        async with self._starting:
            if self._endpoint is None:
                self._endpoint = await self._start()
                sampling["extra"] = {**sampling.get("extra", {}), "id_slot": 0}
                completions = await self._endpoint.answer(
                    replace(request, sampling=sampling), samples, attempt
                )
                for slot in range(self.spec.max_concurrency):
                    action = "restore" if slot else "save"
                    await self._endpoint.call(f"../slots/{slot}?action={action}", {"filename": "first.bin"})
                return completions
        return await self._endpoint.answer(replace(request, sampling=sampling), samples, attempt)

    async def _start(self) -> OpenAIClient:
        """Start the server in a process of its own, which can be stopped at once whatever it is doing."""
        self.activity.note = "looking for the model's weights"
        path = await asyncio.to_thread(find_weights, self.spec.model, self.services.root)
        self.activity.note = f"loading {path.name}"
        folder = self._opened.enter_context(tempfile.TemporaryDirectory(prefix="distillgen-"))
        settings = [str(path), folder, self.spec.max_concurrency, self.spec.context, self.spec.threads]
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(settings)],
            start_new_session=True,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._opened.enter_context(server)
        self._opened.callback(server.kill)
        assert server.stdout is not None
        address = await asyncio.to_thread(server.stdout.readline)
        if not address:
            remedy = "Is it a whole .gguf file, and is there memory for it and for max_concurrency times context tokens?"
            raise TeacherDown(f"llama.cpp could not serve {path} (exit code {server.wait()}). {remedy}")
        self.activity.note = ""
        url = f"{address.strip()}/v1"
        spec = OpenAISpec(
            provider="openai",
            model=self.spec.model,
            base_url=url,
            timeout_s=self.spec.timeout_s,
            finish_reasons=self.spec.finish_reasons,
        )
        endpoint = OpenAIClient(self.name, spec, self.services)
        self._opened.push_async_callback(endpoint.close)
        return endpoint

    async def close(self) -> None:
        """Stop the server at once."""
        await self._opened.aclose()


def serve(path: str, folder: str, slots: int, context: int, threads: int | None) -> None:
    """What the server's process does: serve until its standard input ends, as it does when the run is killed."""
    # How long a thread spins at a barrier before it sleeps. Tokens a second on 2 cores, idle and beside a busy process:
    # as OpenMP has it 10.3 and 3.8, so 10.4 and 4.8, sleeping at once 6.8 and 6.2. Read when the library is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.cpuparams.n_threads = threads or cores()
    params.n_parallel = slots
    params.n_ctx = context * slots
    params.slot_save_path = folder + os.sep
    params.verbosity = 0
    params.warmup = params.fit_params = False
    server = xllamacpp.Server(params)
    sys.stdout.write(server.listening_address + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # the server's destructor would first finish every request


if __name__ == "__main__":
    serve(*json.loads(sys.argv[1]))
