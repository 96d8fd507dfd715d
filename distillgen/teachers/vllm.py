"""A model on a GPU of this machine: vLLM's engine, which the run starts and stops.

The engine batches continuously: it gets every request that has a slot, and each answer is stored as it
finishes. It runs in processes of its own. `end_with_run` ends them with this process, so that a killed run
leaves no GPU occupied.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import multiprocessing
import os
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from distillgen.errors import ConfigError, did_you_mean
from distillgen.extras import need
from distillgen.inference.endpoint import Endpoint, Services
from distillgen.inference.faults import Rejected, Retryable
from distillgen.inference.opening import USER_TURN, opening, text_start
from distillgen.inference.parts import parts_in
from distillgen.inference.reasoning import opens_thought
from distillgen.inference.request import Completion, Request
from distillgen.inference.spec import Spec
from distillgen.inference.weights import local_name, model_path, weights_identity
from distillgen.record import digest, dumps
from distillgen.teachers._seeing import SeeingSpec, scene
from distillgen.teachers._settling import MISSING, chat_text, settled

ENVIRONMENT = {  # variables that are set already keep their values
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork would keep the run's lock and signal pipe open
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DISTILLGEN_ENGINE": "1",  # for `end_with_run`
}
ARGUMENTS = (
    "dtype",
    "quantization",
    "max_model_len",
    "tensor_parallel_size",
    "gpu_memory_utilization",
    "enforce_eager",
)
_SPEED = re.compile(r"max_\w+|\w+_size")  # further arguments that change no answer
_numbers = itertools.count()


class VLLMSpec(SeeingSpec):
    """A model in vLLM, in the process of the run.

    `model` is a folder or a name on the Hugging Face Hub. An option that is not given has vLLM's default.
    """

    max_concurrency: int = Field(
        1024, ge=1, description="largest number of requests in the engine, which runs as many at once as fit"
    )
    api: Literal["chat", "completions"] = Field(
        "chat", description="chat, or completions, which sends the prompt as one text"
    )
    dtype: str | None = Field(None, description="type of the weights, such as bfloat16")
    quantization: str | None = Field(None, description="quantization of the weights, such as fp8 or awq")
    max_model_len: int | None = Field(
        None, ge=2, description="number of tokens of a request and its answer together"
    )
    tensor_parallel_size: int | None = Field(None, ge=1, description="number of GPUs that share the model")
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="share of a GPU's memory to use"
    )
    enforce_eager: bool | None = Field(None, description="use no CUDA graphs: a faster start, slower answers")
    engine: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of the engine, as vLLM names them"
    )
    lora: dict[str, str] = Field(
        default_factory=dict,
        description="adapters that the engine holds, as name: folder or name on the Hugging Face Hub",
    )
    adapter: str | None = Field(
        None, description="name of the adapter in `lora` that answers; default: the model without one"
    )

    @property
    def capabilities(self) -> frozenset[str]:
        """The capabilities of the engine."""
        of_chat = {"user_turn", *self.sight}
        return frozenset({"n", "logprobs", "json_schema", "grammar", "score", "first_token"}) | (
            of_chat if self.api != "completions" else set()
        )

    def check(self, root: Path) -> None:
        """Raise ConfigError if the model, an adapter or vLLM is missing."""
        adapters = [(f"adapter '{name}'", path, "adapter_config.json") for name, path in self.lora.items()]
        for kind, name, file in [("model", self.model, "config.json"), *adapters]:
            place = model_path(name, root)
            if place is None and not re.fullmatch(r"\w[\w.-]*(/[\w.:-]+)?", name):
                raise ConfigError(
                    f"there is no folder '{name}' for the {kind}; a name on the Hub is like owner/name"
                )
            if place is not None and place.is_dir() and not (place / file).is_file():
                raise ConfigError(f"the folder '{name}' for the {kind} has no {file}")
        if self.adapter is not None and self.adapter not in self.lora:
            raise ConfigError(
                f"'lora' has no adapter '{self.adapter}'{did_you_mean(self.adapter, self.lora)}"
            )
        if "hf_token" in self.engine:
            raise ConfigError("'hf_token' is a secret: export HF_TOKEN=… instead, which vLLM reads by itself")
        need("provider 'vllm'", "vllm")

    def arguments(self, root: Path) -> dict[str, Any]:
        """Return the arguments of the engine. Entries of `models` with equal arguments share one engine."""
        options = {name: value for name in ARGUMENTS if (value := getattr(self, name)) is not None}
        if self.lora:
            folders = [place for path in self.lora.values() if (place := model_path(path, root))]
            most = max(
                [16, *(json.loads((folder / "adapter_config.json").read_bytes())["r"] for folder in folders)]
            )
            options |= {
                "enable_lora": True,
                "max_loras": len(self.lora),
                "max_lora_rank": 1 << (most - 1).bit_length(),
            }
        defaults = {"enable_prefix_caching": True, "disable_log_stats": True, "use_tqdm_on_load": False}
        return {
            **defaults,
            **options,
            **self.engine,
            "model": str(model_path(self.model, root) or self.model),
        }


class Engine:
    """vLLM. A thread starts it; a run that stops does not wait for the thread."""

    shared: ClassVar[dict[tuple[asyncio.AbstractEventLoop, bytes], Engine]] = {}

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.users, self.model = 0, str(arguments["model"])
        self.started: Future[None] = Future()
        self.started.set_running_or_notify_cancel()
        threading.Thread(target=self._start, args=(arguments,), daemon=True).start()

    def _start(self, arguments: Mapping[str, Any]) -> None:
        try:
            for name, value in ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            from vllm import AsyncEngineArgs
            from vllm.usage.usage_lib import UsageContext
            from vllm.v1.engine.async_llm import AsyncLLM

            batches = UsageContext.LLM_CLASS  # the larger defaults of vLLM, for offline work
            self.llm: Any = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), usage_context=batches)
            self.tokenizer, self.sampling = (
                self.llm.get_tokenizer(),
                self.llm.model_config.get_diff_sampling_param(),
            )
            self.started.set_result(None)
        except Exception as error:
            self.started.set_exception(error)

    @cached_property
    def processor(self) -> Any:
        """The processor of transformers, whose chat template has places for pictures."""
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(self.model)

    def leave(self) -> None:
        """Remove a user. Without users, the engine stops once it has started."""
        self.users -= 1
        if not self.users:
            Engine.shared = {key: engine for key, engine in Engine.shared.items() if engine is not self}
            self.started.add_done_callback(self._stop)

    def _stop(self, started: Future[None]) -> None:
        if not started.exception():
            self.llm.shutdown()
            self.llm = self.tokenizer = None  # nothing of the engine is left to fail at exit


def end_with_run() -> None:
    """End an engine's process with its parent, even after SIGKILL. vLLM calls this plug-in in each of its
    processes.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and "DISTILLGEN_ENGINE" in os.environ:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)


