"""Quotations and figures that the source lacks."""

SOURCE = {
    "s": "The report of 1998 says: “We found 1,642 new kinds of moss, most of them rare”, and thanks nobody."
}
OPTIONS = {"field": "a", "sources": ["s"]}

CASES = [
    (OPTIONS, {**SOURCE, "a": 'It says "We found 1642 new kinds of moss".'}, None),
    (OPTIONS, {**SOURCE, "a": "It says “we found 1,642 new kinds of grass”."}, "1 quotations not in the s"),
    (OPTIONS, {**SOURCE, "a": "«We found […] new kinds of moss … most of them rare»"}, None),
    (OPTIONS, {**SOURCE, "a": "The report of 1997 has 3 parts."}, "2 numbers not in the s"),
    (OPTIONS, {**SOURCE, "a": "“In 1997 we left”"}, "1 quotations and 1 numbers not in the s"),
    ({**OPTIONS, "max_missing": 1}, {**SOURCE, "a": "The report of 1997."}, None),
    (OPTIONS, {**SOURCE, "a": "It's the moss' year, and nobody's thanked."}, None),
    (OPTIONS, {**SOURCE, "a": 'They "ound 1,642" it.'}, "1 quotations"),
    (OPTIONS, {**SOURCE, "a": 'A pipe of 1998" and no more'}, None),
    (OPTIONS, {**SOURCE, "a": None}, None),
]
