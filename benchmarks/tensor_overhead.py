"""How many small inferences a second does `/v2` answer, beside MLServer with the same ONNX model?

Both serve a model of three dense layers over HTTP on this machine, each in processes of its own; one client
sends the same JSON request over a few connections that stay open. They take turns. MLServer is installed into
an environment of its own below build/, and measured with its model in the server's process
(`parallel_workers` 0) and in a worker process (1, its default).

    python benchmarks/tensor_overhead.py [--connections 16] [--rounds 3] [--seconds 4] [--seed 1]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from support import others, report
from support.networks import save_dense

# Later versions of uvloop make no loop where none was set, which MLServer's workers count on.
PACKAGES = ["mlserver==1.7.1", "uvloop<0.22", "onnxruntime"]
SIZES = [64, 128, 10]
READY_SECONDS_MAX = 90.0
MLSERVER_MODEL = """
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class OnnxModel(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        (y,) = self.session.run(None, {"x": x})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])
"""


@dataclass(frozen=True)
class Outcome:
    rate: float
    p50_ms: float
    cpu_ms: float


# Atoll's side, in a process of its own


async def serve(file: Path, port: int) -> None:
    from prometheus_client import CollectorRegistry
    from starlette.requests import Request

    from atoll.runtimes.onnx.runtime import OnnxRuntime
    from atoll.runtimes.onnx.wants import Wants
    from atoll.serving.berth import Wanted
    from atoll.serving.service import Serving
    from atoll.web.app import WebServer, make_app
    from atoll.web.tensors import tensor_routes

    runtime = OnnxRuntime(file, Wants(threads=1))
    said = await runtime.start()
    await runtime.stop()
    serving = Serving(memory_max_bytes=10**9)
    open_one = lambda: OnnxRuntime(file, Wants(threads=1))  # noqa: E731
    await serving.desire([Wanted("m", "1", "onnx", {}, said, True, open_one)])

    def check(request: Request) -> None:
        """Everybody may."""

    app = make_app(dict, CollectorRegistry(), tensor_routes(serving, check))
    server = WebServer(app, socket.create_server(("127.0.0.1", port)))
    await asyncio.gather(serving.run(), server.run())


# MLServer's side


def mlserver_command(program: Path, folder: Path, file: Path, port: int, workers: int) -> list[str]:
    folder.mkdir()
    settings = {"debug": False, "host": "127.0.0.1", "parallel_workers": workers, "http_port": port}
    settings |= {
        "grpc_port": others.free_port(),
        "metrics_port": others.free_port(),
        "metrics_dir": str(folder),
    }
    model = {"name": "m", "implementation": "bench_model.OnnxModel", "parameters": {"uri": str(file)}}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    (folder / "bench_model.py").write_text(MLSERVER_MODEL)
    return [str(program), "start", str(folder)]


# The client


async def ask_on(port: int, request: bytes, end: float, times: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (began := time.perf_counter()) < end:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert b" 200 " in head.split(b"\r\n")[0], head
        await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
        times.append(time.perf_counter() - began)
    writer.close()


async def measure(port: int, group: int, request: bytes, connections: int, seconds: float) -> Outcome:
    await asyncio.gather(*(ask_on(port, request, time.perf_counter() + 0.5, []) for _ in range(connections)))
    times: list[float] = []
    cpu, began = others.cpu_seconds(group), time.perf_counter()
    await asyncio.gather(*(ask_on(port, request, began + seconds, times) for _ in range(connections)))
    took = time.perf_counter() - began
    return Outcome(
        len(times) / took,
        statistics.median(times) * 1e3,
        (others.cpu_seconds(group) - cpu) / len(times) * 1e3,
    )


async def until_ready(port: int, request: bytes, log: Path) -> None:
    end = time.perf_counter() + READY_SECONDS_MAX
    while True:
        try:
            return await ask_on(port, request, time.perf_counter() + 0.01, [])
        except (OSError, AssertionError, asyncio.IncompleteReadError):
            if time.perf_counter() > end:
                sys.exit(f"a server was not ready in time:\n{await asyncio.to_thread(log.read_text)}")
            await asyncio.sleep(0.2)


def make_requests(port: int, seed: int) -> dict[str, bytes]:
    x = np.random.default_rng(seed).normal(size=SIZES[0]).astype(np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, SIZES[0]]}
    plain = json.dumps({"inputs": [{**tensor, "data": x.tolist()}]}).encode()
    raw = {"inputs": [{**tensor, "parameters": {"binary_data_size": x.nbytes}}]}
    head = json.dumps({**raw, "parameters": {"binary_data_output": True}}).encode()
    first = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    kind = "Content-Type: application/json\r\n"
    return {
        "json": f"{first}{kind}Content-Length: {len(plain)}\r\n\r\n".encode() + plain,
        "raw": f"{first}Inference-Header-Content-Length: {len(head)}\r\n"
        f"Content-Length: {len(head) + x.nbytes}\r\n\r\n".encode()
        + head
        + x.tobytes(),
    }


async def compare(options: argparse.Namespace, folder: Path) -> None:
    file = save_dense(folder / "m.onnx", SIZES, options.seed)
    mlserver = await asyncio.to_thread(others.install, "mlserver", "mlserver", PACKAGES)
    found: dict[str, list[Outcome]] = {}
    for number in range(options.rounds):
        for name in ("MLServer, 1 worker", "MLServer, 0 workers", "Atoll"):
            port = others.free_port()
            requests = make_requests(port, options.seed)
            if name == "Atoll":
                command = [sys.executable, __file__, "--serve", str(file), "--port", str(port)]
            else:
                place = folder / f"{number}-{name[10]}"
                command = mlserver_command(mlserver, place, file, port, int(name[10]))
            log = folder / "log"
            with others.process(command, log) as group:
                await until_ready(port, requests["json"], log)
                for connections in (1, options.connections):
                    for way in ("json", "raw") if name == "Atoll" else ("json",):
                        label = f"{name}, {way}, {connections} connections"
                        outcome = await measure(port, group, requests[way], connections, options.seconds)
                        found.setdefault(label, []).append(outcome)
    for connections in (1, options.connections):
        own = found[f"Atoll, json, {connections} connections"]
        for label, outcomes in found.items():
            if label.endswith(f" {connections} connections"):
                ratios = [one.rate / other.rate for one, other in zip(own, outcomes, strict=True)]
                print(
                    f"{label:<44} {report.spread([each.rate for each in outcomes]):>18} requests/s  "
                    f"p50 {report.spread([each.p50_ms for each in outcomes], '.2f')} ms  "
                    f"cpu {report.spread([each.cpu_ms for each in outcomes], '.2f')} ms  "
                    f"Atoll's json is {report.spread(ratios, '.2f')} x"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, options.port))
        return
    print("How many small inferences a second, over HTTP?")
    print(f"machine   {report.machine()}; load before the run {os.getloadavg()[0]:.1f}; seed {options.seed}")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(compare(options, Path(folder)))


if __name__ == "__main__":
    main()
