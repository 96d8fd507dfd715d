"""The recipe back-translation: good pairs pass the curation, random ones do not, and the student curates."""

import json
import re

import pytest

from distillgen.runs.directory import read_records
from tests.recipes.harness import Teacher, draw, teach

TEXTS = 160
FLIPPED = {10, 50, 130, 11, 51, 91}
"""The texts whose pair the planted judge grades the wrong way: three even ones and three odd ones."""
ALONE = ["train=null", "rounds.start=null", "judge.model=teacher"]  # curation by the teacher in both rounds


def topic(number):
    return f"subject{number:03}"


def backward(misses):
    """Return a teacher that asks about the text's subject, or about the next but one if it `misses` the text.

    No two requests are about the same subject.
    """

    def ask(text, sample):
        number = int(re.findall(r"subject(\d{3})", text)[-1])
        about = topic((number + 2) % TEXTS if misses(number) else number)
        return f"Could you explain to me what {about} is and where it comes from?"

    return ask


def judge(text, sample):
    request, answer = re.search(r"Request: (.*)\n\nAnswer: (.*)\n\nGrades", text, re.S).groups()
    number = int(re.search(r"subject(\d{3})", answer)[1])
    fits = (topic(number) in request) != (number in FLIPPED)
    return json.dumps({"reason": "", "score": draw(request, answer).choice([4, 5] if fits else [1, 2, 3])})


def odd(number):
    return number % 2 == 1


@pytest.fixture
def curated(project):
    """Run the recipe; gives the run, and the numbers of the texts that each round keeps."""

    def curated(misses, *sets, limit=None):
        rows = [{"passage": f"{topic(i)} is an old craft. Few people know it well."} for i in range(TEXTS)]
        project.rows("texts.jsonl", rows)
        teacher = Teacher({"You get a text": backward(misses), "You decide whether": judge})
        run = teach("back-translation", teacher, ["source.path=texts.jsonl", *sets], limit=limit)
        kept = []
        for folder in sorted((run.directory / "rounds").glob("[0-9]*")):
            records = list(read_records(folder / "records.jsonl"))
            assert len(records) == (limit or TEXTS), "every pair is graded in every round"
            texts = [record.fields["response"] for record in records if not record.dropped]
            kept.append({int(re.search(r"subject(\d{3})", text)[1]) for text in texts})
        return run, kept

    return curated


def test_good_pairs_pass_and_random_ones_do_not(curated):
    run, kept = curated(odd, *ALONE)
    good = {*range(0, TEXTS, 2)}
    assert kept == [good ^ FLIPPED] * 2, "each round keeps the good pairs, but for those that the judge flips"
    assert len(good & FLIPPED) == len(FLIPPED - good) == 3 <= 0.05 * len(good)
    rows = [json.loads(line) for line in (run.directory / "corpus.jsonl").read_text().splitlines()]
    assert rows[0]["messages"][0]["content"] == rows[0]["instruction"]
    assert rows[0]["messages"][1] == {"role": "assistant", "content": rows[0]["response"]}


def test_shuffled_pairs_do_not_pass(curated):
    _, kept = curated(lambda number: True, *ALONE, "rounds.guard={}")
    assert kept == [FLIPPED] * 2


@pytest.mark.slow
def test_the_student_of_the_first_round_curates_the_second(curated):
    """A tiny student writes no grade that can be read: what it is asked, it drops, and the loop ends."""
    pytest.importorskip("torch")
    pytest.importorskip("trl")
    tiny = ["train.student=tiny", "train.lora=null", "train.epochs=1", "rounds.guard={}"]
    run, kept = curated(odd, *tiny, limit=40)
    assert kept == [{*range(0, 40, 2)} ^ {10, 11}]
    ended = json.loads((run.directory / "rounds/rounds.json").read_text())["ended"]
    assert ended.startswith("the next round is left out: stage 'train': it has no records to train on")
    manifest = json.loads((run.directory / "rounds/00/student/manifest.json").read_text())
    assert manifest["data"]["rows"]["train"] > 10
    pairs = list(read_records(run.directory / "rounds/00/records.jsonl"))
    assert run.state["models"]["student"]["answers"] == len(pairs), "the student was asked about each pair"
