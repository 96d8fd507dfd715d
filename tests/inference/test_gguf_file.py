"""The header of a .gguf file shows whether the file is broken or truncated."""

import struct

import pytest

from distillgen.errors import ConfigError
from distillgen.inference.gguf_file import check_gguf
from distillgen.teachers.embedded import EmbeddedSpec
from distillgen.training.students import check as check_student


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def whole(*, alignment: int = 32) -> bytes:
    """Metadata of each kind, then a tensor of 64 weights in Q8_0 and one of 3 in F32 behind it."""
    entries = [
        text("general.alignment") + struct.pack("<II", 4, alignment),
        text("general.name") + struct.pack("<I", 8) + text("tiny"),
        text("a.flag") + struct.pack("<I?", 7, True),
        text("a.number") + struct.pack("<Id", 12, 0.5),
        text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bb"),
        text("scores") + struct.pack("<IIQ3f", 9, 6, 3, 1.0, 2.0, 3.0),
    ]
    tensors = [
        text("first") + struct.pack("<IQQIQ", 2, 32, 2, 8, 0),
        text("second") + struct.pack("<IQIQ", 1, 3, 0, 96),
    ]
    header = (
        b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries) + b"".join(tensors)
    )
    header += bytes(-len(header) % alignment)
    return header + bytes(96 + 3 * 4)


@pytest.mark.parametrize("alignment", [32, 64])
def test_a_whole_file_passes_and_no_beginning_of_it_does(tmp_path, alignment):
    path, content = tmp_path / "m.gguf", whole(alignment=alignment)
    path.write_bytes(content)
    check_gguf(path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ConfigError, match="'m.gguf' (is empty|is not GGUF|has a broken|is cut off)"):
            check_gguf(path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "'m.gguf' is empty"),
        (b"<!DOCTYPE html>", "is not GGUF: it begins with b'<!DO'"),
        (b"version https://git-lfs.github.com/spec/v1", "is not GGUF"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(40), "version 1; versions 2 and 3"),
        (b"GGUF" + b"\xff" * 200, "version 4294967295"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0) + bytes(40), "broken or cut-off"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("x") + struct.pack("<I", 99) + bytes(40),
            "broken or cut-off",
        ),
    ],
)
def test_what_is_no_model_is_told_before_a_run_begins(tmp_path, content, message, monkeypatch):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    monkeypatch.setattr("distillgen.extras.find_spec", lambda name: name)
    with pytest.raises(ConfigError, match=message):
        check_gguf(path)
    with pytest.raises(ConfigError, match=message):
        EmbeddedSpec(provider="embedded", model="m.gguf").check(tmp_path)
    with pytest.raises(ConfigError, match=message):
        check_student("m.gguf", tmp_path)


def test_tensors_of_unknown_types_are_expected_to_begin(tmp_path):
    content = whole().replace(struct.pack("<QQIQ", 32, 2, 8, 0), struct.pack("<QQIQ", 32, 2, 999, 0))
    (tmp_path / "m.gguf").write_bytes(content)
    check_gguf(tmp_path / "m.gguf")
