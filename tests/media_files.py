"""Small pictures and sounds, made without a package."""

import base64
import io
import random
import struct
import wave
import zlib

JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6jq62rZ4"
    "C8ybqmx5moq6T/wAALCAACAAMBAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQID"
    "AAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3"
    "R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6"
    "/9oACAEBAAA/AKFf/9k="
)
GIF = base64.b64decode("R0lGODdhAwACAIEAAP8AAAAAAAAAAAAAACwAAAAAAwACAAAIBgABCBwYEAA7")
WEBP = base64.b64decode("UklGRjQAAABXRUJQVlA4ICgAAACQAQCdASoDAAIAB0CWJaACdLoAA5gA/uUK+Cepco/+N48CvJdjoAAA")
LOSSLESS = base64.b64decode("UklGRhwAAABXRUJQVlA4TA8AAAAvAkAAAAcQ/Y/+ByKi/wEA")  # WebP, too
MP3 = b"\xff\xfb\x90\x00" + bytes(413)
TITLED_MP3 = b"ID3\x04\0\0\0\0\0\0" + MP3
FLAC = b"fLaC\x80\0\0\x22" + bytes(34)


def png(name="", width=3, height=2):
    """A picture with colours drawn from its name."""
    colours = random.Random(name)
    lines = b"".join(b"\0" + colours.randbytes(3 * width) for _ in range(height))
    return png_of(width, height, lines)


def png_of(width, height, lines):
    """A PNG that says it has this size, and holds these lines."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks)


def wav(name="", samples=80):
    """A hundredth of a second of noise drawn from its name."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(random.Random(name).randbytes(2 * samples))
    return stream.getvalue()
