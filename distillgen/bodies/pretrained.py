"""pretrained: a model of the Hub for pictures or sounds, such as a ViT, a ResNet, wav2vec2 or an AST.

A model of timm, such as timm/resnet18.a1_in1k, is one, too: transformers wraps it, where timm is installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveFloat

from distillgen.bodies._families import hearing, seeing
from distillgen.errors import ConfigError
from distillgen.extras import need
from distillgen.inference.weights import model_path
from distillgen.networks.body import Body, Sizes
from distillgen.project import Project

NAME = "student body 'pretrained'"
OF_TIMM = "timm/"  # the owner on the Hub
TIMM = ("timm", "torchvision")


class Pretrained(Body):
    """A classifier of pictures or of sounds, of transformers or timm, all of whose weights go on learning.

    It reads one input, references to files, through the processor in its folder; a file is read when its row
    is in a batch. What its own classifier reads are the features: heads over the classes of the training
    take the classifier's place. The student's folder holds the processor and all weights.
    """

    reads = "files"
    packages = ("transformers",)

    model: str = Field(description="a folder in the Hub's form, or owner/name on the Hub")
    revision: str | None = Field(None, description="revision on the Hub: a branch, a tag or a commit")
    max_seconds: PositiveFloat = Field(10.0, description="most seconds of a sound; the rest is cut off")

    def check(self, project: Project) -> None:
        """Raise ConfigError if there is no such model, or it neither sees nor hears."""
        need(NAME, "transformers", "PIL")
        path = model_path(self.model, project.root)
        if path is not None:
            self._check_folder(path)
        elif self.model.startswith((".", "/", "~")) or self.model.count("/") != 1:
            remedy = "a name on the Hub is like owner/name"
            raise ConfigError(f"{NAME}: there is no folder '{self.model}'; {remedy}")
        elif self.model.startswith(OF_TIMM):
            need(f"{NAME}: '{self.model}'", *TIMM)

    def _check_folder(self, path: Path) -> None:
        """Raise ConfigError if a folder holds no model for pictures or sounds, or no processor."""
        config = self._read(path, "config.json", "model")
        if "pretrained_cfg" in config:  # of timm: the configuration says how pictures are scaled
            need(f"{NAME}: '{self.model}'", *TIMM)
            return
        self._read(path, "preprocessor_config.json", "processor of pictures or sounds")
        family = str(config.get("model_type"))
        if family not in seeing() | hearing():
            remedy = "texts are read by {encoder: …}"
            raise ConfigError(
                f"{NAME}: '{self.model}' is a {family}, and classifies no pictures or sounds; {remedy}"
            )

    def _read(self, path: Path, name: str, noun: str) -> Mapping[str, Any]:
        """Return the JSON object in a file of the folder. Raise ConfigError if there is none."""
        try:
            content = json.loads((path / name).read_bytes())
        except FileNotFoundError as error:
            raise ConfigError(f"{NAME}: '{self.model}' holds no {noun}: it has no {name}") from error
        except ValueError as error:
            raise ConfigError(f"{NAME}: '{self.model}' has a {name} that is no JSON object") from error
        if not isinstance(content, dict):
            raise ConfigError(f"{NAME}: '{self.model}' has a {name} that is no JSON object")
        return content

    def origins(self, project: Project) -> dict[str, Path]:
        """Return the folder of a local model."""
        path = model_path(self.model, project.root)
        return {self.model: path} if path else {}

    def module(self, sizes: Sizes, networks: Mapping[str, Any]) -> Any:
        """Return the model with its processor. Raise ConfigError if it cannot be loaded."""
        from distillgen.bodies._pretrained import MediaModel

        if sizes.files != 1:
            raise ConfigError(f"{NAME} reads one input, and the student has {sizes.files} that are files")
        root, most_s = sizes.project.root, self.max_seconds
        if sizes.folder is not None:
            return MediaModel.saved(sizes.folder, root=root, most_s=most_s)
        origin = str(model_path(self.model, root) or self.model)
        try:
            return MediaModel.pretrained(origin, self.revision, root=root, most_s=most_s)
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise ConfigError(f"{NAME}: '{self.model}' cannot be loaded: {error}") from error
