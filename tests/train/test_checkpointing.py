"""Activation checkpointing runs a forward twice and expects both to save the same: what a block computes for itself is
its own.
"""

from __future__ import annotations

import models
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import ffebm_compiler as fc


def test_a_converted_model_can_be_checkpointed() -> None:
    torch.manual_seed(0)
    net, x = models.mlp(nn.ReLU), torch.randn(5, 8)
    model, plain = fc.convert(net, 3), fc.convert(net, 3)
    for _ in range(2):  # a step between refreshes the gains, in the first of the two forwards
        for m in (model, plain):
            m.zero_grad()
        checkpoint(model, x, use_reentrant=False).square().sum().backward()
        plain(x).square().sum().backward()
        for p, q in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-7)
        with torch.no_grad():
            for p in (*model.parameters(), *plain.parameters()):
                p.sub_(0.01 * p.grad)
