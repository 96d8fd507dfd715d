"""Sentences that do not follow from the source, by a planted NLI model."""

from tests.filters.models import NLI

SOURCE = {"s": "Lake Baikal is in Siberia. It is the deepest lake on Earth. Three rivers flow out of it."}
OPTIONS = {"field": "a", "sources": ["s"], "model": NLI}
LONG = {
    "s": " ".join(
        f"Chapter {i} tells of matter {i} and of nothing else that could be of use here." for i in range(200)
    )
    + SOURCE["s"]
}

CASES = [
    (OPTIONS, {**SOURCE, "a": "Lake Baikal is in Siberia. It is the deepest lake."}, None),
    (
        OPTIONS,
        {**SOURCE, "a": "Lake Baikal is in Siberia. Monks dug wells."},
        "50% of its sentences follow from the s < 100%",
    ),
    ({**OPTIONS, "min_share": 0.5}, {**SOURCE, "a": "Lake Baikal is in Siberia. Monks dug wells."}, None),
    (
        {**OPTIONS, "min_probability": 0.8},
        {**SOURCE, "a": "Baikal is the deepest wet lake."},
        "a sentence follows from the s with 0.69 < 0.8",
    ),
    (OPTIONS, {**SOURCE, "a": "Baikal is the deepest wet lake."}, None),
    (OPTIONS, {**LONG, "a": "Three rivers flow out. Chapter 150 tells of matter 150."}, None),
    (OPTIONS, {**LONG, "a": "Four seas dried up."}, "0% of its sentences"),
    (OPTIONS, {**SOURCE, "a": ""}, "0% of its sentences"),
    (OPTIONS, {**SOURCE, "a": None}, "0% of its sentences"),
    (OPTIONS, {"s": "", "a": "Lake Baikal."}, "0% of its sentences"),
]
