"""Pretrained models of pictures and sounds. It needs torch and transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
)

from distillgen.bodies._families import attending, seeing
from distillgen.rows.decoding import decoded

PROJECTIONS = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"))
"""The names of the linear maps of an attention, in the families of transformers."""


class MediaModel(nn.Module):  # type: ignore[misc]
    """A classifier without its last layer, and the processor that makes its numbers of a file.

    One that attends to patches gives tokens, too: what it says of each patch, without those tokens that
    stand before the patches, as that of the class. `token_width` is 0 for other models.
    """

    def __init__(self, model: Any, processor: Any, root: Path, most_s: float) -> None:
        """Raise ValueError for a model whose classifier does not end in one linear layer."""
        super().__init__()
        self.model, self.processor = model, processor
        self.root, self.most_s = root, most_s
        self.rate = None if _sees(model.config) else int(processor.sampling_rate)
        self.width = _without_classifier(model)
        self.batch_statistics = any(isinstance(layer, _BatchNorm) for layer in model.modules())
        self._attention = _last_attention(model) if model.config.model_type in attending() else []
        self.token_width = 0
        with torch.no_grad():
            features, *tokens = self.eval()._outputs(self._example())
        if tuple(features.shape) != (1, self.width):
            raise ValueError(f"its features have the shape {[*features.shape]}, and not [1, {self.width}]")
        if tokens:
            self.token_width = int(tokens[0].shape[2])
        self.train()

    def _example(self) -> Mapping[str, Any]:
        """Return what the processor makes of a black picture, or of a second of silence."""
        from PIL import Image

        if self.rate is None:
            return self.numbers(Image.new("RGB", (64, 64)))
        return self.numbers(torch.zeros(self.rate).numpy())

    @classmethod
    def pretrained(cls, name: str, revision: str | None, *, root: Path, most_s: float) -> Self:
        """Load a folder, or a name on the Hub. Raise OSError or ValueError, also those of transformers."""
        config = AutoConfig.from_pretrained(name, revision=revision)
        kind, processor = _classes(config)
        if hasattr(config, "apply_spec_augment"):
            # masks drawn over a sound need it to be long, and are drawn anew by a training that goes on
            config.apply_spec_augment = False
        if of_timm := getattr(config, "model_args", None):
            of_timm.pop("num_classes", None)  # timm writes it, and transformers gives it once more
        model = kind.from_pretrained(name, revision=revision, dtype="float32", config=config)
        return cls(model, processor.from_pretrained(name, revision=revision), root, most_s)

    @classmethod
    def saved(cls, folder: Path, *, root: Path, most_s: float) -> Self:
        """Return a model with random weights, as `save_files` described it."""
        config = AutoConfig.from_pretrained(folder)
        kind, processor = _classes(config)
        return cls(kind.from_config(config), processor.from_pretrained(folder), root, most_s)

    def save_files(self, folder: Path) -> None:
        """Write the configuration and the processor."""
        self.model.config.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def read(self, reference: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the model's numbers of a file. Raise ValueError if it cannot be read."""
        return self.numbers(decoded(reference, self.root, self.rate, self.most_s))

    def numbers(self, content: Any) -> Mapping[str, Any]:
        """Return the model's numbers of a picture or a sound, by the names of the model's arguments."""
        options = {} if self.rate is None else {"sampling_rate": self.rate}
        return dict(self.processor(content, return_tensors="pt", **options))

    def forward(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Return the features [rows, width] of what `read` returns of files; of a model with tokens, also
        these [rows, tokens, token_width], and queries, keys and values [rows, 3, tokens, width].

        Files of one shape are computed together: nothing is filled up, so that a row says the same in every
        batch.
        """
        device = next(self.model.parameters()).device
        shapes = [tuple((name, value.shape) for name, value in row.items()) for row in rows]
        outputs: list[Any] = [None] * len(rows)
        for shape in dict.fromkeys(shapes):
            places = [place for place, other in enumerate(shapes) if other == shape]
            batch = {name: torch.cat([rows[place][name] for place in places]).to(device) for name, _ in shape}
            if self.training and self.batch_statistics:
                self.model.train(len(places) > 1)  # a row alone is normalised by the running statistics
            for place, values in zip(places, zip(*self._outputs(batch), strict=True), strict=True):
                outputs[place] = values
        features, *others = zip(*outputs, strict=True)
        if not others:
            return torch.stack(features)
        one = len(dict.fromkeys(shapes)) == 1  # pictures of several sizes may have several numbers of patches
        return torch.stack(features), *(torch.stack(values) if one else None for values in others)

    def _outputs(self, batch: Mapping[str, Any]) -> Sequence[Any]:
        """Return the features, the tokens and the projections of files of one shape; the first alone of a
        model that does not attend to patches.
        """
        if not self._attention:
            return [self.model(**batch).logits]
        states: dict[int, Any] = {}
        modules = [self.model.base_model, *map(self.model.get_submodule, self._attention)]
        hooks = [
            module.register_forward_hook(lambda _, inputs, output, i=i: states.update({i: output}))
            for i, module in enumerate(modules)
        ]
        try:
            features = self.model(**batch).logits
        finally:
            for hook in hooks:
                hook.remove()
        patches = self._patches(batch["pixel_values"])
        projections = [states[i][:, -patches:] for i in (1, 2, 3)]
        return [features, states[0].last_hidden_state[:, -patches:], torch.stack(projections, 1)]

    def _patches(self, pictures: Any) -> int:
        """Return the number of patches of pictures [rows, channels, height, width]."""
        size = self.model.config.patch_size
        height, width = (size, size) if isinstance(size, int) else size
        return int((pictures.shape[2] // height) * (pictures.shape[3] // width))


def _sees(config: Any) -> bool:
    return config.model_type in seeing()


def _last_attention(model: Any) -> list[str]:
    """Return the names of the maps to queries, keys and values in the last attention; none without them."""
    for name, module in reversed([*model.named_modules()]):
        for maps in PROJECTIONS:
            if all(hasattr(module, one) for one in maps):
                return [f"{name}.{one}" for one in maps]
    return []


def _classes(config: Any) -> tuple[Any, Any]:
    """Return the classes of the model and of its processor."""
    if _sees(config):
        return AutoModelForImageClassification, AutoImageProcessor
    return AutoModelForAudioClassification, AutoFeatureExtractor


def _without_classifier(model: Any) -> int:
    """Remove the layer that gives the logits; return the width of what it reads. Raise ValueError."""
    layers = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer.out_features == model.config.num_labels
    ]
    if not layers:
        raise ValueError("its classifier does not end in a linear layer over its classes")
    width = int(model.get_submodule(layers[-1]).in_features)
    model.set_submodule(layers[-1], nn.Identity())
    return width
