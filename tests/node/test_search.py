"""Searching a running node by the command and over HTTP; the node makes the indexes meanwhile."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from atoll.node import credentials
from atoll.node.home import open_home
from support.fix_home import NodeStarter, RunningNode, atoll, eventually

pytestmark = pytest.mark.slow

MAKE = """
create table document (id integer primary key, body text, lang text, embedding vector(2));
insert into document values
    (1, 'coral reef', 'en', '[1,0]'), (2, '珊瑚礁', 'zh', '[0.9,0.1]'), (3, 'a boat', 'en', '[0,1]');
select atoll.searchable('document', text => '{body}', embedding => 'embedding');
"""


def post(node: RunningNode, body: Any, password: str | None = None) -> tuple[int, Any]:
    secret = credentials.password(open_home(node.home)) if password is None else password
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    login = base64.b64encode(f"app:{secret}".encode()).decode()
    request = urllib.request.Request(
        node.http + "/api/search", data, {"Authorization": f"Basic {login}"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["error"]["code"]


def test_a_node_is_searched_by_command_and_over_http(start_node: NodeStarter, open_folder: Path) -> None:
    node = start_node()
    home = ("--home", str(node.home))
    assert node.sql(MAKE).returncode == 0

    status, found = post(node, {"table": "document", "query": "珊瑚", "vector": [1, 0], "k": 2})
    assert status == 200, found
    first, second = found["results"]
    assert (first["key"], first["keyword_rank"], first["scope"]) == ({"id": 2}, 1, "local")
    assert (second["key"], second["keyword_rank"], second["vector_distance"]) == ({"id": 1}, None, 0)
    assert first["row"] == {"id": 2, "body": "珊瑚礁", "lang": "zh"}
    asked = {"table": "document", "query": "coral", "filter": {"lang": "zh"}}
    assert post(node, asked) == (200, {"results": []})
    assert post(node, asked, "guessed") == (401, "login-wrong")
    assert post(node, {"table": "document", "query": "x", "vector": [1]}) == (400, "search-vector")
    assert post(node, {"table": "nothing", "query": "x"}) == (400, "table-missing")
    for malformed in (
        b"",
        b"[]",
        b"{}",
        b'{"table": 1}',
        b'{"table": "document", "rows": 1}',
        b"[" * 100_000,
    ):
        assert post(node, malformed) == (400, "search-malformed")
    assert post(node, b'{"table": "document", "vector": [1, "x"]}') == (400, "search-malformed")
    assert post(node, b'{"table": "document", "query": "\\u0000"}')[0] == 400

    vector = open_folder / "vector.json"
    vector.write_text("[0, 1]")
    shown = atoll("search", "document", "reef", "--vector-file", str(vector), "-k", "2", *home).stdout
    assert [line.split()[:2] for line in shown.splitlines()[1:]] == [["1", "1"], ["2", "3"]]
    assert "coral reef" in shown
    told = atoll("search", "document", "reef", "--filter", '{"lang": "en"}', "--json", *home)
    assert [row["key"] for row in json.loads(told.stdout)["results"]] == [{"id": 1}]
    assert "nothing found" in atoll("search", "document", "submarine", *home).stdout
    assert "code: search-filter" in atoll("search", "document", "reef", "--filter", '{"x": 1}', *home).stderr
    assert atoll("search", "document", "reef", "--filter", "{", *home).returncode == 2

    indexed = "select 'it is ' || indexed from atoll.searches"
    eventually(lambda: "it is true" in node.sql(indexed).stdout, "the indexes are made")
