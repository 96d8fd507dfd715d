"""A model in this process through Hugging Face transformers: a student, its base, or any small model.

Waiting requests with the same sampling options are answered in one batch. There is no server and nothing is
compiled, so it runs on every machine that can train the student. For many rows on a GPU, `vllm` is faster.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import Any, Literal

from pydantic import Field

from distillgen.errors import ConfigError, Stopped
from distillgen.extras import need
from distillgen.inference.faults import Rejected
from distillgen.inference.logprobs import MOST_ALTERNATIVES
from distillgen.inference.model_class import model_class, sees
from distillgen.inference.opening import USER_TURN, opening, text_start
from distillgen.inference.reasoning import opens_thought
from distillgen.inference.request import Completion, Request
from distillgen.inference.weights import model_path, weights_identity
from distillgen.networks.spec import has_distiller
from distillgen.record import digest, dumps
from distillgen.state_files import load_state
from distillgen.teachers._batching import Batching, Waiting
from distillgen.teachers._network_models import PAIR, pair_of
from distillgen.teachers._search import MAX_TOKENS, NextTokens, Query, searched, vocabulary_of
from distillgen.teachers._seeing import Scene, SeeingSpec, continued, model_inputs, parts_of, scene
from distillgen.teachers._settling import chat_text, settled


class TransformersSpec(SeeingSpec):
    """A model in Hugging Face transformers, in the process of the run.

    `model` is a folder or a name on the Hub: of a model, or of a PEFT adapter, which names its base model.
    A student of the objective `mend` reads a JSON list of two texts, demonstrations and query; its
    `demonstrations` become vectors, and these and the query's tokens are the tokens that the model reads.
    """

    max_concurrency: int = Field(16, ge=1, description="largest number of sequences in a batch")
    api: Literal["chat", "completions"] | None = Field(
        None,
        description="chat, or completions, which sends the prompt as one text; default: as the student "
        "was trained, else chat",
    )
    demonstrations: bool = Field(
        False, description="whether it is a student that reads demonstrations as vectors, of objective mend"
    )
    dtype: str | None = Field(None, description="type of the weights, such as bfloat16; default: as stored")
    device: str | None = Field(
        None, description="device, such as cuda:0 or cpu; default: a GPU where there is one"
    )

    @property
    def capabilities(self) -> frozenset[str]:
        """What the model gives besides text."""
        texts = self.api == "completions" or self.demonstrations
        of_chat = {"user_turn", *self.sight}
        return frozenset(
            {"n", "logprobs", "score", "first_token", "constraints", "pruned_constraints"}
            | (set() if texts else of_chat)
        )

    @property
    def most_logprobs(self) -> int:
        """As many alternatives as the ledger keeps of a token."""
        return MOST_ALTERNATIVES

    def refusal(self, templates: Sequence[str]) -> str:
        """Return why a model with a distiller cannot answer prompts that are no pair."""
        source = templates[0].strip()
        if self.demonstrations and not (len(templates) == 1 and (source.startswith("[") or "json" in source)):
            return f"reads {PAIR}: the prompt must be a pair, such as {{{{ [demos, query] | json }}}}"
        return ""

    def check(self, root: Path) -> None:
        """Raise ConfigError if the model or a package is missing."""
        need("provider 'transformers'", "torch", "transformers")
        path = model_path(self.model, root)
        if path is None and (self.model.startswith((".", "/", "~")) or self.model.count("/") > 1):
            raise ConfigError(f"there is no folder '{self.model}'; a name on the Hub is like owner/name")
        if has_distiller(path) != self.demonstrations:
            reads = "no demonstrations" if self.demonstrations else "demonstrations"
            remedy = f"write demonstrations: {str(not self.demonstrations).lower()}"
            raise ConfigError(f"the model '{self.model}' reads {reads} as vectors; {remedy}")


class Transformers(Batching):
    """Generates texts, and scores given ones. A request without a seed gets one that its content gives."""

    spec_type = TransformersSpec
    spec: TransformersSpec

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        """The identity of the weights, and of the base of an adapter."""
        identity = weights_identity(self.spec.model, self.services.root)
        return f"transformers:{identity} {self.spec.dtype or ''}".rstrip()

    @cached_property
    def api(self) -> str:
        """The option `api`, else the kind of prompt that the student was trained with, else chat."""
        manifest = Path(model_path(self.spec.model, self.services.root) or "") / "manifest.json"
        if self.spec.api is None and manifest.is_file():
            return str(load_state(manifest).get("api", "chat"))
        return self.spec.api or "chat"

    def kind(self, entry: Waiting) -> bytes:
        """Return whether a request asks for an answer, a score or a search, and how an answer is sampled."""
        request = entry.request
        if request.constraints is not None:
            return b"search"
        kind = [request.target is None, request.prompt is None, bool(request.parts)]
        return dumps([*kind, dict(request.sampling), entry.n])

    def most(self, entry: Waiting) -> int:
        """Return how many requests have as many sequences together as a batch may have."""
        constraints = entry.request.constraints
        return max(
            1, self.spec.max_concurrency // (constraints["search"]["beam"] if constraints else entry.n)
        )

    def load(self) -> Model:
        """Load the model with its tokenizer."""
        root = self.services.root
        return Model(*folders(self.spec.model, root), self.spec, self._stop_event, root)

    def answer_batch(self, batch: Sequence[Waiting]) -> list[list[Completion] | Exception]:
        """Generate or score. A request that the chat template does not take fails alone."""
        model: Model = self._model
        if model.soft is not None:
            model.soft.forget()
        tokens: list[list[int] | Scene | Exception] = []
        for entry in batch:
            try:
                tokens.append(model.prompt(entry.request))
            except Rejected as error:
                tokens.append(error)
            except Exception as error:  # a template raises any error for messages that it does not accept
                tokens.append(Rejected(f"{type(error).__name__}: {error}"))
        prompts = [
            (entry, ids) for entry, ids in zip(batch, tokens, strict=True) if not isinstance(ids, Exception)
        ]
        answers = iter(self._answers(prompts) if prompts else ())
        return [ids if isinstance(ids, Exception) else next(answers) for ids in tokens]

    def _answers(self, prompts: Sequence[tuple[Waiting, Any]]) -> list[list[Completion]]:
        """Return the completions of requests of one kind, each with its prompt."""
        model: Model = self._model
        first, contexts = prompts[0][0].request, [ids for _, ids in prompts]
        if first.target is not None:
            targets = [str(entry.request.target) for entry, _ in prompts]
            return model.scored(contexts, targets, first.sampling.get("logprobs", 0))
        if first.constraints is not None:
            generated = model.searched([Query(e.request, ids, e.samples, _seed(e)) for e, ids in prompts])
        else:
            generated = model.generated(contexts, prompts[0][0].n, first.sampling, seed=_seed(prompts[0][0]))
        opened = [opens_thought(model.end_of(context)) for context in contexts]
        return [
            [settled(entry.request, completion, opened=opens) for completion in samples]
            for (entry, _), samples, opens in zip(prompts, generated, opened, strict=True)
        ]


def _seed(entry: Waiting) -> int:
    return int(digest(entry.request.json.hex(), 8), 16)


def _stops(sampling: Mapping[str, Any]) -> list[str]:
    """Return the texts that end an answer."""
    stops = sampling.get("stop", [])
    return [stops] if isinstance(stops, str) else list(stops)


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
    """A causal or encoder-decoder model with its tokenizer. Its methods block: use it from one thread.
    Another thread sets `stop_event` to end them; they raise Stopped.
    """

    processor: Any = None
    """What makes tokens and pixels of a prompt, of a model that sees."""
    soft: Any = None
    """The embeddings of a model that reads demonstrations as vectors."""

    def __init__(
        self,
        path: str,
        adapter: str | None,
        spec: TransformersSpec,
        stop_event: Event,
        root: Path = Path(),  # noqa: B008  a path does not change
    ) -> None:
        """Load a model from a folder or the Hub. Pictures lie in the project `root`. Errors are those of
        transformers and peft.
        """
        import torch
        from transformers import AutoConfig, AutoProcessor, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # the run has its own
        config = AutoConfig.from_pretrained(path)
        seq2seq = config.is_encoder_decoder
        model: Any = model_class(config).from_pretrained(path, dtype=spec.dtype or "auto")
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter)
        self.name, self.seq2seq = Path(adapter or path).name if Path(path).exists() else spec.model, seq2seq
        self.stop_event = stop_event
        self.device = spec.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if spec.demonstrations:
            from distillgen.networks.distiller import SoftTokens, load_distiller

            self.soft = SoftTokens(model.get_input_embeddings(), load_distiller(Path(path)))
            model.set_input_embeddings(self.soft)
        self.model = model.to(self.device).eval()
        adapter_has_tokenizer = adapter and (Path(adapter) / "tokenizer_config.json").is_file()
        files = adapter if adapter_has_tokenizer else path
        self.tokenizer = AutoTokenizer.from_pretrained(files)
        if sees(config):
            self.processor = AutoProcessor.from_pretrained(files)
        self.root = root
        end = getattr(model.generation_config, "eos_token_id", None)
        self.ends = set(end) if isinstance(end, list) else {end, self.tokenizer.eos_token_id} - {None}
        self.pad = next(
            (token for token in (self.tokenizer.pad_token_id, *self.ends) if token is not None), 0
        )

    def prompt(self, request: Request) -> list[int] | Scene:
        """Return the tokens of a prompt, or a prompt with pictures."""
        if not request.parts:
            return self.tokens(request)
        if self.processor is None or request.constraints is not None or request.write:
            task = "search" if request.constraints is not None else "user's turn"
            raise Rejected(
                "the model takes no pictures" if self.processor is None else f"a {task} takes no pictures"
            )
        return scene(request.messages, self.processor, self.root)

    def end_of(self, prompt: list[int] | Scene) -> str:
        """Return the last words of a prompt."""
        return prompt.text[-60:] if isinstance(prompt, Scene) else str(self.tokenizer.decode(prompt[-12:]))

    def _inputs(self, prompts: Sequence[list[int] | Scene]) -> dict[str, Any]:
        """Return the tensors of prompts, padded on the left: all have pictures, or none has."""
        import torch

        if scenes := [prompt for prompt in prompts if isinstance(prompt, Scene)]:
            return model_inputs(scenes, self.processor, self.device)
        width = max(map(len, prompts))
        padded = [[self.pad] * (width - len(ids)) + [*ids] for ids in prompts]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
        return {
            "input_ids": torch.tensor(padded, device=self.device),
            "attention_mask": torch.tensor(mask, device=self.device),
        }

    def tokens(self, request: Request) -> list[int]:
        """Return the tokens of a prompt, or of messages in the model's chat template; without one, of their
        texts. Demonstrations are the vectors that they become, behind the vocabulary.
        """
        if self.soft is not None:
            pair = pair_of(request.prompt or "")
            if pair is None:
                raise ValueError(f"it reads {PAIR}, as a prompt without turns")
            demos, query = (
                list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in pair
            )
            return [*self.soft.of([*text_start(self.tokenizer), *demos]), *query]
        if request.prompt is not None:
            return list(self.tokenizer(request.prompt)["input_ids"])
        read = parts_of if self.processor else chat_text
        messages = [{**message, "content": read(message["content"])} for message in request.messages]
        if not self.tokenizer.chat_template:
            if request.write:
                raise ValueError("the model has no chat template, by which a user's turn is opened")
            return list(self.tokenizer("\n\n".join(message["content"] for message in messages))["input_ids"])
        if request.write:
            text = opening(self.tokenizer.apply_chat_template([*messages, USER_TURN], tokenize=False))
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
        return list(self.tokenizer.apply_chat_template(messages, **options))

    def generated(
        self, contexts: Sequence[list[int] | Scene], n: int, sampling: Mapping[str, Any], *, seed: int
    ) -> list[list[Completion]]:
        """Return `n` answers to each context."""
        import torch
        from transformers import StoppingCriteriaList

        temperature, top = sampling.get("temperature", 1.0), sampling.get("logprobs")
        most = sampling.get("max_tokens", MAX_TOKENS)
        options: dict[str, Any] = (
            {"do_sample": False} if temperature == 0 else {"do_sample": True, "temperature": temperature}
        )
        if temperature:
            options |= {"top_k": 0} | {
                key: sampling[key] for key in ("top_p", "top_k", "min_p") if key in sampling
            }
        pictures = isinstance(contexts[0], Scene)
        # transformers repeats pictures one by one, and not those of a prompt together
        inputs = self._inputs(
            [context for context in contexts for _ in range(n if pictures and temperature else 1)]
        )
        width, lengths = inputs["input_ids"].shape[1], inputs["attention_mask"].sum(1).tolist()
        criteria = [self._stopping]
        if stops := _stops(sampling):
            criteria.append(self._ends_at(stops, 1 if self.seq2seq else width))
        options["stopping_criteria"] = StoppingCriteriaList(criteria)
        torch.manual_seed(sampling.get("seed", seed))
        with torch.inference_mode():
            output = self.model.generate(
                **inputs,
                max_new_tokens=most,
                num_return_sequences=n if temperature and not pictures else 1,
                pad_token_id=self.pad,
                return_dict_in_generate=True,
                output_logits=top is not None,
                **options,
            )
        self._raise_if_stopped()
        sequences = output.sequences[:, 1 if self.seq2seq else width :].tolist()
        logits = torch.stack(output.logits, 1) if top is not None else None
        completions = [
            self._completion(ids, most, sampling, None if logits is None else logits[i], top)
            for i, ids in enumerate(sequences)
        ]
        if not temperature:  # all samples of a greedy answer are the same
            completions = [completion for completion in completions for _ in range(n)]
        return [
            [
                c._replace(input_tokens=lengths[place * len(lengths) // len(contexts)] if i == 0 else 0)
                for i, c in enumerate(completions[n * place : n * place + n])
            ]
            for place in range(len(contexts))
        ]

    def searched(self, queries: Sequence[Query]) -> list[list[Completion]]:
        """Return the samples of requests with constraints: the best answers of a search."""
        next_tokens = NextTokens(
            self.model, [entry.context for entry in queries], pad=self.pad, seq2seq=self.seq2seq
        )

        def logprobs(rows: Sequence[tuple[int, tuple[int, ...]]], top: int) -> Any:
            self._raise_if_stopped()
            return next_tokens(rows)

        return searched(queries, self._vocabulary, logprobs, model=self.name)

    @cached_property
    def _vocabulary(self) -> Any:
        return vocabulary_of(self.tokenizer, self.ends)

    def _stopping(self, ids: Any, scores: Any, **_: Any) -> Any:
        """Return, after each token, whether each sequence of a batch stops."""
        return ids.new_full((len(ids),), self.stop_event.is_set()).bool()

    def _ends_at(self, stops: Sequence[str], start: int) -> Callable[..., Any]:
        """Return a function: after each token, whether each sequence of a batch has a stop text.

        `start` is the place of the first token of the answers. The stop_strings of transformers need the
        text of each token alone, which not all tokenizers give.
        """
        tail = 4 * max(map(len, stops))  # tokens: a character has four bytes at most

        def ends(ids: Any, scores: Any, **_: Any) -> Any:
            last = ids[:, max(start, ids.shape[1] - tail) :]
            texts = self.tokenizer.batch_decode(last, skip_special_tokens=True)
            return ids.new_tensor([any(stop in text for stop in stops) for text in texts]).bool()

        return ends

    def _raise_if_stopped(self) -> None:
        if self.stop_event.is_set():
            raise Stopped("stopped before this was answered")

    def _completion(
        self, ids: list[int], most: int, sampling: Mapping[str, Any], logits: Any, top: int | None
    ) -> Completion:
        end = next((i for i, token in enumerate(ids) if token in self.ends), len(ids))
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True)
        cuts = [at for stop in _stops(sampling) if (at := text.find(stop)) >= 0]
        finish = "length" if end == len(ids) >= most and not cuts else "stop"
        signals = [] if logits is None else self._signals(ids[:end], logits, top or 0)
        text = text[: min(cuts)] if cuts else text
        output_tokens = min(end + 1, len(ids))
        return Completion(text, finish=finish, logprobs=signals, model=self.name, output_tokens=output_tokens)

    def scored(
        self, contexts: Sequence[list[int] | Scene], targets: Sequence[str], top: int
    ) -> list[list[Completion]]:
        """Return the tokens of each target with their log-probabilities after its context. A target is
        tokenized by itself; without a context it comes after what begins a text.
        """
        import torch

        answers = [list(self.tokenizer(target, add_special_tokens=False)["input_ids"]) for target in targets]
        contexts = [before or text_start(self.tokenizer) for before in contexts]
        signals_of_targets, lengths = [], []
        with torch.inference_mode():
            for before, after in zip(contexts, answers, strict=True):
                self._raise_if_stopped()
                inputs = self._inputs([before])
                length = inputs["input_ids"].shape[1]
                if self.seq2seq:
                    labels = torch.tensor([after], device=self.device)
                    logits = self.model(input_ids=inputs["input_ids"], labels=labels).logits[0]
                else:
                    logits = self.model(**continued(inputs, after)).logits[0, length - 1 : -1]
                signals_of_targets.append(self._signals(after, logits, top))
                lengths.append(length)
        return [
            [Completion(logprobs=signals, model=self.name, input_tokens=length + len(signals))]
            for length, signals in zip(lengths, signals_of_targets, strict=True)
        ]

    def _signals(self, ids: Sequence[int], logits: Any, top: int) -> list[list[Any]]:
        """Return each token with its log-probability (in nats) and the `top` likeliest tokens."""
        import torch

        logprobs = torch.log_softmax(logits[: len(ids)].float(), -1)
        indices = torch.tensor(ids, device=logprobs.device, dtype=torch.long)[:, None]
        sampled = logprobs.gather(1, indices)[:, 0].tolist()
        likeliest = logprobs.topk(min(top, logprobs.shape[-1])) if top else None
        signals = []
        for i, (token, value) in enumerate(zip(ids, sampled, strict=True)):
            pairs: list[list[Any]] = []
            if likeliest:
                tokens, values = likeliest.indices[i].tolist(), likeliest.values[i].tolist()
                pairs = [
                    [self.tokenizer.decode([other]), logprob]
                    for other, logprob in zip(tokens, values, strict=True)
                ]
            signals.append([self.tokenizer.decode([token]), value, pairs])
        return signals
