"""A network: a body with heads over named classes. Its folder says all about it. It needs torch."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn

from distillgen.errors import ConfigError
from distillgen.networks.body import FILE, Shape, Sizes, shape_of
from distillgen.networks.spec import CLASS, CONFIG, Head, NetworkSpec, Reading, grid
from distillgen.project import Project
from distillgen.record import is_reference
from distillgen.rows.arrays import numbers_of

WEIGHTS = "model.safetensors"
TABLE, NODES = "table.safetensors", "nodes.json"  # what a network over a graph says of each node
FILES, PARTS = "files", "networks"  # folders: what the body wrote, and what the students in it wrote
INPUT = "input."  # before the name of an input, in a batch
NODE = "node"
LEFT_OUT = "left_out"  # [rows] in a batch: the place of the expert that is not asked about a row
EDGES = "edges"  # [2, edges] in a batch: positions of rows that are neighbours, each pair in both directions


class ChangedFiles(NamedTuple):
    """An input of a batch: files whose numbers are changed, by each network once it has read them."""

    files: Sequence[Any]
    change: Callable[[Any], Any]
    """From numbers [rows, …] to numbers of the same shape."""


def changed(values: Any, change: Callable[[Any], Any]) -> Any:
    """Return an input of a batch, numbers or files, with a change of its numbers [rows, …].

    Each network reads files by its own processor: the change is one, and the shapes may be several.
    """
    if torch.is_tensor(values):
        return change(values)
    if isinstance(values, ChangedFiles):
        before = values.change
        return ChangedFiles(values.files, lambda numbers: change(before(numbers)))
    return ChangedFiles(values, change)


def are_texts(values: Any) -> bool:
    """Return whether an input of a batch is a list of texts."""
    return isinstance(values, list) and isinstance(values[0], str)


class Layers(NamedTuple):
    """What a language model says layer by layer."""

    states: Sequence[Any]
    """[rows, tokens, width]: the embeddings, and the hidden states behind each layer."""
    attention: Sequence[Any]
    """[rows, heads, tokens, tokens]: of each layer, the shares of all tokens at each token."""
    there: Any
    """[rows, tokens]: 1 where a row has a token, 0 behind its end."""


class Out(NamedTuple):
    """What a network says of a batch."""

    classes: Mapping[str, Any]
    """By head, logits [positions, outcomes]: of a classifier one position a row, with a logit for each class;
    of a language model one position for each token that is learnt, with a logit for each token.
    """
    place: Any
    """[positions]: the row of each position."""
    features: Any = None
    """[rows, width]: the last layer before the heads; None if the network has none."""
    tokens: Any = None
    """[rows, tokens, token_width]: the last layer's numbers for each part of a row; None if it has none."""
    balance: Any = None
    """How unevenly experts are used, a number: 1 if all are used alike; None if the network has none."""
    layers: Layers | None = None
    """What it says layer by layer; None if no loss reads it."""
    projections: Any = None
    """[rows, 3, tokens, width]: queries, keys and values of the last attention; None if there are none."""
    states: Sequence[Any] = ()
    """[rows, width]: what each layer of a network says; none if its body gives no layers."""


