"""A training of a network from its parts: student, peers, teachers and rows become a Loop. It needs torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainingArguments
from transformers.trainer_utils import set_seed

from distillgen.errors import ConfigError
from distillgen.networks.body import FILE, Shape, shape_of
from distillgen.networks.network import INPUT, Network, load
from distillgen.networks.spec import NetworkSpec, is_network
from distillgen.project import Project
from distillgen.record import is_reference
from distillgen.rows.arrays import numbers_of
from distillgen.training.blend import Blend
from distillgen.training.columns import GROUP, NEIGHBOURS, NODE, Columns, collated, recorded_teachers
from distillgen.training.inputs import Prepared, TrainingInputs
from distillgen.training.learner import Learner, Loop, Teachers
from distillgen.training.mixup import Mixup
from distillgen.training.part import Chance, Loss, Weight
from distillgen.training.rows import Assessment, Row, RowSelection
from distillgen.training.signals import COLUMN
from distillgen.training.sources import RECORD, Source
from distillgen.training.step import STUDENT

TRAIN, VALIDATION, HELD_OUT = "train", "validation", "held_out"
UNKNOWN = "ends of edges that are no row of the training"


@dataclass(frozen=True)
class Lesson:
    """What a student learns by, and from whom."""

    losses: Sequence[Loss]
    weights: Mapping[str, Weight]
    teachers: Mapping[str, Source]
    inputs: Sequence[str] | None
    transductive: bool
    learn_validation: bool
    mixup: Mixup | None = None
    shuffle: Sequence[str] | None = None
    draw: Chance | None = None
    blend: Blend | None = None

    def recorded(self) -> list[str]:
        """Return the names of the teachers whose words are columns."""
        return [name for name, source in self.teachers.items() if source.stage or source.field]

    def of_one_size(self) -> bool:
        """Return whether the numbers of all files must have one shape: rows mix, or tokens are compared."""
        parts = [*self.losses, *self.weights.values()]
        signals = {signal for part in parts for signal in part.teachers().values()}
        changed = self.mixup is not None or any(part.changes for part in parts)
        return changed or bool({"tokens", "projections"} & signals)

    def exchanged(self) -> list[str]:
        """Return the live teachers whose words go to other rows in a control arm."""
        live = [name for name, source in self.teachers.items() if source.model]
        return live if self.shuffle is None else [name for name in live if name in self.shuffle]


def network_loop(lesson: Lesson, inputs: TrainingInputs) -> Prepared:
    """Return the loop of a network."""
    student, (live, heads) = _first_network(inputs), _live(lesson, inputs)
    needy = [*lesson.losses, *lesson.weights.values(), *([lesson.draw] if lesson.draw else [])]
    over_graph = _reads_graph(lesson, inputs, student)
    of_nodes = over_graph or any(part.edges for part in needy)
    rows = _of_one_form(lesson, inputs, [*live.values(), student], of_nodes=of_nodes)
    shared = None if student else _shared(inputs)
    trained = student or shared
    classes = trained.classes if trained else _classes(rows.parts, lesson, live)
    networks = _learning(lesson, inputs, student, shared, _shapes(rows.parts[TRAIN][0]), classes)
    for network in (*networks.values(), *live.values()):
        if network.reads == "files":
            rows = rows.select(_readable(network, of_one_size=lesson.of_one_size()))
    parts = _learnt(lesson, rows.parts)
    if shared:
        _check_labels(parts, classes)
    columns = {name: Columns(part, classes) for name, part in parts.items()}
    batch = columns[TRAIN].all_rows()
    for network in networks.values():
        if not inputs.student:
            network.standardise(batch)
    recorded = recorded_teachers(columns[TRAIN], lesson.recorded())
    exchanged = lesson.exchanged() if inputs.shuffled else []
    validation = columns.get(VALIDATION)
    if (networks[STUDENT].undecided or any(part.validation for part in needy)) and validation is None:
        raise ConfigError("no validation record is left to learn a weight, or a reading, from")
    learner = Learner(
        networks,
        lesson.losses,
        lesson.weights,
        Teachers(live, dict(recorded), heads, exchanged),
        validation=validation,
        graph=_graph(rows.parts, classes) if over_graph else None,
        seed=inputs.arguments["seed"],
        ids=columns[TRAIN].ids,
        mixup=lesson.mixup,
        draw=lesson.draw,
        size=len(columns[TRAIN]),
        blend=lesson.blend,
    )
    learner.fit(batch)
    loop = Loop(
        learner,
        _arguments(inputs, columns),
        train_dataset=columns[TRAIN],
        # a part of a graph without the rest is another graph, whose loss says nothing
        eval_dataset=None if over_graph else columns.get(HELD_OUT),
        data_collator=collated,
    )
    unknown = columns[TRAIN].unknown
    return Prepared(loop, {**rows.counts, **({UNKNOWN: unknown} if unknown else {})})


def _of_one_form(
    lesson: Lesson, inputs: TrainingInputs, networks: Sequence[Network | None], *, of_nodes: bool
) -> RowSelection:
    """Return the rows with the numbers of their files, and without those that do not fit the others: of
    another shape than the first; with `of_nodes`, that are no node; and of a group that fills no batch.
    """
    rows = _loaded(inputs.rows, inputs.project, _read_as_files(lesson, inputs, networks))
    rows = rows.select(_of_one_shape(rows.parts[TRAIN][0]))
    if of_nodes:
        rows = rows.select(_of_nodes())
    if GROUP in rows.parts[TRAIN].column_names:
        rows = rows.select(_of_large_group(rows.parts[TRAIN], inputs.arguments))
    return rows


def _learning(
    lesson: Lesson,
    inputs: TrainingInputs,
    student: Network | None,
    shared: Network | None,
    shapes: Mapping[str, Shape | None],
    classes: Sequence[str],
) -> dict[str, Network]:
    """Return the networks that learn: the student, a new one where it is None, and its peers, by name."""
    set_seed(inputs.arguments["seed"])  # arms of one seed begin with the same weights
    if student is None:
        spec = NetworkSpec.of(inputs.network or {}, inputs.project)
        classifier = next(iter(shared.heads.values())) if shared else None
        student = _network(spec, lesson.inputs or (), shapes, classes, inputs, classifier)
    networks = {STUDENT: student}
    for name, source in lesson.teachers.items():
        if source.peer is not None:
            peer = NetworkSpec.of(source.peer, inputs.project)
            networks[name] = _network(peer, source.inputs or (), shapes, classes, inputs)
    return networks


def _arguments(inputs: TrainingInputs, columns: Mapping[str, Columns]) -> TrainingArguments:
    """Return the arguments of the loop; a batch is the whole set if `batch_size` is all."""
    size = inputs.arguments["per_device_train_batch_size"]
    arguments = {**inputs.arguments, "bf16": False, "max_grad_norm": 0.0}
    arguments["ddp_find_unused_parameters"] = True  # a head may take part in some steps only
    for split_name, name in (("train", TRAIN), ("eval", HELD_OUT)):
        if size == "all":
            arguments[f"per_device_{split_name}_batch_size"] = len(columns[name]) if name in columns else 1
    return TrainingArguments(**arguments, remove_unused_columns=False)


def _read_as_files(lesson: Lesson, inputs: TrainingInputs, networks: Sequence[Network | None]) -> set[str]:
    """Return the inputs that bodies read as files. Raise ConfigError if others read them as numbers."""
    reads: dict[str, set[bool]] = {}
    pairs: list[tuple[str, Sequence[str]]] = [(net.reads, [*net.inputs]) for net in networks if net]
    mappings = [(inputs.network, lesson.inputs), *((s.peer, s.inputs) for s in lesson.teachers.values())]
    for mapping, names in mappings:
        if mapping:
            spec = NetworkSpec.of(mapping, inputs.project)
            pairs.append((spec.module_of(inputs.project).reads, spec.inputs or names or []))
    for kind, names in pairs:
        for name in names if kind != "batch" else ():
            reads.setdefault(name, set()).add(kind == "files")
    for name, kinds in reads.items():
        if len(kinds) > 1:
            raise ConfigError(f"'{name}' is a file for one network, and numbers for another; {RECORD}")
    return {name for name, kinds in reads.items() if kinds == {True}}


def _loaded(rows: RowSelection, project: Project, files: Collection[str]) -> RowSelection:
    """Return the rows with the numbers of the files that inputs refer to, if the files can be read.

    Of inputs in `files`, the references stay.
    """
    first = rows.parts[TRAIN][0]
    names = [
        name
        for name, value in first.items()
        if name.startswith(INPUT) and is_reference(value) and name.removeprefix(INPUT) not in files
    ]
    if not names:
        return rows

    def numbers(row: Row) -> Row:
        return {**row, **{name: numbers_of(row[name], project.root) for name in names}}

    def assess(row: Row) -> Assessment:
        try:
            numbers(row)
        except ValueError as error:
            return Assessment(str(error))
        return Assessment()

    return rows.select(assess).map(numbers)


def _readable(network: Network, *, of_one_size: bool) -> Any:
    """Return an assessment that leaves out rows whose file a network cannot read, and with `of_one_size`
    those whose numbers have another shape than the first row's.
    """
    (name,) = network.inputs
    first: dict[str, Any] = {}

    def assess(row: Row) -> Assessment:
        try:
            numbers = network.body.read(row[f"{INPUT}{name}"])
        except ValueError as error:
            return Assessment(str(error))
        shapes = {argument: values.shape for argument, values in numbers.items()}
        if of_one_size and first.setdefault(name, shapes) != shapes:
            return Assessment(f"its '{name}' has another size than that of the first row")
        return Assessment()

    return assess


def _of_one_shape(first: Row) -> Any:
    """Return an assessment that leaves out rows whose inputs or vectors have another shape than the first."""
    names = [name for name in first if name.startswith(INPUT) or name.endswith(".vector")]
    shapes = {name: _shape(first[name]) for name in names}

    def assess(row: Row) -> Assessment:
        for name, shape in shapes.items():
            if _shape(row[name]) != shape:
                return Assessment(f"its '{name}' has another shape than that of the first row")
        return Assessment()

    return assess


def _reads_graph(lesson: Lesson, inputs: TrainingInputs, student: Network | None) -> bool:
    """Return whether a network that learns reads the edges of a graph."""
    mappings = [inputs.network, *(source.peer for source in lesson.teachers.values())]
    specs = [NetworkSpec.of(mapping, inputs.project) for mapping in mappings if mapping]
    specs += [student.spec] if student else []
    return any(spec.module_of(inputs.project).reads == "graph" for spec in specs)


def _of_nodes() -> Any:
    """Return an assessment that leaves out rows that are no node of their own."""
    nodes = set[str]()

    def assess(row: Row) -> Assessment:
        if row.get(NEIGHBOURS) is None:
            return Assessment("it has no list of neighbours")
        if row[NODE] in nodes:
            return Assessment("another row is the same node")
        nodes.add(row[NODE])
        return Assessment()

    return assess


def _of_large_group(rows: Any, arguments: Mapping[str, Any]) -> Any:
    """Return an assessment that leaves out the training rows of groups that are smaller than a batch."""
    size, counts = arguments["per_device_train_batch_size"], Counter(rows[GROUP])

    def assess(row: Row) -> Assessment:
        small = row["id"] in ids and size != "all" and counts[row[GROUP]] < size
        return Assessment(f"fewer rows of its group than a batch has ({size})" if small else "")

    ids = {*rows["id"]}
    return assess


def _graph(parts: Mapping[str, Any], classes: Sequence[str]) -> Columns:
    """Return all rows as the nodes of a graph. Only validation rows have their label."""
    rows = [row if name == VALIDATION else _unlabelled(row) for name, part in parts.items() for row in part]
    return Columns(Dataset.from_list(rows), classes)


def _unlabelled(row: Row) -> Row:
    return {**row, "label": []}


def _shape(value: Any) -> Shape | None:
    if is_reference(value):
        return FILE
    return None if isinstance(value, str) else shape_of(value)


def _shapes(row: Row) -> dict[str, Shape | None]:
    return {name.removeprefix(INPUT): _shape(value) for name, value in row.items() if name.startswith(INPUT)}


def _learnt(lesson: Lesson, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows by part; the training's with the other rows, without labels, if that is asked for."""
    others = list[Row]()
    if lesson.learn_validation or lesson.transductive:
        validation = parts.get(VALIDATION, ())
        others += validation if lesson.learn_validation else map(_unlabelled, validation)
    if lesson.transductive:
        others += map(_unlabelled, parts.get(HELD_OUT, ()))
    return {**parts, TRAIN: Dataset.from_list([*parts[TRAIN], *others])} if others else dict(parts)


