"""Records that repeat an evaluation set."""

import random
from itertools import product

import pytest

from distillgen.errors import ConfigError
from distillgen.plugins import filter_factory
from distillgen.project import Project
from distillgen.record import Record
from tests.filters.models import embedder

WORDS = ["".join(letters) for letters in product("abcdefghijklmno", repeat=3)]
EVAL = "tests/filters/evaluation.jsonl"
OPTIONS = {"fields": ["q", "a"], "against": EVAL}
NEAR = {**OPTIONS, "min_cosine": 0.9, "embedder": embedder()}

CASES = [
    (OPTIONS, {"q": "How deep is Lake Baikal?", "a": "1,642 metres."}, None),
    (
        OPTIONS,
        {"q": "So: THE BAKER of our street sells forty loaves on a day -- when it rains, ok?", "a": ""},
        f"repeats words of {EVAL}, line 2",
    ),
    (
        OPTIONS,
        {"q": "baker of our street sells forty loaves on a day when it", "a": "rains and thirty"},
        None,
    ),  # 12 and 3 words, in two fields
    (
        OPTIONS,
        {"q": "", "a": "Tell me: which rivers flow out of the great lake? I wonder."},
        f"{EVAL}, line 3",
    ),  # an item of 8 words, as a whole
    (OPTIONS, {"q": "Which is it?", "a": "Two and two"}, None),  # the item has fewer words than min_words
    ({**OPTIONS, "min_words": 2}, {"q": "Which is it?", "a": "Two and two"}, f"{EVAL}, line 4"),
    (
        {**OPTIONS, "keys": ["question"]},
        {"q": "", "a": "Because the rain keeps most of those who would buy them at home"},
        None,
    ),
    (
        OPTIONS,
        {"q": "", "a": "Because the rain keeps most of those who would buy them at home"},
        f"{EVAL}, line 2",
    ),
    (
        {**OPTIONS, "max_share": 0.6},
        {"q": "the baker of our street sells forty loaves on a day when it sleeps", "a": None},
        None,
    ),  # 1 of 2
    (NEAR, {"q": "Yeast and flour", "a": "Dough"}, f"cosine 1.00 to {EVAL}, line 5 >= 0.9"),
    (NEAR, {"q": "Bees", "a": "Hive"}, None),
]


def test_a_text_file_is_an_item_a_line(reason, project):
    words = WORDS[:40]
    project.write("eval.txt", "\n\n" + " ".join(words) + "\n")
    options = {"fields": ["q"], "against": "eval.txt"}
    assert (
        reason("contamination", options, {"q": " ".join(words[20:33])}) == "repeats words of eval.txt, line 3"
    )
    assert reason("contamination", options, {"q": " ".join(words[20:32])}) is None


@pytest.mark.parametrize(
    "text, options, message",
    [
        ('{"a": 1}\n{"a', {}, "eval.jsonl:2: contamination: not JSON"),
        ('{"a": "x"}\n', {"keys": ["b"]}, "eval.jsonl:1: contamination: there is no 'b' in the row"),
    ],
)
def test_mistakes(reason, project, text, options, message):
    project.write("eval.jsonl", text)
    with pytest.raises(ConfigError, match=message):
        reason("contamination", {"fields": ["q"], "against": "eval.jsonl", **options}, {"q": "x"})


def test_planted_overlaps_are_found_and_named_and_nothing_else_is(project):
    draw = random.Random(1)
    items = [draw.choices(WORDS, k=draw.randrange(20, 60)) for _ in range(2000)]
    project.rows("eval.jsonl", [{"question": " ".join(item)} for item in items])
    records, truth = [], []
    for number in range(2000):
        own, line = draw.choices(WORDS, k=60), draw.randrange(2000)
        if planted := number % 4 == 0:
            start = draw.randrange(len(items[line]) - 13)
            own[20:33] = [word.upper() + "," for word in items[line][start : start + 13]]
        records.append(Record.read({"q": " ".join(own)}, ""))
        truth.append(line + 1 if planted else 0)
    root = Project(project.path)
    found = filter_factory("contamination", root)(fields=["q"], against="eval.jsonl", project=root).measure(
        records
    )
    assert [number["line"] for number in found] == truth
    assert [number["share"] > 0 for number in found] == [bool(line) for line in truth]
