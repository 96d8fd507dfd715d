"""The learner: a student, its peers and the parts that learn along, for one `Trainer`. It needs torch."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import Sampler
from transformers import Trainer

from distillgen.algorithms.arithmetic import Arithmetic
from distillgen.networks.network import Out, by_class
from distillgen.record import dumps
from distillgen.training.averages import Averages, Averaging
from distillgen.training.blend import Blend
from distillgen.training.columns import OfOneGroup
from distillgen.training.mixup import Mixup
from distillgen.training.part import Chance, Loss, PartSizes, Weight
from distillgen.training.signals import ABSENT, RecordedTeacher
from distillgen.training.step import STUDENT, Step, called
from distillgen.training.students import PEERS

CHECKPOINT = "model.safetensors"  # the name that the Trainer reads


@dataclass
class Teachers:
    """The teachers of a training that do not learn, by name."""

    live: dict[str, Any] = field(default_factory=dict)
    """Frozen networks on this machine."""
    recorded: dict[str, RecordedTeacher] = field(default_factory=dict)
    """How the columns of a recorded teacher are read."""
    heads: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    """For each name that a loss uses, the network or recorded teacher, and its head."""
    exchanged: Collection[str] = ()
    """The live teachers whose words go to another row of the batch: a control arm."""


class Learner(nn.Module):  # type: ignore[misc]
    """The networks that learn, and what the losses and weights learn or remember.

    Frozen teachers are held outside of the module, so that they are neither trained nor saved.
    """

    _keys_to_ignore_on_save = None  # the Trainer reads it where a checkpoint lacks frozen weights

    def __init__(
        self,
        networks: Mapping[str, Any],
        losses: Sequence[Loss],
        weights: Mapping[str, Weight],
        teachers: Teachers,
        *,
        validation: Any = None,
        graph: Any = None,
        seed: int = 0,
        ids: Sequence[str] = (),
        mixup: Mixup | None = None,
        draw: Chance | None = None,
        size: int = 0,
        blend: Blend | None = None,
    ) -> None:
        """`validation` are the rows that weights draw; `graph`, all nodes, where a network reads edges.

        `ids` are those of the training rows: with them, the last values of all weights are written. `draw`
        gives the chances of `size` training rows. `blend` averages the student's weights.
        """
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.when, self.ids, self._mixup = (0.0, 0, 0), ids, mixup
        self._losses, self._weights, self._seed = list(losses), dict(weights), seed
        self._validation, self._graph, self._arithmetic = validation, graph, dict[str, Arithmetic]()
        self._outside = [teachers]  # a list, so that no teacher becomes a child
        sizes = PartSizes(len(networks[STUDENT].classes), *self._widths(teachers))
        parts = {f"loss {i}": loss for i, loss in enumerate(losses)} | dict(weights)
        modules = {name: module for name, part in parts.items() if (module := part.module(sizes)) is not None}
        self.parts = nn.ModuleDict(modules)
        self.rates = {f"parts.{name}.": parts[name].rate for name in modules}
        self.averages = Averages(blend, networks[STUDENT]) if blend else None
        self.chance = draw
        if draw is not None:  # state, so that a training that goes on inside of an epoch has the same rows
            self.register_buffer("drawn_in", torch.tensor(-1))
            self.register_buffer("drawn", torch.zeros(size, dtype=torch.long))
            self.register_buffer("draws", torch.zeros(size, dtype=torch.long))

    @property
    def teachers(self) -> Teachers:
        """The teachers that do not learn."""
        return self._outside[0]

    def _widths(self, teachers: Teachers) -> tuple[dict[str, int], dict[str, int], dict[str, Sequence[int]]]:
        """Return the widths of features or vectors, of tokens, and of layers, by network and teacher."""
        networks = {**teachers.live, **dict(self.networks.items())}
        networks |= {
            name: networks[model] for name, (model, _) in teachers.heads.items() if model in networks
        }
        widths = {name: network.width for name, network in networks.items() if network.width}
        widths |= {name: source.width for name, source in teachers.recorded.items() if source.width}
        layers = {name: wide for name, n in networks.items() if (wide := getattr(n, "layer_widths", []))}
        return widths, {name: n.token_width for name, n in networks.items() if n.token_width}, layers

    def _apply(self, fn: Any, recurse: bool = True) -> Any:  # moves frozen teachers to the same device
        for network in self.teachers.live.values():
            network._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @property
    def losses_with_modules(self) -> Iterator[tuple[Loss, Any]]:
        """Each loss, with its module or None."""
        for i, loss in enumerate(self._losses):
            yield loss, self._module(f"loss {i}")

    def _module(self, name: str) -> Any:
        return self.parts[name] if name in self.parts else None

    def weight_rows(self, name: str, step: Step) -> Any:
        """Return the values of a weight for the rows of a step."""
        return self._weights[name].rows(step, self._module(name))

    def arithmetic(self, formula: str) -> Arithmetic:
        """Return a formula, read once."""
        if formula not in self._arithmetic:
            self._arithmetic[formula] = Arithmetic(formula)
        return self._arithmetic[formula]

    def label(self, batch: Mapping[str, Any]) -> Any:
        """Return the class of each row, or each learnt token."""
        return self.networks[STUDENT].label(batch)

    def network_of(self, name: str) -> str:
        """Return the network, or the recorded teacher, that a loss names."""
        return self.teachers.heads.get(name, (name, None))[0]

    def ask(self, name: str, batch: Mapping[str, Any], at: Mapping[str, Any] | None = None) -> Out:
        """Return what a network or a teacher says of a batch, with the student's weights `at`."""
        if name in self.networks:
            return called(self.networks[name], batch, at)
        if name in self.teachers.recorded:
            return self.teachers.recorded[name].out(batch)
        with torch.no_grad():
            out: Out = self.teachers.live[name](batch)
        return out

    def in_order(self, name: str, out: Out) -> Any:
        """Return the logits of what a teacher says, with the outcomes in the student's order."""
        network, head = self.teachers.heads.get(name, (name, None))
        logits = self.by_class(network, head or next(iter(out.classes)), out)
        order = self._orders.get(network)
        if order is None:
            return logits
        absent = logits.new_full((len(logits), 1), ABSENT)
        return torch.cat([logits, absent], -1)[:, order.to(logits.device)]

    def by_class(self, name: str, head: str, out: Out) -> Any:
        """Return the logits of a head of a network or teacher, by class."""
        network = self.networks[name] if name in self.networks else self.teachers.live.get(name)
        return by_class(network, head, out.classes[head])

    @cached_property
    def _orders(self) -> dict[str, Any]:
        """For each live teacher with other classes, where it has each of the student's; the last: nowhere."""
        classes, orders = self.networks[STUDENT].classes, {}
        for name, network in self.teachers.live.items():
            if list(network.classes) != list(classes):
                places = {other: i for i, other in enumerate(network.classes)}
                orders[name] = torch.tensor([places.get(other, len(places)) for other in classes])
        return orders

    def pair(self, name: str, logits: Any, step: Step) -> tuple[Any, Any]:
        """Return a student's logits, and those of a teacher, over the teacher's outcomes."""
        recorded = self.teachers.recorded.get(self.network_of(name))
        if recorded is not None:
            return recorded.pair(logits, step.batch)
        return logits, step.teacher(name)

    def draw(self, part: str, count: int, update: int) -> Mapping[str, Any]:
        """Return up to `count` validation rows as a batch."""
        total = len(self._validation)
        if count >= total:
            places = torch.arange(total)
        else:
            places = torch.randperm(total, generator=self.generator(part, update))[:count]
        return self._on_device(self._validation.__getitems__(places.tolist()))

    def generator(self, part: str, update: int) -> Any:
        """Return a generator of random numbers: a pure function of the seed, `part` and the update."""
        chosen = hashlib.sha256(f"{self._seed}/{part}/{update}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(chosen[:7]))

    def places(self, epoch: int, rows: Any) -> list[int]:
        """Return the places of the rows of an epoch: as many as there are, drawn by their chances.

        Where no row has a chance, every row has one.
        """
        assert self.chance is not None
        if int(self.drawn_in) != epoch:
            mode, measured = self.training, []
            self.eval()
            with torch.no_grad():
                for places in _chunks(len(rows), self.at_once):
                    batch = self._on_device(rows.__getitems__(places))
                    measured.append(self.chance.measure(Step(self, batch)).cpu())
            self.train(mode)
            generator = self.generator("draw", epoch)
            chances = self.chance.chances(torch.cat(measured), generator).double()
            chances = chances if chances.sum() > 0 else torch.ones_like(chances)
            self.drawn.copy_(torch.multinomial(chances, len(rows), replacement=True, generator=generator))
            self.draws += torch.bincount(self.drawn, minlength=len(rows))
            self.drawn_in.fill_(epoch)
        drawn: list[int] = self.drawn.tolist()
        return drawn

    @property
    def at_once(self) -> int:
        """The number of rows that the networks are asked about at once: few where they read files."""
        networks = [*self.networks.values(), *self.teachers.live.values()]
        return 32 if any(getattr(network, "reads", "") == "files" for network in networks) else 1024

    def _on_device(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        device = next(self.parameters()).device
        return {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Let the student keep less for the backward pass."""
        self.networks[STUDENT].gradient_checkpointing_enable(**options)

    def fit(self, batch: Mapping[str, Any]) -> None:
        """Let every part look at all training rows, before the first step."""
        step = Step(self, batch)
        with torch.no_grad():
            for loss, module in self.losses_with_modules:
                loss.fit(step, module)
            for name, weight in self._weights.items():
                weight.fit(step, self._module(name))

    def forward(self, batch: Mapping[str, Any]) -> Any:
        """Return the loss of a batch: the losses' total, and in training what weights learn by.

        A supernet learns by the mean over some of its subnets.
        """
        if self.training and self._mixup:
            batch = self._mixup.mixed(batch, self._seed, self.when[2])
        body: Any = getattr(self.networks[STUDENT], "body", None)
        if not self.training or not hasattr(body, "subnets"):
            return self._total(batch)
        largest, total = body.subnet, 0.0
        subnets = body.subnets(self.generator("subnets", self.when[2]))
        try:
            for subnet in subnets:
                body.subnet = subnet
                total = total + self._total(batch) / len(subnets)
        finally:
            body.subnet = largest
        return total

    def _total(self, batch: Mapping[str, Any]) -> Any:
        step = Step(self, batch, learning=self.training)
        total = step.total()
        if self.training:
            for name, weight in self._weights.items():
                module = self._module(name)
                loss = weight.learns(step, module)
                total = total if loss is None else total + _for_module(loss, module)
        return total

    @property
    def weight_names(self) -> list[str]:
        """The names of the weights."""
        return [*self._weights]

    def settle(self, rows: Any) -> None:
        """End the training: choose, on the validation rows, how the heads of each network are read.

        `rows` are those of the training. A supernet remembers the loss of each of its subnets on the
        validation rows, or else on these. A network over a graph remembers what it says of every node,
        with all nodes around it.
        """
        self.eval()
        body: Any = getattr(self.networks[STUDENT], "body", None)
        if hasattr(body, "compare"):
            rows = rows if self._validation is None else self._validation
            body.compare(lambda: self._loss_of(rows))
        for network in self.networks.values():
            graph = self._graph if getattr(network, "reads", "") == "graph" else None
            if graph is not None:
                network.remember(graph.nodes, self._on_device(graph.all_rows()))
            if getattr(network, "undecided", False):
                batch = self._on_device((graph or self._validation).all_rows())
                with torch.no_grad():
                    network.choose_reading(network(batch), batch["label"])

    def _loss_of(self, rows: Any) -> float:
        """Return the mean loss of rows."""
        total = 0.0
        with torch.no_grad():
            for places in _chunks(len(rows), self.at_once):
                batch = self._on_device(rows.__getitems__(places))
                total += len(places) * float(self(batch))
        return total / len(rows)

    def values(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of all weights for the rows of a batch: numbers, or lists of one a teacher."""
        step = Step(self, batch)
        with torch.no_grad():
            rows = {name: self.weight_rows(name, step) for name in self._weights}
        return {name: value.movedim(-1, 0).tolist() for name, value in rows.items()}


def _chunks(count: int, size: int) -> Iterator[list[int]]:
    """Yield the places of rows, so many at once."""
    for start in range(0, count, size):
        yield [*range(start, min(start + size, count))]


def _for_module(loss: Any, module: Any) -> Any:
    """Return a loss with its gradient by the parameters of a module, and by nothing else."""
    parameters = [] if module is None else [p for p in module.parameters() if p.requires_grad]
    if not parameters or not loss.requires_grad:
        return loss.detach()
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    moved = loss.new_zeros(())
    for value, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            moved = moved + (gradient * value).sum()
    return loss.detach() + moved - moved.detach()


class Loop(Trainer):  # type: ignore[misc]
    """transformers' Trainer for a Learner: with its checkpoints, resumption, schedules and devices."""

    loss_is_scaled_for_ga = False

    def __init__(self, learner: Learner, *args: Any, **options: Any) -> None:
        super().__init__(learner, *args, **options)
        if learner.averages is not None:
            self.add_callback(Averaging(learner.averages))

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return the order of the rows: at random, those that are drawn by their chances, or batches of one
        group each.
        """
        if self.model.chance is not None:
            return Drawn(self)
        if groups := getattr(self.train_dataset, "groups", None):
            return OfOneGroup(groups, self.args.train_batch_size, self.args.seed)
        return super()._get_train_sampler(train_dataset)

    def look(self) -> Learner:
        """Return the learner, which knows how far the training is."""
        learner: Learner = self.accelerator.unwrap_model(self.model)
        state = self.state
        learner.when = (state.global_step / max(1, state.max_steps), int(state.epoch or 0), state.global_step)
        return learner

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean loss of the rows; it is computed inside of the model, so that wrappers see it."""
        self.look()
        loss = model(inputs)
        return (loss, {}) if return_outputs else loss

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Any, None, None]:
        """Return the loss of held-out rows."""
        with torch.no_grad():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def create_optimizer(self, model: Any = None) -> Any:
        """Return AdamW, with a learning rate for each part that has one; biases and norms do not decay."""
        groups: dict[tuple[float, float], list[Any]] = {}
        decaying = {*self.get_decay_parameter_names(self.model)}
        for name, value in self.model.named_parameters():
            if value.requires_grad:
                rates = (rate for prefix, rate in self.model.rates.items() if name.startswith(prefix))
                decay = self.args.weight_decay if name in decaying else 0.0
                groups.setdefault((next(rates, None) or self.args.learning_rate, decay), []).append(value)
        optimizer, options = self.get_optimizer_cls_and_kwargs(self.args)
        self.optimizer = optimizer(
            [
                {"params": values, "lr": rate, "weight_decay": decay}
                for (rate, decay), values in groups.items()
            ],
            **options,
        )
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the learner's checkpoint: what is trained, and state; not frozen weights. Ties are kept."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        learner = self.accelerator.unwrap_model(self.model)
        values = {name: value for name, value in learner.named_parameters() if value.requires_grad}
        values |= dict(learner.named_buffers())
        save_file({name: value.contiguous() for name, value in values.items()}, folder / CHECKPOINT)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a checkpoint, or at the end the student, with its peers in `peers/`."""
        if _internal_call or output_dir is None:
            super().save_model(output_dir, _internal_call)
        elif self.args.should_save:
            learner, folder = self.accelerator.unwrap_model(self.model), Path(output_dir)
            learner.settle(self.train_dataset)
            for name, network in learner.networks.items():
                network.save(folder if name == STUDENT else folder / PEERS / name)
            if learner.weight_names and learner.ids:
                self._write_weights(learner, folder / "weights.jsonl")
            if learner.chance is not None:
                rows = zip(learner.ids, learner.draws.tolist(), strict=True)
                lines = (dumps({"id": name, "draws": count}, sort_keys=False) for name, count in rows)
                (folder / "draws.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))

    def _write_weights(self, learner: Learner, file: Path) -> None:
        """Write the last value of every weight for each training row, in order."""
        rows = self.train_dataset
        with file.open("wb") as lines:
            for places in _chunks(len(rows), learner.at_once):
                batch = self._prepare_inputs(self.data_collator(rows.__getitems__(places)))
                values = learner.values(batch)
                for i, place in enumerate(places):
                    row = {name: rows_of_weight[i] for name, rows_of_weight in values.items()}
                    lines.write(dumps({"id": learner.ids[place], **row}, sort_keys=False) + b"\n")


class Drawn(Sampler):  # type: ignore[misc]
    """The rows of an epoch, drawn by their chances when the epoch begins."""

    def __init__(self, loop: Loop) -> None:
        self._loop, self._epoch = loop, 0

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; the Trainer calls it."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._loop.train_dataset)

    def __iter__(self) -> Iterator[int]:
        yield from self._loop.look().places(self._epoch, self._loop.train_dataset)
