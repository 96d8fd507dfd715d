"""Graphs whose nodes are names: equal names, communities, names in a text, shortest paths, and a layout to
draw them.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from distillgen.text.words import content, words

if TYPE_CHECKING:
    import networkx as nx

DRAWN = 60  # most nodes in a picture
WIDTH, HEIGHT, LETTER, LINE = (
    1000.0,
    640.0,
    7.2,
    17.0,
)  # pixels: of the picture, the width of a letter of a label, half the height of a label

_ARTICLES = frozenset(("a", "an", "the"))
_PLURAL = re.compile(r"(?<=..[^isu])s$")


def name_key(name: str) -> tuple[str, ...]:
    """Return the key of a name, which ignores case, articles, punctuation and an English plural."""
    return tuple(_singular(word) for word in words(name) if word not in _ARTICLES)


def _singular(word: str) -> str:
    """Return a common form of singular and plural, which may be neither: of stress and stresses, phase and
    phases.
    """
    word = _PLURAL.sub("", word).removesuffix("e")
    return f"{word[:-1]}i" if word.endswith("y") else word


def commonest(spellings: Iterable[str]) -> str:
    """Return the most frequent spelling; of several, the shortest, then the first in the alphabet."""
    return min(Counter(spellings).items(), key=lambda item: (-item[1], len(item[0]), item[0]))[0]


def communities(graph: nx.Graph, method: Literal["louvain", "girvan_newman"], seed: int) -> list[set[str]]:
    """Return the communities of a graph, the largest first.

    The methods are Louvain (Blondel et al. 2008), and Girvan and Newman 2002 with the division of highest
    modularity (Newman and Girvan 2004, section IV).
    """
    import networkx as nx

    names, numbered = (
        list(graph),
        nx.convert_node_labels_to_integers(graph),
    )  # the order of a set of numbers, unlike that of strings, is the same in every process
    parts = [{node} for node in numbered]
    if method == "louvain" and numbered.number_of_edges():
        parts = nx.community.louvain_communities(numbered, seed=seed)
    elif numbered.number_of_edges():
        components = list(nx.connected_components(numbered))
        levels = [components, *map(list, nx.community.girvan_newman(numbered))]
        parts = max(levels, key=lambda level: float(nx.community.modularity(numbered, level)))
    by_name = [{names[i] for i in part} for part in parts]
    return sorted(by_name, key=lambda part: (-len(part), min(part)))


def largest(graph: nx.Graph) -> set[str]:
    """Return the nodes of the largest component; of several, the first."""
    import networkx as nx

    return max(map(set, nx.connected_components(graph)), key=len, default=set())


def mentioned(names: Iterable[str], text: str) -> list[str]:
    """Return the names that a text mentions, in the order of the text.

    A name is mentioned if the text has all its content words, unless it has all content words of a longer
    name that includes them.
    """
    place = {
        word: i
        for i, word in reversed(
            list(enumerate(stem for word_in_text in words(text) for stem in content(word_in_text)))
        )
    }
    words_of = {
        name: name_words
        for name in names
        if (name_words := frozenset(content(name))) and name_words <= place.keys()
    }
    longest = (
        name
        for name, name_words in words_of.items()
        if not any(name_words < other for other in words_of.values())
    )
    return sorted(longest, key=lambda name: (min(place[word] for word in words_of[name]), name))


def connections(graph: nx.Graph, ends: Sequence[str], most: int) -> list[tuple[str, str]]:
    """Return the edges of the shortest paths between each two of `ends`, or of one end the edges to its
    neighbours.

    The shortest paths come first; a path is left out if the edges would be more than `most`. Of equally short
    paths it takes that whose edges have the highest `count`.
    """
    import networkx as nx

    if len(ends) == 1:
        near = sorted(graph[ends[0]], key=lambda node: (-graph[ends[0]][node]["count"], node))
        return [(ends[0], node) for node in near[:most]]
    pairs = [(a, b) for i, a in enumerate(ends) for b in ends[i + 1 :] if nx.has_path(graph, a, b)]

    def length(a: str, b: str, edge: Mapping[str, Any]) -> float:
        return 1 + 1e-3 / float(edge["count"])

    paths = sorted((nx.dijkstra_path(graph, a, b, weight=length) for a, b in pairs), key=len)
    edges = dict[frozenset[str], tuple[str, str]]()
    for path in paths:
        new = {frozenset(edge): edge for edge in zip(path, path[1:], strict=False)}
        if len(edges | new) <= most:
            edges |= new
    return list(edges.values())


def picture(graph: nx.Graph, seed: int) -> dict[str, tuple[float, float]]:
    """Return x and y of at most DRAWN nodes, in a picture of WIDTH x HEIGHT in which no label covers another.

    The nodes are the one of highest degree and then always the neighbour of highest degree of those chosen
    before.
    """
    import networkx as nx
    import numpy as np

    drawn = nx.Graph()  # added in an order that depends on no set
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
    """Move overlapping boxes apart along the axis of the smaller overlap, until none overlap or after 500
    steps.

    `places`, `half` (half of each box's size): n x 2; `low`, `high`: bounds of the places, n x 2.
    """
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
