"""What the benchmarks of single parts are given."""

import numpy as np

INPUTS = np.random.default_rng(0).normal(size=(32, 3, 224, 224)).astype(np.float32)
