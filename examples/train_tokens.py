"""Train the network of tokens on the demo's scenes, and write its weights beside this program.

    python examples/train_tokens.py

needs PyTorch, click and tqdm, and takes about a quarter of an hour on two CPU cores.
"""

from __future__ import annotations

import time

import click
import numpy as np
import torch
from numpy.typing import NDArray
from token_network import WEIGHTS, TokenNetwork, load_token_network
from train_demo import PLANS, draw, fit, fold, to_tensors, write

from gradcam_multi.demo.scenes import TRAINING_SEED, VALIDATION_SEED, Scene

SCENES, MARKS = PLANS["sound"].scenes, PLANS["sound"].marks
EPOCHS, TOP_RATE = 12, 0.002  # more and slower than convolutions: where to look is learned too


def folded(model: TokenNetwork) -> dict[str, NDArray[np.float16]]:
    """Return the weights with the normalisations of the convolutions folded into these."""
    arrays = {f"stem.{name}": array for name, array in fold(model.stem).items()}
    for name, tensor in model.state_dict().items():
        if not name.startswith("stem."):
            arrays[name] = tensor.numpy().astype(np.float16)
    return arrays


def accuracy(scenes: list[Scene]) -> float:
    """Return the share of scenes that the network names right as it is stored."""
    images, labels = to_tensors(scenes)
    model = load_token_network()
    with torch.no_grad():
        tops = [model(part.float() / 255).argmax(1) for part in torch.split(images, 200)]
    return float((torch.cat(tops) == labels).double().mean())


@click.command()
@click.option("--validation", default=800, show_default=True, help="Validation scenes.")
@click.option("--threads", default=2, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the first weights and the order.")
def main(validation: int, threads: int, seed: int) -> None:
    """Train, fold, write and measure."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    unseen = draw(validation, VALIDATION_SEED, MARKS, threads)
    began = time.perf_counter()
    scenes = draw(SCENES, TRAINING_SEED, MARKS, threads)
    drawn = time.perf_counter()
    model = TokenNetwork(normalised=True)
    fit(model, scenes, name="tokens", epochs=EPOCHS, rate=TOP_RATE)
    write(WEIGHTS, folded(model))
    ended = time.perf_counter()
    click.echo(f"tokens: drawn in {drawn - began:.0f} s, trained in {ended - drawn:.0f} s")
    click.echo(f"tokens: accuracy, marks {MARKS}: {100 * accuracy(unseen):.1f} %")


if __name__ == "__main__":
    main()
