"""Small PyTorch networks with the block structures people use; random weights unless loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def seeded(build: Any, *args: Any, seed: int = 0, **kwargs: Any) -> Any:
    """Build with fixed weights, without touching the global generator, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(*args, **kwargs)
        for part in model.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.8, 1.2)
                nn.init.uniform_(part.weight, 0.8, 1.2)
                nn.init.normal_(part.bias, 0, 0.1)
    return model.eval()


class Bottleneck(nn.Module):
    """ResNet's: one ReLU module used three times, in place, the last after the addition."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """ResNet with bottlenecks and the usual names; (3, 4, 6, 3) and width 64 make ResNet-50."""

    def __init__(self, blocks: Sequence[int], width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = width
        for index, count in enumerate(blocks):
            inner = width * 2**index
            parts: list[nn.Module] = []
            for block in range(count):
                stride = 2 if block == 0 and index else 1
                parts.append(Bottleneck(inputs, inner, inner * 4, stride))
                inputs = inner * 4
            self.add_module(f"layer{index + 1}", nn.Sequential(*parts))
        self.stages = len(blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for index in range(self.stages):
            x = self.get_submodule(f"layer{index + 1}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet50() -> nn.Module:
    """Full ResNet-50: 25.6 million parameters."""
    return seeded(ResNet, (3, 4, 6, 3))


def small_resnet(classes: int = 10) -> nn.Module:
    """Two stages of bottlenecks: 64x64 in, a grid of 8x8."""
    return seeded(ResNet, (1, 2), width=8, classes=classes)


class Vgg(nn.Module):
    """VGG's `features` with in-place ReLUs, pooling last, and a dense classifier with dropout."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        inputs = 3
        for width in (8, "M", 16, 16, "M", 32, 32, "M"):
            if width == "M":
                parts.append(nn.MaxPool2d(2))
            else:
                parts += [nn.Conv2d(inputs, int(width), 3, padding=1), nn.ReLU(inplace=True)]
                inputs = int(width)
        self.features = nn.Sequential(*parts)
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Linear(inputs * 4, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class InvertedResidual(nn.Module):
    """MobileNet v2's: expand, depthwise, project, with ReLU6 and a residual where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = inputs * 4
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNet(nn.Module):
    """MobileNet v2's structure; averages by a function."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(
                nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True)
            ),
            InvertedResidual(8, 16, 2),
            InvertedResidual(16, 16, 1),
            InvertedResidual(16, 24, 2),
            nn.Sequential(
                nn.Conv2d(24, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU6(inplace=True)
            ),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


class DenseLayer(nn.Module):
    """DenseNet's: normalise, activate and convolve everything so far."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, growth * 4, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(growth * 4)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(growth * 4, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(self.relu1(self.norm1(torch.cat(features, 1))))
        return self.conv2(self.relu2(self.norm2(x)))


class DenseBlock(nn.ModuleDict):
    """Layers that each read all before them."""

    def __init__(self, count: int, inputs: int, growth: int) -> None:
        super().__init__()
        for index in range(count):
            self[f"denselayer{index + 1}"] = DenseLayer(inputs + index * growth, growth)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    """DenseNet's structure: the last feature map is a functional in-place ReLU."""

    def __init__(self, classes: int = 10, growth: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, 16, 7, 2, 3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(16))
        self.features.add_module("relu0", nn.ReLU(inplace=True))
        self.features.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        self.features.add_module("denseblock1", DenseBlock(2, 16, growth))
        outputs = 16 + 2 * growth
        transition = nn.Sequential()
        transition.add_module("norm", nn.BatchNorm2d(outputs))
        transition.add_module("relu", nn.ReLU(inplace=True))
        transition.add_module("conv", nn.Conv2d(outputs, outputs // 2, 1, bias=False))
        transition.add_module("pool", nn.AvgPool2d(2, 2))
        self.features.add_module("transition1", transition)
        self.features.add_module("denseblock2", DenseBlock(2, outputs // 2, growth))
        outputs = outputs // 2 + 2 * growth
        self.features.add_module("norm5", nn.BatchNorm2d(outputs))
        self.classifier = nn.Linear(outputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.features(x), inplace=True)
        out = F.adaptive_avg_pool2d(out, (1, 1))
        return self.classifier(torch.flatten(out, 1))


class Fire(nn.Module):
    """SqueezeNet's: squeeze, then two expansions concatenated."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat(
            [
                self.expand1x1_activation(self.expand1x1(x)),
                self.expand3x3_activation(self.expand3x3(x)),
            ],
            1,
        )


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1 with the names under which its weights are published."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Conv2d(512, classes, 1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d((1, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


def squeezenet(weights: Path | None = None) -> nn.Module:
    """SqueezeNet 1.1, with weights from a file or random ones."""
    model = seeded(SqueezeNet)
    if weights is not None:
        model.load_state_dict(torch.load(weights, weights_only=True))
    return model


class BasicConv(nn.Module):
    """Inception's: convolution, normalisation, and an activation that is a function."""

    def __init__(self, inputs: int, outputs: int, **kwargs: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, bias=False, **kwargs)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class InceptionBlock(nn.Module):
    """Three branches, one of them pooled by a function, concatenated by a function."""

    def __init__(self, inputs: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv(inputs, 8, kernel_size=1)
        self.branch3x3_1 = BasicConv(inputs, 6, kernel_size=1)
        self.branch3x3_2 = BasicConv(6, 8, kernel_size=3, padding=1)
        self.branch_pool = BasicConv(inputs, pool, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        branch3x3 = self.branch3x3_2(self.branch3x3_1(x))
        pooled = self.branch_pool(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
        return torch.cat([self.branch1x1(x), branch3x3, pooled], 1)


class Inception(nn.Module):
    """Inception's structure, with everything between the convolutions a function."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = BasicConv(3, 12, kernel_size=3, stride=2)
        self.mixed1 = InceptionBlock(12, 8)
        self.mixed2 = InceptionBlock(24, 12)
        self.fc = nn.Linear(28, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x), kernel_size=3, stride=2)
        x = self.mixed2(self.mixed1(x))
        x = F.dropout(F.adaptive_avg_pool2d(x, 1), training=self.training)
        return self.fc(x.flatten(1))


ARCHITECTURES: dict[str, tuple[Any, str]] = {
    "resnet": (small_resnet, "layer2.1"),
    "vgg": (lambda: seeded(Vgg), "features.11"),
    "mobilenet": (lambda: seeded(MobileNet), "features.4.2"),
    "densenet": (lambda: seeded(DenseNet), "relu"),
    "squeezenet": (squeezenet, "features.12"),
    "inception": (lambda: seeded(Inception), "mixed2"),
}
"""Name to builder and default layer; all take (N, 3, 64, 64)."""
