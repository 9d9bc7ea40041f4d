"""What models of researchers do besides adding and multiplying, each kind as a small module: contexts, writes, draws,
choices, sizes.

Every part maps ``(batch, 6)`` to ``(batch, 6)`` and reads its scale from a second argument, as a model with several
inputs does.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 6


class Part(nn.Module):
    """A part with two layers, a buffer, and attributes to write to."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.drop, self.act = nn.Dropout(0.3), nn.ReLU(inplace=True)
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.calls, self.seen, self.state, self.loss = 0, [0.0], None, None
        self.gain, self.notes = 1.5, {"last": 0}

    def layer(self, x: Tensor) -> Tensor:
        return torch.tanh(self.a(x))

    def forward(self, x: Tensor, scale: Tensor) -> Any:
        return self.layer(x) * scale


# --- gradients and precision ------------------------------------------------------------------------------


class NoGrad(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        with torch.no_grad():
            h = self.layer(x)
        return self.b(h) * scale


class StopGradient(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        z = self.b(self.layer(x))
        with torch.no_grad():
            w = torch.softmax(z, -1)
        return w * z * scale


class Decorated(Part):
    @torch.no_grad()
    def frozen(self, x: Tensor) -> Tensor:
        return torch.relu(self.a(x))

    def forward(self, x: Tensor, scale: Tensor) -> Any:
        return self.b(self.frozen(x)) + scale


class GradByMode(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        with torch.set_grad_enabled(self.training):
            h = self.layer(x)
        return h + x


class Inference(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        with torch.inference_mode():
            h = torch.relu(self.a(x))
        return self.b(h.clone()) * scale


class Detached(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        return self.b(self.layer(x).detach()) + self.layer(x.detach())


class Autocast(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            h = torch.relu(self.a(x))
        return self.b(h.float()) * scale


class AsksForGrad(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.layer(x)
        return h * 2 if torch.is_grad_enabled() else h


class RequiresGrad(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        return self.layer(x.detach().requires_grad_()) * scale


# --- writes -------------------------------------------------------------------------------------------------


class ChainedAverage(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.layer(x)
        if self.training:
            self.mean.mul_(0.9).add_(h.detach().mean(0), alpha=0.1)
        return h - self.mean


class NamedAverage(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h, e = self.layer(x), self.mean
        e.mul_(0.9)
        e.add_(0.1 * h.detach().mean(0))
        return h - e


class DataAverage(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        y = self.layer(x) - self.mean
        self.mean.data = 0.9 * self.mean + 0.1 * y.detach().mean(0)
        return y


class LerpAverage(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        y = self.layer(x) - self.mean
        with torch.no_grad():
            self.mean.lerp_(y.mean(0), 0.1)
        return y * scale


class AssignedBuffer(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        y = self.layer(x) - self.mean
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return y


class CopiedBuffer(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.layer(x)
        self.mean.copy_(h.detach().amax(0))
        return h + self.mean


class IndexedBuffer(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        self.mean[2:4] = x.detach()[0, 2:4]
        return self.layer(x) + self.mean


class OutBuffer(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.layer(x)
        torch.add(self.mean, h.detach().mean(0), out=self.mean)
        return h - self.mean


class Counter(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        self.calls += 1
        return self.layer(x) * self.calls


class Appends(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        self.seen.append(float(len(self.seen)))
        return self.layer(x) + self.seen[-1]


class Notes(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        self.notes["last"] = self.notes["last"] + 1
        return self.layer(x) / self.notes["last"]


class Membrane(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.layer(x)
        self.state = h.detach() if self.state is None else 0.5 * self.state + h.detach()
        return h + self.state


class AuxiliaryLoss(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.layer(x)
        self.loss = h.square().mean()
        return h * scale


class ClampsItsWeight(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        self.a.weight.data.clamp_(-0.3, 0.3)
        return self.layer(x) * scale


# --- in place -----------------------------------------------------------------------------------------------


class InPlace(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.b(self.layer(x))
        h.mul_(scale)
        h += 1
        return F.relu(h, inplace=True)


class ZeroedClone(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.layer(x)
        z = h.clone()
        z.zero_()
        return self.b(h) + z


class FilledClone(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.layer(x)
        z = h.clone()
        z.fill_(0.5)
        return h + z * scale


class CopiedClone(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.layer(x)
        z = torch.empty_like(h)
        z.copy_(h * scale)
        return z + x


class Masked(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.b(self.layer(x))
        return h.masked_fill_(x > 1, 0.25) + x


class NewTensor(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        y = torch.zeros(x.shape[0], WIDTH)
        y[:, 1:] = self.layer(x)[:, 1:]
        return y


class NewTensorOfFixedSize(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        y = torch.zeros(4, WIDTH)
        y[:, 1:] = self.layer(x)[:, 1:]
        return y + x


class ByMode(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        y = x.new_zeros(x.shape)
        if self.training:
            y[:, :3] = self.layer(x)[:, :3]
        else:
            y = self.layer(x)
        return y + x


class Indexed(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.b(self.layer(x))
        h[:, 0] = 0.5
        return self.a(h)


class ViewOverwritten(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.b(self.layer(x))
        h.view(-1).add_(1.0)
        return h * scale


class SharedInPlace(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.b(x)
        return self.act(h) + h


# --- random numbers -----------------------------------------------------------------------------------------


class Numpy(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        return self.layer(x) * float(np.random.rand())


class Python(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        return self.layer(x) if random.random() < 0.5 else x


class Bernoulli(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.layer(x)
        return h * torch.ones_like(h).bernoulli_(0.5) if self.training else h


class Noise(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.layer(x)
        return h + 0.1 * torch.randn_like(h) if self.training else h


class FixedNoise(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        return self.layer(x) + torch.rand(WIDTH)


class TwoDropouts(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        return self.drop(self.layer(x)) + F.dropout(self.b(x), 0.4, self.training)


# --- choices ------------------------------------------------------------------------------------------------


class IsTensor(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.layer(x)
        return h * 3 if torch.is_tensor(h) else h


class IsInstance(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.layer(x)
        return h if not isinstance(h, Tensor) else h + 1


class BySize(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        return self.layer(x) if x.shape[0] > 2 else x


class ByValue(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        return self.layer(x) if x.sum() > 0 else x


class ByAttribute(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        return self.layer(x) * self.gain if self.gain > 1 else x


class ByDtype(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = self.layer(x)
        return h * 2 if h.dtype == torch.float32 else h


class Loop(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        for layer in (self.a, self.b, self.a):
            x = torch.relu(layer(x))
        return x


# --- sizes --------------------------------------------------------------------------------------------------


class SizeTuple(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        r = x.shape[:-1]
        return self.layer(x).view(x.shape[0], 2, -1).reshape((*r, -1))


class SizeSum(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        return self.layer(x).unflatten(1, (2, 3)).view((x.shape[0],) + (-1,)) * scale


class Unpacked(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        n, width = x.shape
        return self.layer(x).reshape(n, width // 2, 2).flatten(1)


class Halves(Part):
    def forward(self, x: Tensor, scale: Tensor) -> Any:
        left, right = self.layer(x).chunk(2, dim=-1)
        return torch.cat([right, left * 2], -1)


PARTS: tuple[type[Part], ...] = tuple(
    kind for kind in list(globals().values()) if isinstance(kind, type) and issubclass(kind, Part)
)
"""All kinds, in the order of this file."""
