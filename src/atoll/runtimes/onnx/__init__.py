"""Tensor models and text encoders in ONNX, run by ONNX Runtime within the node's own process."""

import os

# Read as the library loads: without it, its maker's address is told which models run where.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
