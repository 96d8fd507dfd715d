"""The options of a training, which the stage `train` and the process that trains read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


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


class TrainingOptions(BaseModel):
    """The options that the process reads. The stage adds those that choose the rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    objective: str = Field("sft", description="the objective: a file in objectives/, without its ending")
    student: str | dict[str, Any] = Field(
        description="a network as a mapping, such as {mlp: [64, 32]}; or a model's folder, a .gguf file, "
        "owner/name on the Hugging Face Hub, tiny, or the student of an earlier stage: student, or "
        "student-NAME; inside rounds also previous: the student of "
        "the round before, and in the first round the model `start` of the loop"
    )
    revision: str | None = Field(None, description="the branch, tag or commit of a student on the Hub")
    lora: Lora | None = Field(
        None, description="train an adapter: {r: 16}; with bits: 4 as QLoRA; default: all weights"
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

    @model_validator(mode="after")
    def _check_launcher(self) -> Self:
        if self.processes and self.accelerate:
            raise ValueError(
                "give either 'processes' or 'accelerate': the launcher's file says how many processes"
            )
        return self
