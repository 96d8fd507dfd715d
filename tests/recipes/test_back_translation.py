"""The recipe back-translation: good pairs pass the curation, random ones do not, and the student curates."""

import json
import re

import pytest

from distillgen.runs.directory import read_records
from tests.recipes.harness import Teacher, chance, draw, teach

TEXTS = 160
NOISE = 0.01  # share of pairs that the planted judge grades the wrong way
ALONE = ["train=null", "rounds.start=null", "judge.model=teacher"]  # curation by the teacher in both rounds


def topic(number):
    return f"subject{number:03}"


def good(number):
    """Return whether the backward teacher asks for what the text is about, as it does for half of them."""
    return draw("pair", number).random() < 0.5


def backward(misses):
    """Return a teacher that asks about the text's subject, or about another one if it `misses` the text."""

    def ask(text, sample):
        number = int(re.findall(r"subject(\d{3})", text)[-1])
        other = (number + 1 + draw("other", number).randrange(TEXTS - 1)) % TEXTS
        about = topic(other if misses(number) else number)
        return f"Could you explain to me what {about} is and where it comes from?"

    return ask


def judge(text, sample):
    request, answer = re.search(r"Request: (.*)\n\nAnswer: (.*)\n\nGrades", text, re.S).groups()
    fits = re.search(r"subject\d{3}", request)[0] in answer
    if chance(NOISE, request, answer):
        fits = not fits
    return json.dumps({"reason": "", "score": draw(request, answer).choice([4, 5] if fits else [1, 2, 3])})


@pytest.fixture
def curated(project):
    """Run the recipe; gives, for the good and the other pairs, the share that each round keeps."""

    def curated(misses, *sets, limit=None):
        rows = [{"passage": f"{topic(i)} is an old craft. Few people know it well."} for i in range(TEXTS)]
        project.rows("texts.jsonl", rows)
        teacher = Teacher({"You get a text": backward(misses), "You decide whether": judge})
        run = teach("back-translation", teacher, ["source.path=texts.jsonl", *sets], limit=limit)
        shares = []
        for folder in sorted((run.directory / "rounds").glob("[0-9]*")):
            kept = {True: [], False: []}
            for record in read_records(folder / "records.jsonl"):
                number = int(re.search(r"subject(\d{3})", record.fields["response"])[1])
                kept[not misses(number)].append(record.dropped is None)
            shares.append([sum(kept[pair]) / max(1, len(kept[pair])) for pair in (True, False)])
        return run, shares

    return curated


def test_good_pairs_pass_and_random_ones_do_not(curated):
    run, shares = curated(lambda number: not good(number), *ALONE)
    assert len(shares) == 2 and all(fit >= 0.95 and unfit <= 0.05 for fit, unfit in shares)
    rows = [json.loads(line) for line in (run.directory / "corpus.jsonl").read_text().splitlines()]
    assert rows[0]["messages"][0]["content"] == rows[0]["instruction"]
    assert rows[0]["messages"][1] == {"role": "assistant", "content": rows[0]["response"]}


def test_shuffled_pairs_do_not_pass(curated):
    _, shares = curated(lambda number: True, *ALONE, "rounds.guard={}")
    assert all(unfit <= 0.05 for _, unfit in shares)


@pytest.mark.slow
def test_the_student_of_the_first_round_curates_the_second(curated):
    """A tiny student writes no grade that can be read: what it is asked, it drops, and the loop ends."""
    pytest.importorskip("torch")
    pytest.importorskip("trl")
    tiny = ["train.student=tiny", "train.lora=null", "train.epochs=1", "rounds.guard={}"]
    run, shares = curated(lambda number: not good(number), *tiny, limit=40)
    assert len(shares) == 1 and shares[0][0] >= 0.9 and shares[0][1] <= 0.1
    ended = json.loads((run.directory / "rounds/rounds.json").read_text())["ended"]
    assert ended.startswith("the next round is left out: stage 'train': it has no records to train on")
    manifest = json.loads((run.directory / "rounds/00/student/manifest.json").read_text())
    assert manifest["data"]["rows"]["train"] > 10
    pairs = list(read_records(run.directory / "rounds/00/records.jsonl"))
    assert run.state["models"]["student"]["answers"] == len(pairs), "the student was asked about each pair"
