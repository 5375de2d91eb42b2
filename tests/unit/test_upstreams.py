"""Where a model of another server is, and who gets to know its key."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from atoll.domain.errors import AtollError, ConfigError, DataError, LinkError
from atoll.domain.models import Skill
from atoll.node import upstream_keys
from atoll.node.home import Home, HomeFacts
from atoll.node.upstream_keys import Secret
from atoll.registry.manifest import Manifest, Upstream, from_json, to_json
from atoll.registry.upstreams import check_private, read_address, upstream_manifest

BASE = "https://models.example"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path, tmp_path / "run", HomeFacts(1, 18, "x"))


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("https://models.example/v1", BASE),
        ("https://models.example:8443/api/v1/", f"{BASE}:8443/api"),
        ("http://[::1]:8600/v1", "http://[::1]:8600"),
    ],
)
def test_an_address_is_what_comes_before_v1(given: str, base: str) -> None:
    assert read_address(f"upstream:{given}") == base


@pytest.mark.parametrize(
    "given",
    [
        "models.example/v1",
        "ftp://models.example/v1",
        "https:///v1",
        "https://models.example",
        "https://models.example:x/v1",
        "https://me:secret@models.example/v1",
        "https://models.example/v1?key=secret",
        "https://models.example/a b/v1",
        f"https://models.example/{'x' * 500}/v1",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(given: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_address(f"upstream:{given}")
    assert refused.value.code == "upstream-address"
    assert "me:secret" not in refused.value.message


def test_without_tls_only_this_machine_and_private_networks_are_asked() -> None:
    for address in ("127.0.0.1", "::1", "10.1.2.3", "192.168.1.9", "fd00::1", "fe80::1%eth0"):
        check_private("http://place/v1", lambda host, at=address: [at])
    with pytest.raises(ConfigError, match="private"):
        check_private("http://place", lambda host: ["127.0.0.1", "93.184.215.14"])
    check_private(BASE, lambda host: ["93.184.215.14"])

    def nobody(host: str) -> list[str]:
        raise OSError("no such host")

    with pytest.raises(LinkError, match="find the host"):
        check_private("http://nowhere", nobody)


def test_a_manifest_without_files_travels_and_its_version_is_what_it_says() -> None:
    made = upstream_manifest(BASE, "them/large-2", name=None, skills=[Skill.GENERATE], needs_key=True)
    assert made.name == "large-2"
    again = from_json(json.loads(json.dumps(to_json(made))))
    assert (again, again.version) == (made, made.version)
    assert made.upstream is not None
    others = (
        replace(made, upstream=replace(made.upstream, model="small")),
        replace(made, upstream=replace(made.upstream, base="https://other.example")),
        replace(made, skills=(Skill.EMBED,)),
    )
    assert len({made.version, *(other.version for other in others)}) == 4
    told = to_json(made)
    for bad in ({"base": "file:///etc"}, {"model": ""}, {"needs_key": 1}, {"key": "x"}):
        with pytest.raises(DataError):
            from_json({**told, "upstream": {**told["upstream"], **bad}})
    with pytest.raises(DataError):
        from_json({**told, "upstream": None})
    with pytest.raises(DataError):
        from_json({**told, "kind": "model"})
    assert isinstance(from_json({**told, "name": "x"}), Manifest)
    assert isinstance(from_json(told).upstream, Upstream)


def test_a_key_is_kept_for_its_owner_and_goes_to_its_address_only(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-1\n")
    secret, key = upstream_keys.given(BASE, file, None)
    assert key == "sk-1"
    assert secret is not None
    assert "sk-1" not in repr(secret)
    upstream_keys.keep(home, "large", secret)
    assert upstream_keys.file_of(home).stat().st_mode & 0o777 == 0o600
    assert upstream_keys.key_for(home, "large", BASE) == "sk-1"
    with pytest.raises(ConfigError, match="only: atoll model key large"):
        upstream_keys.key_for(home, "large", "https://other.example")
    with pytest.raises(ConfigError, match="no key"):
        upstream_keys.key_for(home, "small", BASE)
    upstream_keys.forget(home, "large")
    with pytest.raises(ConfigError, match="no key"):
        upstream_keys.key_for(home, "large", BASE)


def test_a_key_may_be_in_the_environment_and_is_read_there_each_time(home: Home) -> None:
    secret, key = upstream_keys.given(BASE, None, "FAR_KEY", {"FAR_KEY": "sk-2"})
    assert (secret, key) == (Secret(BASE, variable="FAR_KEY"), "sk-2")
    upstream_keys.keep(home, "large", Secret(BASE, variable="FAR_KEY"))
    assert "sk-2" not in upstream_keys.file_of(home).read_text()
    assert upstream_keys.key_for(home, "large", BASE, {"FAR_KEY": "sk-3"}) == "sk-3"
    for environment in ({}, {"FAR_KEY": ""}, {"FAR_KEY": "two words"}):
        with pytest.raises(ConfigError) as refused:
            upstream_keys.key_for(home, "large", BASE, environment)
        assert refused.value.code == "upstream-key"
    with pytest.raises(ConfigError, match="not set here"):
        upstream_keys.given(BASE, None, "FAR_KEY", {})


def test_keys_that_are_none_and_a_file_that_is_damaged_are_said(home: Home, tmp_path: Path) -> None:
    for content in ("", "two words", "x" * 9000):
        (tmp_path / "key").write_text(content)
        with pytest.raises(ConfigError, match="is no key"):
            upstream_keys.given(BASE, tmp_path / "key", None)
    with pytest.raises(ConfigError, match="cannot read a key"):
        upstream_keys.given(BASE, tmp_path / "nowhere", None)
    upstream_keys.file_of(home).write_text("{")
    with pytest.raises(AtollError) as refused:
        upstream_keys.key_for(home, "large", BASE)
    assert refused.value.code == "credentials-damaged"
