"""Ask a GGUF: chats as JSON on standard input, answers as JSON on standard output.

A process of its own, because llama.cpp wants its environment set before it is loaded, and takes its process
along when it fails. Each item is a request of OpenAI's chat API (it has `messages`), or of llama.cpp's
completions (it has `prompt`).

    echo '[{"messages": [{"role": "user", "content": "What is a stamp?"}]}]' | python ask.py pebble.gguf
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ.update(OMP_WAIT_POLICY="passive", GGML_NO_BACKTRACE="1")

import xllamacpp


def main() -> None:
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.n_ctx, params.n_parallel, params.n_batch = 512, 1, 128
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.fit_params, params.warmup, params.ui = False, False, False
    params.cache_ram_mib = 0
    params.verbosity = -1
    server = xllamacpp.Server(params)
    answers: list[Any] = []
    for request in json.load(sys.stdin):
        body = {"temperature": 0, "max_tokens": 120, **request}
        handle = server.handle_chat_completions if "messages" in body else server.handle_completions
        answers.append(handle(body))
    json.dump(answers, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # the engine's threads are not waited for


if __name__ == "__main__":
    main()
