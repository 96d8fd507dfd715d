"""Pictures and sounds as models take them: what a reference refers to, read when it is needed."""

from __future__ import annotations

import wave
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.extras import need
from distillgen.rows.arrays import file_of
from distillgen.rows.media import AUDIO, IMAGE

SHORTEST_S = 0.025
"""The shortest sound: models of speech make one number of 25 ms."""


def decoded(reference: Mapping[str, Any], root: Path, rate: int | None = None, most_s: float = 0) -> Any:
    """Return the picture that a reference refers to, in colour; or with a sampling rate the sound at that
    rate, as one channel of numbers from -1 to 1, of which at most the first `most_s` seconds are read.

    Raise ValueError, with the reason, for a file that is missing, torn, outside of the project, of another
    kind, or not the one that was referred to; ConfigError if a package is missing.
    """
    file, media = file_of(reference, root)
    kind = IMAGE if rate is None else AUDIO
    if not media.startswith(kind):
        raise ValueError(f"'{reference['path']}' is no {'picture' if kind == IMAGE else 'sound'}")
    try:
        return _picture(file) if rate is None else _sound(file, media, rate, most_s)
    except (ConfigError, _Reason):
        raise
    except Exception as error:  # Pillow and soundfile raise OSError, SyntaxError, RuntimeError and others
        raise ValueError(f"'{reference['path']}' cannot be read: {type(error).__name__}: {error}") from error


class _Reason(ValueError):
    """Why a sound cannot be used."""


def _picture(file: Path) -> Any:
    need("a picture", "PIL")
    from PIL import Image

    with Image.open(file) as picture:
        return picture.convert("RGB")


def _sound(file: Path, media: str, rate: int, most_s: float) -> Any:
    if find_spec("soundfile"):
        import soundfile

        with soundfile.SoundFile(file) as stream:
            first, frames = stream.samplerate, int(most_s * stream.samplerate) or -1
            channels = stream.read(frames, dtype="float32", always_2d=True)
    elif media == "audio/wav":
        channels, first = _wave(file, most_s)
    else:
        need(f"a sound of type {media}", "soundfile")
    sound = channels.mean(1)
    if len(sound) < SHORTEST_S * first:
        raise _Reason(f"'{file.name}' is shorter than {1000 * SHORTEST_S:.0f} ms")
    return resampled(sound, first, rate)


def _wave(file: Path, most_s: float) -> tuple[Any, int]:
    """Return the samples [frames, channels] of a WAV file of whole numbers, and their rate."""
    import numpy

    with wave.open(str(file), "rb") as stream:
        rate, width = stream.getframerate(), stream.getsampwidth()
        data = stream.readframes(int(most_s * rate) or stream.getnframes())
        samples = numpy.frombuffer(data, "u1").reshape(-1, width)
    if width == 1:
        numbers = samples[:, 0].astype("i4") - 128
    else:  # the sign is in the last byte
        wide = numpy.zeros((len(samples), 4), "u1")
        wide[:, 4 - width :] = samples
        numbers = wide.view("<i4")[:, 0] >> 8 * (4 - width)
    scaled = numbers.astype("float32") / 2 ** (8 * width - 1)
    return scaled.reshape(-1, stream.getnchannels()), rate


def resampled(sound: Any, first: int, rate: int) -> Any:
    """Return a sound of sampling rate `first` at another rate, without what lies above the lower band."""
    import numpy

    if first == rate:
        return sound
    length = max(1, round(len(sound) * rate / first))
    return (numpy.fft.irfft(numpy.fft.rfft(sound), length) * (length / len(sound))).astype("float32")