class Network(nn.Module):  # type: ignore[misc]
    """A body with heads. `inputs` holds the shape of a row's array for each input, None for a text, or FILE
    for a reference to a file.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        inputs: Mapping[str, Shape | None],
        classes: Sequence[str],
        project: Project,
        networks: Mapping[str, Network] | None = None,
        folder: Path | None = None,
        classifier: Any = None,
    ) -> None:
        """Build it with random weights. `networks` holds the trained students that the body is made of.

        `folder` is that of a saved network. `classifier` is the linear layer of an earlier student, if the
        head is that. Raise ConfigError if the body cannot read the inputs.
        """
        super().__init__()
        self.spec, self.inputs, self.classes = spec, dict(inputs), list(classes)
        body = spec.module_of(project)
        self.reads, self._parts, self._root = body.reads, dict(networks or {}), project.root
        self._check_inputs()
        shapes = [shape for shape in inputs.values() if shape is not None]
        files = folder / FILES if folder else None
        self.body = body.module(Sizes(shapes, classes, project, files), self._parts)
        self._layers = [*self.body.layers] if body.layers() else []
        heads = {} if body.heads() else spec.heads or {CLASS: Head()}
        self.groups = {name: head.groups for name, head in heads.items()}
        self.projector = None if classifier is None else _projector(self.body.width, classifier.in_features)
        self.heads = nn.ModuleDict(
            {
                name: classifier.requires_grad_(False)
                if classifier is not None
                else nn.Linear(self.body.width, len(classes) * groups)
                for name, groups in self.groups.items()
            }
        )
        names = [*body.heads()] or [*heads]
        self.read = dict(spec.read) or {names[0]: Reading()}
        self.nodes = dict[str, int]()
        self.table: Out | None = None
        self.register_buffer("scale", torch.tensor([[0.0, 1.0]] * len(self.inputs)))

    def _check_inputs(self) -> None:
        for name, shape in self.inputs.items():
            kind = "texts" if shape is None else "files" if shape == FILE else "numbers"
            reads = self.reads if self.reads in ("texts", "files") else "numbers"
            if self.reads != "batch" and kind != reads:
                raise ConfigError(f"student body '{self.spec.body}' reads {reads}, and '{name}' holds {kind}")
            for part, network in self._parts.items():
                if network.inputs.get(name, shape) != shape:
                    raise ConfigError(f"'{name}' has another shape than in the training of '{part}'")

    @property
    def width(self) -> int:
        """The width of the features; 0 if the network has none."""
        return next((head.in_features for head in self.heads.values()), 0)

    @property
    def token_width(self) -> int:
        """The width of the tokens; 0 if the network has none."""
        return int(getattr(self.body, "token_width", 0))

    @property
    def layer_widths(self) -> list[int]:
        """The widths of the layers: of each, that of the last linear map in it; none without layers."""
        linears = ([m for m in layer.modules() if isinstance(m, nn.Linear)] for layer in self._layers)
        return [int(maps[-1].out_features) for maps in linears if maps]

    def label(self, batch: Mapping[str, Any]) -> Any:
        """Return the class of each row, -100 where there is none."""
        return batch["label"]

    def values(self, text: str) -> dict[str, Any]:
        """Return the inputs that a request's text holds: JSON of the one input, or of an object of several.

        A single input of text is the text itself; a file that an input refers to is read. A network over a
        graph is asked by the id of a node that it was trained on. Raise ValueError.
        """
        if self.table is not None:
            if text.strip() not in self.nodes:
                raise ValueError(f"the student was trained on no node '{text.strip()[:60]}'")
            return {NODE: self.nodes[text.strip()]}
        (first, shape), *others = self.inputs.items()
        if not others and shape is None:
            return {first: text}
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is not JSON of {', '.join(self.inputs)}: {error}") from error
        values = content if others and isinstance(content, dict) else {first: content}
        return {name: self._input(values, name, shape) for name, shape in self.inputs.items()}

    def _input(self, values: Mapping[str, Any], name: str, shape: Shape | None) -> Any:
        """Return an input among others. Raise ValueError if it is missing or of another kind or shape."""
        if name not in values:
            raise ValueError(f"it lacks the input '{name}'")
        value = values[name]
        if shape == FILE:
            if not is_reference(value):
                raise ValueError(f"'{name}' is no reference to a file: {{path: …, sha256: …}}")
            return self.body.read(value)
        if shape is None:
            if not isinstance(value, str):
                raise ValueError(f"'{name}' is no text")
            return value
        value = numbers_of(value, self._root)
        value = value if isinstance(value, list) else [value]
        if shape_of(value) != shape:
            raise ValueError(f"'{name}' has not the shape {list(shape)} of the training's")
        return value

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return a batch of `values`."""
        batch: dict[str, Any] = {"row": torch.arange(len(rows), device=self.scale.device)}
        if self.table is not None:
            return {**batch, NODE: torch.tensor([row[NODE] for row in rows], device=self.scale.device)}
        for name, shape in self.inputs.items():
            values = [row[name] for row in rows]
            batch[INPUT + name] = (
                torch.tensor(values, dtype=torch.float32, device=self.scale.device) if shape else values
            )
        return batch

    def remember(self, nodes: Sequence[str], batch: Mapping[str, Any]) -> None:
        """Keep what a network over a graph says of all its nodes, in evaluation mode."""
        with torch.no_grad():
            out = self.eval()(batch)
        self.nodes = {node: i for i, node in enumerate(nodes)}
        self.table = Out(dict(out.classes), out.place, out.features)

    def standardise(self, batch: Mapping[str, Any]) -> None:
        """Set the mean and the deviation of each input of numbers, to those of all its numbers in a batch.

        A network that is made of an earlier student keeps those of that student.
        """
        for part in self._parts.values():
            if [*part.inputs] == [*self.inputs]:
                self.scale.copy_(part.scale)
                return
        for i, (name, shape) in enumerate(self.inputs.items()):
            if shape:
                values = batch[INPUT + name].float()
                deviation = values.std(unbiased=False)
                self.scale[i] = torch.stack([values.mean(), torch.where(deviation > 0, deviation, 1.0)])

    def forward(self, batch: Mapping[str, Any]) -> Out:
        """Return the logits of each head, the features, and what each layer says."""
        states = list[Any]()
        hooks = [
            layer.register_forward_hook(lambda module, inputs, output: states.append(output))
            for layer in self._layers
        ]
        try:
            return self._forward(batch)._replace(states=states)
        finally:
            for hook in hooks:
                hook.remove()

    def _forward(self, batch: Mapping[str, Any]) -> Out:
        if self.table is not None and NODE in batch:
            chosen = {name: logits[batch[NODE]] for name, logits in self.table.classes.items()}
            features = None if self.table.features is None else self.table.features[batch[NODE]]
            return Out(chosen, torch.arange(len(batch[NODE])), features)
        values = [batch[INPUT + name] for name in self.inputs]
        if self.reads == "batch":
            features = self.body(batch)
        elif self.reads == "texts":
            features = self.body([list(texts) for texts in zip(*values, strict=True)])
        elif self.reads == "files":
            features = self.body(self._numbers(values[0]))
        else:
            scaled = [(x.float() - self.scale[i, 0]) / self.scale[i, 1] for i, x in enumerate(values)]
            array = scaled[0] if len(scaled) == 1 else torch.cat([x.flatten(1) for x in scaled], 1)
            features = self.body(array, batch[EDGES]) if self.reads == "graph" else self.body(array)
        place = torch.arange(len(batch["row"]), device=self.scale.device)
        if isinstance(features, Mapping):
            return Out(features, place)
        features, tokens, *projections = features if self.token_width else (features, None)
        features = features if self.projector is None else self.projector(features)
        logits = {name: head(features) for name, head in self.heads.items()}
        return Out(logits, place, features, tokens, projections=projections[0] if projections else None)

    def _numbers(self, files: Any) -> list[Mapping[str, Any]]:
        """Return the body's numbers of files, which are references, or have been read already."""
        if not isinstance(files, ChangedFiles):
            return [self.body.read(file) if is_reference(file) else file for file in files]
        rows = self._numbers(files.files)
        columns = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        columns |= {n: files.change(values) for n, values in columns.items() if values.is_floating_point()}
        return [{name: values[i : i + 1] for name, values in columns.items()} for i in range(len(rows))]

    def probabilities(self, out: Out) -> Any:
        """Return the probability of each class [rows, classes], as `read` says."""
        return self._read(
            out, {name: (grid(r.share)[0], grid(r.temperature)[0]) for name, r in self.read.items()}
        )

    def _read(self, out: Out, shares: Mapping[str, tuple[float, float]]) -> Any:
        total = sum(share for share, _ in shares.values())
        parts = []
        for name, (share, temperature) in shares.items():
            part = (out.classes[name] / temperature).softmax(-1)
            if self.groups.get(name, 1) > 1:
                part = part.unflatten(-1, (-1, self.groups[name])).sum(-1)
            parts.append(share / total * part)
        return sum(parts[1:], parts[0])

    def choose_reading(self, out: Out, labels: Any) -> None:
        """Of the lists in `read`, take the values with the highest accuracy on rows with these labels.

        Of values that are equally good, the first are taken.
        """
        names = list(self.read)
        lists = [
            [*itertools.product(grid(self.read[name].share), grid(self.read[name].temperature))]
            for name in names
        ]
        best, highest = None, -1.0
        for values in itertools.product(*lists):
            shares = dict(zip(names, values, strict=True))
            if not sum(share for share, _ in values):
                continue
            accuracy = float((self._read(out, shares).argmax(-1) == labels).float().mean())
            if accuracy > highest:
                best, highest = shares, accuracy
        if best is None:
            raise ConfigError("read: the shares of all heads are 0")
        self.read = {name: Reading(share=s, temperature=t) for name, (s, t) in best.items()}

    @property
    def undecided(self) -> bool:
        """Whether `read` holds lists to choose from."""
        return any(isinstance(v, list) for r in self.read.values() for v in (r.share, r.temperature))

    def save(self, folder: Path) -> None:
        """Write the network to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self, str(folder / WEIGHTS))
        (folder / CONFIG).write_text(json.dumps(self.config(), indent=1), encoding="utf-8")
        self.save_files(folder)
        if self.table is not None:
            tensors = {f"class.{name}": logits for name, logits in self.table.classes.items()}
            if self.table.features is not None:
                tensors["features"] = self.table.features
            save_file({name: value.contiguous() for name, value in tensors.items()}, folder / TABLE)
            (folder / NODES).write_text(json.dumps(list(self.nodes)), encoding="utf-8")

    def save_files(self, folder: Path) -> None:
        """Write what the body needs besides its weights, and the same of the students that it is made of."""
        if hasattr(self.body, "save_files"):
            (folder / FILES).mkdir(parents=True, exist_ok=True)
            self.body.save_files(folder / FILES)
        for name, network in self._parts.items():
            network.save_files(folder / PARTS / name)

    def config(self) -> dict[str, Any]:
        """Return everything but the weights, as JSON."""
        return {
            "spec": self.spec.model_dump(exclude_defaults=True),
            "inputs": self.inputs,
            "classes": self.classes,
            "read": {name: reading.model_dump() for name, reading in self.read.items()},
            "networks": {name: network.config() for name, network in self._parts.items()},
            "classifier": None if self.projector is None else self.width,
        }


def _projector(width: int, to: int) -> Any:
    """Return layers from a body's features to those that another's classifier reads (Chen et al. 2022)."""
    return nn.Sequential(nn.Linear(width, -(-to // 2)), nn.ReLU(), nn.Linear(-(-to // 2), to))


def rows_of(batch: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
    """Return a part of the rows of a batch without edges."""
    return {name: values[start:stop] for name, values in batch.items()}


def by_class(network: Any, head: str, logits: Any) -> Any:
    """Return the logits of a head by class: the probabilities of a class's subclasses add up."""
    groups = getattr(network, "groups", {}).get(head, 1)
    return logits if groups == 1 else logits.unflatten(-1, (-1, groups)).logsumexp(-1)


