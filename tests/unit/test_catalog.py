"""What rows say of models becomes what is kept: a bad adapter is its own problem, and its model goes on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from atoll.domain.models import ADAPTERS_MAX, Skill
from atoll.identity import authority as authorities
from atoll.identity import certificate as certificates
from atoll.node.borrowing import Borrowing
from atoll.node.catalog import Catalog
from atoll.node.home import Home, HomeFacts
from atoll.registry import adding, signing
from atoll.registry.adapters import Base, add_adapter
from atoll.registry.manifest import Manifest, to_json
from atoll.registry.store import Store
from atoll.runtimes.llama.split.runtime import SplitRuntime
from support.fix_models import LAYERS, WIDTH, TinyModel, write_adapter, write_model

NOW = datetime(2031, 5, 4, 12, tzinfo=UTC)
GENERATES = frozenset({Skill.GENERATE})


class Shelf:
    """Files that were added on this node, and the rows that they become."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder, folder / "run", HomeFacts(1, 18, "x"))
        self.store = Store(self.home.models)
        authority, key = authorities.create(now=NOW), certificates.make_key()
        pem = authority.issue(certificates.make_request(key, "x"), number=7, name="harbour", now=NOW)
        self.identity = certificates.save_identity(
            self.home.keys, key_pem=key, certificate_pem=pem, authority_pem=authority.pem
        )
        self.catalog = self.catalog_with(10**10)
        self.before: Any = {}

    def catalog_with(self, memory_bytes: int) -> Catalog:
        nobody = Borrowing(self.home, None, None)  # type: ignore[arg-type]
        return Catalog(self.home, self.store, memory_bytes, nobody)

    def signed(self, manifest: Manifest) -> tuple[Any, ...]:
        made = signing.sign(to_json(manifest), self.identity)
        return to_json(manifest), made.signature, made.certificate

    def model(self, file: Path) -> tuple[Any, ...]:
        manifest = adding.add(file, self.store, name="tiny")
        return ("tiny", manifest.version, None, False, {}, *self.signed(manifest))

    def adapter(self, file: Path, name: str | None = None) -> tuple[Any, ...]:
        """Added where the model's file is not, so that it is compared when it is to be loaded."""
        manifest = add_adapter(file, Base("tiny", "llama", GENERATES, None), self.store, name=name)
        return (manifest.name, manifest.version, *self.signed(manifest))

    def look(
        self, model: tuple[Any, ...], *adapters: tuple[Any, ...]
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """The adapters with which the model is to be loaded, and all problems."""
        self.before, problems = self.catalog.wanted([model], adapters, self.before)
        return dict(self.before["tiny"].adapters), problems


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "home")


def test_an_adapter_that_does_not_fit_is_left_out_and_the_one_before_stays(
    shelf: Shelf, tiny_gguf: TinyModel, tmp_path: Path
) -> None:
    model, reef = shelf.model(tiny_gguf.file), shelf.adapter(tiny_gguf.adapters["reef"])
    assert shelf.look(model, reef) == ({"reef": reef[1]}, {})
    assert shelf.before["tiny"].said.adapters == ("reef",)
    write_adapter(tmp_path / "reef.gguf", 1, width=2 * WIDTH)
    wide = shelf.adapter(tmp_path / "reef.gguf")
    kept, problems = shelf.look(model, wide)
    assert kept == {"reef": reef[1]}
    assert (problems["tiny:reef"].state, problems["tiny:reef"].version) == ("failed", wide[1])
    assert "does not fit" in problems["tiny:reef"].why
    assert shelf.look(model) == ({}, {}), "what was removed is gone"
    assert shelf.look(model, wide)[0] == {}, "and what it was before does not come back"


def test_a_model_that_may_be_split_is_where_it_is_too_large_and_only_there(
    shelf: Shelf, tiny_gguf: TinyModel
) -> None:
    shelf.home.run.mkdir()
    name, version, variant, is_kept, _, *signed = shelf.model(tiny_gguf.file)
    rows = [(name, version, variant, is_kept, options, *signed) for options in ({}, {"split": True})]
    (whole, _), (may, _) = (shelf.catalog.wanted([row], (), {}) for row in rows)
    needed = whole["tiny"].said.memory_bytes
    assert may["tiny"].said.memory_bytes == needed
    assert not isinstance(may["tiny"].open(), SplitRuntime), "it fits, and is loaded whole"
    small = shelf.catalog_with(needed - 1)
    (refused, _), (split, _) = (small.wanted([row], (), {}) for row in rows)
    assert refused["tiny"].said.memory_bytes == needed, "it does not fit, and nobody has allowed a split"
    assert split["tiny"].said.memory_bytes == needed - 1
    assert isinstance(split["tiny"].open(), SplitRuntime)


def test_the_adapters_of_a_model_whose_next_version_has_another_shape_wait_for_theirs(
    shelf: Shelf, tiny_gguf: TinyModel, tmp_path: Path
) -> None:
    reef = shelf.adapter(tiny_gguf.adapters["reef"])
    assert shelf.look(shelf.model(tiny_gguf.file), reef)[0] == {"reef": reef[1]}
    write_model(tmp_path / "next.gguf", width=2 * WIDTH, layers=LAYERS)
    kept, problems = shelf.look(shelf.model(tmp_path / "next.gguf"), reef)
    assert kept == {}
    assert problems.keys() == {"tiny:reef"}


def test_an_adapters_file_is_waited_for_and_a_forged_row_is_not_believed(
    shelf: Shelf, tiny_gguf: TinyModel
) -> None:
    model, reef = shelf.model(tiny_gguf.file), shelf.adapter(tiny_gguf.adapters["reef"])
    (file,) = reef[2]["variants"][0]["files"]
    path = shelf.store.path(file["sha256"])
    content = path.read_bytes()
    path.unlink()
    kept, problems = shelf.look(model, reef)
    assert kept == {}
    assert [one.sha256 for one in problems["tiny:reef"].missing] == [file["sha256"]]
    path.write_bytes(content)
    assert shelf.look(model, reef) == ({"reef": reef[1]}, {})
    forged = (*reef[:2], {**reef[2], "licence": "none"}, *reef[3:])
    assert "after it was signed" in shelf.look(model, forged)[1]["tiny:reef"].why


def test_no_more_adapters_are_loaded_than_an_engine_may_have(shelf: Shelf, tiny_gguf: TinyModel) -> None:
    model = shelf.model(tiny_gguf.file)
    many = [shelf.adapter(tiny_gguf.adapters["reef"], f"a{number:02}") for number in range(ADAPTERS_MAX + 1)]
    kept, problems = shelf.look(model, *many)
    assert len(kept) == ADAPTERS_MAX
    assert list(problems) == [f"tiny:a{ADAPTERS_MAX}"]
