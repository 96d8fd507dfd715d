"""Graphs of named things: which names are one node, what belongs together, how one thing leads to another, how it is drawn."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from distillgen.text.words import content, words

if TYPE_CHECKING:
    import networkx as nx

DRAWN = 60  # nodes in a picture at most
WIDTH, HEIGHT, LETTER, LINE = (
    1000.0,
    640.0,
    7.2,
    17.0,
)  # of a picture, of a letter of its labels, and of a line of them

_ARTICLES = frozenset(("a", "an", "the"))
_PLURAL = re.compile(r"(?<=..[^isu])s$")


def name_key(name: str) -> tuple[str, ...]:
    """What spellings of one name share: case, articles, punctuation and an English plural do not count."""
    return tuple(_singular(word) for word in words(name) if word not in _ARTICLES)


def _singular(word: str) -> str:
    """A form that singular and plural share, not the singular itself: stress and stresses, phase and phases."""
    word = _PLURAL.sub("", word).removesuffix("e")
    return f"{word[:-1]}i" if word.endswith("y") else word


def commonest(spellings: Iterable[str]) -> str:
    """The spelling that occurs most often; of several the shortest, and the first in the alphabet."""
    return min(Counter(spellings).items(), key=lambda found: (-found[1], len(found[0]), found[0]))[0]


def communities(graph: nx.Graph, method: Literal["louvain", "girvan_newman"], seed: int) -> list[set[str]]:
    """Parts that are joined more densely inside than to one another, the largest first (Blondel et al. 2008; Girvan and Newman
    2002, cut where modularity is highest: Newman and Girvan 2004, section IV).
    """
    import networkx as nx

    names, numbered = (
        list(graph),
        nx.convert_node_labels_to_integers(graph),
    )  # sets of numbers have one order in every process
    parts = [{node} for node in numbered]
    if method == "louvain" and numbered.number_of_edges():
        parts = nx.community.louvain_communities(numbered, seed=seed)
    elif numbered.number_of_edges():
        whole = list(nx.connected_components(numbered))
        levels = [whole, *map(list, nx.community.girvan_newman(numbered))]
        parts = max(levels, key=lambda level: float(nx.community.modularity(numbered, level)))
    named = [{names[i] for i in part} for part in parts]
    return sorted(named, key=lambda part: (-len(part), min(part)))


def largest(graph: nx.Graph) -> set[str]:
    """The nodes of the giant component, the first of several as large."""
    import networkx as nx

    return max(map(set, nx.connected_components(graph)), key=len, default=set())


def mentioned(names: Iterable[str], text: str) -> list[str]:
    """The names that a text speaks of, in the order of the text: all their content words stand in it, and no longer name has
    them all.
    """
    place = {
        word: i
        for i, word in reversed(list(enumerate(stem for told in words(text) for stem in content(told))))
    }
    found = {name: own for name in names if (own := frozenset(content(name))) and own <= place.keys()}
    longest = (name for name, own in found.items() if not any(own < other for other in found.values()))
    return sorted(longest, key=lambda name: (min(place[word] for word in found[name]), name))


def connections(graph: nx.Graph, ends: Sequence[str], most: int) -> list[tuple[str, str]]:
    """The edges of the shortest paths between any two of `ends`, path after path from the shortest on, while whole ones fit in
    `most`; of a single end, those to its neighbours. Of equally short paths the one whose edges occur most often.
    """
    import networkx as nx

    if len(ends) == 1:
        near = sorted(graph[ends[0]], key=lambda node: (-graph[ends[0]][node]["count"], node))
        return [(ends[0], node) for node in near[:most]]
    pairs = [(a, b) for i, a in enumerate(ends) for b in ends[i + 1 :] if nx.has_path(graph, a, b)]

    def length(a: str, b: str, edge: Mapping[str, Any]) -> float:
        return 1 + 1e-3 / float(edge["count"])

    paths = sorted((nx.dijkstra_path(graph, a, b, weight=length) for a, b in pairs), key=len)
    found = dict[frozenset[str], tuple[str, str]]()
    for path in paths:
        new = {frozenset(edge): edge for edge in zip(path, path[1:], strict=False)}
        if len(found | new) <= most:
            found |= new
    return list(found.values())


def picture(graph: nx.Graph, seed: int) -> dict[str, tuple[float, float]]:
    """Where to draw the best connected node and, step by step, the best connected one next to those that are drawn, such that
    no label covers another: WIDTH wide and HEIGHT high, x and y by the node's name.
    """
    import networkx as nx
    import numpy as np

    drawn = nx.Graph()  # built in an order in which no set has a part
    near = [(-graph.degree(node), node) for node in largest(graph)]
    near = [min(near)] if near else []
    while near and len(drawn) < DRAWN:
        _, node = heapq.heappop(near)
        if node not in drawn:
            drawn.add_node(node)
            for other in graph[node]:
                heapq.heappush(near, (-graph.degree(other), other))
    drawn.add_edges_from(edge for edge in graph.edges if drawn.nodes >= set(edge))
    if not drawn:
        return {}
    layout = nx.spring_layout(drawn, k=2.2 / len(drawn) ** 0.5, iterations=300, seed=seed, weight=None)
    places = np.array([layout[node] for node in drawn], np.float64).reshape(-1, 2)
    half = np.array([[max(len(node) * LETTER / 2, 12), LINE] for node in drawn])
    low, high = half, np.array([WIDTH, HEIGHT]) - half
    span = np.ptp(places, axis=0)
    places = low + (places - places.min(0)) / np.where(span == 0, 1, span) * (high - low)
    spots = _apart(places, half, low, high).round(1).tolist()
    return {node: (x, y) for node, (x, y) in zip(drawn, spots, strict=True)}


def _apart(places: Any, half: Any, low: Any, high: Any) -> Any:
    """Push boxes that overlap apart, along the axis on which less is needed, until none do or patience ends."""
    import numpy as np

    room, rank = half[:, None] + half[None], np.arange(len(places))
    earlier = np.where(rank[:, None] < rank[None], -1.0, 1.0)[..., None]
    for _ in range(500):
        between = places[:, None] - places[None]
        overlap = room - np.abs(between)
        overlap[rank, rank] = 0
        hit = (overlap > 0).all(2, keepdims=True)
        if not hit.any():
            break
        least = (overlap / room).argmin(2)[..., None] == np.arange(2)
        push = np.where(between == 0, earlier, np.sign(between)) * overlap * (hit & least)
        places = np.clip(places + 0.3 * push.sum(1), low, high)
    return places