def build(config: Mapping[str, Any], project: Project, folder: Path) -> Network:
    """Return the network that a folder holds, of a `config`, with random weights. Raise ConfigError if its
    body is missing.
    """
    inputs = {name: None if shape is None else tuple(shape) for name, shape in config["inputs"].items()}
    parts = {name: build(part, project, folder / PARTS / name) for name, part in config["networks"].items()}
    spec = NetworkSpec.model_validate(config["spec"])
    width = config.get("classifier")
    classifier = nn.Linear(width, len(config["classes"])) if width else None
    network = Network(spec, inputs, config["classes"], project, parts, folder, classifier)
    network.read = {name: Reading.model_validate(value) for name, value in config["read"].items()}
    return network


def load(folder: Path, project: Project) -> Network:
    """Return the network in a folder, in evaluation mode. Raise ConfigError if it cannot be read."""
    try:
        network = build(json.loads((folder / CONFIG).read_bytes()), project, folder)
        load_model(network, str(folder / WEIGHTS))
        if (folder / TABLE).is_file():
            tensors, nodes = load_file(folder / TABLE), json.loads((folder / NODES).read_bytes())
            heads = {name.removeprefix("class."): t for name, t in tensors.items() if name != "features"}
            network.nodes = {node: i for i, node in enumerate(nodes)}
            network.table = Out(heads, torch.arange(len(nodes)), tensors.get("features"))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"the network in {folder.name} cannot be loaded: {error}") from error
    network.eval()
    return network
