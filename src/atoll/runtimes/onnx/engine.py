"""One ONNX Runtime session: loading it, what it says of itself, and running it in whatever thread asks.

Running gives up Python's lock, and stops between two operators when its `Stop` says so. Threads that have
nothing to do sleep: spinning would cost five times the processor time of a paced request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from atoll.domain.errors import DataError
from atoll.domain.models import TensorFacts
from atoll.runtimes.contract import Array
from atoll.runtimes.onnx.refusals import unusable
from atoll.runtimes.onnx.wants import Wants

FATAL = 4
DATATYPES = {
    **{
        f"tensor({sign}int{bits})": f"{sign}int{bits}".upper()
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
    "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
}


class Stop:
    """Ends what is running under it, from any thread, and whatever would begin under it."""

    def __init__(self) -> None:
        self.options = onnxruntime.RunOptions()
        self.options.log_severity_level = FATAL

    def now(self) -> None:
        self.options.terminate = True

    @property
    def is_said(self) -> bool:
        return bool(self.options.terminate)


class Loading:
    """The options of a session that is being loaded, which can be told to give up."""

    def __init__(self, wants: Wants) -> None:
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = wants.threads
        self.options.inter_op_num_threads = 1
        self.options.log_severity_level = FATAL
        self.options.add_session_config_entry("session.intra_op.allow_spinning", "0")

    def give_up(self) -> None:
        self.options.set_load_cancellation_flag(True)


class Engine:
    def __init__(self, model: Path | bytes, name: str, loading: Loading) -> None:
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session = onnxruntime.InferenceSession(
                source, loading.options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise unusable(name, told(error)) from error
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.inputs = [_facts(described, name) for described in self._session.get_inputs()]
        outputs = self._session.get_outputs()
        self.left_out = [described.name for described in outputs if described.type not in DATATYPES]
        """Outputs that are no tensors, such as the dictionaries that scikit-learn's converter adds."""
        known = [described for described in outputs if described.type in DATATYPES]
        self.outputs = [_facts(described, name) for described in known or outputs]

    def run(self, inputs: Mapping[str, Array], wanted: Sequence[str], stop: Stop) -> dict[str, Array]:
        """DataError `request-refused` with the engine's words, where values turn out not to fit."""
        try:
            found = self._session.run(list(wanted), dict(inputs), stop.options)
        except Exception as error:
            raise DataError(
                "request-refused", "the model cannot take these values", detail=f"{told(error)}."
            ) from error
        return dict(zip(wanted, found, strict=True))


def told(error: Exception) -> str:
    """What an error of the engine says, without its number and its place in the source."""
    words = str(error).partition("FAIL : ")[2] or str(error).rpartition(" : ")[2]
    return words.partition("Status Message: ")[2][:500].rstrip(".\n ") or words[:500].rstrip(".\n ")


def _facts(described: Any, name: str) -> TensorFacts:
    if described.type not in DATATYPES:
        raise unusable(
            name,
            f'"{described.name}" is a {described.type}, which has no name in the Open Inference Protocol',
        )
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in described.shape)
    return TensorFacts(described.name, DATATYPES[described.type], shape)
