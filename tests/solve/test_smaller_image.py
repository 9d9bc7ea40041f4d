"""Norms of what is the same everywhere in an image: measured on a smaller one, right to within a percent, and the same
for large images of all sizes.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.solve import smaller_image
from ffebm_compiler.solve.norm_sample import Sample


def chain(*between: nn.Module, kernel: int = 3, stride: int = 1, groups: int = 1, width: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    padding = kernel // 2
    second = nn.Conv2d(width, width, kernel, stride=stride, padding=padding, groups=groups)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), *between, second, nn.Tanh(), nn.Conv2d(width, 4, 1)
    )


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8))
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        return torch.relu(self.up(torch.relu(self.b(h) + h)))


class Between(nn.Module):
    """Two layers and a function between them, which adds what stands in several places."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.between = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 2, 1), between

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.between(torch.relu(self.a(x))))
        return y


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": chain,
    "strided": lambda: chain(stride=2),
    "wide kernel": lambda: chain(kernel=7),
    "depthwise": lambda: chain(groups=8),
    "pooled": lambda: chain(nn.AvgPool2d(2)),
    "normed": lambda: chain(nn.BatchNorm2d(8)),
    "padded": lambda: chain(nn.ZeroPad2d((0, 1, 0, 1))),
    "same padding": lambda: chain(nn.Conv2d(8, 8, 5, padding="same")),
    "skip and transposed": Skip,
    "shifted": lambda: Between(lambda h: F.pad(h, (2, -2)) + h),
    "shifted both ways": lambda: Between(lambda h: F.pad(h, (0, 0, 2, 0)) + F.pad(h, (0, 0, 0, 2))),
}


def norms(net: nn.Module, shape: tuple[int, ...]) -> tuple[list[float], list[tuple[int, ...]]]:
    """Of all couplings, and the shapes that they were measured on."""
    model = fc.convert(net, 3, norm="held", verify=False).eval()
    model.ensure_gains(torch.zeros(1, *shape))
    found = [runner_of(model).gains(b) for b in model.program.energy_blocks]
    shapes = [tuple(v.shape[2:]) for gains in found for v in gains.directions.values()]
    return [n for gains in found for n in gains.norms.values()], shapes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ffebm_compiler.ConversionWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_norms_are_those_of_the_whole_image(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, shape = NETWORKS[name](), (3, 192, 160)
    found, small = norms(net, shape)
    with monkeypatch.context() as patch:
        patch.setattr(smaller_image, "WORTH", 0.0)
        expected, large = norms(net, shape)
    assert any(s < l for s, l in zip(small, large, strict=True))
    assert found == pytest.approx(expected, rel=0.015)


@pytest.mark.parametrize("kind", [nn.AvgPool2d, nn.MaxPool2d])
@pytest.mark.parametrize("size", [81, 80])
def test_a_last_window_of_fewer_pixels_is_measured_where_it_is(kind: type[nn.Module], size: int) -> None:
    """Its mean of one pixel has twice the norm of a mean of four."""
    net = Between(kind(2, ceil_mode=True))
    (norm,), _ = norms(net, (3, size, size))
    whole = torch.linalg.matrix_norm(net.b.weight.detach()[:, :, 0, 0], 2).item()
    alone = kind is nn.MaxPool2d or size == 81
    assert norm == pytest.approx(whole * (1 if alone else 0.5), rel=0.01)


def test_images_of_all_sizes_share_them() -> None:
    net = chain()
    assert norms(net, (3, 100, 120)) == norms(net, (3, 90, 90))


@pytest.mark.parametrize(
    "last", [nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8)), nn.Upsample((96, 96))]
)
def test_what_depends_on_the_size_is_measured_on_it(last: nn.Module) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), last, nn.ReLU())
    model, x = fc.convert(net, 3, verify=False).eval(), torch.zeros(1, 3, 96, 96)
    (block,) = model.program.energy_blocks
    assert Sample.of(runner_of(model).bound(block, dict(zip(model.program.inputs, [x], strict=True)))).point[
        "_1"
    ].shape[2:] == (
        96,
        96,
    )


class Bottleneck(nn.Module):
    """A depthwise convolution between two that take every pixel for itself, and the input added at the end."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.widen, self.narrow = nn.Conv2d(6, 24, 1), nn.Conv2d(24, 6, 1)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.depthwise(torch.relu(self.widen(x))))
        h = self.norm(self.narrow(h))
        return torch.relu(h + x)


class PerPixel(nn.Module):
    """A weight for every pixel, and one for every column."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.map, self.columns = (
            nn.Conv2d(3, 5, 1),
            nn.Parameter(torch.linspace(1, 2, 12 * 12).view(1, 1, 12, 12)),
            nn.Parameter(torch.linspace(1, 3, 12)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.relu(torch.relu(self.a(x)) * self.map) * self.columns)


@pytest.mark.filterwarnings("ignore::ffebm_compiler.ConversionWarning")
@pytest.mark.parametrize("size", [12, 96])
def test_one_matrix_on_every_pixel_is_measured_on_a_few(size: int) -> None:
    net = Bottleneck()
    values, shapes = norms(net, (6, size, size))
    norm, eps = net.norm, net.norm.eps
    matrix = net.narrow.weight.detach()[:, :, 0, 0] / (norm.running_var + eps).sqrt()[:, None]  # type: ignore[operator]
    assert shapes[1] == (smaller_image.FEW,) * 2
    assert min(shapes[0]) > smaller_image.FEW
    assert values[1] == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item(), rel=1e-3)


@pytest.mark.filterwarnings("ignore::ffebm_compiler.ConversionWarning")
def test_gains_follow_on_the_same_few_pixels() -> None:
    net = Bottleneck()
    model, x = fc.convert(net, 3, norm="held", verify=False).train(), torch.randn(2, 6, 12, 12)
    for _ in range(3):
        model(x).square().sum().backward()
        with torch.no_grad():
            model.narrow.weight *= 1.01
    (block,) = model.program.energy_blocks
    followed = model.gain_store.followed[block.key, model.execution.loop_gain].gains
    model.eval()(x)
    exact = model.gains(block)
    shapes = [tuple(v.shape[2:]) for v in followed.directions.values()]
    assert shapes == [tuple(v.shape[2:]) for v in exact.directions.values()]
    assert shapes[1] == (smaller_image.FEW,) * 2
    assert [*followed.norms.values()] == pytest.approx([*exact.norms.values()], rel=0.03)


def test_what_has_a_weight_for_every_pixel_is_measured_on_all() -> None:
    values, shapes = norms(PerPixel(), (3, 12, 12))
    assert shapes == [(12, 12), (12, 12)]
    assert values == pytest.approx([2.0, 3.0], rel=1e-2)


def test_a_stride_is_no_matrix_on_every_pixel() -> None:
    """Three of four pixels are read by nobody."""
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1, stride=2), nn.ReLU())
    _, shapes = norms(net, (3, 12, 12))
    assert shapes == [(smaller_image.LEAST,) * 2]
