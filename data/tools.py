"""Functions that a model may call: tools.jsonl describes them, and the stage act runs them."""

from datetime import date, timedelta
from statistics import fmean, median
from typing import Literal

_METRES = {"mm": 0.001, "cm": 0.01, "m": 1.0, "km": 1000.0, "inch": 0.0254, "foot": 0.3048, "mile": 1609.344}
_PLANETS = {
    "mercury": (4879, 0, 88.0),
    "venus": (12104, 0, 224.7),
    "earth": (12756, 1, 365.2),
    "mars": (6792, 2, 687.0),
    "jupiter": (142984, 95, 4331.0),
    "saturn": (120536, 146, 10747.0),
    "uranus": (51118, 28, 30589.0),
    "neptune": (49528, 16, 59800.0),
}


def convert_length(
    value: float,
    unit: Literal["mm", "cm", "m", "km", "inch", "foot", "mile"],
    to: Literal["mm", "cm", "m", "km", "inch", "foot", "mile"],
) -> float:
    """Convert a length to another unit.

    Args:
        value: the length
        unit: the unit of the length
        to: the unit of the result
    """
    return float(f"{value * _METRES[unit] / _METRES[to]:.6g}")


def convert_temperature(
    value: float,
    unit: Literal["celsius", "fahrenheit", "kelvin"],
    to: Literal["celsius", "fahrenheit", "kelvin"],
) -> float:
    """Convert a temperature to another scale.

    Args:
        value: the temperature
        unit: the scale of the temperature
        to: the scale of the result
    """
    kelvin = {"celsius": value + 273.15, "fahrenheit": (value + 459.67) / 1.8, "kelvin": value}[unit]
    if kelvin < 0:
        raise ValueError(f"{value} {unit} lies below absolute zero")
    return round({"celsius": kelvin - 273.15, "fahrenheit": kelvin * 1.8 - 459.67, "kelvin": kelvin}[to], 2)


def days_between(start: str, end: str) -> int:
    """Count the days from one date to another.

    Args:
        start: the first date, as YYYY-MM-DD
        end: the last date, as YYYY-MM-DD
    """
    return (date.fromisoformat(end) - date.fromisoformat(start)).days


def add_days(start: str, days: int) -> str:
    """Give the date that lies a number of days after another.

    Args:
        start: the date to begin with, as YYYY-MM-DD
        days: the number of days to add; a negative number goes back
    """
    return (date.fromisoformat(start) + timedelta(days=int(days))).isoformat()


def weekday(day: str) -> str:
    """Name the day of the week of a date.

    Args:
        day: the date, as YYYY-MM-DD
    """
    names = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    return names[date.fromisoformat(day).weekday()]


def count_words(text: str, longer_than: int = 0) -> int:
    """Count the words of a text.

    Args:
        text: the text
        longer_than: count only words with more letters than this
    """
    return sum(len(word.strip(".,;:!?\"'()")) > longer_than for word in text.split())


def replace_text(text: str, old: str, new: str) -> str:
    """Replace every occurrence of a phrase in a text.

    Args:
        text: the text
        old: the phrase to replace
        new: the phrase that takes its place
    """
    if not old:
        raise ValueError("the phrase to replace is empty")
    return text.replace(old, new)


def sort_words(words: list[str], descending: bool = False) -> list[str]:
    """Sort words alphabetically.

    Args:
        words: the words
        descending: whether to begin with the last letter of the alphabet
    """
    return sorted(words, key=str.lower, reverse=descending)


def describe_numbers(numbers: list[float]) -> dict[str, float]:
    """Give the smallest, largest, mean and median of some numbers.

    Args:
        numbers: the numbers
    """
    if not numbers:
        raise ValueError("there are no numbers")
    mean, middle = round(fmean(numbers), 4), median(numbers)
    return {"smallest": min(numbers), "largest": max(numbers), "mean": mean, "median": middle}


def loan_payment(amount: float, yearly_rate_percent: float, months: int) -> float:
    """Compute the monthly payment of a loan that is paid back in equal parts.

    Args:
        amount: the amount of the loan
        yearly_rate_percent: the interest for a year, in percent
        months: the number of monthly payments
    """
    if months < 1:
        raise ValueError("a loan needs at least one payment")
    rate = yearly_rate_percent / 1200
    return round(amount * rate / (1 - (1 + rate) ** -months) if rate else amount / months, 2)


def look_up_planet(name: str) -> dict[str, float]:
    """Look up a planet of the solar system: its diameter in km, its moons, and the days of its year.

    Args:
        name: the planet's English name
    """
    if name.lower() not in _PLANETS:
        raise ValueError(f"there is no planet {name!r}")
    diameter, moons, year = _PLANETS[name.lower()]
    return {"diameter_km": diameter, "moons": moons, "days_of_year": year}


def sum_by(rows: list[dict], group: str, amount: str) -> dict[str, float]:
    """Add up a column of a small table for each value of another column.

    Args:
        rows: the rows of the table, each with the values of its columns by name
        group: the column whose values name the sums
        amount: the column with the numbers to add
    """
    sums: dict[str, float] = {}
    for row in rows:
        name = str(row[group])
        sums[name] = round(sums.get(name, 0.0) + float(row[amount]), 6)
    return sums
