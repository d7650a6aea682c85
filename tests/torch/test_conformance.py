"""The ten points for the PyTorch adapter."""

from contextlib import contextmanager

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import probe_torch
from torch import nn

from gradcam_multi.testing import AdapterConformance, Variant, probe_inputs


class IgnoringNet(nn.Module):
    """Its score comes from one branch; the other runs, and is dropped."""

    def __init__(self):
        super().__init__()
        self.used = nn.Conv2d(3, 4, 3)
        self.ignored = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        self.ignored(x)
        return self.used(x).relu().mean((2, 3))


class TestTorch(AdapterConformance):
    backend = "torch"

    def build(self, network):
        model = probe_torch.build(network)
        model.train()  # the worst state to find it in
        next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
        return model

    def snapshot(self, model):
        return (
            [(name, module.training) for name, module in model.named_modules()],
            [
                (name, p.requires_grad, None if p.grad is None else p.grad.tolist(), p.tolist())
                for name, p in model.named_parameters()
            ],
            [(name, buffer.tolist()) for name, buffer in model.named_buffers()],
            [
                [
                    dict(getattr(module, kind))
                    for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
                ]
                for module in model.modules()
            ],
            torch.is_grad_enabled(),
            torch.random.get_rng_state().tolist(),
        )

    def variants(self, network):
        frozen = self.build(network).requires_grad_(False)
        half = self.build(network).to(torch.float16)
        bfloat = self.build(network).to(torch.bfloat16)
        exact = "the same numbers in the same order"

        @contextmanager
        def autocast():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                yield

        return {
            "frozen": Variant(frozen, 1e-6, exact),
            "no_grad": Variant(self.build(network), 1e-6, exact, torch.no_grad),
            "inference_mode": Variant(self.build(network), 1e-6, exact, torch.inference_mode),
            "float64": Variant(self.build(network).double(), 1e-5, "float32 against float64"),
            "float16": Variant(half, 1e-2, "11 bits of precision through two convolutions"),
            "bfloat16": Variant(bfloat, 6e-2, "8 bits of precision through two convolutions"),
            "autocast": Variant(self.build(network), 6e-2, "convolutions in bfloat16", autocast),
        }

    def ignoring_model(self):
        return IgnoringNet(), "ignored", probe_inputs()
