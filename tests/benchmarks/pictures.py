"""Requests with a picture a row to a local endpoint, beside a bare client of the same library that sends the
same bodies: the median of turns that the two take one after the other, each in a process of its own, from
before its imports to its end.

Regenerate: python -m tests.benchmarks.pictures --rows 2000 200 --kilobytes 60 1000 --concurrency 64 --turns 3
"""

import argparse
import asyncio
import base64
import json
import os
import random
import statistics
import struct
import sys
import tempfile
import zlib
from pathlib import Path

from tests.benchmarks.asking import measured, served

TEXT = "Which colour?"


def noise(kilobytes: int, seed: int) -> bytes:
    """A PNG file of about this size, which nothing can pack."""
    size = round((1000 * kilobytes / 3) ** 0.5)
    draw = random.Random(seed)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + draw.randbytes(3 * size) for _ in range(size))
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    packed = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + packed


def bare(url: str, folder: Path, concurrency: int, out: Path) -> None:
    import orjson
    from pyreqwest.client import ClientBuilder

    async def main():
        client = ClientBuilder().no_proxy().default_headers({"content-type": "application/json"}).build()
        slots = asyncio.Semaphore(concurrency)

        async def one(file, stream):
            async with slots:
                data = base64.b64encode(file.read_bytes()).decode()
                picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
                content = [picture, {"type": "text", "text": TEXT}]
                body = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": content}]})
                response = await client.post(url + "/chat/completions").body_bytes(body).build().send()
                answer = orjson.loads(bytes(await response.bytes()))
            stream.write(json.dumps({"file": file.name, "answer": answer["choices"][0]["message"]}) + "\n")

        with out.open("w") as stream:
            await asyncio.gather(*(one(file, stream) for file in sorted(folder.iterdir())))

    asyncio.run(main())


def ours(url: str, folder: Path, concurrency: int, out: Path) -> None:
    import distillgen
    from distillgen.runs.interpreter import interpreter_tuned

    model = {"provider": "openai", "model": "m", "base_url": url, "max_concurrency": concurrency}
    ask = {"model": "t", "template": TEXT, "images": ["image"], "output": "answer"}
    pipeline = {
        "version": 1,
        "models": {"t": model},
        "stages": [{"source": {"path": folder.name}}, {"generate": ask}],
    }
    with interpreter_tuned():  # as the command line does
        run = distillgen.run(pipeline, out=out, ledger=out.with_suffix(".sqlite3"))
    assert run.state["kept"] == len([*folder.iterdir()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 200], help="rows for each size")
    parser.add_argument("--kilobytes", type=int, nargs="+", default=[60, 1000])
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    print("python -m tests.benchmarks.pictures", *sys.argv[1:])
    print(f"{'':22}{'bare pyreqwest':>28}{'distillgen':>40}{'ratio':>7}")
    for rows, kilobytes in zip(given.rows, given.kilobytes, strict=True):
        with served(0) as url, tempfile.TemporaryDirectory() as name:
            os.chdir(name)  # the project
            folder = Path(name) / "pictures"
            folder.mkdir()
            for i in range(rows):
                (folder / f"{i:06}.png").write_bytes(noise(kilobytes, i))
            there, here = [], []
            for turn in range(given.turns):
                there.append(measured(bare, url, folder, given.concurrency, Path(name) / f"bare{turn}"))
                here.append(measured(ours, url, folder, given.concurrency, Path(name) / f"ours{turn}"))
            both = [
                [statistics.median(column) for column in zip(*turns, strict=True)] for turns in (there, here)
            ]
            figures = "".join(
                f"{rows / wall_s:9,.0f} rows/s {1000 * cpu_s / rows:7.2f} ms/row {peak_mb:6.0f} MB"
                for wall_s, cpu_s, peak_mb in both
            )
            print(f"{rows:6,} of {kilobytes:5,} kB  {figures} {both[0][0] / both[1][0]:6.2f}", flush=True)
            os.chdir("/")


if __name__ == "__main__":
    main()
