"""A real HTTP server that speaks what pushing to and loading from the Hugging Face Hub needs: accounts,
repositories, commits, LFS. It keeps what it is sent in memory, counts it, and can be told to misbehave.
"""

import asyncio
import base64
import hashlib
import json
import re
from collections import Counter
from contextlib import suppress

import yaml
from aiohttp import web

from distillgen.pipeline.card_options import LICENSES
from tests.endpoint import Endpoint

REGULAR_BYTES = 2_000  # a file of more goes to LFS; on the Hub 10 MB
SIZES = {"n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M"}


class Hub(Endpoint):
    """Tokens: `write` of the user me, `read` of the same; others are refused. `behave(request)` may return a
    response.
    """

    def __init__(self, behave=None):
        super().__init__()
        self.behave = behave
        self.repositories: dict[tuple[str, str], dict] = {}  # (type, id): {private, files, commits}
        self.objects: dict[str, bytes] = {}  # LFS
        self.uploaded: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()  # regular files, by path
        self.committed: Counter[str] = Counter()  # all files, by path
        self.requests: list[str] = []
        self.tokens: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def routes(self, router) -> None:
        router.add_route("*", "/{path:.*}", self._any)

    def repository(self, name: str, kind: str = "dataset", *, private: bool = True) -> dict:
        return self.repositories.setdefault(
            (kind, name), {"private": private, "files": {}, "commits": ["0" * 40]}
        )

    def files(self, name: str, kind: str = "dataset") -> dict[str, bytes]:
        """What a repository holds, with LFS pointers resolved."""
        held = self.repositories[kind, name]["files"]
        return {
            path: self.objects[content] if isinstance(content, str) else content
            for path, content in held.items()
        }

    async def _any(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        if self.behave:
            answer = self.behave(request)
            answer = await answer if asyncio.iscoroutine(answer) else answer
            if answer is not None:
                return answer
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.tokens.add(token)
        path = request.path
        if path.startswith("/lfs/"):
            return await self._object(request, path.removeprefix("/lfs/"))
        if token not in ("hf_write", "hf_read"):
            return _error(401, "Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            return web.json_response({"name": "me", "type": "user", "orgs": []})
        if path == "/api/validate-yaml":
            return _validated(await request.json())
        if path == "/api/repos/create":
            return await self._create(request, token)
        if found := re.fullmatch(
            r"/api/(dataset|model)s/([\w.-]+/[\w.-]+)(?:/(\w[\w-]*)(?:/([^/]+)(?:/(.*))?)?)?", path
        ):
            return await self._api(request, token, *found.groups())
        if found := re.fullmatch(r"/(datasets/)?([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return await self._batch(request)
        if found := re.fullmatch(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(request, "dataset" if found[1] else "model", found[2], found[4])
        return _error(404, "no such thing")

    async def _create(self, request, token):
        asked = await request.json()
        kind, name = asked.get("type") or "model", f"{asked.get('organization') or 'me'}/{asked['name']}"
        url = f"{self.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (kind, name) in self.repositories:
            return web.json_response({"error": "You already created this repo", "url": url}, status=409)
        if token == "hf_read" or not name.startswith("me/"):
            return _error(403, "You don't have the rights to create this")
        self.repository(
            name, kind, private=asked.get("visibility") == "private" or bool(asked.get("private"))
        )
        return web.json_response({"url": url, "name": name, "id": "1"})

    async def _api(self, request, token, kind, name, verb, revision, path):
        if (kind, name) not in self.repositories:
            return _error(404, "Repository not found", code="RepoNotFound")
        held = self.repositories[kind, name]
        files, sha = held["files"], held["commits"][-1]
        if verb in (None, "revision"):
            siblings = [{"rfilename": own} for own in files]
            return web.json_response(
                {
                    "_id": "1",
                    "id": name,
                    "sha": sha,
                    "private": held["private"],
                    "siblings": siblings,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "gated": False,
                    "disabled": False,
                    "lastModified": "2026-01-01T00:00:00.000Z",
                    "createdAt": "2026-01-01T00:00:00.000Z",
                    "author": name.split("/")[0],
                    "cardData": {},
                }
            )
        if verb in ("preupload", "commit") and token == "hf_read":
            return _error(403, "This token may not write")
        if verb == "preupload":
            asked = (await request.json())["files"]
            return web.json_response({"files": [self._mode(files, file) for file in asked]})
        if verb == "commit":
            return await self._commit(request, held, name)
        inside = f"{path}/" if path else ""
        if verb == "tree":
            found = [self._entry(own, content) for own, content in files.items() if own.startswith(inside)]
            return (
                web.json_response(found)
                if found or not path
                else _error(404, "no such folder", code="EntryNotFound")
            )
        if verb == "paths-info":
            wanted = (
                (await request.post()).getall("paths", [])
                if request.content_type != "application/json"
                else (await request.json())["paths"]
            )
            return web.json_response([self._entry(own, files[own]) for own in wanted if own in files])
        return _error(404, "no such thing")

    def _mode(self, files, file):
        held = files.get(file["path"])
        oid = held if isinstance(held, str) else _git(held) if held is not None else None
        large = file["size"] > REGULAR_BYTES or file["path"].endswith((".parquet", ".safetensors", ".arrow"))
        return {
            "path": file["path"],
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": False,
            "oid": oid,
        }

    def _entry(self, path, content):
        data = self.objects[content] if isinstance(content, str) else content
        lfs = (
            {"lfs": {"oid": content, "size": len(data), "pointerSize": 130}}
            if isinstance(content, str)
            else {}
        )
        return {"type": "file", "path": path, "size": len(data), "oid": _git(data), **lfs}

    async def _batch(self, request):
        objects = []
        for asked in (await request.json())["objects"]:
            upload = {"upload": {"href": f"{self.url}/lfs/{asked['oid']}?signature=s3cret"}}
            objects.append({**asked, **({} if asked["oid"] in self.objects else {"actions": upload})})
        return web.json_response({"transfer": "basic", "objects": objects})

    async def _object(self, request, oid):
        body = await request.read()
        if hashlib.sha256(body).hexdigest() != oid:
            return _error(400, "another content than was told")
        self.objects[oid] = body
        self.uploaded[oid] += 1
        return web.Response()

    async def _commit(self, request, held, name):
        lines = [json.loads(line) for line in (await request.read()).splitlines()]
        (parent,) = [line["value"].get("parentCommit") for line in lines if line["key"] == "header"]
        if parent and parent != held["commits"][-1]:
            return _error(412, "A commit has happened since. Please refresh and try again.")
        for line in lines:
            value = line["value"]
            self.committed[value.get("path", "")] += 1
            if line["key"] == "deletedFile":
                del held["files"][value["path"]]
            elif line["key"] == "file":
                held["files"][value["path"]] = base64.b64decode(value["content"])
                self.sent[value["path"]] += 1
            elif line["key"] == "lfsFile":
                assert value["oid"] in self.objects
                held["files"][value["path"]] = value["oid"]
        held["commits"].append(hashlib.sha1(json.dumps([held["commits"], lines]).encode()).hexdigest())
        return web.json_response(
            {"commitUrl": f"{self.url}/{name}/commit/1", "commitOid": held["commits"][-1], "success": True}
        )

    def _resolve(self, request, kind, name, path):
        held = self.repositories.get((kind, name))
        if held is None or path not in held["files"]:
            return _error(404, "no such file", code="EntryNotFound" if held else "RepoNotFound")
        data = self.files(name, kind)[path]
        headers = {"X-Repo-Commit": held["commits"][-1], "ETag": f'"{_git(data)}"', "Accept-Ranges": "bytes"}
        status, total = 200, len(data)
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")):
            begin, end = int(asked[1]), min(int(asked[2] or total - 1), total - 1)
            data, status = data[begin : end + 1], 206
            headers["Content-Range"] = f"bytes {begin}-{end}/{total}"
        return web.Response(
            body=data, status=status, headers=headers, content_type="application/octet-stream"
        )


def _validated(asked) -> web.Response:
    """What the Hub holds against a card's front matter."""
    wrong = []
    _, front, _ = asked["content"].split("---\n", 2)
    front = yaml.safe_load(front)
    if front.get("license") not in LICENSES:
        wrong.append("license must be one of the known ones")
    if asked["repoType"] == "dataset":
        wrong += [f"size {size}" for size in front.get("size_categories", []) if size not in SIZES]
        for config in front.get("configs", []):
            with suppress(TypeError):
                wrong += [f"{config}" for _ in [0] if not config["config_name"] or not config["data_files"]]
    return web.json_response(
        {"errors": [{"message": text} for text in wrong], "warnings": []}, status=400 if wrong else 200
    )


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()


def _error(status, message, code="") -> web.Response:
    headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
    return web.json_response({"error": message}, status=status, headers=headers)
