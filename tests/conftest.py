"""What every test shares: one thread, the helper modules of this directory, torchvision on a CPU.

Test modules are imported by path (``--import-mode=importlib``), so the helpers ``models`` and ``oracle`` are put on the
path here, once: ``from models import ZOO`` then works in any test file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)  # the tensors are small: a second thread costs more than it gives
