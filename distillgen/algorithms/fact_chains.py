"""Chains of facts, and counterfactual edits that are carried down a chain.

A fact says who or what the `relation` of `head` is. A chain follows relations from one entity to the next,
and its answer is the last entity. An edit of an edge gives it another end; all edges after it are then other
facts, those of the entities that are reached instead (Zhong et al. 2023, MQuAKE).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias


class Fact(NamedTuple):
    """An edge of the graph: the `relation` of `head` is `tail`."""

    head: str
    relation: str
    tail: str


Tails: TypeAlias = Mapping[tuple[str, str], str]
"""The tail of each head and relation, which is one."""


def simple(chain: Sequence[Fact]) -> bool:
    """Return whether no entity stands twice in the chain: then no edge does, and each edit has one place."""
    entities = [chain[0].head, *(fact.tail for fact in chain)]
    return len(set(entities)) == len(entities)


class Facts:
    """A graph of facts, in which each head and relation have one tail."""

    def __init__(self, tails: Tails) -> None:
        self._tails = dict(tails)
        self._of: dict[str, list[Fact]] = {}
        ranges: dict[str, dict[str, None]] = {}
        for (head, relation), tail in tails.items():
            self._of.setdefault(head, []).append(Fact(head, relation, tail))
            ranges.setdefault(relation, {})[tail] = None
        self._ranges = {relation: list(ends) for relation, ends in ranges.items()}

    def chain(self, first: Fact, hops: int, chance: random.Random) -> tuple[Fact, ...] | None:
        """Return a random simple chain of `hops` facts that begins with `first`, or None if there is none."""
        if first.head == first.tail:
            return None
        return next(self._longer((first,), hops, chance), None)

    def _longer(
        self, chain: tuple[Fact, ...], hops: int, chance: random.Random
    ) -> Iterator[tuple[Fact, ...]]:
        if len(chain) == hops:
            yield chain
            return
        following = self._of.get(chain[-1].tail, [])
        for fact in chance.sample(following, len(following)):
            if simple((*chain, fact)):
                yield from self._longer((*chain, fact), hops, chance)

    def edit(
        self, chain: Sequence[Fact], edges: Sequence[int], chance: random.Random
    ) -> tuple[tuple[Fact, ...], tuple[Fact, ...]] | None:
        """Give these edges of a chain other ends, one after the other, and carry each down the chain.

        Returns the edited chain, and the facts that were changed; None where an edge has no other end. A new
        end is one that the relation has elsewhere, has all facts that the rest of the chain needs, and leads
        to another answer than the chain's own.
        """
        return next(self._edits(tuple(chain), chain[-1].tail, (), sorted(edges), chance), None)

    def _edits(
        self,
        chain: tuple[Fact, ...],
        answer: str,
        changes: tuple[Fact, ...],
        edges: Sequence[int],
        chance: random.Random,
    ) -> Iterator[tuple[tuple[Fact, ...], tuple[Fact, ...]]]:
        """Yield the ways to edit the edges of a chain of which some are edited, in random order."""
        if not edges:
            yield chain, changes
            return
        fact, relations = chain[edges[0]], [fact.relation for fact in chain]
        ends = [end for end in self._ranges[fact.relation] if end != fact.tail]
        for end in chance.sample(ends, len(ends)):
            changed = (*changes, fact._replace(tail=end))
            carried = self.follow(chain[0].head, relations, changed)
            if carried and simple(carried) and carried[-1].tail != answer:
                yield from self._edits(carried, answer, changed, edges[1:], chance)

    def follow(
        self, head: str, relations: Sequence[str], changes: Sequence[Fact] = ()
    ) -> tuple[Fact, ...] | None:
        """Return the facts that lead from `head` along the relations, with those in `changes` in the place of
        the graph's. Return None if one is missing.
        """
        changed = {(fact.head, fact.relation): fact.tail for fact in changes}
        chain: list[Fact] = []
        for relation in relations:
            tail = changed.get((head, relation)) or self._tails.get((head, relation))
            if tail is None:
                return None
            chain.append(Fact(head, relation, tail))
            head = tail
        return tuple(chain)
