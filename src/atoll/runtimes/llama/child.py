"""The engine's process: loads one model and serves it on a Unix socket until its parent ends it.

Run as a file; it imports nothing of Atoll. What it is told comes as JSON on standard input and was checked.
Usage: child.py PARENT_PID
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
UNUSABLE = 3
NO_ENGINE = 4


def main(parent: int) -> int:
    leash(parent)
    told = json.load(sys.stdin)
    quiet()
    try:
        if told["workers"]:
            add_workers(told["plugin"], told["workers"])
        import xllamacpp
    except (ImportError, OSError) as error:
        print(f"could not load the engine: {error}", flush=True)
        return NO_ENGINE
    try:
        server = xllamacpp.Server(parameters(xllamacpp, told))
    except Exception as error:
        print(f"could not load the model: {error}", flush=True)
        return UNUSABLE
    threading.Event().wait()
    del server
    return 0


def leash(parent: int) -> None:
    """End with the parent; be the first to go where memory runs out; leave no core behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        Path("/proc/self/oom_score_adj").write_text("800")
    if os.getppid() != parent:
        sys.exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)


def quiet() -> None:
    # The engine's threads would otherwise spin on cores that somebody else needs.
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ["GGML_NO_BACKTRACE"] = "1"


def load_plugin(path: str) -> tuple[Any, Any]:
    """The engine's library, and what was built to go with it and calls its functions."""
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
    import xllamacpp.xllamacpp

    engine = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    engine.ggml_backend_load.restype = ctypes.c_void_p
    engine.ggml_backend_load.argtypes = [ctypes.c_char_p]
    if not engine.ggml_backend_load(path.encode()):
        raise OSError(f"{path} does not fit it")
    return engine, ctypes.CDLL(path)


def add_workers(path: str, workers: list[dict[str, Any]]) -> None:
    """Each becomes a device of the engine, in this order."""
    engine, plugin = load_plugin(path)
    engine.ggml_backend_register.argtypes = [ctypes.c_void_p]
    plugin.ggml_backend_rpc_add_server.restype = ctypes.c_void_p
    plugin.ggml_backend_rpc_add_server.argtypes = [ctypes.c_char_p]
    for worker in workers:
        engine.ggml_backend_register(plugin.ggml_backend_rpc_add_server(f"{worker['socket']}:0".encode()))


def parameters(engine: Any, told: dict[str, Any]) -> Any:
    """The engine's settings. A file of weights is not trusted, and nothing is fetched or shown."""
    p = engine.CommonParams()
    p.model.path = told["model"]
    p.model_alias = {told["name"]}
    p.hostnames = [told["socket"]]
    p.n_ctx, p.n_parallel = told["context"], told["parallel"]
    p.n_batch = p.n_ubatch = told["batch"]
    p.n_threads_http = told["http_threads"]
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = told["threads"]
    p.fit_params, p.ui, p.check_tensors, p.offline = False, False, True, True
    p.ctx_shift = False
    p.verbosity = 2
    kind = getattr(engine.ggml_type, f"GGML_TYPE_{told['cache_type'].upper()}")
    p.cache_type_k = p.cache_type_v = kind
    if told["cache_type"] != "f16":
        p.flash_attn_type = engine.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    p.cache_ram_mib = told["prompt_cache_mib"]
    if told["workers"]:
        # The engine counts layers from the end, and the output as one more.
        shares = [float(worker["layers"]) for worker in told["workers"]]
        p.n_gpu_layers = int(sum(shares))
        p.tensor_split = shares + [0.0] * (len(p.tensor_split) - len(shares))
        p.load_mode = engine.llama_load_mode.LLAMA_LOAD_MODE_NONE
    if told["adapters"]:
        p.lora_adapters = [engine.CommonAdapterLoraInfo(path, 0.0) for path in told["adapters"]]
        # Where a request does not name its adapters, the engine reuses prompts that another adapter has read.
        p.cache_prompt = False
    if told["embeds"]:
        p.embedding = True
        # With caches apart, texts of different lengths are cut, and a vector is the mean of its last piece.
        p.kv_unified = True
        if told["pooling"] != "model":
            pooling = f"LLAMA_POOLING_TYPE_{told['pooling'].upper()}"
            p.pooling_type = getattr(engine.llama_pooling_type, pooling)
    return p


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