def _classes(parts: Mapping[str, Any], lesson: Lesson, live: Mapping[str, Any]) -> list[str]:
    """Return the classes: those of the labels; without labels, those that a teacher finds likeliest."""
    labels = {label for part in parts.values() for row in part["label"] for label in row}
    if labels:
        return sorted(labels)
    for name in lesson.recorded():
        columns = [f"{COLUMN}{name}.names", f"{COLUMN}{name}.logprobs"]
        if columns[0] in parts[TRAIN].column_names:
            rows = zip(*(parts[TRAIN][column] for column in columns), strict=True)
            return sorted({max(zip(values, names, strict=True))[1] for names, values in rows})
    for network in live.values():
        return list(network.classes)
    raise ConfigError("there is no class to learn: no record has a label, and no teacher gives classes")


def _first_network(inputs: TrainingInputs) -> Network | None:
    """Return the network that the training begins with; None if it begins with random weights."""
    if not inputs.student:
        return None
    if not is_network(inputs.student):
        raise ConfigError(f"the student '{inputs.student}' is no network, and the training has inputs")
    network = load(Path(inputs.student), inputs.project)
    network.train()
    return network


def _shared(inputs: TrainingInputs) -> Network | None:
    """Return the earlier student whose classifier the student takes, if it takes one."""
    spec = NetworkSpec.of(inputs.network or {}, inputs.project)
    return load(inputs.models[spec.shared[1]], inputs.project) if spec.shared else None


