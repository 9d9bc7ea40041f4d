"""One tracing at a time: each changes for a while how the whole process calls modules or dispatches operations."""

from __future__ import annotations

import threading

TRACING = threading.RLock()
"""Held by whatever traces: a conversion, code that is derived at a first call, an export.

Other threads go on calling models meanwhile. Two tracings at once would undo each other's changes in the wrong
order, and leave PyTorch changed for good.
"""
