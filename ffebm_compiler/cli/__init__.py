"""The command line: ``ffebm explain|convert|draw|check|study|spice-check MODULE:FACTORY``."""

from .main import main

__all__ = ["main"]
