"""The options of a training, which the stage `train` and the process that trains read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from distillgen.errors import did_you_mean

TINY, OF = "tiny", "of"
SPLITS = {"words": r" ?\w+| ?[^\w\s]+|\s", "chars": r"[\s\S]"}
"""The pattern of one token, by what the tokens of a tiny student can be; a word has the space before it."""
PATCH = 8
"""The side of the squares into which a tiny student cuts a picture, in pixels."""


class Lora(BaseModel):
    """Train low-rank additions to frozen weights (Hu et al. 2021; with bits: QLoRA, Dettmers et al. 2023)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    r: int = Field(16, ge=1, description="rank of the additions")
    alpha: int | None = Field(
        None, ge=1, description="the additions are scaled by alpha / r; default: twice r"
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the additions' inputs that is dropped at random"
    )
    target: str | list[str] = Field("all-linear", description="the layers that get an addition")
    bits: Literal[4] | None = Field(
        None, description="4: keep the student's weights in 4 bits (QLoRA); needs a GPU"
    )

    def fits(self, layers: Iterable[str]) -> bool:
        """Return whether `target` names a layer: as PEFT does, by ends of names or by one pattern."""
        if isinstance(self.target, str):
            return self.target == "all-linear" or any(re.fullmatch(self.target, layer) for layer in layers)
        return any(layer == end or layer.endswith(f".{end}") for layer in layers for end in self.target)


class Tiny(BaseModel):
    """The size of a student that begins with random weights, `{tiny: {layers: 2, width: 96}}`.

    Its tokens are learnt from the texts of the training rows, or are those of an earlier student. A word or
    a character that no training row has is unknown to it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: int = Field(2, ge=1, description="layers of attention")
    width: int = Field(128, ge=4, description="numbers for each token, a multiple of twice `heads`")
    heads: int = Field(4, ge=1, description="heads of attention in a layer")
    kind: Literal["decoder", "encoder-decoder", "vision"] = Field(
        "decoder",
        description="decoder, encoder-decoder, which reads all of a prompt at once, as T5 does, or vision, "
        "a decoder that sees pictures",
    )
    pixels: int | None = Field(
        None,
        ge=PATCH,
        description="of kind vision: side of the square to which pictures are scaled, a multiple of "
        f"{PATCH}; default: 32",
    )
    tokens: str | None = Field(
        None, description="words, chars, or the earlier student whose tokens it takes; default: byte pairs"
    )
    convolutions: int = Field(
        0,
        ge=0,
        description="number of the lower layers of a decoder that mix each token with the two before it, "
        "and have no attention (LFM2): what stands side by side is then learnt much sooner",
    )
    init: float | None = Field(
        None,
        gt=0,
        description="standard deviation of the random weights of a decoder, also of one that sees; default: "
        "0.02, which suits wide models: a narrow one begins to learn sooner with about 1 / sqrt(width)",
    )

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.tokens is not None and self.tokens not in SPLITS and not self.tokens.startswith("student"):
            close = did_you_mean(self.tokens, SPLITS)
            raise ValueError(f"tokens: {self.tokens} is neither words, chars nor an earlier student{close}")
        if self.width % (2 * self.heads):
            raise ValueError(f"width: {self.width} is no multiple of twice its {self.heads} heads")
        if self.pixels and self.kind != "vision":
            raise ValueError(f"a {self.kind} sees no pictures: leave out 'pixels', or give kind: vision")
        if self.pixels and self.pixels % PATCH:
            raise ValueError(f"pixels: {self.pixels} is no multiple of {PATCH}")
        if self.convolutions and self.kind != "decoder":
            raise ValueError("convolutions is for a decoder; leave it out")
        if self.init and self.kind == "encoder-decoder":
            raise ValueError("init is for a decoder, also one that sees; leave it out")
        if self.convolutions >= self.layers:
            raise ValueError(f"convolutions: of {self.layers} layers at least one needs attention")
        return self

    @property
    def feed_forward(self) -> int:
        """The width of the feed-forward layers."""
        return self.width * 11 // 4

    @property
    def donor(self) -> str | None:
        """The earlier student whose tokens it takes."""
        return None if self.tokens in SPLITS else self.tokens


class Experts(BaseModel):
    """A student with experts in the place of each feed-forward layer, `{of: student-dense, experts: 4}`.

    All experts begin as copies of the layer, and a router, which begins at random, sends each token to `top`
    of them: before the training, the student says what the dense model says.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: str = Field(description="the dense model: an earlier student, a folder, or owner/name on the Hub")
    experts: int = Field(4, ge=2, description="experts in each layer")
    top: int = Field(2, ge=1, description="experts that each token is sent to")

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.top > self.experts:
            raise ValueError(f"top: {self.top} is more than the {self.experts} experts")
        return self


