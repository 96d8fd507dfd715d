"""encoder: a pretrained text encoder; the mean hidden state is a text's features (Reimers, Gurevych 2019)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from distillgen.errors import ConfigError
from distillgen.inference.weights import SHIPPED, model_path, shipped
from distillgen.networks.body import Body, Sizes
from distillgen.project import Project


class Encoder(Body):
    """A text encoder of transformers, all of whose weights go on learning.

    Several inputs are one text, a line for each. The student's folder holds the tokenizer and all weights.
    """

    reads = "texts"
    packages = ("transformers",)

    model: str = Field(description="a folder, a name on the Hub, or minilm")
    revision: str | None = Field(None, description="revision on the Hub: a branch, a tag or a commit")
    max_length: PositiveInt = Field(128, description="most tokens of a text; the rest is cut off")

    def check(self, project: Project) -> None:
        """Raise ConfigError if there is no such model."""
        if self.model in SHIPPED:
            shipped(self.model)
            return
        path = model_path(self.model, project.root)
        if path is not None:
            self._check_config(path / "config.json")
        elif self.model.startswith((".", "/", "~")) or self.model.count("/") != 1:
            raise ConfigError(
                f"student body 'encoder': there is no folder '{self.model}'; a name on the Hub is like "
                "owner/name"
            )

    def _check_config(self, path: Path) -> None:
        """Raise ConfigError if this is not the configuration of an encoder."""
        name = f"student body 'encoder': '{self.model}'"
        if not path.is_file():
            raise ConfigError(f"{name} holds no model: it has no config.json")
        try:
            config = json.loads(path.read_bytes())
        except ValueError as error:
            raise ConfigError(f"{name} holds no model: its config.json is no JSON") from error
        if isinstance(config, dict) and config.get("is_encoder_decoder"):
            raise ConfigError(f"{name} is an encoder with a decoder; take an encoder, such as BERT")

    def origins(self, project: Project) -> dict[str, Path]:
        """Return the folder of a local model."""
        path = None if self.model in SHIPPED else model_path(self.model, project.root)
        return {self.model: path} if path else {}

    def module(self, sizes: Sizes, networks: Mapping[str, Any]) -> Any:
        """Return the encoder with its tokenizer. Raise ConfigError if it cannot be loaded."""
        from distillgen.bodies._encoder import TextEncoder

        if sizes.folder is not None:
            return TextEncoder.saved(sizes.folder, self.max_length)
        path = model_path(self.model, sizes.project.root)
        origin = shipped(self.model) if self.model in SHIPPED else str(path or self.model)
        try:
            return TextEncoder.pretrained(origin, self.revision, self.max_length)
        except (OSError, ValueError) as error:
            raise ConfigError(f"student body 'encoder': '{self.model}' cannot be loaded: {error}") from error
