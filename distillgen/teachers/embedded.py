"""A small model on this machine: llama.cpp's server (xllamacpp) in a process of its own, with continuous
batching.
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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from distillgen.errors import ConfigError, did_you_mean
from distillgen.extras import need
from distillgen.inference.endpoint import Endpoint
from distillgen.inference.faults import Rejected, TeacherDown
from distillgen.inference.gguf_file import architecture_of, check_gguf
from distillgen.inference.request import Completion, Request
from distillgen.inference.spec import Spec
from distillgen.inference.weights import HUB, KNOWN_MODELS, find_weights, identity_of, weights_file
from distillgen.platforms import cores
from distillgen.teachers._llamacpp_search import ServerSearch
from distillgen.teachers._openai_client import OpenAIClient
from distillgen.teachers._openai_spec import OpenAISpec
from distillgen.teachers._settling import settled


class EmbeddedSpec(Spec):
    """A GGUF model in llama.cpp, as a server process on this machine.

    `model` is a known name, a .gguf file, or hub:owner/repository/file.gguf.
    """

    api: Literal["chat", "completions"] = Field(
        "chat", description="chat, or completions, which continues the prompt as one text: for base models"
    )
    max_concurrency: int = Field(4, ge=1, description="number of requests that the server answers at once")
    mmproj: str | None = Field(
        None,
        description="the .gguf file of a model that sees with the part that turns pictures into tokens (a "
        "multimodal projector), or hub:owner/repository/file.gguf; with it the model takes pictures",
    )
    context: int = Field(2048, ge=128, description="number of tokens of a request and its answer together")
    threads: int | None = Field(
        None, ge=1, description="number of threads; default: the cores that this process may use"
    )
    timeout_s: float = Field(900.0, gt=0, description="longest wait for one answer, in seconds")

    @property
    def capabilities(self) -> frozenset[str]:
        """The capabilities of llama.cpp's server."""
        of_chat = {"json_schema", "tools", "user_turn", *(["images"] if self.mmproj else [])}
        return frozenset(
            {"logprobs", "grammar", "pruned_constraints"} | (of_chat if self.api == "chat" else set())
        )

    def check(self, root: Path) -> None:
        """Raise ConfigError if the model cannot be found or a package is missing."""
        need("provider 'embedded'", "xllamacpp")
        if self.mmproj and self.api != "chat":
            raise ConfigError("pictures belong to chat messages: leave out api: completions, or 'mmproj'")
        if self.mmproj and not self.mmproj.startswith(HUB):
            _check_projector(self.mmproj, weights_file(self.mmproj, root))
        if self.model in KNOWN_MODELS or self.model.startswith(HUB):
            return
        if not (path := weights_file(self.model, root)).is_file():
            hint = did_you_mean(self.model, KNOWN_MODELS)
            raise ConfigError(
                f"there is no embedded model and no file '{self.model}'{hint}, or give a .gguf file"
            )
        check_gguf(path)
        if architecture_of(path) == PROJECTOR:
            raise ConfigError(f"'{self.model}' only turns pictures into tokens: it is the mmproj of a model")


PROJECTOR = "clip"  # the architecture of every such file of llama.cpp


def _check_projector(name: str, path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"there is no file '{name}', which 'mmproj' names")
    check_gguf(path)
    if (architecture := architecture_of(path)) != PROJECTOR:
        raise ConfigError(
            f"'{name}' is no mmproj: its architecture is '{architecture}', not '{PROJECTOR}'; give the file "
            "that was published along with the model, such as mmproj-….gguf"
        )


