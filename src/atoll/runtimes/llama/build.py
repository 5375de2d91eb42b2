"""Builds the engine's arithmetic from the sources of the very version that is installed.

Everything happens below one folder. Each step leaves its result there and is passed over where that is there
already, so that a build that was ended goes on.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from atoll.domain.errors import ConfigError, LinkError
from atoll.runtimes.llama.native import ENGINE, LIBRARY, engine_version

ROOM_BYTES_MIN = 1024**3
SOURCES_BYTES_MAX = 500 * 1024**2
LAST_LINES = 8
STEP = re.compile(r"^\[(\d+)/(\d+)\]")
GGML = "thirdparty/llama.cpp/ggml"
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DGGML_NATIVE=ON",
    "-DGGML_OPENMP=ON",
    "-DGGML_LLAMAFILE=ON",  # as the engine came; without it prompts are read more slowly
    "-DGGML_CCACHE=OFF",
    "-DGGML_BUILD_TESTS=OFF",
    "-DGGML_BUILD_EXAMPLES=OFF",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
)
Say = Callable[[str, int, int], None]  # what is done, how far, of how much


@dataclass(frozen=True)
class Build:
    """The folder of a build, and what is told of it."""

    folder: Path
    jobs: int
    say: Say

    def run(self) -> Path:
        """The folder with the libraries."""
        check_compiler()
        sources = self.sources()
        made = self.folder / "build"
        cmake, ninja = self._tool("cmake", "cmake/data/bin/cmake"), self._tool("ninja", "bin/ninja")
        generator = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}")
        self.do("configure", (cmake, *generator, "-S", str(sources), "-B", str(made), *OPTIONS))
        self.do("compile", (ninja, "-C", str(made), f"-j{self.jobs}", "ggml-cpu"))
        if not (made / "src" / LIBRARY).is_file():
            raise _failed("compile", ["The library was not made."])
        return made / "src"

    def sources(self) -> Path:
        """Those of the arithmetic, and of what reaches it on other machines."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if shutil.disk_usage(self.folder).free < ROOM_BYTES_MIN:
            raise ConfigError(
                "tune-failed",
                "the disk has no room for a build",
                hint="It takes half a gigabyte for a while.",
            )
        sources = self.folder / "sources"
        if sources.is_dir():
            return sources
        wanted = f"{ENGINE}=={engine_version()}"
        pip = (sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps")
        self.do("download", (*pip, "--no-binary", ENGINE, "--dest", str(self.folder), wanted))
        archive = next(self.folder.glob(f"{ENGINE}-*.tar.gz"), None)
        if archive is None:
            raise _failed("download", ["No sources came."])
        unpacked = self.folder / "unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)
        found = _unpack(archive, unpacked)
        # The sources come without this file, and cmake wants it.
        (found / "ggml.pc.in").touch()
        found.rename(sources)
        shutil.rmtree(unpacked)
        archive.unlink()
        return sources

    def _tool(self, name: str, place: str) -> str:
        """The machine's own, else one from the package index, in a folder that goes with the build."""
        if own := shutil.which(name):
            return own
        tools = self.folder / "tools"
        if not (tools / place).is_file():
            pip = (sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet")
            self.do(f"fetch {name}", (*pip, "--target", str(tools), "--upgrade", name))
        return str(tools / place)

    def do(self, what: str, command: Sequence[str]) -> None:
        """Run a step to its end, below everything else that the machine does; ended with us."""
        self.say(what, 0, 0)
        last: deque[str] = deque(maxlen=LAST_LINES)
        nice = ("nice", "-n", "19") if shutil.which("nice") else ()
        process = subprocess.Popen(
            [*nice, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                last.append(line.rstrip())
                if found := STEP.match(line):
                    self.say(what, int(found[1]), int(found[2]))
        except BaseException:
            process.terminate()
            raise
        finally:
            process.stdout.close()
            process.wait()
        if process.returncode:
            raise _failed(what, list(last))


def check_compiler() -> None:
    missing = [name for name in ("cc", "c++") if shutil.which(name) is None]
    if missing:
        raise ConfigError(
            "compiler-missing",
            f"there is no {' and no '.join(missing)} on this machine",
            hint="Install a C and C++ compiler: apt install g++, or dnf install gcc-c++.",
        )


def _unpack(archive: Path, target: Path) -> Path:
    """The part of the sources that is built, and nothing else."""
    total = 0
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                inner = member.name.partition("/")[2]
                if not inner.startswith(f"{GGML}/"):
                    continue
                total += member.size
                if total > SOURCES_BYTES_MAX:
                    raise _failed("unpack", ["The sources are larger than any that are known."])
                tar.extract(member, target, filter="data")
    except (tarfile.TarError, OSError) as error:
        raise _failed("unpack", [f"{error}."]) from error
    found = next(target.glob(f"*/{GGML}"), None)
    if found is None:
        raise _failed("unpack", ["The sources hold no ggml."])
    return found


def _failed(what: str, last: Sequence[str]) -> LinkError:
    return LinkError(
        "tune-failed",
        f"could not {what}",
        detail="\n".join(last),
        hint="Run it again to go on from here; with --undo it removes what there is.",
    )