def _check_labels(parts: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Raise ConfigError for a label that a shared classifier does not have."""
    labels = {label for part in parts.values() for row in part["label"] for label in row}
    if strange := sorted(labels - {*classes}):
        raise ConfigError(f"the shared classifier has no class '{strange[0]}': its are {', '.join(classes)}")


def _network(
    spec: NetworkSpec,
    names: Sequence[str],
    shapes: Mapping[str, Shape | None],
    classes: Sequence[str],
    inputs: TrainingInputs,
    classifier: Any = None,
) -> Network:
    """Return a network with random weights over inputs of these names."""
    body = spec.module_of(inputs.project)
    parts = {name: load(inputs.models[name], inputs.project) for name in body.models()}
    for part in parts.values():
        part.requires_grad_(False)
    chosen = {name: shapes[name] for name in spec.inputs or names}
    return Network(spec, chosen, classes, inputs.project, parts, classifier=classifier)


def _live(lesson: Lesson, inputs: TrainingInputs) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the frozen networks that teach, by name, and the network and head behind each name."""
    networks: dict[str, Any] = {}
    heads: dict[str, tuple[str, str | None]] = {}
    for name, source in lesson.teachers.items():
        heads[name] = (source.model or name, source.head)
        if source.model and source.model not in networks:
            networks[source.model] = load(inputs.models[source.model], inputs.project).requires_grad_(False)
    return networks, heads
