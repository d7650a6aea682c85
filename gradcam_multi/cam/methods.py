"""The CAM methods as one table, and what each needs of a model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gradcam_multi.cam import components, gradients, input_gradients, perturbations
from gradcam_multi.cam.probe import Probe
from gradcam_multi.errors import MethodError, suggest
from gradcam_multi.spec import Array

Need = Literal["gradients", "replays", "inputs"]
Combine = Callable[[Array, Array], Array]
Project = Callable[[Array], Array]
ProbeMap = Callable[[Probe], Array]


@dataclass(frozen=True)
class Method:
    """A CAM method: its name, its formula in words, the map it makes, and where it is defined.

    Exactly one of three functions makes the signed map: `combine` of (N, C, P) activations and
    gradients, `project` of activations alone, each to (N, P), or `probe` of a `Probe`, to
    (N, *grid). `relu` says whether negative evidence is cut from the map; without it the signed
    map stays. `needs` says what it takes beyond the activations: "gradients", "replays" from the
    layer on, changed "inputs". `cost` is the number of forward passes an item, in words.
    `on_input` says that the map has the input's size, and is about no layer. `unit_free` says that
    the heatmap does not depend on the unit of the logits; a probability does.
    """

    name: str
    formula: str
    combine: Combine | None
    paper: str
    relu: bool = True
    project: Project | None = None
    probe: ProbeMap | None = None
    needs: tuple[Need, ...] = ("gradients",)
    cost: str = "1"
    on_input: bool = False
    unit_free: bool = True


def _row(name: str, formula: str, paper: str, **kind: object) -> Method:
    return Method(name, formula, kind.pop("combine", None), paper, **kind)  # type: ignore[arg-type]


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        _row(
            "gradcam",
            "r(sum_k mean(g_k) A_k)",
            "Selvaraju 2017, arXiv:1610.02391",
            combine=gradients.gradcam,
        ),
        _row(
            "gradcam++",
            "r(sum_k w_k A_k), w_k = sum(a r(g_k)), a = g^2 / (2 g^2 + g^3 sum(A_k))",
            "Chattopadhyay 2018, arXiv:1710.11063, equation 19",
            combine=gradients.gradcam_plus_plus,
        ),
        _row(
            "gradcam++-official",
            "gradcam++, each channel's a divided by its sum over g > 0",
            "Chattopadhyay 2018, the authors' program",
            combine=gradients.gradcam_plus_plus_official,
        ),
        _row(
            "hirescam",
            "r(sum_k g_k A_k)",
            "Draelos 2020, arXiv:2011.08891",
            combine=gradients.hirescam,
        ),
        _row(
            "layercam",
            "r(sum_k r(g_k) A_k)",
            "Jiang 2021, TIP 30:5875",
            combine=gradients.layercam,
        ),
        _row(
            "xgradcam",
            "r(sum_k w_k A_k), w_k = sum(g_k A_k) / sum(A_k)",
            "Fu 2020, arXiv:2008.02312",
            combine=gradients.xgradcam,
        ),
        _row(
            "gradcam-elementwise",
            "sum_k r(g_k A_k)",
            "pytorch-grad-cam's GradCAMElementWise",
            combine=gradients.elementwise,
        ),
        _row(
            "finer-cam",
            "gradcam of S_c - sum_d p_d S_d, d the 3 classes of nearest score, p their softmax",
            "Zhang 2025, arXiv:2501.11309",
            probe=perturbations.finercam,
            unit_free=False,
        ),
        _row(
            "smoothgradcam++",
            "gradcam++ of the means of g, g^2, g^3 over n noisy inputs",
            "Omeiza 2019, arXiv:1908.01224",
            probe=perturbations.smooth_gradcam_plus_plus,
            needs=("gradients", "inputs"),
            cost=f"1 + n, n = {perturbations.SMOOTH_SAMPLES}",
        ),
        _row(
            "eigengradcam",
            "r(u s), the first principal component over channels of g A",
            "pytorch-grad-cam's EigenGradCAM, with the sign of the mean of g A",
            combine=components.eigengradcam,
        ),
        _row(
            "eigencam",
            "r(u s), the first principal component over channels of A",
            "Muhammad 2020, arXiv:2008.00299",
            project=components.eigencam,
            needs=(),
        ),
        _row(
            "kpca-cam",
            "r(u s), the first principal component of the kernel tanh(x.y / C + 1) of A's cells",
            "Karmani 2024, arXiv:2410.00267",
            project=components.kpca_cam,
            needs=(),
        ),
        _row(
            "fem",
            "sum_k mean(A_k) [A_k >= mean + 2 deviations]",
            "Fuad 2020, IPTA",
            project=components.fem,
            needs=(),
        ),
        _row(
            "random-cam",
            "r(sum_k w_k A_k), w_k uniform in [-1, 1)",
            "a baseline",
            probe=perturbations.randomcam,
            needs=(),
        ),
        _row(
            "scorecam",
            "r(sum_k p_k A_k), p_k the probability where A_k, resized and scaled, masks the input",
            "Wang 2020, arXiv:1910.01279",
            probe=perturbations.scorecam,
            needs=("inputs",),
            cost="1 + C",
            unit_free=False,
        ),
        _row(
            "scorecam-softmax",
            "scorecam, p_k the softmax over channels of the scores",
            "pytorch-grad-cam's and torch-cam's ScoreCAM",
            probe=perturbations.scorecam_softmax,
            needs=("inputs",),
            cost="1 + C",
            unit_free=False,
        ),
        _row(
            "ss-cam",
            "scorecam, p_k the mean over n masks with noise of deviation 2",
            "Wang 2020, arXiv:2006.14255",
            probe=perturbations.sscam,
            needs=("inputs",),
            cost=f"1 + n C, n = {perturbations.SSCAM_SAMPLES}",
            unit_free=False,
        ),
        _row(
            "is-cam",
            "scorecam, p_k the mean over the mask times 1/n, 2/n ... 1",
            "Naidu 2020, arXiv:2010.03023",
            probe=perturbations.iscam,
            needs=("inputs",),
            cost=f"1 + n C, n = {perturbations.ISCAM_STEPS}",
            unit_free=False,
        ),
        _row(
            "ablationcam",
            "r(sum_k (S - S_k) A_k), S_k the score with A_k = 0",
            "Desai 2020, WACV",
            probe=perturbations.ablationcam,
            needs=("replays",),
            cost="2 + C + a batch",
        ),
        _row(
            "recipro-cam",
            "for each cell, the probability with A kept in its 3-cell surroundings only",
            "Byun 2022, arXiv:2209.14074",
            probe=perturbations.reciprocam,
            needs=("replays",),
            cost="1 + P + a batch",
            relu=False,
            unit_free=False,
        ),
        _row(
            "rise",
            "the mean of n random masks, each times the probability under it",
            "Petsiuk 2018, arXiv:1806.07421",
            probe=perturbations.rise,
            needs=("inputs",),
            cost=f"1 + n, n = {perturbations.RISE_MASKS}",
            relu=False,
            on_input=True,
            unit_free=False,
        ),
        _row(
            "saliency",
            "max_c abs(dS/dx_c), c the input's channels",
            "Simonyan 2013, arXiv:1312.6034",
            probe=input_gradients.saliency,
            cost="2",
            relu=False,
            on_input=True,
        ),
        _row(
            "smoothgrad",
            "saliency of the mean of dS/dx over n noisy inputs",
            "Smilkov 2017, arXiv:1706.03825",
            probe=input_gradients.smoothgrad,
            needs=("gradients", "inputs"),
            cost=f"1 + n, n = {input_gradients.SMOOTHGRAD_SAMPLES}",
            relu=False,
            on_input=True,
        ),
        _row(
            "integrated-gradients",
            "r(sum_c (x_c - b_c) m_c), m the mean of dS/dx at n midpoints from b to x",
            "Sundararajan 2017, arXiv:1703.01365",
            probe=input_gradients.integrated_gradients,
            needs=("gradients", "inputs"),
            cost=f"1 + n, n = {input_gradients.PATH_STEPS}",
            on_input=True,
        ),
        _row(
            "guided-backprop",
            "saliency, at each ReLU only what is positive handed back",
            "Springenberg 2015, arXiv:1412.6806",
            probe=input_gradients.guided_backprop,
            cost="2",
            relu=False,
            on_input=True,
        ),
        _row(
            "guided-gradcam",
            "guided-backprop times gradcam, resized to the input",
            "Selvaraju 2017, arXiv:1610.02391, section 3.2",
            probe=input_gradients.guided_gradcam,
            cost="2",
        ),
    )
}
GRADIENT_METHODS = tuple(name for name, method in METHODS.items() if method.combine)
"""Those that are functions of activations and gradients, which `raw_maps` can make by itself."""
ONE_PASS = tuple(name for name, method in METHODS.items() if method.cost == "1")
"""Those that run the model once; the others run it twice to thousands of times an item."""


def method_named(name: str) -> Method:
    """Return a method from the table; raise MethodError for a name that is not in it."""
    try:
        return METHODS[name]
    except (KeyError, TypeError):
        raise MethodError(
            f"no method is called {name!r}; there are {', '.join(METHODS)}"
            f"{suggest(str(name), METHODS)}"
        ) from None
