"""The compiled bundle: what is in it, how it is written and how it is read from anyone."""

from .contents import PART_MODULE, Contents, Mode, graph_file, part_block

__all__ = ["PART_MODULE", "Contents", "Mode", "graph_file", "part_block"]
