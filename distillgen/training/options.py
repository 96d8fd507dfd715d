"""Options of a training that its process and its stage read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Lora(BaseModel):
    """Train low-rank additions to the weights, and not these (Hu et al. 2021; with bits: QLoRA, Dettmers et al. 2023)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    r: int = Field(16, ge=1, description="rank of the additions")
    alpha: int | None = Field(None, ge=1, description="they are scaled by alpha / r; default: twice r")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of their inputs that is left out by chance")
    target: str | list[str] = Field("all-linear", description="the layers that get one")
    bits: Literal[4] | None = Field(
        None, description="4: hold the student's own weights in 4 bits (QLoRA); needs a GPU"
    )

    def fits(self, layers: Iterable[str]) -> bool:
        """Whether some layer gets an addition, as PEFT reads `target`: the ends of names, or one pattern of a whole name."""
        if isinstance(self.target, str):
            return self.target == "all-linear" or any(re.fullmatch(self.target, layer) for layer in layers)
        return any(layer == end or layer.endswith(f".{end}") for layer in layers for end in self.target)


class TrainingOptions(BaseModel):
    """Options that the process that trains reads; the stage `train` adds which rows are learnt from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    objective: str = Field("sft", description="how it learns: a file in objectives/, without its ending")
    student: str = Field(
        description="a model's folder, a .gguf file, owner/name on the Hugging Face Hub, tiny, or what an earlier stage trained"
    )
    revision: str | None = Field(None, description="the branch, tag or commit of a student on the Hub")
    lora: Lora | None = Field(
        None, description="train an adapter: {r: 16}; with bits: 4 as QLoRA; default: all weights"
    )
    epochs: float = Field(3.0, gt=0, description="how often every row is seen")
    max_steps: int | None = Field(
        None, ge=1, description="updates of the weights after which it ends, whatever the epochs"
    )
    batch_size: int = Field(8, ge=1, description="rows that a process computes at a time")
    accumulate: int = Field(1, ge=1, description="batches that one update of the weights is made of")
    learning_rate: float | None = Field(
        None, gt=0, description="default: the objective's own; ten times that with lora"
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="how the learning rate falls"
    )
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(0.0, ge=0, description="decay of the weights, as AdamW applies it")
    max_length: int = Field(1024, ge=8, description="tokens of a row; what is longer is cut at its end")
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None, description="default: float32; for lora on a GPU bfloat16"
    )
    gradient_checkpointing: bool = Field(False, description="less memory, a fifth more time")
    chat_template: str | None = Field(
        None, description="a Jinja file, instead of the student's own chat template"
    )
    seed: int = Field(0, ge=0, description="of the split, new weights, dropout and the order of rows")
    save_every_s: float = Field(120.0, ge=0, description="seconds between checkpoints: what a kill can lose")
    processes: int | None = Field(None, ge=1, description="processes that train together; default: one a GPU")
    accelerate: str | None = Field(
        None, description="a configuration file of accelerate's launcher, instead of processes"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.processes and self.accelerate:
            raise ValueError(
                "give either 'processes' or 'accelerate': the launcher's file says how many processes"
            )
        return self
