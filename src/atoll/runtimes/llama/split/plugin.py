"""What the engine needs to reach layers on other nodes: built once from its own sources, and found again.

The engine comes without its RPC backend, but loads one that was built of the same version. Ours has a
transport over Unix sockets: the protocol knows neither passwords nor keys, so who reaches the socket may do
everything that the process may.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from atoll.runtimes.llama.build import Build, check_compiler
from atoll.runtimes.llama.native import engine_version

PLUGIN = "libggml-rpc.so"
TRANSPORT = Path(__file__).with_name("transport.cpp")
OPTIONS = ("-std=c++17", "-O2", "-shared", "-fPIC", "-fvisibility=hidden")
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
    built = build.folder / PLUGIN
    includes = [f"-I{place}" for place in (sources / "include", sources / "src", protocol)]
    defines = [f"-D{name}" for name in DEFINES]
    files = (str(protocol / "ggml-rpc.cpp"), str(TRANSPORT))
    build.do("compile", ("c++", *OPTIONS, *defines, *includes, *files, "-o", str(built)))
    shutil.rmtree(folder / "engine", ignore_errors=True)
    kept = folder / "engine" / engine_version()
    kept.mkdir(parents=True, mode=0o700)
    plugin = built.rename(kept / PLUGIN)
    shutil.rmtree(build.folder)
    return plugin
