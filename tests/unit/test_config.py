"""Where a setting comes from, which values are taken, and how a wrong one is refused."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import pytest

from atoll.cli.up import up
from atoll.domain.errors import ConfigError
from atoll.node.config import OPTIONS, Settings, load_settings, name_from_host, new_file
from atoll.node.values import Address

FLAG, VARIABLE, FILE = {"region": "flag"}, {"ATOLL_REGION": "variable"}, 'region = "file"\n'
PRECEDENCE = [
    ({}, {}, "", "local"),
    ({}, {}, FILE, "file"),
    ({}, VARIABLE, FILE, "variable"),
    ({}, VARIABLE, "", "variable"),
    (FLAG, VARIABLE, FILE, "flag"),
    (FLAG, {}, FILE, "flag"),
    ({"region": None}, {}, FILE, "file"),
]


def load(
    tmp_path: Path, file: str = "", flags: dict[str, object] | None = None, **environment: str
) -> Settings:
    path = tmp_path / "atoll.toml"
    path.write_text(file)
    return load_settings(flags or {}, environment, path, hostname="host")


@pytest.mark.parametrize(("flags", "environment", "file", "region"), PRECEDENCE)
def test_flags_win_over_variables_over_the_file_over_defaults(
    tmp_path: Path, flags: dict[str, object], environment: dict[str, str], file: str, region: str
) -> None:
    assert load(tmp_path, file, flags, **environment).region == region


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("http", "off", None),
        ("http", "[::1]:8600", Address("::1", 8600)),
        ("link", "*:7600", Address("0.0.0.0", 7600)),
        ("postgres", 16, 16),
        ("postgres", "18", 18),
        ("wal_keep", "512MB", 512 * 1024**2),
        ("wal_keep", 4096, 4096),
        ("link_rate", "1.5 MB", 1572864),
        ("link_rate", "off", None),
        ("future_bound", "2h", 7200.0),
        ("future_bound", "250ms", 0.25),
        ("advertise", "a.example:1,b.example:2", (Address("a.example", 1), Address("b.example", 2))),
        ("advertise", ["a.example:1"], (Address("a.example", 1),)),
        ("dial", "two=10.0.0.2:7600", {"two": Address("10.0.0.2", 7600)}),
        ("dial", {"two": "10.0.0.2:7600"}, {"two": Address("10.0.0.2", 7600)}),
    ],
)
def test_a_value_is_read_the_same_way_wherever_it_comes_from(
    tmp_path: Path, key: str, given: object, value: object
) -> None:
    assert getattr(load(tmp_path, flags={key: given}), key) == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "Shop"),
        ("name", "1shop"),
        ("name", "s" * 33),
        ("region", "north pole"),
        ("tier", "moon"),
        ("http", "8600"),
        ("http", "host:port"),
        ("http", "host:65536"),
        ("link", "::1:7600"),
        ("postgres", "17"),
        ("wal_keep", "much"),
        ("wal_keep", "-1MB"),
        ("future_bound", "5 moons"),
        ("dial", "two"),
        ("advertise", "a,b"),
        ("log_level", "loud"),
        ("link_rate", True),
        ("region", ["a"]),
    ],
)
def test_a_wrong_value_is_refused_with_its_source(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^invalid {key} ") as caught:
        load(tmp_path, flags={key: value})
    assert caught.value.code == "config-invalid"
    assert caught.value.message.endswith(f"from --{key.replace('_', '-')}")
    assert caught.value.detail
    assert caught.value.detail.endswith(".")


def test_an_unknown_key_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='unknown setting "reigon"') as caught:
        load(tmp_path, 'reigon = "x"\n')
    assert caught.value.hint == 'The nearest one is "region".'


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="could not read"):
        load(tmp_path, "region = \n")


def test_the_file_of_a_new_home_gives_back_what_was_given(tmp_path: Path) -> None:
    given = {"name": "one", "region": "north", "dial": "two=10.0.0.2:7600", "advertise": "a.example:1"}
    text = new_file(given)
    assert load(tmp_path, text) == load(tmp_path, flags=dict(given))
    assert set(tomllib.loads(text)) == set(given)
    assert all(option.help in text for option in OPTIONS)


def test_the_file_of_a_new_home_without_anything_given_is_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, new_file({})) == load(tmp_path)


@pytest.mark.parametrize(
    ("link", "advertise", "told"),
    [
        ("127.0.0.1:7600", "", "127.0.0.1:7600"),
        ("0.0.0.0:7600", "", ""),
        ("off", "", ""),
        ("0.0.0.0:7600", "a.example:1", "a.example:1"),
    ],
)
def test_peers_are_told_an_address_that_means_something(
    tmp_path: Path, link: str, advertise: str, told: str
) -> None:
    settings = load(tmp_path, flags={"link": link, "advertise": advertise})
    assert ",".join(str(address) for address in settings.told_addresses) == told


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("shop-7.example.com", "shop-7"),
        ("SHOP_7", "shop-7"),
        ("7", "node-7"),
        ("", "node"),
        ("-" * 5, "node"),
        ("x" * 40, "x" * 32),
        ("äöü", "node"),
    ],
)
def test_any_machine_name_makes_a_node_name(tmp_path: Path, host: str, name: str) -> None:
    assert name_from_host(host) == name
    assert load_settings({}, {}, tmp_path / "none", hostname=host or "-").name


def test_every_setting_is_a_flag_of_up_and_a_field() -> None:
    keys = [option.key for option in OPTIONS]
    assert set(keys) == set(inspect.signature(up).parameters) - {"home"}
    assert keys == list(Settings.__dataclass_fields__)
