"""Networks of kinds that Planish has no task for, as people write them, with outputs of several shapes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.SiLU())


class SplitBlock(nn.Module):
    """Two halves, one of which passes through residual convolutions; all are concatenated (C2f)."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1) -> None:
        super().__init__()
        self.half = outputs // 2
        self.first = conv(inputs, outputs, 1)
        self.steps = nn.ModuleList(nn.Sequential(conv(self.half, self.half), conv(self.half, self.half)) for _ in range(depth))
        self.last = conv((2 + depth) * self.half, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for step in self.steps:
            parts.append(parts[-1] + step(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Pooled(nn.Module):
    """Max-pooling three times in a row, all concatenated (SPPF)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.last = conv(inputs, inputs // 2, 1), conv(2 * inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(functional.max_pool2d(parts[-1], 5, 1, 2))
        return self.last(torch.cat(parts, 1))


class AnchorFree(nn.Module):
    """A detector of three strides whose single output has a column for each position: a box in pixels and the probabilities of classes."""

    def __init__(self, classes: int = 3, width: int = 16) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(conv(3, w, 3, 2), conv(w, 2 * w, 3, 2), SplitBlock(2 * w, 2 * w))
        self.down8 = nn.Sequential(conv(2 * w, 4 * w, 3, 2), SplitBlock(4 * w, 4 * w))
        self.down16 = nn.Sequential(conv(4 * w, 4 * w, 3, 2), SplitBlock(4 * w, 4 * w))
        self.down32 = nn.Sequential(conv(4 * w, 8 * w, 3, 2), SplitBlock(8 * w, 8 * w), Pooled(8 * w, 8 * w))
        self.up16, self.up8 = SplitBlock(12 * w, 4 * w), SplitBlock(8 * w, 4 * w)
        self.boxes = nn.ModuleList(nn.Conv2d(n * w, 4, 1) for n in (4, 4, 8))
        self.classes = nn.ModuleList(nn.Conv2d(n * w, classes, 1) for n in (4, 4, 8))

    def forward(self, x: Tensor) -> Tensor:
        p8 = self.down8(self.stem(x))
        p16 = self.down16(p8)
        p32 = self.down32(p16)
        p16 = self.up16(torch.cat([functional.interpolate(p32, scale_factor=2.0), p16], 1))
        p8 = self.up8(torch.cat([functional.interpolate(p16, scale_factor=2.0), p8], 1))
        columns = []
        for maps, stride, box, kind in zip((p8, p16, p32), (8, 16, 32), self.boxes, self.classes, strict=True):
            height, width = x.shape[2] // stride, x.shape[3] // stride
            y, z = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
            sides = functional.softplus(box(maps).flatten(2))
            centre = torch.stack([z.flatten(), y.flatten()]) + sides[:, :2] - sides[:, 2:]
            columns.append(torch.cat([torch.cat([centre, sides[:, :2] + sides[:, 2:]], 1) * stride, kind(maps).flatten(2).sigmoid()], 1))
        return torch.cat(columns, 2)


class Heatmaps(nn.Module):
    """Keypoints as heatmaps, and an offset for each, from a U-Net with transposed convolutions."""

    def __init__(self, points: int = 5, width: int = 16) -> None:
        super().__init__()
        w = width
        self.one, self.two, self.three = conv(3, w, 3, 2), conv(w, 2 * w, 3, 2), conv(2 * w, 4 * w, 3, 2)
        self.up2, self.up1 = nn.ConvTranspose2d(4 * w, 2 * w, 2, 2), nn.ConvTranspose2d(2 * w, w, 2, 2)
        self.join2, self.join1 = conv(4 * w, 2 * w), conv(2 * w, w)
        self.maps, self.offsets = nn.Conv2d(w, points, 1), nn.Conv2d(w, 2 * points, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        one = self.one(x)
        two = self.two(one)
        back = self.join2(torch.cat([self.up2(self.three(two)), two], 1))
        back = self.join1(torch.cat([self.up1(back), one], 1))
        return {"heatmaps": self.maps(back).sigmoid(), "offsets": self.offsets(back)}


class Larger(nn.Module):
    """Super-resolution: an image of twice the size, by pixel shuffle."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, width), conv(width, width), conv(width, width))
        self.tail = nn.Sequential(nn.Conv2d(width, 12, 3, 1, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=2.0, mode="bilinear") + self.tail(self.body(x))


class Embedding(nn.Module):
    """A normalized vector and the maps that it is pooled from, as a tuple."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, width, 3, 2), conv(width, 2 * width, 3, 2), conv(2 * width, 2 * width))
        self.head = nn.Linear(2 * width, 24)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.body(x)
        return functional.normalize(self.head(maps.mean((2, 3)))), maps


FOREIGN = {"anchor_free": AnchorFree, "heatmaps": Heatmaps, "larger": Larger, "embedding": Embedding}
OUTPUTS = {
    "anchor_free": {"output": (7, 84)}, "heatmaps": {"heatmaps": (5, 32, 32), "offsets": (10, 32, 32)},
    "larger": {"output": (3, 128, 128)}, "embedding": {"output_0": (24,), "output_1": (32, 16, 16)},
}  # fmt: skip
"""Shapes of the outputs of one image of 64 x 64 pixels, by the names that they get."""


def made(kind: str) -> nn.Module:
    """A network with random weights whose batch norm has statistics of noise, so that its outputs differ between images."""
    torch.manual_seed(3)
    network: nn.Module = FOREIGN[kind]()
    network.train()
    with torch.no_grad():
        for _ in range(20):
            network(torch.randn(8, 3, 64, 64))
    return network.eval()
