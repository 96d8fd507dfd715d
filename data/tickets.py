"""Tickets of a help desk that do not exist, and a teacher that names their topic as well as its prompt says.

A ticket complains about one topic. Half of the tickets also mention a thing of another topic, with which
nothing is wrong, before or behind the complaint.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from distillgen import Completion, Request

THINGS = {
    "billing": (
        "invoice, refund, receipt, payment, discount, subscription, deposit, bank transfer, price, credit "
        "note, direct debit, tax"
    ),
    "delivery": (
        "parcel, courier, shipment, package, tracking number, pallet, delivery slot, driver, pick-up point, "
        "customs form, box, letter"
    ),
    "fault": (
        "kettle, screen, battery, hinge, remote control, pump, charger, keyboard, filter, lamp, motor, zip"
    ),
    "account": (
        "password, login, profile, e-mail address, newsletter, user name, security code, app, settings "
        "page, membership, photo, language setting"
    ),
}
TROUBLES = {
    "billing": (
        "was charged twice, is higher than agreed, was never credited, shows the wrong amount, names "
        "another firm, was not deducted, is still unpaid on your side, lists goods that I did not buy, was "
        "taken too early, has no total, counts the tax twice, went to a closed bank"
    ),
    "delivery": (
        "never arrived, stands in a depot, went to my neighbour, came a week late, was left in the rain, is "
        "lost between two cities, came to the old street, rang at an empty house, waits abroad, turned back "
        "at the border, came without a note, missed the agreed day"
    ),
    "fault": (
        "broke on the first day, makes a loud noise, no longer starts, smells of smoke, has a deep crack, "
        "leaks, gets far too hot, fell apart, is bent, flickers, has rusted, comes loose"
    ),
    "account": (
        "is rejected each time, was changed by somebody else, cannot be deleted, is locked, asks me to "
        "register again, shows a stranger's name, does not load, forgets what I entered, cannot be "
        "confirmed, was reset overnight, expired without a warning, is not recognised"
    ),
}
VAGUE = 0.15  # the share of tickets whose complaint every prompt may get wrong


def _split(words: str) -> list[str]:
    return [word.strip() for word in words.split(",")]


def tickets(
    *, seed: int, train: int = 240, validation: int = 200, test: int = 400
) -> Iterator[dict[str, object]]:
    """Yield tickets: `text`, the true topic `gold`, another ticket's topic `other`, and `split`."""
    chance = random.Random(f"tickets {seed}")
    texts = dict[str, str]()
    while len(texts) < train + validation + test:
        topic, aside = chance.sample([*THINGS], 2)
        complaint = f"My {chance.choice(_split(THINGS[topic]))} {chance.choice(_split(TROUBLES[topic]))}."
        mention = f"The {chance.choice(_split(THINGS[aside]))} is fine."
        order = chance.choice([[complaint], [complaint], [complaint, mention], [mention, complaint]])
        texts[" ".join(order)] = topic
    topics = [*texts.values()]
    others = chance.sample(topics, len(topics))
    splits = ["train"] * train + ["validation"] * validation + ["test"] * test
    for (text, topic), other, split in zip(texts.items(), others, splits, strict=True):
        yield {"text": text, "gold": topic, "other": other, "split": split}


def name_topic(request: Request, sample: int) -> Completion:
    """Name the topic of the last line, with its probability and those of the other topics.

    A prompt that asks what the customer complains about gets the complaint. Examples help with one aside in
    three. Without either, the teacher names the first thing that the ticket mentions. It is less sure
    where it is wrong.
    """
    prompt = request.messages[-1]["content"]
    text = prompt.strip().rpartition("Ticket: ")[2].partition("\n")[0]
    first, complaint = _topics(text)
    chance = random.Random(prompt)
    if "complains about" in prompt:
        answer = complaint
    elif prompt.count("Ticket:") > 1:
        answer = complaint if chance.random() < 1 / 3 else first
    else:
        answer = first
    if random.Random(f"vague {text}").random() < VAGUE and chance.random() < 0.5:
        answer = chance.choice([topic for topic in THINGS if topic != complaint])
    sure = chance.uniform(0.6, 1.0) if answer == complaint else chance.uniform(0.4, 0.8)
    doubt = {topic: 1.0 for topic in THINGS if topic != answer}
    doubt[complaint if answer != complaint else first if first != answer else next(iter(doubt))] = 4.0
    shares = {answer: sure} | {
        topic: (1 - sure) * part / sum(doubt.values()) for topic, part in doubt.items()
    }
    tops = [(topic, math.log(max(share, 1e-6))) for topic, share in shares.items()]
    words = len(prompt.split())
    return Completion(text=answer, logprobs=[(answer, tops[0][1], tops)], input_tokens=words, output_tokens=1)


def _topics(text: str) -> tuple[str, str]:
    """Return the topic of the first thing that a ticket mentions, and that of its complaint."""
    sentences = [sentence.strip() for sentence in text.split(".") if sentence.strip()]
    of_sentences = [
        (topic, sentence.startswith("My "))
        for sentence in sentences
        for topic, things in THINGS.items()
        if any(sentence.split(" ", 1)[1].startswith(f"{thing} ") for thing in _split(things))
    ]
    return of_sentences[0][0], next(topic for topic, complains in of_sentences if complains)