class Embedded(Endpoint):
    """Starts the server with the first request: a run that only replays answers loads no model."""

    spec_type = EmbeddedSpec
    spec: EmbeddedSpec
    paid = False
    _endpoint: OpenAIClient | None = None
    _search: ServerSearch | None = None

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        """The identity of the weights, wherever they are, and of what turns pictures into tokens."""
        root, mmproj = self.services.root, self.spec.mmproj
        sees = f" mmproj:{identity_of(mmproj, root)}" if mmproj else ""
        return f"gguf:{identity_of(self.spec.model, root)}{sees}"

    @cached_property
    def model(self) -> str:
        """The model's own name, or the name of its file and a digest of its weights."""
        if self.spec.model in KNOWN_MODELS or self.spec.model.startswith(HUB):
            return self.spec.model
        return f"{Path(self.spec.model).name}@{self.identity.removeprefix('gguf:')[:12]}"

    def model_name(self, reported: str) -> str:
        """Return the name of the model, whatever the server reports."""
        return self.model

    @property
    def tokenizer(self) -> str:
        """The identity of the weights: their file holds the tokenizer."""
        return self.identity.partition(" ")[0]

    @cached_property
    def _starting(self) -> asyncio.Lock:
        return asyncio.Lock()

    @cached_property
    def _opened(self) -> contextlib.AsyncExitStack:
        return contextlib.AsyncExitStack()

    async def answer(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Ask the server. A request without a seed gets one that is derived from its content.

        The first request is answered alone, and its cache is copied to every slot: most requests start with
        the same instructions and examples, and reading them takes the most time on a CPU. Not so one with
        pictures: llama.cpp cannot save the cache of a prompt that has some.
        """
        seed = int(hashlib.sha256(request.json).hexdigest()[:6], 16)
        if request.constraints is not None:
            return await self._searched(request, samples, seed)
        sampling = {"seed": seed, **request.sampling}
        if "logprobs" in sampling:
            # llama.cpp takes 0 for no log-probabilities, not for those of the sampled tokens alone
            sampling["logprobs"] = max(1, sampling["logprobs"])
        async with self._starting:
            if self._endpoint is None:
                self._endpoint = await self._start()
                if not request.parts:
                    return await self._answer_first(request, sampling, samples, attempt)
        return await self._endpoint.answer(replace(request, sampling=sampling), samples, attempt)

    async def _answer_first(
        self, request: Request, sampling: Mapping[str, Any], samples: Sequence[int], attempt: int
    ) -> list[Completion]:
        """Answer in the first slot, and copy its cache to the others."""
        assert self._endpoint
        extra = {**sampling.get("extra", {}), "id_slot": 0}
        first = replace(request, sampling={**sampling, "extra": extra})
        completions = await self._endpoint.answer(first, samples, attempt)
        for slot in range(self.spec.max_concurrency):
            action = "restore" if slot else "save"
            await self._endpoint.call(f"../slots/{slot}?action={action}", {"filename": "first.bin"})
        return completions

    async def _searched(self, request: Request, samples: Sequence[int], seed: int) -> list[Completion]:
        if request.parts:
            raise Rejected("a search takes no pictures")
        async with self._starting:
            if self._endpoint is None:
                self._endpoint = await self._start()
        if self._search is None:
            self._search = ServerSearch(self._endpoint.call, model=self.model)
        answers = await self._search.answer(request, samples, seed)
        return [settled(request, answer, self.spec.finish_reasons) for answer in answers]

    async def _start(self) -> OpenAIClient:
        """Start the server in a process of its own, which can be stopped at any moment."""
        self.activity.note = "looking for the model's weights"
        path = await asyncio.to_thread(find_weights, self.spec.model, self.services.root)
        mmproj = ""
        if self.spec.mmproj:
            mmproj = str(await asyncio.to_thread(find_weights, self.spec.mmproj, self.services.root))
        self.activity.note = f"loading {path.name}"
        folder = self._opened.enter_context(tempfile.TemporaryDirectory(prefix="distillgen-"))
        settings = [str(path), folder, self.spec.max_concurrency, self.spec.context, self.spec.threads]
        settings.append(mmproj)
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
            remedy = (
                "Is it a whole .gguf file, and is there memory for it and for max_concurrency times context "
            )
            remedy += "tokens?"
            raise TeacherDown(f"llama.cpp could not serve {path} (exit code {server.wait()}). {remedy}")
        self.activity.note = ""
        url = f"{address.strip()}/v1"
        spec = OpenAISpec(
            provider="openai",
            model=self.spec.model,
            base_url=url,
            timeout_s=self.spec.timeout_s,
            finish_reasons=self.spec.finish_reasons,
            server="llamacpp",
            api=self.spec.api,
        )
        endpoint = OpenAIClient(self.name, spec, self.services)
        self._opened.push_async_callback(endpoint.close)
        return endpoint

    def stop(self, reason: Exception) -> None:
        """End searches at their next token; their answers are lost."""
        if self._search is not None:
            self._search.stop()

    async def close(self) -> None:
        """Stop the server."""
        if self._search is not None:
            self._search.stop()
        await self._opened.aclose()


def serve(path: str, folder: str, slots: int, context: int, threads: int | None, mmproj: str) -> None:
    """Serve until standard input ends, which also happens when the run is killed. The server's process calls
    this.
    """
    # How long a thread spins at a barrier before it sleeps; the library reads it when it is loaded. Tokens a
    # second on 2 cores, idle and beside a busy process: OpenMP's default 10.3 and 3.8, this value 10.4 and
    # 4.8, no spinning 6.8 and 6.2.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    if mmproj:
        params.mmproj.path = mmproj
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
    os._exit(0)  # the destructor of the server would finish every request first


if __name__ == "__main__":
    serve(*json.loads(sys.argv[1]))
