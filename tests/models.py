"""The zoo: models of every shape that the compiler must get right, each with an example call.

An entry makes its model anew at each call, with weights from the caller's seed. Models are small: what they exercise is
the graph, not the arithmetic.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    Attributes:
        name: of the test.
        make: the model, freshly initialised.
        inputs: the arguments of a call, from a generator.
        export: traced by torch.export, so ``convert`` needs ``example_inputs``.
        requires: the package that it comes from.
        heavy: some hundred million weights: tested at fewer settings.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], tuple[Any, ...]]
    export: bool = False
    requires: str = "torch"
    heavy: bool = False

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.requires) is not None

    def build(self, seed: int = 0) -> tuple[nn.Module, tuple[Any, ...]]:
        """The model and a call, from a seed; the caller's random state is left alone."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self.make()
            _generic(model)
        return model, self.inputs(torch.Generator().manual_seed(seed + 1))


def _generic(model: nn.Module) -> None:
    """Moves norms, biases and running statistics off the special values (0, 1) that hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.add_(0.1 * torch.randn_like(parameter))
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor in (module.weight, module.bias, module.running_mean):
                    if tensor is not None:
                        tensor.add_(0.2 * torch.randn_like(tensor))
                if module.running_var is not None:
                    module.running_var.mul_(1 + torch.rand_like(module.running_var))
            elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
                module.weight.add_(0.2 * torch.randn_like(module.weight))
                module.bias.add_(0.2 * torch.randn_like(module.bias))


def with_statistics(model: nn.Module, batches: int = 1200) -> nn.Module:
    """The same model, its batch norms as after training: they hold running statistics of that many batches."""
    generator = torch.Generator().manual_seed(7)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.copy_(0.3 * torch.randn(module.running_mean.shape, generator=generator))
            module.running_var.copy_(1 + torch.rand(module.running_var.shape, generator=generator))
            module.num_batches_tracked.fill_(batches)
    return model


def flatten(values: Any) -> list[Tensor]:
    """Every floating tensor of a model's result, in order."""
    leaves = torch.utils._pytree.tree_leaves(dict(values) if hasattr(values, "to_tuple") else values)
    return [v for v in leaves if isinstance(v, Tensor) and v.is_floating_point()]


def random(*shapes: tuple[int, ...]) -> Callable[[torch.Generator], tuple[Tensor, ...]]:
    return lambda g: tuple(torch.randn(s, generator=g) for s in shapes)


def tokens(vocabulary: int, *shape: int) -> Callable[[torch.Generator], tuple[Tensor, ...]]:
    return lambda g: (torch.randint(0, vocabulary, shape, generator=g),)


# --- chains -----------------------------------------------------------------------------------------------


def mlp(activation: Callable[[], nn.Module] = nn.ReLU, widths: tuple[int, ...] = (8, 12, 10, 9, 4)) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


def vgg(norm: bool = False, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for width in (6, 6, "pool", 8, 8, "pool"):
        if width == "pool":
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=bias))
        layers += [nn.BatchNorm2d(width)] if norm else []
        layers.append(nn.ReLU(inplace=True))
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 5))


def post_norm() -> nn.Sequential:
    """The norm after the activation: it opens the block of the next layer."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Tanh(), nn.BatchNorm2d(4),
        nn.AvgPool2d(2), nn.Conv2d(4, 3, 2), nn.Hardtanh(), nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, 2),
    )  # fmt: skip


def conv1d() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(2, 6, 3, padding=1),
        nn.LeakyReLU(0.1),
        nn.AvgPool1d(2),
        nn.Conv1d(6, 6, 3, stride=2),
        nn.BatchNorm1d(6),
        nn.Hardtanh(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def conv3d() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 5, 2), nn.BatchNorm3d(5), nn.Tanh(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip


def autoencoder() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.ConvTranspose2d(6, 4, 2, stride=2),
        nn.Softplus(),
        nn.ConvTranspose2d(4, 1, 3, stride=2, padding=1, output_padding=1),
        nn.Sigmoid(),
    )


def grouped() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Hardsigmoid(),
        nn.Conv2d(8, 6, 1, bias=False),
        nn.ELU(0.7),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


class Potentials(nn.Module):
    """Every activation with a convex potential, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.activations = nn.ModuleList(
            [
                nn.ReLU(),
                nn.ReLU6(),
                nn.LeakyReLU(0.2),
                nn.Hardtanh(-0.7, 0.9),
                nn.Hardsigmoid(),
                nn.Sigmoid(),
                nn.Tanh(),
                nn.Softplus(2.0),
                nn.ELU(0.5),
                nn.CELU(1.5),
                nn.SELU(),
                nn.Softmax(-1),
                nn.Identity(),
            ]
        )
        self.layers = nn.ModuleList(nn.Linear(7, 7) for _ in self.activations)

    def forward(self, x: Tensor) -> Tensor:
        for layer, activation in zip(self.layers, self.activations, strict=True):
            x = activation(layer(x))
        return x


