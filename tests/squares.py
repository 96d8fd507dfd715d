"""Pictures of one coloured square in a corner, with questions about its colour and its place."""

import random
from pathlib import Path

from distillgen.rows.arrays import reference

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 30), "blue": (30, 60, 220), "white": (240, 240, 240)}
CORNERS = {"north": (0, 0), "east": (16, 0), "south": (16, 16), "west": (0, 16)}


def squares(root: Path, n: int, *, seed: int = 0, held_out: int = 0) -> list[dict]:
    """Draw pictures into `root`/pictures; return rows, each with the picture of another row, too."""
    from PIL import Image, ImageDraw

    chance, rows = random.Random(seed), []
    (root / "pictures").mkdir(parents=True, exist_ok=True)
    for i in range(n):
        colour, corner = chance.choice([*COLOURS]), chance.choice([*CORNERS])
        x, y = (start + chance.randrange(5) for start in CORNERS[corner])
        picture = Image.new("RGB", (32, 32))
        ImageDraw.Draw(picture).rectangle((x, y, x + 11, y + 11), fill=COLOURS[colour])
        file = root / "pictures" / f"{i}.png"
        picture.save(file)
        asked = chance.choice(["colour", "place"])
        rows.append(
            {
                "picture": reference(file, root),
                "question": f"What is its {asked}?",
                "answer": colour if asked == "colour" else corner,
                "split": "test" if i >= n - held_out else "train",
            }
        )
    others = chance.sample(rows, n)
    return [{**row, "other": other["picture"]} for row, other in zip(rows, others, strict=True)]
