"""A hub and a registry of models on loopback that answer as the real ones do, and misbehave where told to.

The hub sends large files to another origin by a redirect, with their hash in headers of the first answer; the
registry wants a token, which another address hands out. Both know Range. What they were asked is kept.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

COMMIT = "8d1c" * 10
TOKEN = "hf_of_a_reader"
LARGE = (".gguf", ".onnx", ".safetensors", ".bin", ".pt")
CHUNK = 16 * 1024


@dataclass
class Mischief:
    """What goes wrong, and how often."""

    cut_after: int | None = None  # bytes of a body after which the connection breaks
    cuts: int = 0
    silent_after: int | None = None  # bytes after which nothing more comes
    changes: str | None = None  # the file that has another last byte than its hash says
    longer: str | None = None  # the file whose body goes on after its end
    busy: int = 0  # answers with status 503
    ignores_range: bool = False
    loops: bool = False  # redirects to itself


@dataclass(frozen=True)
class Request:
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Source:
    """One server of files by name, and all that it was asked."""

    files: dict[str, bytes]
    mischief: Mischief = field(default_factory=Mischief)
    requests: list[Request] = field(default_factory=list)
    base: str = ""

    def note(self, request: web.Request) -> None:
        headers = request.headers
        self.requests.append(Request(request.path, headers.get("Range"), headers.get("Authorization")))

    def ranges(self) -> list[str]:
        return [one.range for one in self.requests if one.range]

    async def give(self, request: web.Request, path: str, headers: dict[str, str]) -> web.StreamResponse:
        """A body, or the part of it that is asked for."""
        body, mischief = self.files[path], self.mischief
        if mischief.busy > 0:
            mischief.busy -= 1
            return web.Response(status=503, headers={"Retry-After": "0"})
        if mischief.changes == path:
            body = body[:-1] + bytes([body[-1] ^ 1])
        begin, total = 0, len(body)
        if (asked := request.headers.get("Range")) and not mischief.ignores_range:
            begin = int(asked.removeprefix("bytes=").partition("-")[0])
            if begin >= total:
                return web.Response(status=416, headers={"Content-Range": f"bytes */{total}"})
            headers = {**headers, "Content-Range": f"bytes {begin}-{total - 1}/{total}"}
        response = web.StreamResponse(status=206 if "Content-Range" in headers else 200, headers=headers)
        if mischief.longer == path:
            body += b"more"
            response.enable_chunked_encoding()
        else:
            response.content_length = total - begin
        await response.prepare(request)
        sent = 0
        for at in range(begin, len(body), CHUNK):
            await response.write(body[at : at + CHUNK])
            sent += CHUNK
            if mischief.cuts > 0 and mischief.cut_after is not None and sent >= mischief.cut_after:
                mischief.cuts -= 1
                assert request.transport is not None
                request.transport.abort()
                return response
            if mischief.silent_after is not None and sent >= mischief.silent_after:
                await asyncio.sleep(3600)
        await response.write_eof()
        return response


@dataclass
class Hub(Source):
    repo: str = "reef/tiny"
    licence: str = "mit"
    model_type: str | None = None
    is_private: bool = False
    cdn: str = ""

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/models/{owner}/{name}/revision/{revision}", self._listing),
            web.get("/{owner}/{name}/resolve/{revision}/{path:.+}", self._resolve),
        ]

    def cdn_routes(self) -> list[web.RouteDef]:
        return [web.get("/repos/{sha256}", self._from_cdn)]

    def _refusal(self, request: web.Request) -> web.Response | None:
        repo = f"{request.match_info['owner']}/{request.match_info['name']}"
        may = request.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo != self.repo or (self.is_private and not may):
            return web.Response(status=404 if may else 401, headers={"X-Error-Code": "RepoNotFound"})
        if request.match_info["revision"] not in ("main", COMMIT, "v1"):
            return web.Response(status=404, headers={"X-Error-Code": "RevisionNotFound"})
        return None

    async def _listing(self, request: web.Request) -> web.Response:
        self.note(request)
        if refusal := self._refusal(request):
            return refusal
        told: dict[str, Any] = {
            "id": self.repo,
            "sha": COMMIT,
            "private": self.is_private,
            "cardData": {"license": self.licence},
            "tags": [f"license:{self.licence}"],
            "siblings": [self._sibling(path) for path in sorted(self.files)],
        }
        if self.model_type:
            told["config"] = {"model_type": self.model_type}
        return web.json_response(told)

    def _sibling(self, path: str) -> dict[str, Any]:
        body = self.files[path]
        told: dict[str, Any] = {"rfilename": path, "size": len(body), "blobId": git_blob(body)}
        if path.endswith(LARGE):
            told["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
        return told

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        self.note(request)
        if refusal := self._refusal(request):
            return refusal
        path = request.match_info["path"]
        if path not in self.files:
            return web.Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        if self.mischief.loops:
            raise web.HTTPFound(request.path)
        sha256 = hashlib.sha256(self.files[path]).hexdigest()
        if not path.endswith(LARGE):
            return await self.give(request, path, {"ETag": f'"{git_blob(self.files[path])}"'})
        linked = {"X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(self.files[path]))}
        # Written out by hand: a signed address goes out as it is.
        linked["Location"] = f"{self.cdn}/repos/{sha256}?Signature=a%2Fb~c"
        return web.Response(status=302, headers=linked)

    async def _from_cdn(self, request: web.Request) -> web.StreamResponse:
        self.note(request)
        assert request.raw_path.endswith("?Signature=a%2Fb~c"), "a signed address has to stay as it is"
        for path, body in self.files.items():
            if hashlib.sha256(body).hexdigest() == request.match_info["sha256"]:
                return await self.give(request, path, {})
        return web.Response(status=403)


@dataclass
class Registry(Source):
    path: str = "reef/tiny"
    manifest: dict[str, Any] = field(default_factory=dict)
    password: str | None = None  # wanted for a token
    lies_of_manifest: bool = False

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/token", self._token),
            web.get("/v2/{path:.+}/manifests/{reference}", self._manifest),
            web.get("/v2/{path:.+}/blobs/{digest}", self._blob),
        ]

    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(json.dumps(self.manifest).encode()).hexdigest()}"

    def put(self, kind: str, name: str, body: bytes, title: str | None = None) -> None:
        """One more layer."""
        self.files[name] = body
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        layer: dict[str, Any] = {"mediaType": kind, "digest": digest, "size": len(body)}
        if title:
            key = "org.cncf.model.filepath" if ".cncf." in kind else "org.opencontainers.image.title"
            layer["annotations"] = {key: title}
        self.manifest.setdefault("schemaVersion", 2)
        self.manifest.setdefault("mediaType", "application/vnd.oci.image.manifest.v1+json")
        self.manifest.setdefault("layers", []).append(layer)

    def _refusal(self, request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") == "Bearer token-for-pull":
            return None
        told = f'Bearer realm="{self.base}/token",service="reg",scope="repository:{self.path}:pull"'
        return web.Response(status=401, headers={"WWW-Authenticate": told})

    async def _token(self, request: web.Request) -> web.Response:
        self.note(request)
        assert request.query["scope"] == f"repository:{self.path}:pull"
        if self.password is not None:
            wanted = "Basic " + base64.b64encode(f"reader:{self.password}".encode()).decode()
            if request.headers.get("Authorization") != wanted:
                return web.Response(status=401)
        return web.json_response({"token": "token-for-pull", "expires_in": 300})

    async def _manifest(self, request: web.Request) -> web.Response:
        self.note(request)
        if refusal := self._refusal(request):
            return refusal
        if request.match_info["path"] != self.path or request.match_info["reference"] not in (
            "latest",
            "v1",
            self.digest(),
        ):
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
        body = json.dumps({**self.manifest, "more": 1} if self.lies_of_manifest else self.manifest).encode()
        headers = {"Docker-Content-Digest": self.digest(), "Content-Type": self.manifest["mediaType"]}
        return web.Response(body=body, headers=headers)

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        self.note(request)
        if refusal := self._refusal(request):
            return refusal
        for path, body in self.files.items():
            if f"sha256:{hashlib.sha256(body).hexdigest()}" == request.match_info["digest"]:
                return await self.give(request, path, {})
        return web.Response(status=404)


def git_blob(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


@asynccontextmanager
async def serving(routes: list[web.RouteDef]) -> AsyncIterator[str]:
    application = web.Application()
    application.add_routes(routes)
    runner = web.AppRunner(application, shutdown_timeout=1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def a_hub(files: dict[str, bytes], **more: Any) -> AsyncIterator[Hub]:
    """A hub with one repository, its files at another origin."""
    hub = Hub(files, **more)
    async with serving(hub.routes()) as hub.base, serving(hub.cdn_routes()) as hub.cdn:
        yield hub


@asynccontextmanager
async def a_registry(**more: Any) -> AsyncIterator[Registry]:
    registry = Registry({}, **more)
    async with serving(registry.routes()) as registry.base:
        yield registry
