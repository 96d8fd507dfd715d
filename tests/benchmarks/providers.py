"""CPU of the client for a request in Anthropic's protocol, through packages that speak it, and the token
counts that they hand on. One package in each environment: python -m venv e && e/bin/pip install litellm.

Regenerate: python tests/benchmarks/providers.py litellm (or any_llm, pydantic_ai, anthropic, distillgen)
"""

import asyncio
import json
import multiprocessing
import sys
import time

USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 2000,
    "cache_read_input_tokens": 300,
    "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 1500},
    "output_tokens": 40,
    "service_tier": "standard",
}
ANSWER = json.dumps(
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [{"type": "text", "text": "an answer"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": USAGE,
    }
).encode()
MESSAGES = [{"role": "user", "content": "a question " * 50}]
ROWS, AT_ONCE = 400, 16


async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request of a connection."""
    while True:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
        except (asyncio.IncompleteReadError, ConnectionError):
            return writer.close()
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
        writer.write(b"content-length: %d\r\n\r\n" % len(ANSWER) + ANSWER)


def serve(port) -> None:
    """Serve at a free port, which `port` then holds."""

    async def forever() -> None:
        server = await asyncio.start_server(reply, "127.0.0.1", 0, limit=1 << 20)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(forever())


def client_of(package: str, url: str):
    """Return a coroutine function that asks once through a package, and returns the usage that it gives."""
    if package == "litellm":
        import litellm

        async def ask():
            answer = await litellm.acompletion(
                "anthropic/claude-sonnet-4-5",
                MESSAGES,
                max_tokens=100,
                api_base=url,
                api_key="key",
                num_retries=0,
            )
            return answer.usage
    elif package == "any_llm":
        from any_llm import acompletion

        async def ask():
            answer = await acompletion(
                "claude-sonnet-4-5",
                MESSAGES,
                provider="anthropic",
                max_tokens=100,
                api_base=url,
                api_key="key",
            )
            return answer.usage
    elif package == "pydantic_ai":
        from pydantic_ai.direct import model_request
        from pydantic_ai.messages import ModelRequest
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        model = AnthropicModel("claude-sonnet-4-5", provider=AnthropicProvider(api_key="key", base_url=url))

        async def ask():
            answer = await model_request(model, [ModelRequest.user_text_prompt(MESSAGES[0]["content"])])
            return answer.usage
    elif package == "anthropic":
        from anthropic import AsyncAnthropic

        sdk = AsyncAnthropic(api_key="key", base_url=url, max_retries=0)

        async def ask():
            answer = await sdk.messages.create(model="claude-sonnet-4-5", max_tokens=100, messages=MESSAGES)
            return answer.usage
    else:
        from pathlib import Path

        from distillgen.inference.endpoint import Services
        from distillgen.inference.request import Request
        from distillgen.teachers.anthropic import Anthropic, AnthropicSpec

        spec = AnthropicSpec(provider="anthropic", model="claude-sonnet-4-5", base_url=url, api_key="key")
        endpoint = Anthropic("m", spec, Services(None, None, "run", Path()))
        request = Request(model="claude-sonnet-4-5", messages=MESSAGES, sampling={"max_tokens": 100})

        async def ask():
            (answer,) = await endpoint.answer(request, [0], 0)
            return {name: value for name, value in answer._asdict().items() if name.endswith("tokens")}

    return ask


async def measure(package: str, url: str) -> None:
    """Print the milliseconds of CPU for a request, and the usage."""
    ask = client_of(package, url)
    usage = await ask()
    limit = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with limit:
            await ask()

    began_s = time.process_time()
    await asyncio.gather(*(one() for _ in range(ROWS)))
    print(f"{package}: {1000 * (time.process_time() - began_s) / ROWS:.2f} ms of CPU a request; {usage}")


if __name__ == "__main__":
    port = multiprocessing.Value("i", 0)
    server = multiprocessing.Process(target=serve, args=(port,), daemon=True)
    server.start()
    while not port.value:
        time.sleep(0.01)
    asyncio.run(measure(sys.argv[1], f"http://127.0.0.1:{port.value}"))
    server.kill()
