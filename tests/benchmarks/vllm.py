"""Rows a second of a whole run (source, vllm teacher, ledger, files) beside LLM.chat on the same prompts.

Both hold the same model with the same options and draw answers of the same length, in turns, each time in a
process of its own; loading is not counted. Without --model a random Llama of 700,000 weights answers, so that
what is measured is mostly what stands around a model.

Regenerate: python -m tests.benchmarks.vllm --rows 2000 --max-tokens 64 --rounds 3
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import shlex
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.tiny_llama import CPU, ENGINE, make_model


def questions(rows: int) -> list[str]:
    """Prompts that begin alike, as a stage's do."""
    return [
        f"Answer in one sentence, and as a friend would: what is special about the number {i}?"
        for i in range(rows)
    ]


def now() -> tuple[float, float]:
    """Wall clock and this process's CPU, without the engine's processes, in seconds."""
    return time.perf_counter(), time.process_time()


def bare(model: str, engine: dict, rows: int, max_tokens: int, out: Path) -> list[tuple[float, float]]:
    """When LLM.chat begins and ends."""
    from vllm import LLM, SamplingParams

    llm = LLM(model, **engine, enable_prefix_caching=True, disable_log_stats=True)
    chats = [[{"role": "user", "content": question}] for question in questions(rows)]
    begun = now()
    answers = llm.chat(chats, SamplingParams(max_tokens=max_tokens, ignore_eos=True), use_tqdm=False)
    ended = now()
    assert sum(len(answer.outputs[0].token_ids) for answer in answers) == rows * max_tokens
    llm.llm_engine.engine_core.shutdown()  # or this process would wait for the engine's for ever
    return [begun, ended]


def ours(model: str, engine: dict, rows: int, max_tokens: int, out: Path) -> list[tuple[float, float]]:
    """When the engine has started, and when the last row is on disk."""
    from distillgen.pipeline.load import load
    from distillgen.runs.run import run_pipeline
    from distillgen.runs.state import Options

    seeds = out / "seeds.jsonl"
    seeds.write_text("".join(json.dumps({"question": question}) + "\n" for question in questions(rows)))
    teacher = {
        "provider": "vllm",
        "model": model,
        "engine": engine,
        "max_tokens": max_tokens,
        "extra": {"ignore_eos": True},
    }
    stages = [{"source": {"path": "x"}}, {"generate": {"model": "teacher", "template": "{{ question }}"}}]
    pipeline = load(
        {"version": 1, "models": {"teacher": teacher}, "stages": stages}, [f"source.path={seeds}"]
    )
    moments = []

    async def watch(live) -> None:
        activity = live.teachers["teacher"].activity
        for loading in (True, False):
            while bool(activity.note) != loading:
                await asyncio.sleep(0.002)
        moments.append(now())
        try:
            await asyncio.Event().wait()
        finally:  # it is cancelled when the last row is written
            moments.append(now())

    live = run_pipeline(pipeline, out / "run", Options(), watch)
    assert sum(used.output_tokens for used in live.ledger.usage()) == rows * max_tokens
    return moments


def measured(what, *args) -> tuple[float, float]:
    """Seconds between the two moments that a function returns, wall and CPU, in a process of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        (wall, cpu), (wall_after, cpu_after) = pool.submit(what, *args, Path(folder)).result()
        return wall_after - wall, cpu_after - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a folder or a name on the Hub; default: made on the spot")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--engine",
        type=json.loads,
        default=ENGINE,
        help=f"the engine's arguments; default: {json.dumps(ENGINE)}",
    )
    given = parser.parse_args()
    os.environ |= CPU | {"VLLM_LOGGING_LEVEL": "ERROR"} | os.environ
    print("python -m tests.benchmarks.vllm", shlex.join(sys.argv[1:]))
    with tempfile.TemporaryDirectory() as folder:
        model = given.model
        if model is None:
            model = str(make_model(Path(folder) / "model"))
        ratios = []
        for _ in range(given.rounds):
            rates = {}
            for name, what in (("LLM.chat", bare), ("distillgen", ours)):
                wall, cpu = measured(what, model, given.engine, given.rows, given.max_tokens)
                rates[name] = given.rows / wall
                tokens = rates[name] * given.max_tokens
                print(
                    f"{name:<12} {rates[name]:8,.1f} rows/s  {tokens:8,.0f} tokens/s  "
                    f"{1000 * cpu / given.rows:6.2f} ms CPU a row",
                    flush=True,
                )
            ratios.append(rates["distillgen"] / rates["LLM.chat"])
    print(
        f"ratio to LLM.chat {statistics.median(ratios):.2f} (median of "
        f"{', '.join(f'{ratio:.2f}' for ratio in sorted(ratios))})"
    )


if __name__ == "__main__":
    main()
