"""Ideal hardware is the torch executor: the same equilibria, the same gradients, in every type and block size."""

from __future__ import annotations

import copy
import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from models import ZOO
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the benchmarks are no part of the package
