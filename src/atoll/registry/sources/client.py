"""HTTP towards a source: redirects, credentials and patience.

Redirects are followed here and not by the library, so that credentials go to the source's own origin and
nowhere else, and nothing is fetched in the clear over a network. What may succeed later is tried again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from atoll import __version__
from atoll.domain.errors import AtollError, ConfigError, DataError, LinkError

REDIRECTS_MAX = 8
TRIES_MAX = 6
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.5, 20.0
TOLD_PAUSE_SECONDS_MAX = 60.0
CONNECT_SECONDS_MAX = 20.0
SILENCE_SECONDS_MAX = 30.0
JSON_BYTES_MAX = 16 * 1024**2
REDIRECTS = (301, 302, 303, 307, 308)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
T = TypeVar("T")
Renew = Callable[[aiohttp.ClientResponse], Awaitable[str | None]]
Explain = Callable[[aiohttp.ClientResponse], AtollError]


class Again(Exception):
    """It did not work, and may work when tried again."""

    def __init__(self, why: str, after_seconds: float | None = None, has_come: bool = False) -> None:
        super().__init__(why)
        self.after_seconds = after_seconds
        self.has_come = has_come  # something did come: it is no failure in a row


@dataclass
class Client:
    """What is asked of one source. `base` is where its credentials belong."""

    session: aiohttp.ClientSession
    base: str
    explain: Explain
    authorization: str | None = None
    renew: Renew | None = None  # makes the authorization that a refusal asks for

    def __post_init__(self) -> None:
        _check(self.base)

    @asynccontextmanager
    async def get(
        self, url: str, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, dict[str, str]]]:
        """A good answer at the end of all redirects, and the headers of all answers on the way."""
        said: dict[str, str] = {}
        has_renewed = False
        for _ in range(REDIRECTS_MAX + 2):
            is_home = _origin(url) == _origin(self.base)
            response = await self._ask(url, headers or {}, is_home)
            try:
                said |= {key.lower(): value for key, value in response.headers.items()}
                if response.status in REDIRECTS and "Location" in response.headers:
                    url = urljoin(url, response.headers["Location"])
                    _check(url)
                elif response.status == 401 and is_home and self.renew and not has_renewed:
                    has_renewed = True
                    self.authorization = await self.renew(response) or self.authorization
                else:
                    self._check_status(response)
                    yield response, said
                    return
            finally:
                response.close()
        raise DataError(
            "source-redirects", f"{urlsplit(self.base).netloc} redirects more than {REDIRECTS_MAX} times"
        )

    async def read(
        self, url: str, headers: Mapping[str, str] | None = None, bytes_max: int = JSON_BYTES_MAX
    ) -> tuple[bytes, dict[str, str]]:
        """A whole answer that is small, and its headers."""

        async def attempt() -> tuple[bytes, dict[str, str]]:
            async with self.get(url, headers) as (response, said):
                found = bytearray()
                async for block in response.content.iter_any():
                    found += block
                    if len(found) > bytes_max:
                        raise DataError("source-malformed-answer", f"the answer to {url} is too long")
                return bytes(found), said

        return await self.patiently(attempt)

    async def read_json(self, url: str) -> Any:
        return as_json((await self.read(url))[0], url)

    async def patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try, and try again after a pause, until it failed so often in a row."""
        failures = 0
        while True:
            try:
                return await attempt()
            except aiohttp.ClientSSLError as error:
                raise LinkError(
                    "source-away", "could not fetch: the certificate is not trusted", detail=f"{error}."
                ) from error
            except (Again, aiohttp.ClientError, ConnectionError, TimeoutError) as error:
                again = error if isinstance(error, Again) else Again(_words(error))
            failures = 1 if again.has_come else failures + 1
            if failures >= TRIES_MAX:
                raise LinkError(
                    "source-away",
                    f"could not fetch from {urlsplit(self.base).netloc}: {again}",
                    detail=f"It was tried {failures} times.",
                    hint="The same command goes on from where it was.",
                )
            pause = min(PAUSE_SECONDS_MIN * 2 ** (failures - 1), PAUSE_SECONDS_MAX)
            await asyncio.sleep(min(again.after_seconds or pause, TOLD_PAUSE_SECONDS_MAX))

    async def _ask(self, url: str, headers: Mapping[str, str], is_home: bool) -> aiohttp.ClientResponse:
        mine = {"Authorization": self.authorization} if is_home and self.authorization else {}
        usual = {"User-Agent": f"atoll/{__version__}", "Accept-Encoding": "identity"}
        return await self.session.get(
            URL(url, encoded=True),
            headers={**usual, **headers, **mine},
            allow_redirects=False,
            proxy=_proxy(url),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_SECONDS_MAX, sock_read=SILENCE_SECONDS_MAX
            ),
        )

    def _check_status(self, response: aiohttp.ClientResponse) -> None:
        if response.status in (408, 425, 429) or response.status >= 500:
            told = response.headers.get("Retry-After", "")
            raise Again(f"it answers with status {response.status}", float(told) if told.isdigit() else None)
        if response.status not in (200, 206, 416):
            raise self.explain(response)


def as_json(told: bytes, url: str) -> Any:
    try:
        return json.loads(told)
    except (ValueError, RecursionError) as error:
        raise DataError("source-malformed-answer", f"the answer to {url} is not JSON") from error


def is_loopback(host: str | None) -> bool:
    return host in LOOPBACK


def _check(url: str) -> None:
    """Only what is encrypted crosses a network."""
    try:
        parts = urlsplit(url)
        _origin(url)
    except ValueError as error:
        raise ConfigError("source-malformed", f'cannot understand "{url}"', detail=f"{error}.") from error
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise ConfigError(
            "source-insecure",
            f"cannot fetch a model from {parts.scheme}://{parts.netloc}",
            detail="Without TLS, anybody on the way could change it.",
            hint="Use https; http is for this machine only.",
        )


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    if is_loopback(parts.hostname) or proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get(parts.scheme)


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    return str(error) or type(error).__name__
