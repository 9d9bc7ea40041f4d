"""The compiled bundle: what is in it, how it is written and how it is read from anyone."""

from .format.contents import PART_MODULE, Contents, Mode, graph_file, part_block
from .read.inspecting import BundleSummary, inspect
from .read.reading import read_bundle
from .write.writing import check_bundle_target, write_bundle

__all__ = [
    "PART_MODULE",
    "BundleSummary",
    "Contents",
    "Mode",
    "check_bundle_target",
    "graph_file",
    "inspect",
    "part_block",
    "read_bundle",
    "write_bundle",
]
