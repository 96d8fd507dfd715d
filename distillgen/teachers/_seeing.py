"""Turns with pictures, as a model of transformers takes them: a text with places for pictures, and pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import Field

from distillgen.inference.model_class import files_see
from distillgen.inference.spec import Spec
from distillgen.inference.weights import model_path
from distillgen.teachers._content import picture


class SeeingSpec(Spec):
    """The entry of a model whose files say whether it takes pictures."""

    images: bool | None = Field(
        None,
        description="whether it takes pictures; default: as the files in its folder say; a model that has to "
        "be fetched from the Hub may",
    )

    @property
    def sight(self) -> frozenset[str]:
        """What it can do with pictures."""
        return frozenset() if self.images is False else frozenset({"images", "picture_score"})

    def with_files(self, root: Path) -> Self:
        """Return the entry, which knows whether the files in its folder see."""
        folder = model_path(self.model, root)
        if self.images is not None or folder is None:
            return self
        return self.model_copy(update={"images": files_see(folder)})


class Scene(NamedTuple):
    """A prompt with pictures: its text, which the chat template wrote, and the pictures of Pillow."""

    text: str
    pictures: Sequence[Any]


def scene(
    turns: Sequence[Mapping[str, Any]], processor: Any, root: Path, template: Mapping[str, Any] | None = None
) -> Scene:
    """Return the prompt of turns with pictures, with the arguments `template` of the chat template.

    Raise Rejected or ValueError if it cannot be made.
    """
    token = getattr(processor, "image_token", None)
    pictures, messages = [], []
    for message in turns:
        parts = parts_of(message["content"])
        for place, part in enumerate(parts):
            if part["type"] == "image":
                pictures.append(picture(part, root))
                parts[place] = {"type": "image"}
            elif part["type"] != "text":
                raise ValueError(f"the model takes texts and pictures, not '{part['type']}'")
            elif token and token in part["text"]:
                raise ValueError(f"a text has '{token}', the model's token of a picture")
        messages.append({**message, "content": parts})
    text = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False, **(template or {})
    )
    return Scene(text, pictures)


def parts_of(message_content: Any) -> list[dict[str, Any]]:
    """Return the parts of a message: one of a text."""
    if isinstance(message_content, str):
        return [{"type": "text", "text": message_content}]
    return list(message_content)


def model_inputs(scenes: Sequence[Scene], processor: Any, device: str) -> dict[str, Any]:
    """Return the tensors of a batch, padded on the left."""
    batch = processor(
        text=[scene.text for scene in scenes],
        images=[[*scene.pictures] for scene in scenes],
        add_special_tokens=False,  # the chat template has written them
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    return dict(batch.to(device))


def continued(inputs: Mapping[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    """Return the tensors of one prompt with further tokens behind it."""
    import torch

    length = inputs["input_ids"].shape[1]
    after = {"input_ids": ids, "attention_mask": [1] * len(ids)}
    return {
        name: torch.cat([values, values.new_tensor([after.get(name, [0] * len(ids))])], 1)
        if values.shape == (1, length)  # of each token, as the types of tokens are
        else values
        for name, values in inputs.items()
    }
