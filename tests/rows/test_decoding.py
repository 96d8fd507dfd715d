"""Pictures and sounds as models take them: values by hand, and a reason for each file that cannot be used."""

import io
import math
import struct
import wave

import pytest

from distillgen.errors import ConfigError
from distillgen.rows.arrays import reference
from tests.media_files import FLAC, MP3, png

numpy = pytest.importorskip("numpy")
from distillgen.rows.decoding import decoded, resampled  # noqa: E402

STEREO = [(0.5, 0.25), (-0.5, 0.0), (-1.0, 1.0), (0.25, 0.25)]


def sound(frames, *, width=2, rate=40, channels=2) -> bytes:
    """A WAV file of frames with numbers from -1 to 1."""

    def sample(value: float) -> bytes:
        number = min(round(value * 2 ** (8 * width - 1)), 2 ** (8 * width - 1) - 1)
        return struct.pack("B", number + 128) if width == 1 else number.to_bytes(width, "little", signed=True)

    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(b"".join(sample(value) for frame in frames for value in frame))
    return stream.getvalue()


@pytest.fixture
def refer(tmp_path):
    def written(name: str, data: bytes) -> dict:
        (tmp_path / name).write_bytes(data)
        return reference(tmp_path / name, tmp_path)

    return written


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_sound_is_the_mean_of_its_channels(refer, tmp_path, width):
    place = refer("a.wav", sound(STEREO, width=width))
    numbers = decoded(place, tmp_path, 40)
    assert numbers == pytest.approx([0.375, -0.25, 0.0, 0.25], abs=1 / 2 ** (8 * width - 1))
    assert decoded(place, tmp_path, 40, most_s=0.05).tolist() == numbers[:2].tolist()


def test_a_sound_of_another_rate_keeps_its_tones_and_loses_those_that_the_rate_cannot_hold(refer, tmp_path):
    low, high = ([math.sin(2 * math.pi * hertz * i / 400) for i in range(400)] for hertz in (10, 150))
    frames = [(a / 4 + b / 4,) for a, b in zip(low, high, strict=True)]
    numbers = decoded(refer("a.wav", sound(frames, rate=400, channels=1)), tmp_path, 100)
    assert numbers == pytest.approx([math.sin(2 * math.pi * 10 * i / 100) / 4 for i in range(100)], abs=1e-3)
    assert resampled(numbers, 100, 400) == pytest.approx([value / 4 for value in low], abs=1e-3)


def test_a_picture_has_colours(refer, tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    stream = io.BytesIO()
    pillow.new("L", (3, 2), 77).save(stream, "PNG")
    picture = decoded(refer("a.png", stream.getvalue()), tmp_path)
    assert (picture.mode, picture.size, picture.getpixel((2, 1))) == ("RGB", (3, 2), (77, 77, 77))


def test_what_cannot_be_used_has_a_reason(refer, tmp_path):
    pytest.importorskip("PIL")
    a_sound, a_picture = refer("a.wav", sound(STEREO * 10)), refer("a.png", png("a"))

    def reason(place, rate=None) -> str:
        with pytest.raises(ValueError) as error:
            decoded(place, tmp_path, rate)
        return str(error.value)

    assert reason(a_sound) == "'a.wav' is no picture"
    assert reason(a_picture, 40) == "'a.png' is no sound"
    assert reason({**a_picture, "path": "b.png"}) == "there is no file 'b.png'"
    assert reason({**a_picture, "path": "../b.png"}) == "'../b.png' lies outside the project"
    assert reason({**a_picture, "sha256": "0"}) == "'a.png' has changed since the row was made"
    assert "'c.png' cannot be read" in reason(refer("c.png", png("c")[:40]))
    assert "'c.wav' cannot be read" in reason(refer("c.wav", sound(STEREO)[:30]), 40)
    assert reason(refer("d.wav", sound(STEREO, rate=16000)), 40) == "'d.wav' is shorter than 25 ms"


@pytest.mark.parametrize(("name", "data"), [("a.flac", FLAC), ("a.mp3", MP3)])
def test_other_sounds_need_the_extra(refer, tmp_path, monkeypatch, name, data):
    monkeypatch.setattr("distillgen.rows.decoding.find_spec", lambda module: None)
    monkeypatch.setattr("distillgen.extras.find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=r"needs the extra 'sounds' \(soundfile\)"):
        decoded(refer(name, data), tmp_path, 40)


def test_flac_is_read_where_soundfile_is_installed(refer, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    stream = io.BytesIO()
    soundfile.write(stream, numpy.array(STEREO * 4), 40, format="FLAC")
    numbers = decoded(refer("a.flac", stream.getvalue()), tmp_path, 40, most_s=0.1)
    assert numbers == pytest.approx([0.375, -0.25, 0.0, 0.25], abs=1e-3)
