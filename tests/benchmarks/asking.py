"""Rows a second and CPU a row while asking a local endpoint, beside a bare aiohttp client that appends JSONL:
the median of turns that the two take one after the other, each in a process of its own, from before its
imports to its end.

Regenerate: python -m tests.benchmarks.asking --rows 10000 --concurrency 64 256 1000 --latency-ms 0 200
--turns 5
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

ANSWER = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "a short answer of a few words"},
            }
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 8, "total_tokens": 28},
    }
).encode()
RESPONSE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER) + ANSWER
)


def serve(port, latency_s: float) -> None:
    """A server that costs as little as Python allows: it parses nothing but lengths."""

    async def client(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                if latency_s:
                    await asyncio.sleep(latency_s)
                writer.write(RESPONSE)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main():
        server = await asyncio.start_server(client, "127.0.0.1", 0, backlog=4096)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(main())


def bare(url: str, rows: int, concurrency: int, out: Path) -> None:
    import aiohttp

    async def main():
        slots = asyncio.Semaphore(concurrency)
        connector = aiohttp.TCPConnector(limit=concurrency)
        with out.open("w") as stream:
            async with aiohttp.ClientSession(connector=connector) as session:

                async def one(i):
                    async with slots:
                        body = {"model": "m", "messages": [{"role": "user", "content": f"What is {i}?"}]}
                        async with session.post(url + "/chat/completions", json=body) as response:
                            answer = await response.json()
                    stream.write(
                        json.dumps({"number": i, "answer": answer["choices"][0]["message"]["content"]}) + "\n"
                    )

                await asyncio.gather(*(one(i) for i in range(rows)))

    asyncio.run(main())


def ours(url: str, rows: int, concurrency: int, out: Path) -> None:
    import distillgen
    from distillgen.runs.interpreter import interpreter_tuned

    seeds = out.with_suffix(".jsonl")
    if not seeds.exists():
        with seeds.open("w") as stream:
            stream.writelines(f'{{"number": {i}}}\n' for i in range(rows))
    pipeline = {
        "version": 1,
        "models": {
            "t": {"provider": "openai", "model": "m", "base_url": url, "max_concurrency": concurrency}
        },
        "stages": [
            {"source": {"path": str(seeds)}},
            {"generate": {"model": "t", "template": "What is {{ number }}?", "output": "answer"}},
        ],
    }
    sets = [f"source.path={seeds}"]
    with interpreter_tuned():  # as the command line does
        distillgen.run(pipeline, out=out, sets=sets, ledger=out.with_suffix(".sqlite3"))


def measured(what, *args) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak RSS in MB of a function in a process of its own."""

    def child(pipe):
        begun, used = time.perf_counter(), time.process_time()
        what(*args)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        pipe.send((time.perf_counter() - begun, time.process_time() - used, peak))

    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(there,))
    process.start()
    result = here.recv()
    process.join()
    return result


@contextlib.contextmanager
def served(latency_s: float):
    """The address of an endpoint in a process of its own."""
    port = multiprocessing.Value("i", 0)
    server = multiprocessing.Process(target=serve, args=(port, latency_s), daemon=True)
    server.start()
    while not port.value:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port.value}/v1"
    server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[64, 256, 1000])
    parser.add_argument("--latency-ms", type=float, nargs="+", default=[0, 200])
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    print("python -m tests.benchmarks.asking", *sys.argv[1:])
    print(f"{'':23}{'bare aiohttp':>16}{'distillgen':>16}{'CPU':>15}{'memory':>12}{'ratio':>7}")
    for latency_ms in given.latency_ms:
        with served(latency_ms / 1000) as url:
            for concurrency in given.concurrency:
                rows = min(given.rows, int(concurrency * 30_000 / latency_ms)) if latency_ms else given.rows
                there, here = [], []
                for _ in range(given.turns):
                    with tempfile.TemporaryDirectory() as folder:
                        there.append(measured(bare, url, rows, concurrency, Path(folder) / "bare"))
                        here.append(measured(ours, url, rows, concurrency, Path(folder) / "ours"))
                (bare_s, _, _), (our_s, cpu_s, _) = (
                    [statistics.median(column) for column in zip(*those, strict=True)]
                    for those in (there, here)
                )
                print(
                    f"{latency_ms:4g} ms, {concurrency:4} at once {rows / bare_s:8,.0f} rows/s "
                    f"{rows / our_s:8,.0f} rows/s "
                    f"{1000 * cpu_s / rows:8.3f} ms/row {max(turn[2] for turn in here):8.0f} "
                    f"MB {bare_s / our_s:6.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
