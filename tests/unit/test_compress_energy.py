"""Joules, as a machine counts them: its packages and their memory, and no part of them twice."""

from __future__ import annotations

from pathlib import Path

from atoll.compress.energy import Meter

MOST = 1_000_000


def count(root: Path, zone: str, name: str, used: int) -> None:
    folder = root / zone
    folder.mkdir(exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{MOST}\n")
    (folder / "energy_uj").write_text(f"{used}\n")


def test_packages_and_memory_are_counted_once_and_past_where_a_counter_ends(tmp_path: Path) -> None:
    zones = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram"}
    zones |= {"intel-rapl:1": "package-1", "intel-rapl:2": "psys"}
    for zone, name in zones.items():
        count(tmp_path, zone, name, 900_000)
    meter = Meter(tmp_path)
    for zone, name in zones.items():
        count(tmp_path, zone, name, 900_000 + 50_000)
    count(tmp_path, "intel-rapl:1", "package-1", 99_999)
    assert meter.joules() == (50_000 + 50_000 + 200_000) / 1e6


def test_where_nothing_is_counted_nothing_is_said(tmp_path: Path) -> None:
    assert Meter(tmp_path).joules() is None
    count(tmp_path, "intel-rapl:0", "core", 5)
    (tmp_path / "intel-rapl:1").mkdir()
    assert Meter(tmp_path).joules() is None
    assert Meter(tmp_path / "nowhere").joules() is None
