"""What the engine needs to reach layers on other nodes: built once from its own sources, and found again.

The engine comes without its RPC backend, but loads one that was built of the same version. Ours has a
transport over Unix sockets: the protocol knows neither passwords nor keys, so who reaches the socket may do
everything that the process may. And it compares kept weights with their hash: the engine takes for whole
whatever lies there, and a worker that was killed while it wrote leaves half of them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from atoll.domain.errors import ConfigError
from atoll.runtimes.llama.build import Build, check_compiler
from atoll.runtimes.llama.native import engine_version

PLUGIN = "libggml-rpc.so"
TRANSPORT = Path(__file__).with_name("transport.cpp")
OPTIONS = ("-std=c++17", "-O2", "-shared", "-fPIC", "-fvisibility=hidden")
KEPT_IS_READ = "    ifs.read((char *)data.data(), size);\n    return true;\n"
KEPT_IS_CHECKED = KEPT_IS_READ.replace("true", "ifs && fnv_hash(data.data(), size) == hash")
DEFINES = ("GGML_BACKEND_DL", "GGML_BACKEND_SHARED", "GGML_BACKEND_BUILD", "GGML_SHARED")


def plugin_in(folder: Path) -> Path | None:
    """The one that was built for the engine that is installed."""
    plugin = folder / "engine" / engine_version() / PLUGIN
    return plugin if plugin.is_file() else None


def make(folder: Path, build: Build) -> Path:
    """Build it; those of other versions go."""
    check_compiler()
    sources = build.sources()
    protocol = sources / "src/ggml-rpc"
    program, built = protocol / "ggml-rpc.cpp", build.folder / PLUGIN
    program.write_text(with_check(program.read_text()))
    includes = [f"-I{place}" for place in (sources / "include", sources / "src", protocol)]
    defines = [f"-D{name}" for name in DEFINES]
    files = (str(program), str(TRANSPORT))
    build.do("compile", ("c++", *OPTIONS, *defines, *includes, *files, "-o", str(built)))
    shutil.rmtree(folder / "engine", ignore_errors=True)
    kept = folder / "engine" / engine_version()
    kept.mkdir(parents=True, mode=0o700)
    plugin = built.rename(kept / PLUGIN)
    shutil.rmtree(build.folder)
    return plugin


def with_check(program: str) -> str:
    """The engine's source, which reads kept weights in one place; as often as it is asked for."""
    if KEPT_IS_CHECKED in program:
        return program
    if program.count(KEPT_IS_READ) != 1:
        raise ConfigError(
            "split-sources",
            f"cannot build what a split takes for engine {engine_version()}: its sources are not as known",
            hint="Install the engine's version that this version of Atoll asks for.",
        )
    return program.replace(KEPT_IS_READ, KEPT_IS_CHECKED)
