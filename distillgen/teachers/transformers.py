"""A model on this machine through Hugging Face transformers: what a student is asked with, its base, or any small model.

Requests that wait and are sampled alike are answered in one batch. Nothing is served and nothing is compiled, so that it
runs wherever a student was trained; where a GPU is and rows are many, `vllm` is the faster one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import Any, Literal

from pydantic import Field

from distillgen.errors import ConfigError, Stopped
from distillgen.extras import need
from distillgen.inference.endpoint import Endpoint
from distillgen.inference.faults import Rejected, TeacherDown
from distillgen.inference.reasoning import opens_thought
from distillgen.inference.request import Completion, Request
from distillgen.inference.spec import Spec
from distillgen.inference.weights import local_name, model_path, weights_identity
from distillgen.record import digest, dumps
from distillgen.state_files import load_state
from distillgen.teachers._settling import chat_text, settled

MAX_TOKENS = 256  # where none are given: a model that does not stop would go on to the end of its context


class TransformersSpec(Spec):
    """A model in Hugging Face transformers, in the process of the run.

    `model` is a folder or a name on the Hub: of a model, or of a PEFT adapter, which names its base model.
    """

    max_concurrency: int = Field(16, ge=1, description="largest number of sequences in a batch")
    api: Literal["chat", "completions"] | None = Field(
        None,
        description="chat, or completions, which sends the prompt as one text; default: as the student "
        "was trained, else chat",
    )
    dtype: str | None = Field(None, description="type of the weights, such as bfloat16; default: as stored")
    device: str | None = Field(
        None, description="device, such as cuda:0 or cpu; default: a GPU where there is one"
    )

    @property
    def capabilities(self) -> frozenset[str]:
        """What can be asked besides text."""
        return frozenset({"n", "logprobs", "score"})

    def check(self, root: Path) -> None:
        """Raise ConfigError where the model or the packages are missing."""
        need("provider 'transformers'", "torch", "transformers")
        if model_path(self.model, root) is None and (
            self.model.startswith((".", "/", "~")) or self.model.count("/") > 1
        ):
            raise ConfigError(f"there is no folder '{self.model}'; a name on the Hub is like owner/name")


@dataclass(frozen=True)
class _Waiting:
    request: Request
    n: int
    done: asyncio.Future[list[Completion]]

    @property
    def kind(self) -> bytes:
        """What requests must have in common to be answered in one batch."""
        return dumps(
            [self.request.target is None, self.request.prompt is None, dict(self.request.sampling), self.n]
        )


class Transformers(Endpoint):
    """Loads the model when the first answer is missing: a run that only replays loads none."""

    spec_type = TransformersSpec
    spec: TransformersSpec
    paid = False

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        """That of the weights, and of the base under an adapter."""
        return f"transformers:{weights_identity(self.spec.model, self.services.root)} {self.spec.dtype or ''}".rstrip()

    @cached_property
    def model(self) -> str:
        """Its name on the Hub, or that of its folder and the digest of its weights."""
        return local_name(self.spec.model, self.services.root)

    def model_name(self, reported: str) -> str:
        """So, wherever it lies."""
        return self.model

    @cached_property
    def api(self) -> str:
        """As it says, or as the student was trained."""
        manifest = Path(model_path(self.spec.model, self.services.root) or "") / "manifest.json"
        if self.spec.api is None and manifest.is_file():
            return str(load_state(manifest).get("api", "chat"))
        return self.spec.api or "chat"

    @cached_property
    def _queue(self) -> list[_Waiting]:
        return []

    @cached_property
    def _ended(self) -> Event:
        return Event()

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix=self.name)

    _working: asyncio.Task[None] | None = None

    async def answer(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Wait for a place in a batch. A seed of its own follows from what the request says, unless it gives one."""
        done: asyncio.Future[list[Completion]] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(request, len(samples), done))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await done

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            await asyncio.sleep(0)  # what is begun in the same turn joins the batch
            self._queue[:] = [each for each in self._queue if not each.done.done()]
            kind = self._queue[0].kind if self._queue else b""
            alike = [each for each in self._queue if each.kind == kind]
            batch = alike[: max(1, self.spec.max_concurrency // (alike[0].n if alike else 1))]
            self._queue[:] = [each for each in self._queue if each not in batch]
            try:
                answers: Sequence[Any] = await loop.run_in_executor(self._thread, self._answer, batch)
            except Exception as error:
                answers = [error] * len(batch)
            for each, answer in zip(batch, answers, strict=True):
                if not each.done.done():
                    each.done.set_exception(answer) if isinstance(
                        answer, Exception
                    ) else each.done.set_result(answer)

    def _answer(self, batch: Sequence[_Waiting]) -> list[list[Completion] | Exception]:
        if not batch:
            return []
        model = self._model
        tokens: list[list[int] | Exception] = []
        for each in batch:
            try:
                tokens.append(model.tokens(each.request))
            except Exception as error:  # a template raises anything on messages that it does not take
                tokens.append(Rejected(f"{type(error).__name__}: {error}"))
        able = [(each, ids) for each, ids in zip(batch, tokens, strict=True) if isinstance(ids, list)]
        if able:
            first = able[0][0].request
            contexts = [ids for _, ids in able]
            if first.target is not None:
                made = model.scored(
                    contexts,
                    [str(each.request.target) for each, _ in able],
                    first.sampling.get("logprobs", 0),
                )
            else:
                made = model.generated(
                    contexts, able[0][0].n, first.sampling, seed=int(digest(first.json.hex(), 8), 16)
                )
                opened = [opens_thought(model.tokenizer.decode(ids[-12:])) for ids in contexts]
                made = [
                    [settled(each.request, completion, opened=opens) for completion in some]
                    for (each, _), some, opens in zip(able, made, opened, strict=True)
                ]
            answers = iter(made)
        return [next(answers) if isinstance(ids, list) else ids for ids in tokens]

    @cached_property
    def _model(self) -> Model:
        self.activity.note = f"loading {self.spec.model}"
        try:
            return Model(*folders(self.spec.model, self.services.root), self.spec, self._ended)
        except (
            Exception
        ) as error:  # the packages raise anything from OSError to their own; all mean the same here
            raise TeacherDown(
                f"model '{self.name}': '{self.spec.model}' cannot be loaded: {error}"
            ) from error
        finally:
            self.activity.note = ""

    def stop(self, reason: Exception) -> None:
        """A batch is not waited for: it ends at its next token, and nothing of it is kept."""
        self._ended.set()

    async def close(self) -> None:
        """End the thread, and with it what it holds."""
        self._ended.set()
        self._thread.shutdown(cancel_futures=True)
        self.__dict__.pop("_model", None)


def folders(name: str, root: Path) -> tuple[str, str | None]:
    """Return the folder or Hub name of a model, and the folder of its adapter, or None."""
    path = str(model_path(name, root) or name)
    adapter = Path(path) / "adapter_config.json"
    return (
        (json.loads(adapter.read_bytes())["base_model_name_or_path"], path)
        if adapter.is_file()
        else (path, None)
    )


class Model:
    """A causal or encoder-decoder model with its tokenizer. Blocking: use from one thread; `ended` ends from another what is
    under way, which raises Stopped.
    """

    def __init__(self, path: str, adapter: str | None, spec: TransformersSpec, ended: Event) -> None:
        """From folders or names on the Hub. Raises what transformers and peft do where it cannot be loaded."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # the run has a line of its own
        seq2seq = AutoConfig.from_pretrained(path).is_encoder_decoder
        auto = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
        model: Any = auto.from_pretrained(path, dtype=spec.dtype or "auto")
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter)
        self.name, self.seq2seq = Path(adapter or path).name if Path(path).exists() else spec.model, seq2seq
        self.ended = ended
        self.device = spec.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).eval()
        own = adapter and (Path(adapter) / "tokenizer_config.json").is_file()
        self.tokenizer = AutoTokenizer.from_pretrained(adapter if own else path)
        end = getattr(model.generation_config, "eos_token_id", None)
        self.ends = set(end) if isinstance(end, list) else {end, self.tokenizer.eos_token_id} - {None}
        self.pad = next(
            (token for token in (self.tokenizer.pad_token_id, *self.ends) if token is not None), 0
        )

    def tokens(self, request: Request) -> list[int]:
        """A prompt as it is, or messages in the model's own chat template (without one: their texts), ready to be answered."""
        if request.prompt is not None:
            return list(self.tokenizer(request.prompt)["input_ids"])
        messages = [{**message, "content": chat_text(message["content"])} for message in request.messages]
        if not self.tokenizer.chat_template:
            return list(self.tokenizer("\n\n".join(message["content"] for message in messages))["input_ids"])
        given = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
        return list(self.tokenizer.apply_chat_template(messages, **given))

    def generated(
        self, contexts: Sequence[list[int]], n: int, sampling: Mapping[str, Any], *, seed: int
    ) -> list[list[Completion]]:
        """`n` answers to each context, which are sampled alike."""
        import torch
        from transformers import StoppingCriteriaList

        temperature, top = sampling.get("temperature", 1.0), sampling.get("logprobs")
        most = sampling.get("max_tokens", MAX_TOKENS)
        how: dict[str, Any] = (
            {"do_sample": False} if temperature == 0 else {"do_sample": True, "temperature": temperature}
        )
        if temperature:
            how |= {"top_k": 0} | {
                key: sampling[key] for key in ("top_p", "top_k", "min_p") if key in sampling
            }
        if "stop" in sampling:
            how |= {"stop_strings": sampling["stop"], "tokenizer": self.tokenizer}
        how["stopping_criteria"] = StoppingCriteriaList([self._stopping])
        width = max(map(len, contexts))
        padded = torch.tensor([[self.pad] * (width - len(ids)) + ids for ids in contexts], device=self.device)
        mask = torch.tensor(
            [[0] * (width - len(ids)) + [1] * len(ids) for ids in contexts], device=self.device
        )
        torch.manual_seed(sampling.get("seed", seed))
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=padded,
                attention_mask=mask,
                max_new_tokens=most,
                num_return_sequences=n if temperature else 1,
                pad_token_id=self.pad,
                return_dict_in_generate=True,
                output_logits=top is not None,
                **how,
            )
        self._go_on()
        made = output.sequences[:, 1 if self.seq2seq else width :].tolist()
        logits = torch.stack(output.logits, 1) if top is not None else None
        each = [
            self._completion(ids, most, sampling, None if logits is None else logits[i], top)
            for i, ids in enumerate(made)
        ]
        if not temperature:  # the samples of a greedy answer are one and the same
            each = [completion for completion in each for _ in range(n)]
        return [
            [
                c._replace(input_tokens=len(ids) if i == 0 else 0)
                for i, c in enumerate(each[n * place : n * place + n])
            ]
            for place, ids in enumerate(contexts)
        ]

    def _stopping(self, ids: Any, scores: Any, **_: Any) -> Any:
        """Asked after each token, for each sequence of a batch."""
        return ids.new_full((len(ids),), self.ended.is_set()).bool()

    def _go_on(self) -> None:
        if self.ended.is_set():
            raise Stopped("stopped before this was answered")

    def _completion(
        self, ids: list[int], most: int, sampling: Mapping[str, Any], logits: Any, top: int | None
    ) -> Completion:
        end = next((i for i, token in enumerate(ids) if token in self.ends), len(ids))
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True)
        stops = sampling.get("stop", [])
        cuts = [at for stop in ([stops] if isinstance(stops, str) else stops) if (at := text.find(stop)) >= 0]
        finish = "length" if end == len(ids) >= most and not cuts else "stop"
        signals = [] if logits is None else self._signals(ids[:end], logits, top or 0)
        text = text[: min(cuts)] if cuts else text
        written = min(end + 1, len(ids))
        return Completion(text, finish=finish, logprobs=signals, model=self.name, output_tokens=written)

    def scored(
        self, contexts: Sequence[list[int]], targets: Sequence[str], top: int
    ) -> list[list[Completion]]:
        """Each target's tokens with their log-probabilities after its context; it is cut into tokens by itself."""
        import torch

        answers = [list(self.tokenizer(target, add_special_tokens=False)["input_ids"]) for target in targets]
        made = []
        with torch.inference_mode():
            for before, after in zip(contexts, answers, strict=True):
                self._go_on()
                if self.seq2seq:
                    given = torch.tensor([before], device=self.device)
                    logits = self.model(
                        input_ids=given, labels=torch.tensor([after], device=self.device)
                    ).logits[0]
                else:
                    both = torch.tensor([before + after], device=self.device)
                    logits = self.model(input_ids=both).logits[0, len(before) - 1 : len(both[0]) - 1]
                made.append(self._signals(after, logits, top))
        return [
            [Completion(logprobs=signals, model=self.name, input_tokens=len(before) + len(signals))]
            for before, signals in zip(contexts, made, strict=True)
        ]

    def _signals(self, ids: Sequence[int], logits: Any, top: int) -> list[list[Any]]:
        """Each token with its log-probability, in nats, and the `top` likeliest in its place with theirs."""
        import torch

        chances = torch.log_softmax(logits[: len(ids)].float(), -1)
        own = chances.gather(1, torch.tensor(ids, device=chances.device, dtype=torch.long)[:, None])[
            :, 0
        ].tolist()
        likeliest = chances.topk(top) if top else None
        signals = []
        for i, (token, value) in enumerate(zip(ids, own, strict=True)):
            pairs: list[list[Any]] = []
            if likeliest:
                tokens, values = likeliest.indices[i].tolist(), likeliest.values[i].tolist()
                pairs = [
                    [self.tokenizer.decode([each]), chance]
                    for each, chance in zip(tokens, values, strict=True)
                ]
            signals.append([self.tokenizer.decode([token]), value, pairs])
        return signals
