"""Headless Chromium, driven over its own protocol."""

import asyncio
import itertools
import re
import shutil
import tempfile
import threading

import aiohttp

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --remote-debugging-port=0"
).split()


class Browser:
    """One tab. `requests` are the addresses that it asked for, `complaints` what its console said."""

    def __init__(self):
        self.requests, self.complaints = [], []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._numbers, self._answers = itertools.count(1), {}

    def __enter__(self):
        self._thread.start()
        try:
            self._wait(self._start())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _start(self):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._process = await asyncio.create_subprocess_exec(
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={self._profile.name}",
            "about:blank",
            stderr=asyncio.subprocess.PIPE,
        )
        port = None
        while port is None:
            line = (await self._process.stderr.readline()).decode()
            assert line, "Chromium ended"
            port = re.search(r"ws://127.0.0.1:(\d+)/", line)
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port[1]}/json") as answer:
            tab = next(tab for tab in await answer.json() if tab["type"] == "page")
        self._socket = await self._session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)
        self._reading = asyncio.ensure_future(self._read())
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self._call(f"{domain}.enable")

    async def _end(self):
        for part in ("_reading", "_socket", "_session"):
            if part in vars(self):
                one = vars(self)[part]
                one.cancel() if part == "_reading" else await one.close()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self._profile.cleanup()

    async def _read(self):
        async for message in self._socket:
            event = message.json()
            if "id" in event:
                self._answers.pop(event["id"]).set_result(event.get("result", event))
            elif event["method"] == "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])
            elif event["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self.complaints.append(event["params"])
            elif event["method"] == "Page.javascriptDialogOpening":
                self.complaints.append(event["params"])

    async def _call(self, method, **params):
        number = next(self._numbers)
        self._answers[number] = answer = self._loop.create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        return await answer

    def call(self, method, **params):
        return self._wait(self._call(method, **params))

    def size(self, width, height=900):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    def run(self, expression):
        """The value of an expression of JavaScript; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, condition):
        """Wait until an expression is true."""
        wait = f"""new Promise((resolve, reject) => {{
          const end = Date.now() + 20000;
          const look = () => {condition} ? resolve(true)
            : Date.now() > end ? reject(document.body.innerText.slice(0, 2000)) : setTimeout(look, 20);
          look();
        }})"""
        assert self.run(wait)

    def open(self, address):
        self.call("Page.navigate", url=address)
        self.until(f"document.readyState == 'complete' && location.href == {address!r}")

    def press(self, *keys):
        for key in keys:
            text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)
