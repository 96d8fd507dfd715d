"""graph: join triples from many texts in one graph (Buehler 2024, GraphReasoning; 2023, MechGPT)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from pydantic import Field

from distillgen.algorithms.name_graph import commonest, communities, largest, name_key, picture
from distillgen.extras import need
from distillgen.flow.in_thread import in_thread
from distillgen.flow.measures import measures_of
from distillgen.flow.stage import CHUNK, CheckContext, Chunks, Job, Stage
from distillgen.flow.whole_set import Spool, embedded
from distillgen.local_models.embedder import check as check_embedder
from distillgen.record import Record, digest, dumps, text_of
from distillgen.state_files import replace_bytes
from distillgen.text.display import visible
from distillgen.text.words import content

if TYPE_CHECKING:
    import networkx as nx

NEAR = "appears with"  # the relation of two nodes that share texts but no triple

Dropped: TypeAlias = dict[int, tuple[str, str]]
"""The rule and the reason for dropping a triple, by the index of the triple."""


class Triple(NamedTuple):
    """The edge of a record, with the id and the text of the record."""

    id: str
    head: str
    relation: str
    tail: str
    text: str


class Graph(Stage):
    """Build a graph of the records, each an edge from `head` to `tail`.

    Names that differ only in case, articles or plural are one node. With `min_cosine`, a name also joins
    a more frequent name with a similar embedding, unless they differ in a number. The first record
    of each pair of nodes is kept, with all relations of the pair; the others are dropped. A kept record
    has the scores `<name>.count` (records of its pair), `<name>.community` (of its head; 0 is the
    largest) and `<name>.degree` (of its less connected end). The graph is in `graph.graphml`, in
    `graph.json` and in the report. The stage waits for all records and keeps them on disk; memory
    holds names and edges.
    """

    kind = "graph"
    scope = "set"
    remakes = True
    reads = "the fields `head`, `relation`, `tail` and `text`"
    writes = (
        "the scores `<name>.count`, `<name>.community` and `<name>.degree`, `graph.graphml` and "
        "`graph.json`; drops records of the same pair"
    )
    selects = True

    head: str = Field("head", description="field with the node where an edge begins")
    relation: str = Field("relation", description="field with the meaning of the edge")
    tail: str = Field("tail", description="field with the node where the edge ends")
    min_cosine: float | None = Field(
        0.9,
        gt=0,
        le=1,
        description="smallest cosine of two names that are one node; null: embeddings join no names",
    )
    embedder: str = Field(
        "minilm",
        description="embedding model of the names: minilm, a local folder or a name on the Hugging Face "
        "Hub; words: compare content words",
    )
    proximity: bool = Field(
        False,
        description="also join nodes that occur together in more than one text, with the relation "
        "'appears with'",
    )
    text: str | None = Field(
        None, description="field that identifies a text, for proximity; default: the record's source"
    )
    communities: Literal["louvain", "girvan_newman"] = Field(
        "louvain",
        description="algorithm that finds communities; girvan_newman takes 2 s for 200 edges, 11 s for 400",
    )
    component: Literal["all", "giant"] = Field(
        "all", description="all: keep every part of the graph; giant: keep only the largest connected part"
    )

    @property
    def file(self) -> str:
        """The name of the files without their ending."""
        return self.kind if self.name == self.kind else f"{self.kind}-{self.name}"

    def products(self, directory: Path) -> list[Path]:
        """Return the files of the graph."""
        return [directory / f"{self.file}.{ending}" for ending in ("graphml", "json")]

    def uses_seed(self) -> bool:
        """Return True: it draws by the pipeline's seed."""
        return True

    def scores(self) -> list[str]:
        """Return the names of an edge's numbers."""
        return [f"{self.name}.{number}" for number in ("count", "community", "degree")]

    def check(self, context: CheckContext) -> frozenset[str]:
        """Raise ConfigError if a field or a package is missing."""
        for option in ("head", "relation", "tail", "text"):
            if name := getattr(self, option):
                context.need(name, f"'{option}'")
        need("it", "networkx", "numpy")
        if self.min_cosine is not None and self.embedder != "words":
            check_embedder(self.embedder)
        return context.fields

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Gather all edges, build the graph, and yield the records."""
        triples: list[Triple] = []
        with Spool(job) as spool:
            async for chunk in chunks:
                spool.add(chunk)
                triples += [self._triple(record) for record in chunk if not record.dropped]
            nodes = await self._nodes(triples, job)
            graph, dropped = await in_thread(self._build, triples, nodes, job)
            kept = {edge["triples"][0]: ends for *ends, edge in graph.edges(data=True) if edge["triples"]}
            numbers = count()

            def settled(record: Record) -> Record:
                i = next(numbers)
                if i in dropped:
                    return record.drop(self.name, *dropped[i])
                others = (triples[other].id for other in graph.edges[kept[i]]["triples"][1:])
                return self._kept(replace(record, parents=(*record.parents, *others)), kept[i], graph)

            for chunk in spool.chunks():
                yield [record if record.dropped else settled(record) for record in chunk]
            near = (ends for *ends, edge in graph.edges(data=True) if not edge["triples"])
            while records := [
                self._kept(Record(digest([self.name, ends]), {}), ends, graph) for ends in islice(near, CHUNK)
            ]:
                yield records

    def _triple(self, record: Record) -> Triple:
        head, relation, tail = (
            _line(record.fields.get(name)) for name in (self.head, self.relation, self.tail)
        )
        return Triple(
            record.id,
            head,
            relation,
            tail,
            text_of(record.fields.get(self.text)) if self.text else record.source,
        )

    async def _nodes(self, triples: Sequence[Triple], job: Job) -> dict[str, str]:
        """Return the node of each spelling of a name. A name without content has no node."""
        from distillgen.algorithms.selection import leaders

        spellings = defaultdict[tuple[str, ...], list[str]](list)
        for triple in triples:
            for name in (triple.head, triple.tail):
                if content(name):
                    spellings[name_key(name)].append(name)
        spellings_of = {
            commonest(group): group for group in sorted(spellings.values(), key=len, reverse=True)
        }
        names, leader = list(spellings_of), list(range(len(spellings_of)))
        if self.min_cosine is not None and self.embedder == "words":
            first = dict[frozenset[str], int]()
            leader = [first.setdefault(frozenset(content(name)), i) for i, name in enumerate(names)]
        elif self.min_cosine is not None and names:
            vectors = await embedded(names, self.embedder, job.services.ledger)
            near = (await in_thread(leaders, vectors, self.min_cosine))[0].tolist()
            leader = [to if _figures(names[to]) == _figures(names[i]) else i for i, to in enumerate(near)]
        return {
            spelling: names[to]
            for to, group in zip(leader, spellings_of.values(), strict=True)
            for spelling in group
        }

    def _build(
        self, triples: Sequence[Triple], nodes: Mapping[str, str], job: Job
    ) -> tuple[nx.DiGraph, Dropped]:
        """Build and write the graph; return it with the reasons for dropping triples."""
        import networkx as nx

        graph, dropped = nx.DiGraph(), Dropped()
        texts = defaultdict[str, set[str]](set)
        for i, triple in enumerate(triples):
            head, tail = nodes.get(triple.head, ""), nodes.get(triple.tail, "")
            texts[triple.text] |= {head, tail} - {""}
            if not (head and triple.relation and tail):
                nothing = self.head if not head else self.tail if not tail else self.relation
                dropped[i] = "empty", f"its '{nothing}' names nothing"
            elif head == tail:
                dropped[i] = "self_loop", f"its '{self.head}' and its '{self.tail}' are one node, {head!r}"
            elif graph.has_edge(head, tail):
                edge = graph.edges[head, tail]
                dropped[i] = "joined", f"joins {triples[edge['triples'][0]].id}, of the same pair"
                edge["triples"].append(i)
            else:
                graph.add_edge(head, tail, triples=[i])
        measured = self._near(graph, texts) if self.proximity else {}
        if self.component == "giant":
            inside = largest(graph.to_undirected(as_view=True))
            reason = f"in a part apart from the largest, of {len(inside)} nodes"
            for head, _, edge in list(graph.edges(data=True)):
                dropped |= {i: ("fragment", reason) for i in edge["triples"] if head not in inside}
            graph.remove_nodes_from([node for node in graph if node not in inside])
        for _, _, edge in graph.edges(data=True):
            edge["relation"] = "; ".join(dict.fromkeys(triples[i].relation for i in edge["triples"])) or NEAR
            edge["count"] = edge.get("count") or len(edge["triples"])
        job.services.measures.update(measures_of(self._placed(graph, nodes, job.context.seed) | measured))
        self._write(graph, job.context.directory)
        return graph, dropped

    def _near(self, graph: nx.DiGraph, texts: Mapping[str, set[str]]) -> dict[str, float]:
        """Join the pairs that no triple joins but several texts name. Count the pairs that one text names."""
        pairs = Counter(pair for nodes in texts.values() for pair in combinations(sorted(nodes), 2))
        new = {
            pair: n for pair, n in pairs.items() if not (graph.has_edge(*pair) or graph.has_edge(*pair[::-1]))
        }
        graph.add_edges_from((*pair, {"triples": [], "count": n}) for pair, n in new.items() if n > 1)
        return {"pairs near each other in one text only": sum(n == 1 for n in new.values())}

    def _placed(self, graph: nx.DiGraph, nodes: Mapping[str, str], seed: int) -> dict[str, float]:
        """Set the community, degree, names and position of every node. Return figures for the report."""
        import networkx as nx

        plain = nx.Graph(graph.edges)
        parts, places = communities(plain, self.communities, seed), picture(plain, seed)
        names = defaultdict[str, set[str]](set)
        for spelling, node in nodes.items():
            names[node].add(spelling)
        for number, part in enumerate(parts):
            for node in part:
                attributes = {
                    "community": number,
                    "degree": plain.degree[node],
                    "names": "; ".join(sorted(names[node])),
                }
                graph.nodes[node].update(attributes, **dict(zip("xy", places.get(node, ()), strict=False)))
        return {
            "nodes": len(graph),
            "spellings": sum(len(names[node]) for node in graph),
            "communities": len(parts),
            "modularity": float(nx.community.modularity(plain, parts)) if plain.edges else 0.0,
            "share of nodes in the largest part": len(largest(plain)) / (len(plain) or 1),
        }

    def _write(self, graph: nx.DiGraph, directory: Path) -> None:
        import networkx as nx

        written_graph = nx.DiGraph()
        written_graph.add_nodes_from(
            sorted(graph.nodes(data=True), key=lambda n: (n[1]["community"], -n[1]["degree"], n[0]))
        )
        written_graph.add_edges_from(
            (a, b, {"relation": e["relation"], "count": e["count"]}) for a, b, e in graph.edges(data=True)
        )
        graphml, plain = self.products(directory)
        nx.write_graphml(written_graph, graphml)
        replace_bytes(plain, dumps(nx.node_link_data(written_graph, edges="edges"), sort_keys=False) + b"\n")

    def _kept(self, record: Record, ends: Sequence[str], graph: nx.DiGraph) -> Record:
        """Return the record of an edge of the graph."""
        edge, (head, tail) = graph.edges[ends], ends
        scores = {
            "count": edge["count"],
            "community": graph.nodes[head]["community"],
            "degree": min(graph.nodes[end]["degree"] for end in ends),
        }
        fields = {**record.fields, self.head: head, self.relation: edge["relation"], self.tail: tail}
        return replace(record, fields=fields).scored(
            {f"{self.name}.{key}": value for key, value in scores.items()}
        )


def _line(value: Any) -> str:
    """Return the text of a field on one line and in lower case."""
    return visible(" ".join(text_of(value).split())).lower()


def _figures(name: str) -> list[str]:
    return sorted(re.findall(r"\d+", name))
