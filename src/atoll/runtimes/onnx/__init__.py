"""Tensor models and text encoders in ONNX, run by ONNX Runtime within the node's own process."""
