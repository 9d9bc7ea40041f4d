"""Seeing a compiled model: the report, the partition graph, its drawings."""

from .drawing import check_picture, draw_graph
from .graph import partition_graph
from .report import Report, build_report
from .report_rows import BlockRow, DigitalRow, ParameterCount

__all__ = [
    "BlockRow",
    "DigitalRow",
    "ParameterCount",
    "Report",
    "build_report",
    "check_picture",
    "draw_graph",
    "partition_graph",
]
