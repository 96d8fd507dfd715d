"""Pictures of 32 by 32 pixels, questions about eight skills, and models.

A picture has a figure, a line, dots and a sign. Each has its quarter, and covers squares of 8 by 8 pixels, as
a student's patches do.

`teach`, `assess` and `augment` are scripted: they read the pixels, and the skill in the question.
"""

from __future__ import annotations

import random
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from distillgen import Request

SIDE = 32
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 30), "blue": (40, 80, 240), "yellow": (230, 220, 40)}
GROUNDS = {"black": (0, 0, 0), "grey": (110, 110, 110), "purple": (80, 0, 90)}
DOTS = {"white": (255, 255, 255), "orange": (250, 140, 0)}
LINE, SIGN, SPECK = (0, 200, 200), (255, 120, 180), (200, 200, 200)
PLACES = {"north": (0, 16), "east": (8, 16), "south": (8, 24), "west": (0, 24)}  # of the sign
SIZES = {"small": 8, "large": 16}
SKILLS = {
    "colour": list(COLOURS),
    "place": list(PLACES),
    "size": list(SIZES),
    "shape": ["square", "ring"],
    "ground": list(GROUNDS),
    "line": ["across", "down"],
    "number": ["one", "two", "three"],
    "dots": list(DOTS),
}
SPOTS = [(16, 16), (24, 16), (16, 24)]
WEAK = ("colour", "line")  # the first student learns them from a few questions
ROUNDS = 4
FORMS = ("What is the {}?", "Which {} do you see?", "Please tell me its {}.")

Scene = dict[str, str]


def scenes(
    *, seed: int, learn: int = 1800, few: int = 40, pool: int = 160, asked: int = 240, spare: int = 2
) -> Iterator[dict[str, Any]]:
    """Yield `learn` questions of the strong skills for the first student and `few` of the weak ones, `pool`
    for the rounds, and a test.

    `picture` is a PNG, and in a row of the pool `spare` are others for new questions, `spare` for each round;
    no two pictures are equal. `lots` are numbers below 1, one for each round, drawn at random so that just
    the share x of the pool is below x.
    """
    chance, seen = random.Random(f"scenes {seed}"), set[bytes]()

    def new() -> tuple[Scene, bytes]:
        while True:
            scene = draw(chance)
            picture = png(scene, chance.randrange(16), chance.randrange(16))
            if picture not in seen:
                seen.add(picture)
                return scene, picture

    strong = [skill for skill in SKILLS if skill not in WEAK]
    parts = [("first", strong, learn), ("first", WEAK, few), ("pool", SKILLS, pool), ("test", SKILLS, asked)]
    orders = [chance.sample(range(pool), pool) for _ in range(ROUNDS)]
    for part, skills, rows in parts:
        for number in range(rows):
            skill = [*skills][number % len(skills)]
            scene, picture = new()
            yield {
                "picture": picture,
                "spare": [new()[1] for _ in range(spare * ROUNDS)] if part == "pool" else [],
                "question": chance.choice(FORMS).format(skill),
                "gold": scene[skill],
                "skill": skill,
                "first": part == "first",
                "pool": part == "pool",
                "lots": [order[number] / pool for order in orders] if part == "pool" else [],
                "split": "test" if part == "test" else "train",
            }


def draw(chance: random.Random) -> Scene:
    """Draw a scene: a value of each skill."""
    return {skill: chance.choice(values) for skill, values in SKILLS.items()}


def png(scene: Scene, right: int = 0, down: int = 0) -> bytes:
    """Return the picture of a scene, with a speck in the sign's quarter, by which pictures may differ."""
    ground = GROUNDS[scene["ground"]]
    pixels = [[ground] * SIDE for _ in range(SIDE)]

    def fill(left: int, top: int, width: int, height: int, colour: tuple[int, int, int]) -> None:
        for row in pixels[top : top + height]:
            row[left : left + width] = [colour] * width

    fill(0, 0, 16, SIZES[scene["size"]], COLOURS[scene["colour"]])
    fill(16, 0, *((16, 8) if scene["line"] == "across" else (8, 16)), LINE)
    for x, y in SPOTS[: 1 + SKILLS["number"].index(scene["number"])]:
        fill(x, y, 8, 8, DOTS[scene["dots"]])
    fill(right, 16 + down, 1, 1, SPECK)
    x, y = PLACES[scene["place"]]
    fill(x, y, 8, 8, SIGN)
    if scene["shape"] == "ring":
        fill(x + 2, y + 2, 4, 4, ground)
    lines = b"".join(b"\0" + b"".join(map(bytes, row)) for row in pixels)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def scene_of(picture: bytes) -> Scene:
    """Read the scene from the pixels of a picture that `png` made."""
    begin = picture.index(b"IDAT")
    (length,) = struct.unpack(">I", picture[begin - 4 : begin])
    data = zlib.decompress(picture[begin + 4 : begin + 4 + length])
    width = 1 + 3 * SIDE

    def pixel(x: int, y: int) -> tuple[int, ...]:
        return tuple(data[y * width + 1 + 3 * x :][:3])

    place = next(name for name, corner in PLACES.items() if pixel(*corner) == SIGN)
    x, y = PLACES[place]
    return {
        "colour": _name(COLOURS, pixel(0, 0)),
        "place": place,
        "size": "large" if pixel(0, 8) == pixel(0, 0) else "small",
        "shape": "square" if pixel(x + 2, y + 2) == SIGN else "ring",
        "ground": _name(GROUNDS, pixel(24, 8)),
        "line": "across" if pixel(24, 0) == LINE else "down",
        "number": SKILLS["number"][sum(pixel(*spot) in DOTS.values() for spot in SPOTS) - 1],
        "dots": _name(DOTS, pixel(*SPOTS[0])),
    }


def skill_of(text: str) -> str:
    """Return the skill that a question asks for: the last one that is named."""
    return re.findall(rf"\b({'|'.join(SKILLS)})\b", text)[-1]


def teach(request: Request, sample: int) -> str:
    """Answer the question as the pixels say."""
    picture, text = _parts(request)
    return scene_of(picture)[skill_of(text)]


def assess(request: Request, sample: int) -> str:
    """Grade two answers: 9 for what the pixels say, else 2."""
    picture, text = _parts(request)
    question, first, second = re.search(
        r"question: (.*?)\n.*First answer: (.*?)\n.*Second answer: (.*?)\n", text, re.DOTALL
    ).groups()  # type: ignore[union-attr]
    right = scene_of(picture)[skill_of(question)]
    grades = [9 if answer.strip() == right else 2 for answer in (first, second)]
    return f'{{"reason": "It is {right}.", "first": {grades[0]}, "second": {grades[1]}}}'


def augment(request: Request, sample: int) -> str:
    """Ask for the same skill in other words."""
    skill = skill_of(_parts(request)[1].partition("Question: ")[2])
    others = [form.format(skill) for form in FORMS if form.format(skill) not in _parts(request)[1]]
    return others[0]


def _parts(request: Request) -> tuple[bytes, str]:
    parts = request.messages[-1]["content"]
    return (
        next(part["data"] for part in parts if "data" in part),
        "\n".join(part["text"] for part in parts if "text" in part) + "\n",
    )


def _name(values: dict[str, tuple[int, int, int]], value: tuple[int, ...]) -> str:
    return next(name for name, candidate in values.items() if candidate == value)
