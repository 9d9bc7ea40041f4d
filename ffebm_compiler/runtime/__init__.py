"""Compiled bundles as their users load them: ``ffebm_compiler.runtime.load("build.ffebm")``; :mod:`.bundle.run` is what
runs.
"""

from ..bundle.run import Runtime, Trainer, load

__all__ = ["Runtime", "Trainer", "load"]