def dropout_layers() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4)
    )


class FunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.dropout(torch.relu(self.a(x)), 0.4, self.training)
        return self.c(F.dropout(F.relu(self.b(h)), p=0.2, training=self.training))


def softmax_head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 5), nn.Softmax(dim=1))


def layer_norms() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(8, 12),
        nn.LayerNorm(12),
        nn.ReLU(),
        nn.Linear(12, 12),
        nn.ReLU(),
        nn.Linear(12, 12),
        nn.LayerNorm(12),
        nn.Tanh(),
        nn.Linear(12, 3),
    )


# --- graphs ------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Identity and projection shortcuts, the activation after the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.a, self.b = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.c, self.d = nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.project = nn.Conv2d(6, 8, 1, stride=2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.b(F.relu(self.a(x))))
        x = F.relu(self.project(x) + self.d(F.relu(self.c(x))))
        return self.head(x.mean((2, 3)))


class PreActivation(nn.Module):
    """Norm, activation, convolution; the sum is never activated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1, bias=False) for _ in range(4))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i in (0, 2):
            h = self.convs[i](torch.relu(self.norms[i](x)))
            x = x + self.convs[i + 1](torch.relu(self.norms[i + 1](h)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Dense(nn.Module):
    """Each layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(4))
        self.head = nn.Linear(19, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(torch.relu(layer(torch.cat(features, 1))))
        return self.head(torch.cat(features, dim=1).mean(dim=(2, 3)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.Conv2d(6, 6, 3, padding=1),
        )
        self.up2, self.up1, self.head = (
            nn.Conv2d(12, 5, 3, padding=1),
            nn.Conv2d(9, 4, 3, padding=1),
            nn.Conv2d(4, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(F.max_pool2d(a, 2)))
        c = F.relu(self.middle(F.avg_pool2d(b, 2)))
        b = F.relu(self.up2(torch.cat([b, F.interpolate(c, scale_factor=2)], 1)))
        a = F.relu(self.up1(torch.cat([a, F.interpolate(b, scale_factor=2, mode="bilinear", align_corners=False)], 1)))
        return self.head(a)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector = nn.Conv2d(2, 4, 3), nn.Linear(5, 7)
        self.both, self.head = nn.Linear(23, 9), nn.Linear(9, 3)

    def forward(self, image: Tensor, vector: Tensor, scale: float = 0.5) -> Tensor:
        i = torch.tanh(self.image(image)).flatten(1)
        v = torch.sigmoid(self.vector(vector))
        return self.head(F.relu(self.both(torch.cat((i, v), -1)))) * scale


Answer = namedtuple("Answer", ["mean", "spread"])


class Heads(nn.Module):
    """A shared trunk with several results, packed as ``pack`` says."""

    def __init__(self, pack: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.pack = pack
        self.trunk, self.deeper = nn.Linear(6, 10), nn.Linear(10, 10)
        self.one, self.two = nn.Linear(10, 3), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.trunk(x))
        g = torch.tanh(self.deeper(h))
        return self.pack(self.one(h), F.softplus(self.two(g)), g)


class Shared(nn.Module):
    """One layer used twice, and one norm too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.activation(self.first(x))
        h = self.activation(self.again(h))
        h = self.activation(self.again(h) + h)
        return self.head(h)


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(nn.Tanh, (5, 8, 6))
        self.head = nn.Linear(6, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(F.relu(self.encoder(a) - self.encoder(b)))


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder's transpose, and a parameter used as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(7, 9))
        self.bias_in, self.bias_out = nn.Parameter(0.1 * torch.randn(7)), nn.Parameter(0.1 * torch.randn(9))
        self.gain = nn.Parameter(torch.rand(9) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(F.linear(x, self.weight, self.bias_in))
        return torch.tanh(F.linear(h, self.weight.t(), self.bias_out) * self.gain)


class TiedModules(nn.Module):
    """Two layers that hold one and the same parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


class Spellings(nn.Module):
    """The same operations as functions, methods, operators and in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(8))
        self.shared = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        a = self.layers[0](x)
        a.relu_()
        b = self.layers[1](a)
        b += a
        b = F.relu(b, inplace=True)
        c = self.layers[2](b).relu() * 0.5
        d = self.layers[3](c)
        d *= 1.2
        d.add_(c, alpha=0.3)
        torch.relu_(d)
        e = self.layers[4](d)
        self.shared(e)
        f = self.layers[5](e).clamp(min=0)
        f = self.layers[6](f)
        self.shared(f)
        g = self.layers[7](f).sub(e).div(2).clamp_(-0.6, 0.8)
        h = -g
        F.hardtanh(h, -0.5, 0.9, True)
        return 1.5 - F.leaky_relu_(h - 0.1, 0.2) / 2 + x


class Views(nn.Module):
    """Shapes read from the tensors, in every usual way."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.c, self.d, self.e, self.f = nn.Linear(64, 12), nn.Linear(6, 6), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.b(torch.relu(self.a(x))))
        h = F.max_pool2d(h, 2)
        h = torch.relu(self.c(h.view(h.size(0), -1)))
        b, c = h.shape[:2]
        h = torch.tanh(self.d(h.reshape(b, 2, c // 2))).transpose(1, 2)
        h = torch.relu(self.e(h.permute(0, 2, 1).reshape((b, -1))))
        h = h.unsqueeze(1).squeeze(1).contiguous().unflatten(1, (2, 4)).flatten(start_dim=1)
        return self.f(h.view(x.shape[0], -1))


class ChannelShuffle(nn.Module):
    """A view that is only possible of contiguous memory, inside blocks and outside."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 3, groups=3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.b(self.shuffle(torch.relu(self.a(x)))))
        return self.head(self.shuffle(torch.atan(h)).amax((2, 3)))

    def shuffle(self, h: Tensor) -> Tensor:
        n, c, height, width = h.size()
        return torch.transpose(h.view(n, 3, c // 3, height, width), 1, 2).contiguous().view(n, c, height, width)


class ScaledNorm(nn.BatchNorm1d):
    """A norm with a forward of its own, which reads its mode."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.5 if self.training else 2.0)


def own_norm() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 8), ScaledNorm(8), nn.ReLU(), nn.Linear(8, 8), ScaledNorm(8), nn.Tanh(), nn.Linear(8, 2)
    )


class ReusedStage(nn.Module):
    """Layer, norm and activation used three times over."""

    def __init__(self) -> None:
        super().__init__()
        self.stage, self.head = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU()), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage(self.stage(self.stage(x))))


class Sundries(nn.Module):
    """Results that are inputs, weights and plain values; a flag; constants made on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.offset = nn.Linear(4, 6), nn.Linear(6, 2), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor, flag: bool | None = None) -> Any:
        h = torch.relu(self.a(x) + torch.arange(6.0) * torch.ones(6))
        return x, self.offset, 3, None, self.b(h + self.offset), {"h": h, "size": h.shape[0]}


class Recurrent(nn.Module):
    """A recurrent layer with a tuple of results, digital as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.recur, self.a, self.b = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        states, (last, _) = self.recur(x)
        return self.b(torch.relu(self.a(states[:, -1] + last[0])))


class DictInput(nn.Module):
    """A batch that is a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.b(torch.relu(self.a(batch["x"])) + batch["y"])


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        gate = F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(h, 1)))))
        return self.head(F.relu(self.b(h * gate)).amax((2, 3)))


class Buffers(nn.Module):
    """Registered constants: a mask, a scale, an offset; and a counter that training steps move."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.register_buffer("mask", (torch.rand(8, 8) > 0.4).float())
        self.register_buffer("scale", torch.tensor(0.7))
        self.register_buffer("offset", torch.randn(8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x) * self.scale + self.offset)
        h = torch.relu(F.linear(h, self.b.weight * self.mask, self.b.bias))
        return self.c(h)


def weight_normed() -> nn.Sequential:
    wrap = torch.nn.utils.parametrizations.weight_norm
    return nn.Sequential(wrap(nn.Linear(6, 9)), nn.ReLU(), wrap(nn.Linear(9, 8)), nn.Tanh(), nn.Linear(8, 2))


def spectral_normed() -> nn.Sequential:
    wrap = torch.nn.utils.parametrizations.spectral_norm
    return nn.Sequential(wrap(nn.Linear(6, 9)), nn.ReLU(), wrap(nn.Linear(9, 8)), nn.Tanh(), nn.Linear(8, 2))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.attend = nn.Linear(6, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.lift(x))
        attended, _ = self.attend(h, h, h, need_weights=False)
        h = h + attended
        h = h + self.b(F.gelu(self.a(h)))
        return self.head(h.mean(1))


def transformer() -> nn.Sequential:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    return nn.Sequential(nn.Linear(5, 8), layer, nn.Flatten(), nn.Linear(32, 3))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.conv, self.a, self.b = nn.Conv1d(6, 8, 3, padding=1), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, words: Tensor) -> Tensor:
        h = torch.relu(self.conv(self.embed(words).transpose(1, 2)))
        return self.b(torch.tanh(self.a(h.max(dim=2).values)))


def hooked() -> nn.Sequential:
    """A forward hook that changes its layer's output, and a pre-hook that changes an input."""
    model = mlp(nn.ReLU)
    model[2].register_forward_hook(lambda module, args, output: 2 * output)
    model[4].register_forward_pre_hook(lambda module, args: (args[0] - 0.1,))
    return model


class Nested(nn.Module):
    """Loops over nested containers."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.ModuleDict(
                {
                    "body": nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Tanh(), nn.Linear(6, 6))),
                    "skip": nn.Linear(6, 6, bias=False),
                }
            )
            for _ in range(3)
        )
        self.heads = nn.ModuleDict({"left": nn.Linear(6, 2), "right": nn.Linear(6, 2)})

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = F.relu(stage["body"](x) + stage["skip"](x))
        return torch.stack([head(x) for head in self.heads.values()], 1)


class Shuffled(nn.Module):
    """Padding, pixel shuffle, upsampling layers and odd windows."""

    def __init__(self) -> None:
        super().__init__()
        self.pad, self.a, self.b = nn.ZeroPad2d((1, 0, 2, 1)), nn.Conv2d(1, 8, 3), nn.Conv2d(2, 4, 3, padding="same")
        self.shuffle, self.up = nn.PixelShuffle(2), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.pool, self.c = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.shuffle(torch.relu(self.a(self.pad(x))))
        h = self.pool(torch.relu(self.b(F.pad(h, (1, 1), value=0.5))))
        return torch.sigmoid(self.c(self.up(h)))


class Branching(nn.Module):
    """Branches that read one state at different depths and merge."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.short, self.long1, self.long2, self.long3 = (
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
        )
        self.merge, self.head = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.stem(x))
        short = torch.sigmoid(self.short(h))
        long = torch.relu(self.long3(torch.tanh(self.long2(torch.relu(self.long1(h))))))
        merged = torch.relu(self.merge(torch.cat([short, long], 1)) + h)
        return self.head(merged), long - h


