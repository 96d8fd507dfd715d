"""cluster: keep the best of the records that mean nearly the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from distillgen.flow.in_thread import in_thread
from distillgen.flow.stage import CheckContext, Chunks, Job
from distillgen.flow.whole_set import Placed, Spool, Vectors, number_of
from distillgen.record import Record, digest

if TYPE_CHECKING:
    from distillgen.flow.whole_set import Array


class Cluster(Placed):
    """Group records that mean nearly the same, and keep one of each group.

    The kept record has the size of its cluster as the score `<name>.size`, and the ids of the other
    records among its parents. The stage waits for all records, on disk; memory holds their vectors.

    The method is leader clustering: records are taken from the best on, and each joins the most similar
    leader, or becomes a leader itself if none has a cosine of `min_cosine` or more. So every dropped
    record is that near to the kept record of its cluster, and no two kept records are. With `per`, only
    records with the same values of these fields are compared.

    With `k`, the method is k-means, which makes that many clusters of records with a similar topic. They are
    numbered from 0 on, so that later stages can name them.
    """

    kind = "cluster"
    scope = "set"
    reads = "the text in `field`, or the numbers in `vector`; the score or field `by`; the fields `per`"
    writes = (
        "the score `<name>.size` and the parents of the kept records, or with `keep: all` the score "
        "`<name>.id`; drops the other records of a cluster"
    )
    selects = True

    min_cosine: float = Field(
        0.9, gt=-1, le=1, description="smallest cosine of two records that count as near-duplicates"
    )
    k: int | None = Field(
        None, ge=2, description="number of clusters, instead of `min_cosine` and `per`; needs `keep: all`"
    )
    by: str | None = Field(
        None,
        description="score or numeric field; the record with the largest value stands for its cluster; "
        "default: the first record",
    )
    per: list[str] | None = Field(
        None,
        min_length=1,
        description="fields whose values the records of a cluster share; default: a cluster may hold any",
    )
    keep: Literal["one", "all"] = Field(
        "one",
        description="one: keep the record that stands for each cluster; all: drop none, and give each the "
        "score `<name>.id`, its cluster's number",
    )

    @model_validator(mode="after")
    def _one_method(self) -> Cluster:
        if self.k and (self.keep == "one" or self.by):
            raise ValueError("the clusters of 'k' have no best record: give 'keep: all', and leave out 'by'")
        if self.k and ("min_cosine" in self.model_fields_set or self.per):
            raise ValueError("'k' makes clusters of all records: leave out 'min_cosine' and 'per'")
        return self

    def scores(self) -> list[str]:
        """Return the names of the cluster's size and, where all records stay, its number."""
        return [f"{self.name}.size", *([f"{self.name}.id"] if self.keep == "all" else [])]

    def check(self, context: CheckContext) -> frozenset[str]:
        """Raise ConfigError if a field or a package is missing."""
        self.check_vectors(context)
        for name in self.per or ():
            context.need(name, "'per'")
        return context.fields

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Gather all records, cluster them, and yield them."""
        with Spool(job) as spool:
            vectors, ids, values = Vectors(self, job), list[str](), list[float]()
            groups: dict[str, list[int]] = {}
            async for chunk in chunks:
                chunk = await vectors.add(chunk)
                live = [record for record in chunk if not record.dropped]
                spool.add(chunk)
                for i, record in enumerate(live, len(ids)):
                    key = digest([record.fields.get(name) for name in self.per]) if self.per else ""
                    groups.setdefault(key, []).append(i)
                ids += [record.id for record in live]
                values += [self._worth(record) for record in live]
            if self.k:
                clusters = await in_thread(_parted, vectors.all(), ids, self.k)
            else:
                clusters = await in_thread(_clustered, vectors.all(), values, ids, groups, self.min_cosine)
            numbers = count()
            for chunk in spool.chunks():
                yield [
                    record if record.dropped else self._settled(record, next(numbers), clusters)
                    for record in chunk
                ]

    def _worth(self, record: Record) -> float:
        value = number_of(record, self.by) if self.by else 0.0
        return float("-inf") if value is None else value

    def _settled(self, record: Record, i: int, clusters: _Clusters) -> Record:
        leader = clusters.leader[i]
        members = clusters.members[leader]
        if self.keep == "all":
            return record.scored({f"{self.name}.id": leader, f"{self.name}.size": len(members)})
        if leader != i:
            return record.drop(
                self.name,
                "near",
                f"cosine {clusters.cosine[i]:.2f} to {clusters.ids[leader]} >= {self.min_cosine:g}",
            )
        others = (clusters.ids[other] for other in members if other != i)
        return replace(record.scored({f"{self.name}.size": len(members)}), parents=(*record.parents, *others))


@dataclass(frozen=True)
class _Clusters:
    """The ids of the live records, the leader of each, the cosine to it, and the members of each leader."""

    ids: Sequence[str]
    leader: Sequence[int]
    cosine: Sequence[float]
    members: Mapping[int, Sequence[int]]


def _clustered(
    vectors: Array,
    values: Sequence[float],
    ids: Sequence[str],
    groups: Mapping[str, Sequence[int]],
    min_cosine: float,
) -> _Clusters:
    """The largest values lead, each group apart."""
    import numpy as np

    from distillgen.algorithms.selection import leaders

    leader, cosine = np.arange(len(ids)), np.ones(len(ids), np.float32)
    worth = np.array(values)
    for group in groups.values():
        order = np.array(group)[np.argsort(-worth[group], kind="stable")]
        leaders_in_order, cosine[order] = leaders(vectors[order], min_cosine)
        leader[order] = order[leaders_in_order]
    return _Clusters(ids, leader.tolist(), cosine.tolist(), _members(leader.tolist()))


def _parted(vectors: Array, ids: Sequence[str], k: int) -> _Clusters:
    """The number of a cluster stands in the place of its leader."""
    from distillgen.algorithms.selection import k_means

    numbers = k_means(vectors, k).tolist() if ids else []
    return _Clusters(ids, numbers, [], _members(numbers))


def _members(cluster: Sequence[int]) -> dict[int, list[int]]:
    members: dict[int, list[int]] = {}
    for i, of in enumerate(cluster):
        members.setdefault(of, []).append(i)
    return members
