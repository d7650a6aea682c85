"""The CAM methods as one table, and what each needs of a model."""

from gradcam_multi.cam import (
    affine,
    components,
    full_gradients,
    gradients,
    input_gradients,
    legrad,
    perturbations,
)
from gradcam_multi.cam.method import Method, by_gradients, by_probing, row
from gradcam_multi.errors import MethodError, suggest

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        row(
            "gradcam",
            "r(sum_k mean(g_k) A_k)",
            "Selvaraju 2017, arXiv:1610.02391",
            **by_gradients(gradients.gradcam),
        ),
        row(
            "gradcam++",
            "r(sum_k w_k A_k), w_k = sum(a r(g_k)), a = g^2 / (2 g^2 + g^3 sum(A_k))",
            "Chattopadhyay 2018, arXiv:1710.11063, equation 19",
            **by_gradients(gradients.gradcam_plus_plus),
        ),
        row(
            "gradcam++-official",
            "gradcam++, each channel's a divided by its sum over g > 0",
            "Chattopadhyay 2018, the authors' program",
            **by_gradients(gradients.gradcam_plus_plus_official),
        ),
        row(
            "hirescam",
            "r(sum_k g_k A_k)",
            "Draelos 2020, arXiv:2011.08891",
            **by_gradients(gradients.hirescam),
        ),
        row(
            "layercam",
            "r(sum_k r(g_k) A_k)",
            "Jiang 2021, TIP 30:5875",
            **by_gradients(gradients.layercam),
        ),
        row(
            "xgradcam",
            "r(sum_k w_k A_k), w_k = sum(g_k A_k) / sum(A_k)",
            "Fu 2020, arXiv:2008.02312",
            **by_gradients(gradients.xgradcam),
        ),
        row(
            "gradcam-elementwise",
            "sum_k r(g_k A_k)",
            "pytorch-grad-cam's GradCAMElementWise",
            **by_gradients(gradients.elementwise),
        ),
        row(
            "cam",
            "sum_k w_k A_k, w_k the weights of the dense layer behind global mean pooling",
            "Zhou 2016, arXiv:1512.04150",
            **by_probing(affine.cam),
            needs=("gradients", "replays"),
            cost="4, later 1",
            relu=False,
            only_for=affine.MEAN_AND_DENSE,
        ),
        row(
            "shapley-cam",
            "r(sum_k mean(g_k - (H A)_k / 2) A_k), of S = z_c + log p_c with its Hessian H",
            "Cai 2025, arXiv:2501.06261",
            **by_probing(affine.shapleycam),
            needs=("gradients", "replays"),
            cost="6, later 2",
            unit_free=False,
            only_for=affine.AFFINE,
        ),
        row(
            "finer-cam",
            "gradcam of S_c - sum_d p_d S_d, d the 3 classes of nearest score, p their softmax",
            "Zhang 2025, arXiv:2501.11309",
            **by_probing(perturbations.finercam),
            unit_free=False,
        ),
        row(
            "smoothgradcam++",
            "gradcam++ of the means of g, g^2, g^3 over n noisy inputs",
            "Omeiza 2019, arXiv:1908.01224",
            **by_probing(perturbations.smooth_gradcam_plus_plus),
            needs=("gradients", "inputs"),
            cost=f"1 + n, n = {perturbations.SMOOTH_SAMPLES}",
        ),
        row(
            "eigengradcam",
            "r(u s), the first principal component over channels of g A",
            "pytorch-grad-cam's EigenGradCAM, with the sign of the mean of g A",
            combine=components.eigengradcam,
        ),
        row(
            "eigencam",
            "r(u s), the first principal component over channels of A",
            "Muhammad 2020, arXiv:2008.00299",
            project=components.eigencam,
            needs=(),
        ),
        row(
            "kpca-cam",
            "r(u s), the first principal component of the kernel tanh(x.y / C + 1) of A's cells",
            "Karmani 2024, arXiv:2410.00267",
            project=components.kpca_cam,
            needs=(),
        ),
        row(
            "fem",
            "sum_k mean(A_k) [A_k >= mean + 2 deviations]",
            "Fuad 2020, IPTA",
            project=components.fem,
            needs=(),
        ),
        row(
            "random-cam",
            "r(sum_k w_k A_k), w_k uniform in [-1, 1)",
            "a baseline",
            **by_probing(perturbations.randomcam),
            needs=(),
        ),
        row(
            "scorecam",
            "r(sum_k p_k A_k), p_k the probability where A_k, resized and scaled, masks the input",
            "Wang 2020, arXiv:1910.01279",
            **by_probing(perturbations.scorecam),
            needs=("inputs",),
            cost="1 + C",
            unit_free=False,
        ),
        row(
            "scorecam-softmax",
            "scorecam, p_k the softmax over channels of the scores",
            "pytorch-grad-cam's and torch-cam's ScoreCAM",
            **by_probing(perturbations.scorecam_softmax),
            needs=("inputs",),
            cost="1 + C",
            unit_free=False,
        ),
        row(
            "ss-cam",
            "scorecam, p_k the mean over n masks with noise of deviation 2",
            "Wang 2020, arXiv:2006.14255",
            **by_probing(perturbations.sscam),
            needs=("inputs",),
            cost=f"1 + n C, n = {perturbations.SSCAM_SAMPLES}",
            unit_free=False,
        ),
        row(
            "is-cam",
            "scorecam, p_k the mean over the mask times 1/n, 2/n ... 1",
            "Naidu 2020, arXiv:2010.03023",
            **by_probing(perturbations.iscam),
            needs=("inputs",),
            cost=f"1 + n C, n = {perturbations.ISCAM_STEPS}",
            unit_free=False,
        ),
        row(
            "ablationcam",
            "r(sum_k (S - S_k) A_k), S_k the score with A_k = 0",
            "Desai 2020, WACV",
            **by_probing(perturbations.ablationcam),
            needs=("replays",),
            cost="2 + C + a batch",
        ),
        row(
            "recipro-cam",
            "for each cell, the probability with A kept in its 3-cell surroundings only",
            "Byun 2022, arXiv:2209.14074",
            probe=perturbations.reciprocam,
            needs=("replays",),
            cost="1 + P + a batch",
            relu=False,
            unit_free=False,
        ),
        row(
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
        row(
            "saliency",
            "max_c abs(dS/dx_c), c the input's channels",
            "Simonyan 2013, arXiv:1312.6034",
            probe=input_gradients.saliency,
            relu=False,
            on_input=True,
            at_input="plain",
        ),
        row(
            "smoothgrad",
            "saliency of the mean of dS/dx over n noisy inputs",
            "Smilkov 2017, arXiv:1706.03825",
            probe=input_gradients.smoothgrad,
            needs=("gradients", "inputs"),
            cost=f"1 + n, n = {input_gradients.SMOOTHGRAD_SAMPLES}",
            relu=False,
            on_input=True,
        ),
        row(
            "integrated-gradients",
            "r(sum_c (x_c - b_c) m_c), m the mean of dS/dx at n midpoints from b to x",
            "Sundararajan 2017, arXiv:1703.01365",
            probe=input_gradients.integrated_gradients,
            needs=("gradients", "inputs"),
            cost=f"1 + n, n = {input_gradients.PATH_STEPS}",
            on_input=True,
        ),
        row(
            "guided-backprop",
            "saliency, at each ReLU only what is positive handed back",
            "Springenberg 2015, arXiv:1412.6806",
            probe=input_gradients.guided_backprop,
            relu=False,
            on_input=True,
            at_input="guided",
        ),
        row(
            "guided-gradcam",
            "guided-backprop times gradcam, resized to the input",
            "Selvaraju 2017, arXiv:1610.02391, section 3.2",
            probe=input_gradients.guided_gradcam,
            cost="2",
        ),
        row(
            "fullgrad",
            "p(x dS/dx) + sum_l,k p(b_lk g_lk), p: abs, scaled to [0, 1], resized; b the biases",
            "Srinivas 2019, arXiv:1905.00780, equation 5",
            probe=full_gradients.fullgrad,
            needs=("gradients", "biases"),
            cost="2",
            relu=False,
            on_input=True,
            only_for=full_gradients.PIECEWISE_LINEAR,
        ),
        row(
            "fullgrad-official",
            "fullgrad, the channels of a layer scaled by one minimum and maximum",
            "Srinivas 2019, the authors' program",
            probe=full_gradients.fullgrad_official,
            needs=("gradients", "biases"),
            cost="2",
            relu=False,
            on_input=True,
            only_for=full_gradients.PIECEWISE_LINEAR,
        ),
        row(
            "legrad",
            "mean_l,h,q r(dS_l/dA_l), S_l the score that the head gives to the tokens of block l",
            "Bousselham 2024, arXiv:2404.03214",
            probe=legrad.legrad,
            needs=("gradients", "attention"),
            cost="2 + L, L the blocks",
            relu=False,
            only_for=legrad.TOKEN_MODELS,
        ),
    )
}
GRADIENT_METHODS = tuple(name for name, method in METHODS.items() if method.combine)
"""Those that are functions of activations and gradients, which `raw_maps` can make by itself."""
ONE_PASS = tuple(name for name, m in METHODS.items() if m.cost == "1" and not m.on_input)
"""Those that explain a layer by one run; other methods of layers run the model up to thousands of
times an item."""


def method_named(name: str) -> Method:
    """Return a method from the table; raise MethodError for a name that is not in it."""
    try:
        return METHODS[name]
    except (KeyError, TypeError):
        raise MethodError(
            f"no method is called {name!r}; there are {', '.join(METHODS)}"
            f"{suggest(str(name), METHODS)}"
        ) from None
