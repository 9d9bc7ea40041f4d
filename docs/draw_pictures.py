"""Draws the pictures of the README and the docs.

python docs/draw_pictures.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import ffebm_compiler as fc

PICTURES = Path(__file__).with_name("pictures")


class Residual(nn.Module):
    """A norm, a skip connection and a dropout: one boundary of each kind, and a block that is a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv1, self.conv2 = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.stem(x)))
        h = torch.relu(h + self.conv2(torch.relu(self.conv1(h))))
        return self.head(self.drop(h.mean((2, 3))))


if __name__ == "__main__":
    fc.convert(Residual(), block_size=2).draw(PICTURES / "residual.svg")
