"""What transformers says of its picture models, read from its files: to import them would import torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

IMAGES = "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES"
SOUNDS = "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES"
OTHERS = {"dinat", "hgnet_v2"}  # one needs natten, and the other has no last hidden states
TYPES = {"int", "float", "str", "bool", "list", "dict", "tuple", "None"}


@cache
def families() -> Mapping[str, Mapping[str, frozenset[str]]]:
    """Return the families that see pictures, and the types of each option of their configurations.

    A family is one with a classifier of pictures and an option `num_channels`. An option without types takes
    any value.
    """
    options = {family: _options(_root(), family) for family in seeing()}
    return {
        family: types for family, types in options.items() if "num_channels" in types and family not in OTHERS
    }


@cache
def attending() -> frozenset[str]:
    """Return the families that see pictures by layers of attention, each over all patches, as a ViT."""
    needed = {"patch_size", "num_attention_heads", "num_hidden_layers"}  # `depths` are those of stages
    return frozenset(
        family for family, types in families().items() if needed <= types.keys() and "depths" not in types
    )


@cache
def seeing() -> frozenset[str]:
    """Return the names of the families with a classifier of pictures."""
    return frozenset(_classifiers(IMAGES))


@cache
def hearing() -> frozenset[str]:
    """Return the names of the families with a classifier of sounds."""
    return frozenset(_classifiers(SOUNDS))


def _root() -> Path:
    spec = find_spec("transformers")
    return Path(str(spec.origin)).parent / "models" if spec else Path()


def _classifiers(names: str) -> Iterator[str]:
    """Yield the names of the families in one of the mappings of transformers."""
    for node in ast.parse((_root() / "auto" / "modeling_auto.py").read_bytes()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == names:
            for pair in ast.walk(node.value):
                if isinstance(pair, ast.Tuple):
                    yield ast.literal_eval(pair.elts[0])


def _options(root: Path, family: str) -> dict[str, frozenset[str]]:
    """Return the types of a family's options; none if its configuration is not where it is expected."""
    for path in root.glob(f"*/configuration_{family.replace('-', '_')}.py"):
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ClassDef) and f"model_type = '{family}'" in map(ast.unparse, node.body):
                fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
                return {ast.unparse(field.target): _types(field.annotation) for field in fields}
    return {}


def _types(annotation: ast.expr) -> frozenset[str]:
    """Return the names of the types in a union; none if one of them is not that of a value in YAML."""
    if isinstance(annotation, ast.BinOp):
        left, right = _types(annotation.left), _types(annotation.right)
        return left | right if left and right else frozenset()
    outer = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    name = ast.unparse(outer)
    return frozenset({name}) if name in TYPES else frozenset()
