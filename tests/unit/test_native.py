"""The engine built for one processor: kept where it is faster, used where it was built, else passed over."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from pathlib import Path

import pytest

from atoll.domain.errors import AtollError, ConfigError, LinkError
from atoll.runtimes.llama import build, native
from atoll.runtimes.llama.build import Build
from atoll.runtimes.llama.measure import MARGIN, PAIRS, judge
from support.fix_models import TinyModel
from support.fix_runtimes import StartLlama, saying

TOOLS = all(shutil.which(name) for name in ("cc", "c++", "cmake", "ninja"))


def test_what_is_faster_by_chance_or_by_little_does_not_win() -> None:
    pairs = [(1.2 + 0.01 * turn, 1.0 + 0.01 * turn) for turn in range(PAIRS)]
    verdict = judge(pairs)
    assert verdict.wins
    assert MARGIN < verdict.low < verdict.ratio < verdict.high < 1.21
    assert not judge([(1.03 + 0.001 * turn, 1.0) for turn in range(PAIRS)]).wins, "by little"
    assert not judge([(2.0, 1.0), (1.0, 2.0)] * 4 + [(2.0, 1.0)]).wins, "by chance"
    assert not judge([(with_it, without) for without, with_it in pairs]).wins


def test_what_was_kept_is_used_by_this_engine_on_this_processor_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, home = tmp_path / "src", tmp_path / "native"
    built.mkdir()
    for name in (native.LIBRARY, "libggml-base.so.0", "libggml-base.so", "other.o"):
        (built / name).write_text(name)
    assert native.library_in(home) is None
    kept = native.keep(home, built, {"ratio": 1.2})
    assert native.library_in(home) == kept
    assert sorted(path.name for path in kept.parent.iterdir()) == [
        native.KEPT,
        "libggml-base.so.0",
        native.LIBRARY,
    ]
    monkeypatch.setattr(native, "engine_version", lambda: "another")
    assert native.library_in(home) is None
    native.keep(home, built, {})
    assert len(list(home.iterdir())) == 1, "what is of no use any more went"


def test_a_processor_is_told_from_another_by_what_it_can_do(tmp_path: Path) -> None:
    told = "processor\t: {}\nmodel\t\t: 1\ncpu MHz\t\t: {}\nflags\t\t: fma {}\n\nprocessor\t: 1\n"
    found = []
    for number, content in enumerate(
        (told.format(0, 2000, "avx2"), told.format(7, 3000, "avx2"), told.format(0, 2000, "avx512f"))
    ):
        file = tmp_path / f"cpuinfo-{number}"
        file.write_text(content)
        found.append(native.processor(file))
    assert found[0] == found[1] != found[2]


def mapped(process: int | str) -> str:
    """The files that a process has in its memory."""
    return Path(f"/proc/{process}/maps").read_text()


async def test_an_engine_is_started_with_the_library(
    start_llama: StartLlama, tiny_gguf: TinyModel, tmp_path: Path
) -> None:
    # Any library that the engine can be started with will do.
    maths = re.search(r"\s(/\S+/libm\.so\.6)$", mapped("self"), re.MULTILINE)
    assert maths is not None
    library = tmp_path / native.LIBRARY
    shutil.copy(maths[1], library)
    running = await start_llama(library=library)
    assert running.engine is not None
    assert running.engine.pid is not None
    assert str(library) in mapped(running.engine.pid)
    assert await running.ask(saying("hello", max_tokens=2))


@pytest.mark.skipif(not TOOLS, reason="needs a compiler, cmake and ninja")
def test_a_build_says_how_far_it_is_and_goes_on_where_it_was_ended(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    (sources / "src").mkdir(parents=True)
    (sources / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.14)\nproject(small C)\nadd_subdirectory(src)\n"
    )
    (sources / "src" / "CMakeLists.txt").write_text("add_library(ggml-cpu SHARED ggml.c)\n")
    (sources / "src" / "ggml.c").write_text("int broken(")
    said: list[tuple[str, int, int]] = []
    building = Build(tmp_path, 1, lambda *told: said.append(told))
    with pytest.raises(LinkError) as failed:
        building.run()
    assert failed.value.code == "tune-failed"
    assert "broken" in (failed.value.detail or "")
    (sources / "src" / "ggml.c").write_text("int whole(void) { return 1; }\n")
    said.clear()
    assert (building.run() / native.LIBRARY).is_file()
    assert said[-1] == ("compile", 2, 2)
    said.clear()
    building.run()
    assert ("compile", 1, 2) not in said, "what was compiled is not compiled again"


def test_without_a_compiler_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError) as refused:
        Build(tmp_path / "work", 1, lambda *told: None).run()
    assert refused.value.code == "compiler-missing"
    assert "g++" in (refused.value.hint or "")
    assert not (tmp_path / "work").exists()


def pack(archive: Path, **files: bytes) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_of_the_sources_only_what_is_built_is_unpacked(tmp_path: Path) -> None:
    inner = f"engine-1/{build.GGML}"
    pack(
        tmp_path / "a.tar.gz", **{f"{inner}/src/ggml.c": b"c", "engine-1/setup.py": b"no", f"{inner}/x": b""}
    )
    found = build._unpack(tmp_path / "a.tar.gz", tmp_path / "a")
    assert sorted(path.name for path in found.rglob("*")) == ["ggml.c", "src", "x"]
    assert not list(tmp_path.rglob("setup.py"))
    pack(tmp_path / "b.tar.gz", **{"engine-1/setup.py": b"no"})
    with pytest.raises(AtollError, match="unpack"):
        build._unpack(tmp_path / "b.tar.gz", tmp_path / "b")
    pack(tmp_path / "c.tar.gz", **{f"{inner}/../../../../../../out": b"no"})
    with pytest.raises(AtollError, match="unpack"):
        build._unpack(tmp_path / "c.tar.gz", tmp_path / "c")
    assert not list(tmp_path.rglob("out"))
