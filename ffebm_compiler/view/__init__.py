"""Seeing a compiled model: the report, the partition graph, its drawings."""

from .drawing import draw_graph
from .graph import partition_graph
from .report import BlockRow, DigitalRow, ParameterCount, Report, build_report

__all__ = ["BlockRow", "DigitalRow", "ParameterCount", "Report", "build_report", "draw_graph", "partition_graph"]
