"""transformers: a small model of any family of pictures that transformers has, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, PositiveInt

from distillgen.bodies._families import families
from distillgen.errors import ConfigError, did_you_mean
from distillgen.extras import need
from distillgen.networks.body import Body, Sizes
from distillgen.project import Project

NAME = "student body 'transformers'"


class Transformers(Body):
    """A picture model of transformers, such as a ViT or a ResNet, as its configuration describes it.

    A picture is [height, width], [channels, height, width], or [height, width, channels] with at most 4
    channels: `num_channels` and `image_size` come from it. The features are the model's pooled output, or
    else the mean of its last hidden states. These are its tokens.
    """

    one_input = True
    packages = ("transformers",)

    config: dict[str, Any] = Field(
        description="model_type, and options of its configuration: {model_type: vit, hidden_size: 16, …}"
    )
    shape: Annotated[list[PositiveInt], Field(min_length=2, max_length=3)] | None = Field(
        None, description="shape of the picture, if the rows hold it as one flat list, such as [8, 8]"
    )

    def check(self, project: Project) -> None:
        """Raise ConfigError if there is no such family of picture models, or it has no such option.

        Whether the options fit each other and the picture shows when the training begins.
        """
        need(NAME, "transformers")
        family = str(self.config.get("model_type"))
        if family not in families():
            choices = did_you_mean(family, [*families()])
            raise ConfigError(f"{NAME}: no model_type '{family}' sees pictures{choices}")
        types = families()[family]
        for name, value in self.config.items():
            if name == "model_type":
                continue
            if name not in types:
                raise ConfigError(f"{NAME}: {family} has no option '{name}'{did_you_mean(name, [*types])}")
            kind = "None" if value is None else type(value).__name__
            if types[name] and kind not in types[name]:
                expected = " or ".join(sorted(types[name]))
                raise ConfigError(f"{NAME}: '{name}' of {family} is {expected}, and not {value!r}")

    def tokens(self, project: Project) -> None:
        """Return nothing: only the training knows their number."""

    def module(self, sizes: Sizes, networks: Mapping[str, Any]) -> Any:
        """Return the model. Raise ConfigError if the options do not fit each other, or the picture."""
        from distillgen.bodies._transformers import PictureModel

        shape = self.shape or [*sizes.inputs[0]]
        if len(sizes.inputs) != 1 or len(shape) not in (2, 3):
            raise ConfigError(
                f"{NAME} reads one picture: [height, width] or with channels; give the shape of a list"
            )
        if sizes.numbers != Sizes([tuple(shape)], ()).numbers:
            raise ConfigError(f"{NAME}: {sizes.numbers} numbers are no picture of {shape}")
        try:
            return PictureModel(self.config, shape)
        except Exception as error:  # each family raises its own
            problem = f"{type(error).__name__}: {str(error)[:200]}"
            raise ConfigError(f"{NAME}: its options make no model: {problem}") from error
