"""chains: make chains of facts, with counterfactual edits that are carried down them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from distillgen.algorithms.fact_chains import Fact, Facts
from distillgen.flow.condition import Condition
from distillgen.flow.in_thread import in_thread
from distillgen.flow.ordered import splice
from distillgen.flow.stage import CheckContext, Chunk, Chunks, Estimate, Job, Stage
from distillgen.flow.whole_set import Spool
from distillgen.option_types import TemplateText
from distillgen.record import META, SPLIT, TEST, TRAIN, Record, Unrenderable, digest, text_of

Level: TypeAlias = Literal["instruction", "context", "agreement"]

FIELDS = ("chain", "edited", "changes", "facts", "answer", "edited_answer", "hops", "level")
"""The fields that a chain has, besides those of its first fact."""


class Chains(Stage):
    """Make chains of facts that begin with each fact, and edit them.

    A chain follows relations from entity to entity, and its answer is the last one. `edits` of its edges get
    other ends, which their relation has elsewhere. Each edit is carried down the chain: the edges after it
    are the facts of the entities that are now reached.

    The level says where the edit stands. At the level `instruction`, an assumption states it (`changes`), and
    `facts` are those of the chain and those that the edited chain needs. At the level `context`, `facts` are
    those of the edited chain, which contradict what a model remembers. At the level `agreement`, nothing is
    edited. The order of `facts` is random.

    All facts of a chain are in one part of the data (`split`). A training fact with an entity or a relation
    that a held-out fact has is dropped; so is a fact whose head and relation have several tails, and a copy.
    The stage waits for all records and keeps them on disk; memory holds the facts.
    """

    kind = "chains"
    scope = "set"
    remakes = True
    reads = "the fields `head`, `relation` and `tail`"
    writes = (
        "the fields `chain`, `edited`, `changes`, `facts`, `answer`, `edited_answer`, `hops`, `level`; "
        "with `held_out` also `split`; one record for each chain; drops facts that no chain may use"
    )

    head: str = Field("head", description="field with the entity that a fact is about")
    relation: str = Field("relation", description="field with the relation")
    tail: str = Field("tail", description="field with the entity that the fact names")
    hops: tuple[int, int] = Field((1, 3), description="smallest and largest number of facts in a chain")
    edits: int = Field(1, ge=1, description="number of edges to edit; of a shorter chain, all")
    levels: dict[Level, Annotated[int, Field(ge=1)]] = Field(
        {"instruction": 1, "context": 1},
        min_length=1,
        description="number of chains of each level that begin with a fact",
    )
    held_out: float | TemplateText | None = Field(
        None,
        description="facts of the test: a template that is true of them, such as "
        "\"{{ region == 'north' }}\"; or a share of all entities and relations, which is drawn: facts that "
        "have both a drawn name and another are then dropped; default: the facts' own `split`",
    )

    @model_validator(mode="after")
    def _hops(self) -> Chains:
        if isinstance(self.held_out, float) and not 0 < self.held_out < 1:
            raise ValueError(f"held_out: {self.held_out:g} is no share between 0 and 1")
        if not 1 <= self.hops[0] <= self.hops[1]:
            raise ValueError(f"hops: {list(self.hops)}: give the smallest number first, at least 1")
        names = [self.head, self.relation, self.tail]
        if len(set(names)) < len(names):
            raise ValueError("'head', 'relation' and 'tail' are three fields")
        if reserved := sorted({META, SPLIT, *FIELDS} & set(names)):
            raise ValueError(f"the stage writes '{reserved[0]}' itself; rename that field of the facts")
        return self

    def uses_seed(self) -> bool:
        """Return True: it draws by the pipeline's seed."""
        return True

    def check(self, context: CheckContext) -> frozenset[str]:
        """Raise ConfigError if a field is missing."""
        for option in ("head", "relation", "tail"):
            context.need(getattr(self, option), f"'{option}'")
        if isinstance(self.held_out, str):
            Condition(self.held_out).check(context, "'held_out'")
        return context.fields | set(FIELDS) | ({SPLIT} if self.held_out is not None else set())

    def estimate(self, before: Estimate, samples: Sequence[Record], context: CheckContext) -> Estimate:
        """Return the number of chains if every fact begins all of its chains."""
        rows = None if before.rows is None else before.rows * sum(self.levels.values())
        return Estimate(rows, made_bytes=before.made_bytes)

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Gather all facts, and replace each by the chains that begin with it."""
        seed, usable = job.context.seed, _Usable(self, job.context.seed)
        with Spool(job) as spool:
            async for chunk in chunks:
                spool.add(chunk)
                for record in chunk:
                    if not record.dropped:
                        usable.add(record)
            await in_thread(usable.settle)
            for chunk in spool.chunks():
                yield splice(
                    chunk, (self._replaced(record, usable, seed) for record in chunk if not record.dropped)
                )

    def fact(self, record: Record) -> Fact:
        """Return the fact of a record; a part that the record lacks is empty."""
        return Fact(
            *(text_of(record.fields.get(name)).strip() for name in (self.head, self.relation, self.tail))
        )

    def _replaced(self, record: Record, usable: _Usable, seed: int) -> Chunk:
        fact = self.fact(record)
        part, reason = usable.judge(fact, record)
        if reason:
            return [record.drop(self.name, *reason)]
        if self.held_out is not None:
            record = replace(record, fields={**record.fields, SPLIT: part})
        children = [
            child
            for level, n in self.levels.items()
            for i in range(n)
            if (child := self._child(record, fact, usable.graphs[part], level, i, seed))
        ]
        why = f"no chain of {self.hops[0]} to {self.hops[1]} facts that can be edited begins with it"
        return children or [record.drop(self.name, "no_chain", why)]

    def _child(
        self, record: Record, fact: Fact, graph: Facts, level: Level, i: int, seed: int
    ) -> Record | None:
        """Return a chain that begins with the fact; of the lengths, the first one drawn that has one."""
        chance = random.Random(digest([seed, self.name, fact, level, i]))
        lengths = range(self.hops[0], self.hops[1] + 1)
        for hops in chance.sample(lengths, len(lengths)):
            chain = graph.chain(fact, hops, chance)
            if chain is None:
                continue
            edges = chance.sample(range(hops), min(self.edits, hops))
            edit = (chain, ()) if level == "agreement" else graph.edit(chain, edges, chance)
            if edit is not None:
                fields = {**record.fields, **_fields(chain, *edit, level, chance)}
                child_id = digest([record.id, self.name, level, i, fields])
                return replace(record, id=child_id, fields=fields, parents=(record.id,))
        return None


def _fields(
    chain: Sequence[Fact],
    edited: Sequence[Fact],
    changes: Sequence[Fact],
    level: Level,
    chance: random.Random,
) -> dict[str, object]:
    """Return the fields of a chain."""
    stated = edited if level == "context" else [*chain, *(fact for fact in edited if fact not in changes)]
    facts = list(dict.fromkeys(stated))
    chance.shuffle(facts)
    return {
        **{
            name: [fact._asdict() for fact in part]
            for name, part in (("chain", chain), ("edited", edited), ("changes", changes), ("facts", facts))
        },
        "answer": chain[-1].tail,
        "edited_answer": edited[-1].tail,
        "hops": len(chain),
        "level": level,
    }


class _Usable:
    """The facts that chains may use, by the part of the data, and the reasons why others are not used."""

    def __init__(self, stage: Chains, seed: int) -> None:
        self._stage, self._seed = stage, seed
        self._share = stage.held_out if isinstance(stage.held_out, float) else None
        self._test = Condition(stage.held_out) if isinstance(stage.held_out, str) else None
        self._ends: dict[tuple[str, str], dict[str, str]] = {}
        self._parts: dict[Fact, str] = {}
        self._tested: set[str] = set()
        self._unknown: dict[str, str] = {}
        self.graphs: dict[str, Facts] = {}

    def add(self, record: Record) -> None:
        """Take up the fact of a record."""
        fact = self._stage.fact(record)
        if not all(fact):
            return
        try:
            part = record.part if self._test is None else TEST if self._test.holds(record) else TRAIN
        except Unrenderable as error:
            self._unknown[record.id] = f"'held_out': {error}"
            return
        self._ends.setdefault((fact.head, fact.relation), {}).setdefault(fact.tail, record.id)
        self._parts.setdefault(fact, part)
        if part != TRAIN:
            self._tested |= {*fact}

    def settle(self) -> None:
        """Build the graph of each part, when all facts are there."""
        tails: dict[str, dict[tuple[str, str], str]] = {}
        for fact in self._parts:
            part, reason = self._place(fact)
            if not reason:
                tails.setdefault(part, {})[fact.head, fact.relation] = fact.tail
        self.graphs = {part: Facts(part_tails) for part, part_tails in tails.items()}

    def judge(self, fact: Fact, record: Record) -> tuple[str, tuple[str, str] | None]:
        """Return the part of a record's fact, and the rule and the reason if no chain may use it."""
        if not all(fact):
            name = next(getattr(self._stage, part) for part, text in fact._asdict().items() if not text)
            return "", ("empty", f"its '{name}' names nothing")
        if why := self._unknown.get(record.id):
            return "", ("held_out", why)
        if (first := self._ends[fact.head, fact.relation][fact.tail]) != record.id:
            return "", ("repeated", f"repeats the fact of {first}")
        return self._place(fact)

    def _place(self, fact: Fact) -> tuple[str, tuple[str, str] | None]:
        ends = self._ends[fact.head, fact.relation]
        if len(ends) > 1:
            several = " and ".join(list(ends)[:2])
            return "", ("ambiguous", f"the {fact.relation} of {fact.head} is {several}")
        if self._share is None:
            part = self._parts[fact]
            shared = sorted({*fact} & self._tested) if part == TRAIN else ()
            return part, ("shared", f"a held-out fact has '{shared[0]}', too") if shared else None
        sides = {self._drawn("entity", fact.head), self._drawn("entity", fact.tail)}
        sides.add(self._drawn("relation", fact.relation))
        crosses = "its entities and its relation are drawn for both the training and the test"
        return (TEST if True in sides else TRAIN), ("crosses", crosses) if len(sides) > 1 else None

    def _drawn(self, kind: str, name: str) -> bool:
        """Return whether the entity or relation is drawn for the test."""
        return random.Random(digest([self._seed, kind, name])).random() < (self._share or 0.0)