class VLLM(Endpoint):
    """Starts the engine with the first request: a run that only replays answers loads no model."""

    spec_type = VLLMSpec
    spec: VLLMSpec
    paid = False

    def __init__(self, name: str, spec: Spec, services: Services) -> None:
        """Set `identity` to the weights and the options that change answers."""
        super().__init__(name, spec, services)
        root = services.root
        options = {key: value for key, value in self.spec.engine.items() if not _SPEED.fullmatch(key)}
        options |= {key: value for key in ("dtype", "quantization") if (value := getattr(self.spec, key))}
        options |= (
            {"adapter": weights_identity(self.spec.lora[self.spec.adapter], root)}
            if self.spec.adapter
            else {}
        )
        self.identity = f"vllm:{weights_identity(self.spec.model, root)}" + (
            f" {dumps(options).decode()}" if options else ""
        )
        self._engine: Engine | None = None

    @cached_property
    def model(self) -> str:
        """The model's name on the Hub, or the name of its folder and a digest of its weights."""
        return local_name(self.spec.model, self.services.root)

    async def answer(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Ask for all samples in one call. vLLM increases the seed by 1 for each sample."""
        sampling = dict(request.sampling)
        model = f"{self.model}+{self.spec.adapter}" if self.spec.adapter else self.model
        context = request.messages if request.prompt is None else request.prompt
        if request.target is not None:
            scored = await self.score(context, request.target, top=sampling.get("logprobs", 0))
            return [Completion(logprobs=scored, model=model, input_tokens=len(scored))]
        if "seed" in sampling and samples[-1] - samples[0] >= len(samples):
            return [
                completion
                for sample in samples
                for completion in await self.answer(request, [sample], attempt)
            ]
        if "seed" in sampling:
            sampling["seed"] += samples[0] + 1_000_003 * attempt
        sampling |= sampling.pop("extra", {})
        template = sampling.pop("chat_template_kwargs", {})
        form = (
            {"json": dict(request.schema)}
            if request.schema
            else {"grammar": request.grammar}
            if request.grammar
            else {}
        )
        engine = await self._started()
        sampling = {"max_tokens": None, **engine.sampling, **sampling, "n": len(samples)}
        output, tokens = await self._generate(
            engine, context, sampling, form=form, template=template, write=request.write
        )
        opened = opens_thought(engine.tokenizer.decode(output.prompt_token_ids[-12:]))
        top = sampling.get("logprobs") or 0
        completions = [_completion(answer, top, model) for answer in output.outputs]
        completions[0] = completions[0]._replace(
            input_tokens=tokens, cached_tokens=output.num_cached_tokens or 0
        )
        return [settled(request, c, self.spec.finish_reasons, opened=opened) for c in completions]

    async def score(
        self, context: str | Sequence[Mapping[str, Any]], target: str, *, top: int = 0
    ) -> list[list[Any]]:
        """Return each token of `target` with its log-probability (in nats) after `context`, and the `top`
        likeliest tokens.

        The context is a text, or messages. The target is tokenized by itself, as a generated text is.
        """
        engine = await self._started()
        output, before = await self._generate(
            engine, context, {"max_tokens": 1, "prompt_logprobs": top}, target=target
        )
        ids, logprobs = output.prompt_token_ids[before:], output.prompt_logprobs[before:]
        return [_signal(token, among, top) for token, among in zip(ids, logprobs, strict=True)]

    async def _generate(
        self,
        engine: Engine,
        context: str | Sequence[Mapping[str, Any]],
        sampling: Mapping[str, Any],
        *,
        form: Mapping[str, Any] | None = None,
        template: Mapping[str, Any] | None = None,
        target: str = "",
        write: str | None = None,
    ) -> tuple[Any, int]:
        """Return the complete output of the engine for `context` and `target`, and the number of tokens of
        the context.
        """
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        lora = None
        if self.spec.adapter is not None:
            path = self.spec.lora[self.spec.adapter]
            path = str(model_path(path, self.services.root) or path)
            # vLLM's caches use the name and the number
            lora = LoRARequest(path, int(digest(path, 7), 16), path)
        try:
            before, pictures = await self._prompt(engine, context, template or {}, write)
            after = engine.tokenizer.encode(target, add_special_tokens=False) if target else []
            if after and not (before := before or text_start(engine.tokenizer)):
                raise ValueError("the first token of a text has no log-probability; give it a context")
            structured = StructuredOutputsParams(**form) if form else None
            params = SamplingParams(
                **sampling, structured_outputs=structured, output_kind=RequestOutputKind.FINAL_ONLY
            )
            # the type says that nothing is left to do; a picture is still to become tokens
            prompt = {"prompt_token_ids": before + after, **(pictures or {"type": "token"})}
            (output,) = [
                result
                async for result in engine.llm.generate(
                    prompt, params, str(next(_numbers)), lora_request=lora
                )
            ]
        except Rejected:
            raise
        except EngineDeadError as error:
            raise self.down("vLLM's engine has ended; its messages above say why") from error
        except (
            Exception
        ) as error:  # a request that cannot be answered; each release of vLLM raises other kinds
            cause = error.__cause__ if isinstance(error, EngineGenerateError) and error.__cause__ else error
            if "chat_template is not set" in str(cause):
                raise self.down(
                    f"'{self.spec.model}' has no chat template; a base model takes api: completions"
                ) from error
            passing = isinstance(error, EngineGenerateError) and not isinstance(
                cause, (ValueError, TypeError)
            )
            raise (Retryable if passing else Rejected)(f"{type(cause).__name__}: {cause}") from error
        if any(answer.finish_reason in ("abort", "error") for answer in output.outputs):
            raise Retryable("vLLM gave the request up")
        return output, len(output.prompt_token_ids) - len(after)

    async def _prompt(
        self,
        engine: Engine,
        context: str | Sequence[Mapping[str, Any]],
        template: Mapping[str, Any],
        write: str | None,
    ) -> tuple[list[int], dict[str, Any]]:
        """Return the tokens of a text or of messages, and the pictures in these as the engine takes them."""
        if isinstance(context, str) or not (parts := [*parts_in(context)]):
            return _tokens(engine.tokenizer, context, template, write), {}
        if write:
            raise ValueError("a user's turn is opened after texts alone, and the dialogue has a picture")
        prompt = await asyncio.to_thread(scene, context, engine.processor, self.services.root, template)
        # the caches of vLLM know a picture by its hash
        hashes = {"image": [part["sha256"] for part in parts]}
        pictures = {"multi_modal_data": {"image": [*prompt.pictures]}, "multi_modal_uuids": hashes}
        return list(engine.tokenizer.encode(prompt.text, add_special_tokens=False)), pictures

    async def _started(self) -> Engine:
        """Return the engine; the first call starts it."""
        if self._engine is None:
            arguments = self.spec.arguments(self.services.root)
            key = asyncio.get_running_loop(), dumps(arguments)
            self._engine = Engine.shared[key] = Engine.shared.get(key) or Engine(arguments)
            self._engine.users += 1
        engine = self._engine
        if not engine.started.done():
            self.activity.note = f"loading {self.spec.model} into vLLM"
        try:
            await asyncio.wrap_future(engine.started)
        except Exception as error:
            raise self.down(f"vLLM could not start: {error}. Its messages above may say why") from error
        finally:
            self.activity.note = ""
        return engine

    async def close(self) -> None:
        """Stop the engine, unless another model of the run uses it."""
        if self._engine is not None:
            self._engine.leave()
            self._engine = None


def _tokens(
    tokenizer: Any,
    context: str | Sequence[Mapping[str, Any]],
    template: Mapping[str, Any],
    write: str | None = None,
) -> list[int]:
    """Return the tokens of a text, or of messages in the model's chat template, with the opening of the turn
    that the model writes.
    """
    if isinstance(context, str):
        return list(tokenizer.encode(context))
    messages = [{**message, "content": chat_text(message["content"])} for message in context]
    if write:
        text = opening(tokenizer.apply_chat_template([*messages, USER_TURN], tokenize=False, **template))
        return list(tokenizer.encode(text, add_special_tokens=False))
    return list(
        tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False, **template
        )
    )


def _completion(output: Any, top: int, model: str) -> Completion:
    """Return one of the engine's answers, before it is settled."""
    signals = [
        _signal(token, among, top)
        for token, among in zip(output.token_ids, output.logprobs or (), strict=False)
    ]
    finish = output.finish_reason or MISSING
    output_tokens = len(output.token_ids)
    return Completion(output.text, finish=finish, logprobs=signals, output_tokens=output_tokens, model=model)


def _signal(token: int, among: Mapping[int, Any], top: int) -> list[Any]:
    """Return a token, its log-probability, and the `top` likeliest tokens with theirs."""
    likeliest = sorted((entry for entry in among.values() if entry.rank <= top), key=lambda entry: entry.rank)
    pairs = [[entry.decoded_token, entry.logprob] for entry in likeliest if math.isfinite(entry.logprob)]
    return [among[token].decoded_token, among[token].logprob, pairs]
