"""A model in llama.cpp takes pictures if a second file turns them into tokens."""

import asyncio
import struct
from pathlib import Path

import pytest

from distillgen.errors import ConfigError
from distillgen.inference.endpoint import Services
from distillgen.inference.faults import Rejected
from distillgen.inference.gguf_file import architecture_of
from distillgen.inference.ledger import Ledger
from distillgen.inference.limits import Budget
from distillgen.inference.request import Completion, Request
from distillgen.teachers.embedded import Embedded, EmbeddedSpec

PICTURE = {"type": "image", "path": "a.png", "sha256": "0" * 64}


def gguf(path: Path, architecture: str, more: bytes = b"") -> Path:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    entry = text("general.architecture") + struct.pack("<I", 8) + text(architecture)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry + more)
    return path


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr("distillgen.teachers.embedded.need", lambda *_: None)
    gguf(tmp_path / "small.gguf", "llama")
    gguf(tmp_path / "mmproj.gguf", "clip")
    return tmp_path


def entry(**options) -> EmbeddedSpec:
    return EmbeddedSpec(provider="embedded", **{"model": "small.gguf", **options})


def test_a_header_names_the_architecture(files):
    assert architecture_of(files / "small.gguf") == "llama"
    assert architecture_of(files / "mmproj.gguf") == "clip"


def test_it_takes_pictures_with_a_file_for_them_alone(files):
    entry(mmproj="mmproj.gguf").check(files)
    assert "images" in entry(mmproj="mmproj.gguf").capabilities
    assert "images" not in entry().capabilities


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mmproj": "none.gguf"}, "there is no file 'none.gguf', which 'mmproj' names"),
        ({"mmproj": "small.gguf"}, "'small.gguf' is no mmproj: its architecture is 'llama', not 'clip'"),
        ({"mmproj": "text.gguf"}, "is not GGUF"),
        ({"model": "mmproj.gguf"}, "it is the mmproj of a model"),
        ({"mmproj": "mmproj.gguf", "api": "completions"}, "leave out api: completions, or 'mmproj'"),
    ],
)
def test_another_file_is_refused(files, options, says):
    (files / "text.gguf").write_text("no model")
    with pytest.raises(ConfigError) as error:
        entry(**options).check(files)
    assert says in str(error.value)


class Server:
    """What the server was asked."""

    def __init__(self):
        self.calls = []

    async def answer(self, request, samples, attempt):
        self.calls.append(request.sampling.get("extra", {}))
        return [Completion("yes")]

    async def call(self, path, body):
        self.calls.append(path)


@pytest.fixture
def embedded(files):
    made = []

    def make(**options):
        ledger = Ledger(files / f"{len(made)}.sqlite3")
        made.append(Embedded("small", entry(**options), Services(ledger, Budget(), "run", files)))
        return made[-1]

    return make


def test_its_identity_covers_both_files(files, embedded):
    blind, seeing = (embedded(**options).identity for options in ({}, {"mmproj": "mmproj.gguf"}))
    assert blind != seeing and seeing.startswith(blind)
    assert embedded(mmproj="mmproj.gguf").tokenizer == blind
    gguf(files / "mmproj.gguf", "clip", b"changed")
    assert embedded(mmproj="mmproj.gguf").identity not in (blind, seeing)


def test_the_cache_of_a_first_prompt_is_copied_unless_it_has_pictures(embedded):
    text = Request("small", [{"role": "user", "content": "Yes?"}])
    picture = Request("small", [{"role": "user", "content": [PICTURE]}])

    def calls(*requests):
        async def main():
            teacher, server = embedded(max_concurrency=2), Server()

            async def start():
                return server

            teacher._start = start
            for request in requests:
                await teacher.answer(request, [0], 0)
            return server.calls

        return asyncio.run(main())

    slots = ["../slots/0?action=save", "../slots/1?action=restore"]
    assert calls(text, text) == [{"id_slot": 0}, *slots, {}]
    assert calls(picture, text) == [{}, {}]


def test_a_search_takes_no_picture(embedded):
    request = Request("small", [{"role": "user", "content": [PICTURE]}], constraints={"clauses": []})
    with pytest.raises(Rejected, match="takes no pictures"):
        asyncio.run(embedded().answer(request, [0], 0))
