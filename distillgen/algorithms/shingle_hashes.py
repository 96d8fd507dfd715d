"""The hashes of the shingles of many texts at once, in arrays.

Every step works on one array for all texts: the class of each character, the words, the bytes of each
shingle, and its hash. A shingle is a run of tokens, joined by spaces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from distillgen.text.words import without_possessives

Array = np.ndarray[Any, np.dtype[Any]]

CHARACTERS = 1 << 18  # of one array: a longer one leaves the processor's cache
OTHER, LETTER, DIGIT, POINT, UNSEEN = range(5)
LOW, ZERO_GUARD = np.uint64(0xFFFFFFFF), np.uint64(0xA4093822299F31D0)


class Hashes(NamedTuple):
    """The hashes of the shingles of some texts."""

    flat: Array
    """64 bits for each shingle, text by text; a shingle that a text repeats is there as often."""
    ends: Array
    """Where each text's hashes end in `flat`, after a first 0."""


class _Tokens(NamedTuple):
    codes: Array
    """The code points of all tokens, with a space after each token."""
    starts: Array
    """Where each token starts in `codes`."""
    stops: Array
    """Where each token ends in `codes`."""
    counts: Array
    """The number of tokens in each text."""


def shingle_hashes(texts: Sequence[str], size: int, *, characters: bool = False) -> Hashes:
    """Return the hashes of each text's shingles: runs of `size` words, as `text.words.words` finds them, or
    of `size` characters of these words and of the single spaces between them. A shorter text is one shingle.

    The hash is that of rustc-hash 2, which rensa gives a token.
    """
    split = _characters if characters else _words
    parts = [_hashed(split(part), size) for part in _batches(texts)]
    if len(parts) == 1:
        return parts[0]
    counts = [np.diff(part.ends) for part in parts]
    ends = np.concatenate([[0], *counts]).cumsum()
    return Hashes(np.concatenate([np.zeros(0, np.uint64), *(part.flat for part in parts)]), ends)


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the texts in batches of about CHARACTERS characters, to bound the memory."""
    start = length = 0
    for end, text in enumerate(texts):
        if length and length + len(text) > CHARACTERS:
            yield texts[start:end]
            start, length = end, 0
        length += len(text) + 1
    if length:
        yield texts[start:]


@cache
def _classes() -> Array:
    """Return the class of each code point, as far as one was seen."""
    return np.full(0x110000, UNSEEN, np.uint8)


def _class(character: str) -> int:
    if character.isdecimal():
        return DIGIT
    if character.isalnum():
        return LETTER
    return POINT if character in ".," else OTHER


def _classified(codes: Array) -> Array:
    """Return the class of each character. A point between two digits belongs to their number."""
    table = _classes()
    kinds = table[codes]
    if kinds.max(initial=0) == UNSEEN:
        for code in np.unique(codes[kinds == UNSEEN]).tolist():
            table[code] = _class(chr(code))
        kinds = table[codes]
    points = np.flatnonzero(kinds == POINT)
    inner = points[(points > 0) & (points < len(kinds) - 1)]
    in_numbers = (kinds[inner - 1] == DIGIT) & (kinds[inner + 1] == DIGIT)
    kinds[points] = OTHER
    kinds[inner[in_numbers]] = DIGIT
    return kinds


def _words(texts: Sequence[str]) -> _Tokens:
    joined = "\0".join(texts)  # no word has a NUL
    if joined.count("\0") >= len(texts):
        joined = "\0".join(text.replace("\0", " ") for text in texts)
    lower = without_possessives(joined.lower())
    codes = np.frombuffer(lower.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _classified(codes)
    used = kinds != OTHER
    first = used.copy()
    first[1:] &= kinds[1:] != kinds[:-1]
    at = np.flatnonzero(used)
    place = np.arange(len(at)) + np.cumsum(first[at]) - 1  # a space follows each token
    starts = place[first[at]]
    spaced = np.full(len(at) + len(starts), 32, np.uint32)
    spaced[place] = codes[at]
    stops = np.append(starts[1:], len(spaced))[: len(starts)] - 1
    breaks = np.flatnonzero(codes == 0)
    counts = np.diff(np.searchsorted(np.flatnonzero(first), breaks), prepend=0, append=len(starts))
    return _Tokens(spaced, starts, stops, counts)


def _characters(texts: Sequence[str]) -> _Tokens:
    codes, _, stops, counts = _words(texts)
    nonempty = counts > 0
    ends = stops[np.cumsum(counts)[nonempty] - 1]  # of the texts: no space follows a last word
    lengths = np.zeros(len(counts), np.int64)
    lengths[nonempty] = np.diff(ends + 1, prepend=0) - 1
    spaced = np.full(2 * (len(codes) - len(ends)), 32, np.uint32)
    spaced[::2] = np.delete(codes, ends)
    starts = np.arange(0, len(spaced), 2)
    return _Tokens(spaced, starts, starts + 1, lengths)


def _hashed(tokens: _Tokens, size: int) -> Hashes:
    data = tokens.codes.tobytes().decode("utf-32-le").encode()
    starts, stops = np.append(tokens.starts, 0), np.append(tokens.stops, 0)
    if len(data) > len(tokens.codes):  # some characters take several bytes
        widths = np.ones(len(tokens.codes), np.int64)
        for least in (0x80, 0x800, 0x10000):
            widths += tokens.codes >= least
        places = np.append(0, np.cumsum(widths))
        starts, stops = places[starts], places[stops]
    counts = np.maximum(tokens.counts - size + 1, 1)
    ends = np.append(0, np.cumsum(counts))
    first_tokens = np.cumsum(tokens.counts) - tokens.counts
    first = np.arange(ends[-1]) + np.repeat(first_tokens - ends[:-1], counts)
    spans = np.repeat(np.minimum(tokens.counts, size), counts)
    begins = starts[first]
    return Hashes(_hash(data, begins, np.where(spans, stops[first + spans - 1] - begins, 0)), ends)


def _hash(data: bytes, begins: Array, lengths: Array) -> Array:
    """Return the hash of rustc-hash 2 of each part of `data`, a text's bytes."""
    padded = np.frombuffer(data + bytes(16), np.uint8)
    words = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))  # eight bytes from each place on
    a, b = np.full((2, len(begins)), np.array([[0x243F6A8885A308D3], [0x13198A2E03707344]], np.uint64))
    long, offset = np.flatnonzero(lengths > 16), 0
    while len(long):
        at = begins[long] + offset
        a[long], b[long] = b[long], _product(a[long] ^ words[at], words[at + 8] ^ ZERO_GUARD)
        offset += 16
        long = long[lengths[long] > offset + 16]
    tails = begins + lengths
    short = np.flatnonzero(lengths < 8)
    first = words[np.where(lengths > 16, tails - 16, begins)]
    last = words[np.maximum(tails - 8, 0)]
    if len(short):
        at, size, end = begins[short], lengths[short], tails[short]
        three = [padded[at], padded[at + size // 2], padded[np.maximum(end - 1, 0)]]
        low, middle, high = (byte.astype(np.uint64) for byte in three)
        four = size >= 4
        first[short] = np.where(four, words[at] & LOW, np.where(size, low, 0))
        last[short] = np.where(
            four, words[np.maximum(end - 4, 0)] & LOW, np.where(size, high << np.uint64(8) | middle, 0)
        )
    hashes = (_product(a ^ first, b ^ last) ^ lengths.astype(np.uint64)) * np.uint64(0xF1357AEA2E62A9C5)
    return hashes << np.uint64(26) | hashes >> np.uint64(38)


def _product(x: Array, y: Array) -> Array:
    """Return the upper half of the 128-bit products XOR their lower half."""
    half = np.uint64(32)
    x_low, x_high, y_low, y_high = x & LOW, x >> half, y & LOW, y >> half
    cross = x_high * y_low
    middle = (x_low * y_low >> half) + (cross & LOW) + x_low * y_high
    product: Array = (x_high * y_high + (cross >> half) + (middle >> half)) ^ x * y
    return product
