"""Small models built on the spot for the tests of filters, with planted predictions."""

import tempfile
from functools import cache

import numpy
from model2vec import StaticModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

SUBJECTS = [
    "nairobi far lies km 150 lake baikal deep metres water",
    "buy cheap tyres sale offer",
    "bread yeast rise flour bake dough",
    "bees dance honey hive nectar",
    "rome roman forum emperor caesar",
]


@cache
def embedder() -> str:
    """The folder of a static embedder: words of one subject have cosine 1, of two subjects 0; others count
    for nothing.
    """
    words = [(word, subject) for subject, some in enumerate(SUBJECTS) for word in some.split()]
    tokenizer = Tokenizer(
        models.WordLevel({"[UNK]": 0} | {word: i for i, (word, _) in enumerate(words, 1)}, unk_token="[UNK]")
    )
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    vectors = numpy.zeros((len(words) + 1, len(SUBJECTS)), dtype=numpy.float32)
    for i, (_, subject) in enumerate(words, 1):
        vectors[i, subject] = 1
    folder = tempfile.mkdtemp(prefix="distillgen-embedder-")
    StaticModel(vectors, tokenizer).save_pretrained(folder)
    return folder


NLI = "tests/filters/models.py:overlap"


def overlap(pairs):
    """An NLI model of a kind: what a premise has all the words of it entails, what it has none of it
    contradicts.
    """
    found = []
    for premise, hypothesis in pairs:
        said = {word.strip(".,!?") for word in hypothesis.lower().split()}
        share = len(said & {word.strip(".,!?") for word in premise.lower().split()}) / max(1, len(said))
        found.append((share**2, 2 * share * (1 - share), (1 - share) ** 2))
    return found


def plausible(pairs):
    """A fact critic of a kind: it holds what speaks of honey for made up."""
    return [(0.1, 0.0, 0.9) if "honey" in text.lower() else (0.9, 0.0, 0.1) for _, text in pairs]
