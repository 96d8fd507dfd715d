"""Lists of names, places and firms that do not exist, as long as those of bioS (Allen-Zhu and Li 2024).

`python data/bios.py` draws the files in data/bios/ again.
"""

import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path

FIRST = "a be ca do e fa go ha i jo ka le mi no o pa ro sa te u".split()
SECOND = "bel ca dan el fin gar hil ia jon ka lin mar na or pe ri son ta ven wyn".split()
MIDDLE = "bar cy dor ev fre gus hu in jas kel lu mo nil ot pim ru sil tom ur val".split()
PLACE = "al bar cor del ed fen gar hol is kel lor mar nor ost pel ros sel tor ul wen".split()
ENDING = "beck by dale den field ford ham land ley low mere mouth port shaw stead ton wick wood".split()
KIND = "Applied Coastal Early General Maritime Modern Public Rural Social Urban".split()
SUBJECT = "Art Botany Design Geology History Law Music Physics Statistics Trade".split()
FIRM = "Bank Bakery Foods Glass Mills Motors Paper Press Rail Steel Tools Works".split()
SEED = 7


def lists() -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each file, and its lines."""
    chance = random.Random(SEED)

    def words(number: int, *parts: list[str]) -> list[str]:
        return chance.sample(sorted({"".join(pieces).capitalize() for pieces in product(*parts)}), number)

    yield "first", words(400, FIRST, SECOND)
    yield "middle", words(400, MIDDLE, ["a", "en", "i", "o", "us"], ["", "l", "n", "s"])
    yield "last", words(1000, PLACE, SECOND, ["", "s", "er"])
    yield "cities", words(200, PLACE, ENDING)
    places = words(150, PLACE, ENDING)
    yield "universities", [f"{place} {kind}" for place in places for kind in ("College", "University")]
    yield "majors", [f"{kind} {subject}" for kind in KIND for subject in SUBJECT]
    firms = [f"{name} {kind}" for name in words(100, PLACE, SECOND) for kind in FIRM]
    yield "employers", chance.sample(firms, 263)


def write(folder: Path) -> None:
    """Write the files."""
    folder.mkdir(exist_ok=True)
    for name, lines in lists():
        text = "".join(f"{line}\n" for line in lines)
        (folder / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write(Path(__file__).parent / "bios")