class ControlFlow(nn.Module):
    """A shape decides the path: torch.fx can't trace it, torch.export can."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        if h.shape[-1] == 8 and h.dim() == 2:
            h = torch.relu(self.norm(self.b(h)))
        return F.dropout(self.c(h), 0.2, self.training)


# --- other people's ----------------------------------------------------------------------------------------


@functools.cache
def _torchvision() -> Any:
    """torchvision's models; its CUDA build imports on a CPU only once these operators are declared."""
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        import torchvision
    return torchvision.models


_KEPT: list[Any] = []
"""Declarations end with their library object."""


def vision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model: nn.Module = getattr(_torchvision(), name)(weights=None, num_classes=7, **options)
        return model

    return make


def transformers() -> Any:
    if importlib.util.find_spec("torchvision") is not None:
        _torchvision()  # transformers imports it
    return pytest.importorskip("transformers")


def bert() -> nn.Module:
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    config = transformers().BertConfig(vocab_size=29, max_position_embeddings=12, num_labels=3, **sizes)
    model: nn.Module = transformers().BertForSequenceClassification(config)
    return model


def gpt2() -> nn.Module:
    config = transformers().GPT2Config(
        vocab_size=29, n_positions=12, n_embd=16, n_layer=2, n_head=2, use_cache=False, bos_token_id=0, eos_token_id=0
    )
    model: nn.Module = transformers().GPT2LMHeadModel(config)
    return model


