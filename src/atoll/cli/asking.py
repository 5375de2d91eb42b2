"""Asking the running node over HTTP, as its owner: commands that use models speak to it like any program."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from atoll.cli.home import running
from atoll.domain.errors import ConfigError, DataError, LinkError
from atoll.node import credentials
from atoll.node.home import Home
from atoll.runtimes.refusals import TOO_LONG, TOO_LONG_FOR_OPENAI
from atoll.web.callers import USER

SECONDS_MAX = 600.0
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (names of wildcards, nothing is bound here)


@contextmanager
def asked(home: Home, path: str, body: dict[str, Any] | None) -> Iterator[http.client.HTTPResponse]:
    """The node's answer to a POST, or, without a body, to a GET; an error in it is raised here."""
    connection = _connect(home)
    headers = {"Content-Type": "application/json", "Authorization": _login(path, credentials.password(home))}
    try:
        content = None if body is None else json.dumps(body).encode()
        connection.request("GET" if content is None else "POST", path, content, headers)
        answer = connection.getresponse()
        if answer.status >= 400:
            raise _error_in(answer)
        yield answer
    except OSError as error:
        raise LinkError(
            "node-unanswering", "the node does not answer over HTTP", detail=f"{error}."
        ) from error
    finally:
        connection.close()


def events(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The events of a streamed answer, as they come."""
    for line in answer:
        if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
            event: dict[str, Any] = json.loads(line[6:])
            if "error" in event:
                told = event["error"]
                raise LinkError(str(told.get("code") or "runtime-broken"), str(told["message"]).rstrip("."))
            yield event


def _login(path: str, password: str) -> str:
    """Models are asked with a key, rows with a user's password."""
    if path.startswith("/api/"):
        return "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode()
    return f"Bearer {password}"


def _connect(home: Home) -> http.client.HTTPConnection:
    word = running(home)
    if not word.get("http"):
        raise ConfigError("http-off", "the node does not listen on HTTP", hint="Start it with --http.")
    host, _, port = str(word["http"]).rpartition(":")
    host = host.strip("[]")
    return http.client.HTTPConnection(WILDCARDS.get(host, host), int(port), timeout=SECONDS_MAX)


def _error_in(answer: http.client.HTTPResponse) -> DataError:
    body = answer.read()
    try:
        told = json.loads(body)["error"]
        if isinstance(told, str):
            return DataError("request-refused", told)
        words = {name: told[name] for name in ("detail", "hint") if told.get(name)}
        code = str(told.get("code") or "request-refused")
        code = TOO_LONG if code == TOO_LONG_FOR_OPENAI else code
        return DataError(code, str(told["message"]).rstrip("."), **words)
    except (ValueError, KeyError, TypeError):
        return DataError("request-refused", f"the node answers with status {answer.status}")