class Excerpt(BaseModel):
    """A smaller student out of a language model, `{of: student-big, layers: every 2, vocabulary: 1e-6}`.

    Before the training, all its weights are copies: of the last layer of each group, and of the tokens that
    it keeps. Special tokens are kept, and of byte pairs those of which the kept ones are made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: str = Field(description="the model: an earlier student, a folder, or owner/name on the Hub")
    layers: str | None = Field(
        None,
        pattern=r"^every [1-9][0-9]*$",
        description="every 2: the second layer, the fourth, and so on; default: all layers",
    )
    vocabulary: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="least share that a token has among those of the training rows, such as 1e-6; default: "
        "all tokens",
    )

    @property
    def every(self) -> int:
        """The number of layers of which one is kept."""
        return int(self.layers.rpartition(" ")[2]) if self.layers else 1


class Sparse(BaseModel):
    """The weights that a training may change (Ansell et al. 2022, LT-SFT)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    changed_by: str = Field(
        description="the student of an earlier training of all weights, from the same student: the weights "
        "that it changed most may change again"
    )
    density: float = Field(0.08, gt=0, le=1, description="share of all weights that may change")


class TrainingOptions(BaseModel):
    """The options that the process reads. The stage adds those that choose the rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    objective: str = Field("sft", description="the objective: a file in objectives/, without its ending")
    student: str | dict[str, Any] = Field(
        description="a network as a mapping, such as {mlp: [64, 32]}; or a model's folder, a .gguf file, "
        "owner/name on the Hugging Face Hub, tiny, a tiny one of another size, such as {tiny: {layers: 2, "
        "width: 96, heads: 4, kind: encoder-decoder, tokens: words}}, experts made of a dense model, {of: "
        "student-dense, experts: 4, top: 2}, some layers and tokens of a model, {of: student-big, layers: "
        "every 2, vocabulary: 1e-6}, or the student of an earlier stage: "
        "student, or student-NAME; inside rounds also previous: the student of "
        "the round before, and in the first round the model `start` of the loop"
    )
    revision: str | None = Field(None, description="the branch, tag or commit of a student on the Hub")
    lora: Lora | None = Field(
        None, description="train an adapter: {r: 16}; with bits: 4 as QLoRA; default: all weights"
    )
    only: Sparse | None = Field(
        None,
        description="change only the weights that an earlier training changed most: {changed_by: "
        "student-full, density: 0.08}; default: all weights",
    )
    epochs: float = Field(3.0, gt=0, description="passes over the rows")
    max_steps: int | None = Field(
        None, ge=1, description="updates of the weights at most, whatever the epochs"
    )
    batch_size: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        8, description="rows in a batch of one process; all for the whole set, where a network is trained"
    )
    accumulate: int = Field(1, ge=1, description="batches for one update of the weights")
    learning_rate: float | None = Field(
        None, gt=0, description="default: the objective's; ten times that with lora"
    )
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="sgd: one step is the gradient times the learning rate"
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="how the learning rate falls"
    )
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(0.0, ge=0, description="decay of the weights, as AdamW applies it")
    max_length: int = Field(1024, ge=8, description="most tokens of a row; longer rows are cut at the end")
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None, description="default: float32; with lora on a GPU, bfloat16"
    )
    gradient_checkpointing: bool = Field(False, description="needs less memory, and a fifth more time")
    chat_template: str | None = Field(
        None, description="a Jinja file that replaces the student's chat template"
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="seed of the split, of new weights, of dropout and of the order of rows",
    )
    save_every_s: float = Field(
        120.0, ge=0, description="seconds between checkpoints: the most that a kill can lose"
    )
    processes: int | None = Field(
        None, ge=1, description="processes that train together; default: one for each GPU"
    )
    accelerate: str | None = Field(
        None, description="a configuration file of accelerate's launcher, instead of processes"
    )

    @field_validator("student")
    @classmethod
    def _check_tiny(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(value, dict) and TINY in value:
            if len(value) > 1:
                raise ValueError("the options of a tiny student stand at its name: {tiny: {layers: 2}}")
            Tiny.model_validate(value[TINY] or {})
        if isinstance(value, dict) and OF in value:
            _surgery(value)
        return value

    @property
    def tiny(self) -> Tiny | None:
        """The size of a tiny student, if it is a mapping."""
        if isinstance(self.student, str) or TINY not in self.student:
            return None
        return Tiny.model_validate(self.student[TINY] or {})

    @property
    def surgery(self) -> Experts | Excerpt | None:
        """How the student is made of another model, if it is."""
        if isinstance(self.student, str) or OF not in self.student:
            return None
        return _surgery(self.student)

    @property
    def network(self) -> dict[str, Any] | None:
        """The student as a mapping, if it is a network."""
        if isinstance(self.student, str) or TINY in self.student or OF in self.student:
            return None
        return self.student

    @model_validator(mode="after")
    def _check_launcher(self) -> Self:
        if self.processes and self.accelerate:
            raise ValueError(
                "give either 'processes' or 'accelerate': the launcher's file says how many processes"
            )
        return self


def _surgery(student: dict[str, Any]) -> Experts | Excerpt:
    """Return how a student is made of another: with experts, unless layers or a vocabulary are named."""
    return (Excerpt if {"layers", "vocabulary"} & student.keys() else Experts).model_validate(student)