IMAGE = random((3, 3, 8, 8))
VECTOR = random((5, 8))

ZOO: tuple[Entry, ...] = (
    Entry("mlp", mlp, VECTOR),
    Entry("mlp_gelu", functools.partial(mlp, nn.GELU), VECTOR),
    Entry("mlp_silu", functools.partial(mlp, nn.SiLU), VECTOR),
    Entry("mlp_hardswish", functools.partial(mlp, nn.Hardswish), VECTOR),
    Entry("mlp_mish", functools.partial(mlp, nn.Mish), VECTOR),
    Entry("vgg", vgg, IMAGE),
    Entry("vgg_norm", functools.partial(vgg, norm=True, bias=False), IMAGE),
    Entry("post_norm", post_norm, random((4, 2, 8, 8))),
    Entry("conv1d", conv1d, random((4, 2, 12))),
    Entry("conv3d", conv3d, random((3, 1, 6, 6, 6))),
    Entry("autoencoder", autoencoder, random((2, 1, 8, 8))),
    Entry("grouped", grouped, random((2, 4, 7, 7))),
    Entry("potentials", Potentials, random((4, 7))),
    Entry("dropout_layers", dropout_layers, VECTOR),
    Entry("functional_dropout", FunctionalDropout, VECTOR),
    Entry("softmax_head", softmax_head, VECTOR),
    Entry("layer_norms", layer_norms, VECTOR),
    Entry("residual", Residual, IMAGE),
    Entry("pre_activation", PreActivation, IMAGE),
    Entry("dense", Dense, random((2, 3, 6, 6))),
    Entry("unet", UNet, random((2, 1, 8, 8))),
    Entry("two_inputs", TwoInputs, random((3, 2, 4, 4), (3, 5))),
    Entry("output_tuple", functools.partial(Heads, lambda a, b, c: (a, (b, c))), random((4, 6))),
    Entry("output_dict", functools.partial(Heads, lambda a, b, c: {"a": a, "rest": [b, c]}), random((4, 6))),
    Entry("output_namedtuple", functools.partial(Heads, lambda a, b, c: Answer(a, b)), random((4, 6))),
    Entry("shared", Shared, random((4, 6))),
    Entry("siamese", Siamese, random((4, 5), (4, 5))),
    Entry("tied", Tied, random((4, 9))),
    Entry("tied_modules", TiedModules, random((4, 6))),
    Entry("spellings", Spellings, VECTOR),
    Entry("views", Views, random((3, 2, 8, 8))),
    Entry("channel_shuffle", ChannelShuffle, random((2, 2, 7, 7))),
    Entry("own_norm", own_norm, random((5, 6))),
    Entry("reused_stage", ReusedStage, random((5, 6))),
    Entry("sundries", Sundries, random((5, 4))),
    Entry("recurrent", Recurrent, random((3, 5, 4))),
    Entry(
        "dict_input",
        DictInput,
        lambda g: ({"x": torch.randn(3, 4, generator=g), "y": torch.randn(3, 6, generator=g)},),
        export=True,
    ),
    Entry("squeeze_excite", SqueezeExcite, random((2, 3, 6, 6))),
    Entry("buffers", Buffers, random((4, 6))),
    Entry("weight_norm", weight_normed, random((4, 6))),
    Entry("spectral_norm", spectral_normed, random((4, 6))),
    Entry("attention", Attention, random((2, 4, 6))),
    Entry("transformer", transformer, random((2, 4, 5))),
    Entry("words", Words, tokens(11, 3, 5)),
    Entry("hooks", hooked, VECTOR),
    Entry("nested", Nested, random((4, 6))),
    Entry("shuffled", Shuffled, random((2, 1, 6, 6))),
    Entry("branching", Branching, random((4, 6))),
    Entry("control_flow", ControlFlow, random((4, 6)), export=True),
    Entry(
        "vgg11_bn", vision("vgg11_bn", init_weights=False), random((2, 3, 32, 32)), requires="torchvision", heavy=True
    ),
    Entry("resnet18", vision("resnet18"), random((2, 3, 32, 32)), requires="torchvision"),
    Entry("mobilenet_v3_small", vision("mobilenet_v3_small"), random((2, 3, 32, 32)), requires="torchvision"),
    Entry("vit_b_16", vision("vit_b_16", image_size=32), random((2, 3, 32, 32)), requires="torchvision", heavy=True),
    Entry("bert", bert, tokens(29, 2, 7), export=True, requires="transformers"),
    Entry("gpt2", gpt2, tokens(29, 2, 7), export=True, requires="transformers"),
)
