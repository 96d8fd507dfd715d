"""pretrained: a model of the Hub for pictures or sounds, such as a ViT, a ResNet, wav2vec2 or an AST.

A model of timm, such as timm/resnet18.a1_in1k, is one, too: transformers wraps it, where timm is installed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveFloat

from distillgen.bodies._families import attending, hearing, seeing
from distillgen.errors import ConfigError
from distillgen.extras import need
from distillgen.inference.weights import cached, fetched, model_path
from distillgen.networks.body import Body, Sizes
from distillgen.project import Project

NAME = "student body 'pretrained'"
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
OF_TIMM = "timm/"  # the owner on the Hub
TIMM = ("timm", "torchvision")


class Pretrained(Body):
    """A classifier of pictures or of sounds, of transformers or timm, all of whose weights go on learning.

    It reads one input, references to files, through the processor in its folder; a file is read when its row
    is in a batch. What its own classifier reads are the features: heads over the classes of the training
    take the classifier's place. What a ViT, or another model all of whose layers attend to all patches, says
    of the patches are its tokens. The student's folder holds the processor and all weights.
    """

    reads = "files"
    one_input = True
    packages = ("transformers",)

    model: str = Field(description="a folder in the Hub's form, or owner/name on the Hub")
    revision: str | None = Field(None, description="revision on the Hub: a branch, a tag or a commit")
    max_seconds: PositiveFloat = Field(10.0, description="most seconds of a sound; the rest is cut off")

    def check(self, project: Project) -> None:
        """Raise ConfigError if there is no such model, or it neither sees nor hears."""
        need(NAME, "transformers", "PIL")
        if model_path(self.model, project.root) is not None:
            self._check_files(project)
        elif self.model.startswith((".", "/", "~")) or self.model.count("/") != 1:
            remedy = "a name on the Hub is like owner/name"
            raise ConfigError(f"{NAME}: there is no folder '{self.model}'; {remedy}")
        elif self.model.startswith(OF_TIMM):
            need(f"{NAME}: '{self.model}'", *TIMM)

    def fetch(self, project: Project) -> None:
        """Fetch the configurations of a model on the Hub. Raise ConfigError if it neither sees nor hears."""
        if model_path(self.model, project.root) is None:
            for name in (CONFIG, PROCESSOR):
                fetched(self.model, name, self.revision)
            self._check_files(project)

    def _check_files(self, project: Project) -> None:
        """Raise ConfigError if these are no files of a model for pictures or sounds with its processor."""
        config = self._read(CONFIG, project)
        if config is None:
            raise ConfigError(f"{NAME}: '{self.model}' holds no model: it has no {CONFIG}")
        if "pretrained_cfg" in config:  # of timm: the configuration says how pictures are scaled
            need(f"{NAME}: '{self.model}'", *TIMM)
            return
        if self._read(PROCESSOR, project) is None:
            noun = "processor of pictures or sounds"
            raise ConfigError(f"{NAME}: '{self.model}' holds no {noun}: it has no {PROCESSOR}")
        family = str(config.get("model_type"))
        if family not in seeing() | hearing():
            remedy = "texts are read by {encoder: …}"
            raise ConfigError(
                f"{NAME}: '{self.model}' is a {family}, and classifies no pictures or sounds; {remedy}"
            )

    def _read(self, name: str, project: Project) -> Mapping[str, Any] | None:
        """Return the JSON object in a file of the model; None if the file is not on this machine.

        Raise ConfigError if it holds none.
        """
        folder = model_path(self.model, project.root)
        path = folder / name if folder else cached(self.model, name, self.revision)
        try:
            content = json.loads(path.read_bytes()) if path else None
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ConfigError(f"{NAME}: '{self.model}' has a {name} that is no JSON object") from error
        if path and not isinstance(content, dict):
            raise ConfigError(f"{NAME}: '{self.model}' has a {name} that is no JSON object")
        return content

    def origins(self, project: Project) -> dict[str, Path]:
        """Return the folder of a local model."""
        path = model_path(self.model, project.root)
        return {self.model: path} if path else {}

    def mixes(self, project: Project) -> bool:
        """Return whether it sees: sounds differ in length, and processors scale each by itself."""
        family = (self._read(CONFIG, project) or {}).get("model_type")
        return family is None or family in seeing()  # a configuration of timm has no family

    def tokens(self, project: Project) -> int | None:
        """Return the number of patches of a model that attends to them; None if it is not on this machine."""
        config = self._attending(project)
        if not config:
            return 0 if config is None else None
        processor = self._read(PROCESSOR, project) or {}
        picture = processor.get("crop_size" if processor.get("do_center_crop") else "size")
        sides, patch = _sides(picture), _sides(config.get("patch_size"))
        if not sides or not patch or 0 in patch:
            return None
        return math.prod(side // of_patch for side, of_patch in zip(sides, patch, strict=True))

    def projections(self, project: Project) -> Sequence[int]:
        """Return the width of a model that attends to patches."""
        config = self._attending(project)
        return [] if config is None else [int(config.get("hidden_size", 0))]

    def _attending(self, project: Project) -> Mapping[str, Any] | None:
        """Return the configuration of a model that attends to patches, empty if it is not on this machine;
        None for another model.
        """
        config = self._read(CONFIG, project)
        if config is None:
            return {}
        return config if config.get("model_type") in attending() else None

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


def _sides(size: Any) -> Sequence[int]:
    """Return the height and the width that a configuration gives, for pictures or patches; else nothing."""
    if isinstance(size, Mapping):
        size = [size.get("height"), size.get("width")]
    sides = [size, size] if isinstance(size, int) else size
    return sides if isinstance(sides, list) and all(isinstance(side, int) for side in sides) else ()
