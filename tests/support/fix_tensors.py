"""A small ONNX model as a file, made once."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from support.graphs import save_tiny  # takes a while to import

    return save_tiny(tmp_path_factory.mktemp("tiny") / "tiny.onnx")
