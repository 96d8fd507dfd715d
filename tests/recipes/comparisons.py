"""The world of the recipe neurocomparatives: the run with both votes, and what its records say."""

from collections import Counter, defaultdict
from math import comb

from distillgen.located_yaml import read_yaml
from distillgen.project import home, load_module
from distillgen.runs.directory import read_records

WORLD = load_module(home("data") / "siblings.py")
ORDERS = {sibling: orders for orders in WORLD.orders().values() for sibling in next(iter(orders.values()))}


def pipeline(max_kept=None):
    """The recipe, with a vote that counts 1 for each cluster, as the mark `by_ones`, before its own vote."""
    recipe, _ = read_yaml((home("pipelines") / "neurocomparatives.yaml").read_text(), "")
    *stages, vote = recipe["stages"]
    options = vote["filter"]["filters"][0]["contradiction"]
    options["max_kept"] = max_kept
    ones = {name: value for name, value in options.items() if name != "size"} | {"name": "ones"}
    mark = {"filter": {"name": "marks", "mark": "by_ones", "filters": [{"contradiction": ones}]}}
    recipe["stages"] = [*stages, mark, vote]
    return recipe


def stage(directory, name):
    """The records after a stage that no stage dropped."""
    (file,) = (directory / "stages").glob(f"*-{name}.jsonl")
    return [record for record in read_records(file) if not record.dropped]


def facts(first, second):
    """What is true of a pair: for each attribute 1 if the first has more of it, or -1."""
    return {
        attribute: 1 if order.index(first) < order.index(second) else -1
        for attribute, order in ORDERS[first].items()
    }


def said(records, sentences=lambda fields: [fields["statement"]]):
    """By pair and attribute of the pair: how often the first is said to have more of it, and how often less.

    A sentence about anything else counts for nothing.
    """
    counts = defaultdict(Counter)
    for record in records:
        pair = record.fields["first"], record.fields["second"]
        for sentence in sentences(record.fields):
            attribute, sign = WORLD.meaning(sentence) or ("", 0)
            if attribute in ORDERS[pair[0]]:
                counts[*pair, attribute][sign] += 1
    return counts


def majorities(counts):
    """The direction of each comparison that has a majority."""
    return {key: {sign} for key, signs in counts.items() for sign in signs if 2 * signs[sign] > signs.total()}


def by_ones(directory):
    """What the vote that counts 1 for each cluster keeps."""
    return said(record for record in stage(directory, "marks") if record.fields["by_ones"])


def right(kept, keys):
    """For each comparison, whether it is kept and right."""
    return [facts(*key[:2])[key[2]] in kept.get(key, ()) for key in keys]


def accuracy(kept):
    """The share of kept comparisons that are right."""
    return sum(right(kept, kept)) / len(kept)


def chances(n, p):
    """The chances that the majority of n votes, each right with chance p, is right, and that there is one."""
    of = [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    return sum(of[n // 2 + 1 :]), sum(chance for k, chance in enumerate(of) if 2 * k != n)


def oracle(numbers, p):
    """The accuracy of binomial majorities of these numbers of votes, where there is one."""
    both = [chances(n, p) for n in numbers]
    return sum(right for right, _ in both) / sum(decided for _, decided in both)
