"""A model's files are whole or not there, its version is their content, its manifest what a member signed."""

from __future__ import annotations

import contextlib
import json
import os
import random
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from atoll.domain.errors import AtollError, DataError, LinkError, PolicyDenied
from atoll.domain.models import Skill
from atoll.identity import authority as authorities
from atoll.identity import certificate as certificates
from atoll.identity.certificate import Identity
from atoll.registry import adding, signing
from atoll.registry.manifest import Manifest, from_json, name_from, to_json
from atoll.registry.store import Store

NOW = datetime(2031, 5, 4, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def member(folder: Path, authority: authorities.Authority) -> Identity:
    key = certificates.make_key()
    pem = authority.issue(certificates.make_request(key, "x"), number=7, name="harbour", now=NOW)
    return certificates.save_identity(folder, key_pem=key, certificate_pem=pem, authority_pem=authority.pem)


def test_the_same_files_are_the_same_version_under_any_path(
    store: Store, tiny_onnx: Path, tmp_path: Path
) -> None:
    first = adding.add(tiny_onnx, store, name="one")
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(tiny_onnx.read_bytes())
    assert adding.add(copy, store, name="one").version == first.version
    assert first.skills == (Skill.INFER,)
    assert first.variants[0].bytes == tiny_onnx.stat().st_size
    copy.write_bytes(tiny_onnx.read_bytes() + b"\x00\x00")
    with pytest.raises(DataError):
        adding.add(copy, store, name="one")


def test_a_manifest_says_the_same_after_it_travelled(store: Store, tiny_onnx: Path) -> None:
    made = adding.add(tiny_onnx, store, name="tiny", licence="CC0")
    told = json.loads(json.dumps(to_json(made)))
    again = from_json(told)
    assert again.version == made.version
    assert again == made
    assert to_json(again) == told


def spoil(told: Any, rng: random.Random) -> Any:
    """The same with one thing in it that is not what it was."""
    if isinstance(told, dict) and told:
        key = rng.choice(sorted(told))
        return {**told, key: spoil(told[key], rng)}
    if isinstance(told, list) and told:
        return [spoil(told[0], rng), *told[1:]]
    return rng.choice([None, -1, "../../etc/passwd", "", [], {"a": 1}, 1e300, "x" * 100])


def test_a_manifest_that_is_none_is_an_error_and_nothing_worse(store: Store, tiny_onnx: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    told = to_json(adding.add(tiny_onnx, store, name="tiny"))
    for _ in range(500):
        with contextlib.suppress(DataError):
            found = from_json(spoil(told, rng))
            assert found.choose(10**9).memory_bytes >= 0
            for variant in found.variants:
                for file in variant.files:
                    assert not file.path.startswith("/"), file
                    assert ".." not in file.path, file


def test_the_largest_variant_that_fits_is_chosen() -> None:
    small, large = (_variant(name, size) for name, size in (("q4", 100), ("f16", 400)))
    model = Manifest("m", (small, large), (Skill.GENERATE,))
    assert model.choose(1000) == large
    assert model.choose(399) == small
    assert model.choose(10) == small
    hungry = replace(large, token_bytes=1)
    assert Manifest("m", (small, hungry), (Skill.GENERATE,)).choose(1000, tokens=601) == small
    assert model.choose(10, wanted="f16") == large
    with pytest.raises(DataError, match="no variant"):
        model.choose(10, wanted="q8")


def _variant(name: str, size: int) -> Any:
    from atoll.registry.manifest import File, Variant

    return Variant(name, "gguf", "m.gguf", (File("m.gguf", "0" * 64, size),), size)


def test_a_file_that_came_damaged_never_gets_its_name(store: Store, tiny_onnx: Path) -> None:
    variant = adding.add(tiny_onnx, store).variants[0]
    (file,) = variant.files
    content = store.path(file.sha256).read_bytes()
    store.path(file.sha256).unlink()
    assert store.missing(variant) == [file]
    store.part(file.sha256).write_bytes(content[:-1] + b"?")
    with pytest.raises(LinkError, match="another content"):
        store.finish(file)
    assert store.missing(variant) == [file]
    store.part(file.sha256).write_bytes(content)
    store.finish(file)
    assert store.lay_out(variant).read_bytes() == content


def test_what_no_manifest_names_is_swept_and_the_rest_stays(
    store: Store, tiny_onnx: Path, tmp_path: Path
) -> None:
    kept = adding.add(tiny_onnx, store).variants[0]
    other = tmp_path / "other.txt"
    other.write_bytes(b"x" * 1000)
    gone = store.take_in(other, "other")
    store.lay_out(kept)
    growing, old = store.part("1" * 64), store.part("2" * 64)
    growing.write_bytes(b"x")
    old.write_bytes(b"x" * 10)
    os.utime(old, (1, 1))
    assert store.sweep([kept.files[0].sha256]) == 1010
    assert growing.exists()
    assert not old.exists()
    assert not store.has(gone)
    assert store.lay_out(kept).exists()


def test_a_manifest_is_believed_as_its_member_signed_it_and_not_otherwise(
    store: Store, tiny_onnx: Path, tmp_path: Path
) -> None:
    authority = authorities.create(now=NOW)
    identity = member(tmp_path / "keys", authority)
    told = to_json(adding.add(tiny_onnx, store, name="tiny"))
    signed = signing.sign(told, identity)
    travelled = json.loads(json.dumps(dict(reversed(told.items()))))
    assert signing.verify(travelled, signed, authority.pem) == "harbour"
    with pytest.raises(PolicyDenied, match="was changed"):
        signing.verify({**told, "licence": "none"}, signed, authority.pem)
    with pytest.raises(PolicyDenied, match="was changed"):
        signing.verify(told, replace(signed, signature="AAAA"), authority.pem)
    with pytest.raises(PolicyDenied, match="another atoll"):
        signing.verify(told, signed, authorities.create(now=NOW).pem)


@pytest.mark.parametrize(
    ("path", "name"),
    [("/x/Qwen 0.6B-Q4.gguf", "qwen-0.6b-q4"), ("a.onnx", "a"), ("/models/", "models"), ("/", "model")],
)
def test_a_model_is_named_after_its_file(path: str, name: str) -> None:
    assert name_from(path) == name


def test_names_that_cannot_be_used_and_files_that_are_no_models_are_refused(
    store: Store, tiny_onnx: Path, tmp_path: Path
) -> None:
    with pytest.raises(AtollError, match="cannot call a model"):
        adding.add(tiny_onnx, store, name="Ünknown name")
    text = tmp_path / "notes.txt"
    text.write_text("not a model")
    with pytest.raises(AtollError, match="cannot use the model file"):
        adding.add(text, store)
