"""Small networks, each with one thing that makes removing channels hard."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int = 3, **options: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options), nn.BatchNorm2d(outputs), nn.ReLU())


class Net(nn.Module):
    """Stem, something in the middle, average pool, classifier."""

    def __init__(self, width: int = 16, out: int | None = None) -> None:
        super().__init__()
        self.stem = conv(3, width)
        self.head = nn.Linear(out or width, 5)

    def middle(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.stem(x)).mean((2, 3)))


class Residual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(16, 24), conv(24, 16), conv(16, 16, 1)

    def middle(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x)).clone()
        y += x
        return y + self.c(y)


class Concat(Net):
    def __init__(self) -> None:
        super().__init__(out=40)
        self.a, self.b, self.c = conv(16, 8), conv(24, 16), conv(40, 40)

    def middle(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.a(x)], 1)
        return self.c(torch.cat([self.b(x), x], 1))


class Grouped(Net):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(16, 32, groups=4), conv(32, 16, groups=2)

    def middle(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) + x


class DepthwiseMultiplier(Net):
    def __init__(self) -> None:
        super().__init__(out=16)
        self.a, self.b, self.c = conv(16, 32, groups=16), conv(32, 16, 1), conv(16, 16, groups=16)

    def middle(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


class SqueezeExcitation(Net):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.down, self.up = conv(16, 16), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)

    def middle(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return x + y * self.up(F.relu(self.down(F.adaptive_avg_pool2d(y, 1)))).sigmoid()


class FlattenLinear(Net):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(16 * 4 * 4, 20)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.hidden(torch.flatten(F.max_pool2d(self.stem(x), 4), 1))))


class ChannelShuffle(Net):
    """ShuffleNetV2's unit: half the channels pass by, then the halves are interleaved."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(conv(8, 8) for _ in range(3))

    def middle(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            left, right = x.chunk(2, dim=1)
            x = torch.cat([left, branch(right)], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return x


class BuiltinShuffle(Net):
    """ShuffleNetV1's unit, and sub-pixel upsampling."""

    def __init__(self) -> None:
        super().__init__(out=4)
        self.a, self.b = conv(16, 16, 1, groups=4), conv(16, 16, groups=4)

    def middle(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.b(F.channel_shuffle(self.a(x), 4)), 2)


class AttributeSplit(Net):
    """Sizes of a split held by the module, equal and unequal ones."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes, self.width = [4, 12], 8
        self.a, self.b, self.c = conv(4, 8), conv(12, 8), conv(8, 8)

    def middle(self, x: Tensor) -> Tensor:
        left, right = torch.split(x, self.sizes, 1)
        x = torch.cat([self.a(left), self.b(right)], 1)
        left, right = torch.split(x, self.width, 1)
        return torch.cat([left, self.c(right)], 1)


class LiteralSplit(Net):
    """Sizes nobody can change: what they touch has to stay, the rest is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(8, 32), conv(32, 8), conv(4, 16)

    def middle(self, x: Tensor) -> Tensor:
        left, right = torch.split(x, [8, 8], 1)
        y = torch.cat([left, self.b(self.a(right))], 1)
        return self.c(y[:, 12:])


class PaddedShortcut(Net):
    """Option A of the first residual networks: a shortcut strided in space and padded with channels of zeros."""

    def __init__(self) -> None:
        super().__init__(out=32)
        self.a, self.b = conv(16, 32, stride=2), conv(32, 32)

    def middle(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)) + self.b(self.a(x))


class SharedWeights(Net):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(16, 16), nn.Conv2d(16, 16, 3, padding=1)
        self.tied = nn.Conv2d(16, 16, 3, padding=1)
        self.tied.weight = self.b.weight

    def middle(self, x: Tensor) -> Tensor:
        return self.tied(F.relu(self.b(self.a(self.a(x)))))


class PReLUs(Net):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.each, self.b, self.one = nn.Conv2d(16, 24, 3), nn.PReLU(24), nn.Conv2d(24, 16, 3), nn.PReLU()

    def middle(self, x: Tensor) -> Tensor:
        return self.one(self.b(self.each(self.a(x))))


class LayerScale(Net):
    """ConvNeXt's block: the normalised trunk stays, the hidden layer is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(64, 16)
        self.scale, self.spatial = nn.Parameter(torch.rand(16)), nn.Parameter(torch.rand(16, 1, 1))
        self.a, self.b = conv(16, 24), nn.Conv2d(24, 16, 1)

    def middle(self, x: Tensor) -> Tensor:
        y = self.down(F.gelu(self.up(self.norm(x.permute(0, 2, 3, 1))))) * self.scale
        x = x + y.permute(0, 3, 1, 2)
        return x + self.spatial * self.b(self.a(x))


class Transposed(Net):
    def __init__(self) -> None:
        super().__init__(out=12)
        self.a, self.b = nn.ConvTranspose2d(16, 24, 2, 2), nn.ConvTranspose2d(24, 24, 2, 2, groups=24)
        self.c, self.d = nn.ConvTranspose2d(24, 16, 2, 2, groups=4), nn.Conv2d(16, 12, 1)

    def middle(self, x: Tensor) -> Tensor:
        return self.d(F.relu(self.c(F.relu(self.b(F.relu(self.a(F.avg_pool2d(x, 4))))))))


class SpatialAttention(Net):
    """One map scales all channels, and is made from their mean: neither can go, the branch beside it can."""

    def __init__(self) -> None:
        super().__init__()
        self.map, self.a, self.b = nn.Conv2d(1, 1, 3, padding=1), conv(16, 32), conv(32, 16)

    def middle(self, x: Tensor) -> Tensor:
        return self.b(self.a(x * self.map(x.mean(1, keepdim=True)).sigmoid()))


class SplitAttention(Net):
    """ResNeSt's sum over a radix axis, with a softmax along it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.down, self.up = conv(16, 32, groups=2), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 32, 1)

    def middle(self, x: Tensor) -> Tensor:
        y = self.a(x)
        n, c, h, w = y.shape
        y = y.reshape(n, 2, c // 2, h, w)
        weights = self.up(F.relu(self.down(y.sum(1).mean((2, 3), keepdim=True))))
        weights = weights.view(n, 1, 2, -1).transpose(1, 2).softmax(1).reshape(n, 2, c // 2, 1, 1)
        return (y * weights).sum(1)


class Standardised(Net):
    """A convolution whose weight is computed: its neighbours stay, what is further away is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(16, 16, 3), conv(16, 24), conv(24, 16)

    def middle(self, x: Tensor) -> Tensor:
        weight = self.a.weight
        weight = weight / weight.flatten(1).std(1).view(-1, 1, 1, 1)
        return self.c(self.b(F.conv2d(x, weight, self.a.bias)))


class Assigned(Net):
    """Writes into a slice of channels, and stacks."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(16, 16), conv(16, 24), conv(24, 16)

    def middle(self, x: Tensor) -> Tensor:
        y = self.a(x).clone()
        y[:, 4:8] = x[:, 4:8]
        z = self.c(self.b(y))
        return torch.stack([z, self.c(self.b(x))], 2).amax(2)


class Auxiliary(Net):
    """A head that only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.aux = conv(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.stem(x)
        y = self.head(self.a(x).mean((2, 3)))
        return (y, self.aux(x.mean((2, 3)))) if self.training else y


NETS: tuple[type[Net], ...] = (
    Residual, Concat, Grouped, DepthwiseMultiplier, SqueezeExcitation, FlattenLinear, ChannelShuffle, BuiltinShuffle, AttributeSplit,
    PaddedShortcut, SharedWeights, PReLUs, LayerScale, Transposed, SpatialAttention, SplitAttention, Standardised, Assigned, Auxiliary,
)  # fmt: skip


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Make every weight and statistic matter: nothing left at zero, one or 1e-6, where a wrong cut would not show."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None and layer.running_var is not None:
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1 or parameter.numel() == max(parameter.shape, default=1):
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif not parameter.any():
                parameter.normal_(0, 0.1, generator=generator)
    return module.eval()
