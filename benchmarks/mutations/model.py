"""The model whose bundle is tampered with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Variety(nn.Module):
    """A bit of everything that a bundle holds: pooling, a norm, dropout, potentials with options, tied weights, two
    results.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = (
            nn.Conv2d(1, 2, 3, padding=1),
            nn.BatchNorm2d(2),
            nn.Conv2d(2, 3, 3, padding=1),
        )
        self.fc1, self.fc2, self.head = nn.Linear(12, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.again = self.fc2
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = torch.relu(self.norm(self.conv1(x)))
        h = nn.functional.max_pool2d(torch.relu(self.conv2(h)), 2)
        h = nn.functional.hardtanh(self.fc1(h.flatten(1)), -0.5, 1.5)
        h = self.drop(nn.functional.leaky_relu(self.again(torch.sigmoid(self.fc2(h))), 0.1))
        return {"logits": self.head(h), "features": h}
