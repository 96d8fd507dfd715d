"""Pictures of 32 by 32 pixels with a figure, a line and dots, questions about eight skills, and models.

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
LINE = (0, 200, 200)
PLACES = {"north": (1, 1), "east": (18, 1), "south": (18, 18), "west": (1, 18)}
SIZES = {"small": 7, "large": 12}
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
WEAK = ("colour", "line")  # the first student does not learn these
FORMS = ("What is the {}?", "Which {} do you see?", "Please tell me its {}.")

Scene = dict[str, str]


def scenes(
    *, seed: int, learn: int = 900, pool: int = 320, asked: int = 160, spare: int = 2
) -> Iterator[dict[str, Any]]:
    """Yield `learn` questions for the first student, of the strong skills, `pool` for the rounds, and a test.

    `picture` is a PNG, and `spare` are others for new questions; no two pictures are equal. `lot` is a number
    below 1 drawn at random.
    """
    chance, seen = random.Random(f"scenes {seed}"), set[bytes]()

    def new() -> tuple[Scene, bytes]:
        while True:
            scene = draw(chance)
            picture = png(scene, chance.randrange(3), chance.randrange(3))
            if picture not in seen:
                seen.add(picture)
                return scene, picture

    for number in range(learn + pool + asked):
        first, test = number < learn, number >= learn + pool
        skills = [skill for skill in SKILLS if not (first and skill in WEAK)]
        skill = skills[number % len(skills)]
        scene, picture = new()
        yield {
            "picture": picture,
            "spare": [] if first or test else [new()[1] for _ in range(spare)],
            "question": chance.choice(FORMS).format(skill),
            "gold": scene[skill],
            "skill": skill,
            "first": first,
            "pool": not first and not test,
            "lot": chance.random(),
            "split": "test" if test else "train",
        }


def draw(chance: random.Random) -> Scene:
    """Draw a scene: a value of each skill."""
    return {skill: chance.choice(values) for skill, values in SKILLS.items()}


def png(scene: Scene, right: int = 0, down: int = 0) -> bytes:
    """Return the picture of a scene, its figure moved by 0 to 2 pixels."""
    pixels = [[GROUNDS[scene["ground"]]] * SIDE for _ in range(SIDE)]

    def fill(left: int, top: int, width: int, height: int, colour: tuple[int, int, int]) -> None:
        for row in pixels[top : top + height]:
            row[left : left + width] = [colour] * width

    fill(*((0, 15, SIDE, 2) if scene["line"] == "across" else (15, 0, 2, SIDE)), LINE)
    (left, top), size = PLACES[scene["place"]], SIZES[scene["size"]]
    fill(left + right, top + down, size, size, COLOURS[scene["colour"]])
    if scene["shape"] == "ring":
        fill(left + right + 2, top + down + 2, size - 4, size - 4, GROUNDS[scene["ground"]])
    left, top = 19 - left, 19 - top  # the dots are in the other corner
    for place in range(SKILLS["number"].index(scene["number"]) + 1):
        fill(left + 4 * place, top + 4, 3, 3, DOTS[scene["dots"]])
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

    figure = [(x, y) for y in range(SIDE) for x in range(SIDE) if pixel(x, y) in COLOURS.values()]
    left, top = min(x for x, _ in figure), min(y for _, y in figure)
    place = next(name for name, (x, y) in PLACES.items() if x <= left <= x + 2 and y <= top <= y + 2)
    size = "large" if (left + SIZES["large"] - 1, top) in figure else "small"
    x, y = 19 - PLACES[place][0], 19 - PLACES[place][1]
    dots = [pixel(x + 4 * number, y + 4) for number in range(3)]
    ground = pixel(0, 0) if pixel(0, 0) != LINE else pixel(SIDE - 1, 0)
    return {
        "colour": _name(COLOURS, pixel(left, top)),
        "place": place,
        "size": size,
        "shape": "square" if (left + 3, top + 3) in figure else "ring",
        "ground": _name(GROUNDS, ground),
        "line": "across" if pixel(0, 15) == LINE else "down",
        "number": SKILLS["number"][sum(dot in DOTS.values() for dot in dots) - 1],
        "dots": _name(DOTS, dots[0]),
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
