"""The largest bundle that is read: whatever a file announces, no more than this is allocated for it."""

from __future__ import annotations

MOST_FILES = 10_000
LARGEST_BUNDLE = 64 << 30
LARGEST_ARCHIVE = (1 << 32) - 2
"""Of one file: a zip archive without extensions counts its bytes in 32 bits."""
LARGEST_NAME = 200

LARGEST_DOCUMENT, MOST_VALUES, DEEPEST = 32 << 20, 300_000, 48
"""Bytes, values and nesting of ``program.json`` and ``manifest.json``."""
LARGEST_INTEGER = (1 << 53) - 1
"""Larger ones are not the same number in every reader of JSON."""

LARGEST_GRAPH, MOST_NODES = 256 << 20, 200_000
"""Of an ONNX graph without its weights."""
LARGEST_TENSOR, MOST_TENSORS = 1 << 36, 100_000
"""Elements of a tensor; tensors of a file."""
LARGEST_VALUE, LARGEST_SHAPE_DATA, MOST_DIMENSIONS = 1 << 31, 1 << 22, 64
"""Elements of a value whose size a graph says; of a vector that may be taken for a shape; sizes of a shape."""
LARGEST_HEADER = 32 << 20
"""Of a safetensors file."""
