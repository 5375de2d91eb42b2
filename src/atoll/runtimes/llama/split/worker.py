"""A worker's process: holds layers of somebody's model, and works them out for one engine on another node.

Run as a file; what it is told comes as JSON on standard input.
Usage: worker.py PARENT_PID
"""

from __future__ import annotations

import ctypes
import json
import resource
import sys

from atoll.runtimes.llama.child import NO_ENGINE, UNUSABLE, leash, load_plugin, quiet

CPU = 0
THREAD_BYTES = 16 * 1024**2
SPARE_BYTES = 512 * 1024**2  # may be set aside without being used


def main(parent: int) -> int:
    leash(parent)
    told = json.load(sys.stdin)
    quiet()
    # Its parent looks at what it holds every few seconds; an engine can make it take a lot between two looks.
    most = told["bytes"] + SPARE_BYTES + told["threads"] * THREAD_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    try:
        engine, plugin = load_plugin(told["plugin"])
    except (ImportError, OSError) as error:
        print(f"could not load the engine: {error}", flush=True)
        return NO_ENGINE
    engine.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    engine.ggml_backend_dev_by_type.argtypes = [ctypes.c_int]
    devices = (ctypes.c_void_p * 1)(engine.ggml_backend_dev_by_type(CPU))
    serve = plugin.ggml_backend_rpc_start_server
    size = ctypes.c_size_t
    serve.argtypes = [ctypes.c_char_p, ctypes.c_char_p, size, size, ctypes.POINTER(ctypes.c_void_p)]
    serve.restype = None
    serve(f"{told['socket']}:0".encode(), told["kept"].encode(), told["threads"], 1, devices)
    print("could not listen", flush=True)
    return UNUSABLE


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
