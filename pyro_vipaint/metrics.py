r"""Measures of inpaintings: perceptual distance, kernel distance, PSNR, agreement with the data, diversity.

Images are ``(..., C, H, W)`` in [-1, 1] and every measure keeps the leading dimensions, broadcast against each other:
ten samples of each of N images, ``(10, N, C, H, W)``, against the true ``(N, C, H, W)`` give ``(10, N)`` numbers.
Masks are 1 where a pixel is observed. With :math:`\phi_l` the features of AlexNet's l-th layer, normalised to unit
length over channels, and :math:`w_l \ge 0` the heads of the ``lpips`` package,

.. math:: \mathrm{LPIPS}(x, y) = \sum_{l=1}^5 \frac{1}{H_l W_l} \sum_{hw} w_l^\top (\phi_l(x) - \phi_l(y))_{hw}^2

(Zhang et al., CVPR 2018).

AlexNet's weights ship with this library (``models/weights/alexnet_features``, half precision), so that figures are the
same on every machine. Kernel distances use AlexNet instead of KID's Inception: they are comparable with each other, but
not with published KIDs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyro_vipaint.errors import InputError, broadcast, numbers, whole

if TYPE_CHECKING:
    from lpips import LPIPS

SMALLEST_SIDE = 31  # below this, AlexNet's second pooling has nothing left to pool
CHUNK = 64  # images through AlexNet at a time
LAST_CHANNELS = 256  # of AlexNet's last convolution
LARGEST = 8.0  # images in [-1, 1] with noise of standard deviation 1 stay within it; bytes from 0 to 255 do not


class KernelDistance(NamedTuple):
    """An unbiased estimate of a squared kernel distance, and its standard error."""

    estimate: float
    standard_error: float


def lpips_distance(x: Tensor, y: Tensor) -> Tensor:
    """LPIPS (AlexNet, version 0.1) between images: 0 for equal images, larger for images that look less alike.

    Args:
        x: images ``(..., C, H, W)`` in [-1, 1], C = 1 (taken three times) or 3, sides of 31 pixels or more.
        y: images to compare with; leading dimensions broadcast against those of ``x``, H and W are the same.

    Returns:
        Distances of the broadcast leading shape, float32, on the device of ``x``, without gradients. The backbone is
        the half-precision copy shipped with this library, which moves a distance by less than 1e-4.

    Raises:
        InputError: an image is not floating point, is too small, has other than 1 or 3 channels, or holds a value that
            is not in [-1, 1] up to noise; the shapes do not fit.
    """
    x, y, leading = _pairs(_images("x", x), _images("y", y))
    network = _lpips_network(x.device)
    return _in_chunks(lambda *pair: network(*pair).flatten(), x, y).reshape(leading)


def perceptual_distance(x: Tensor, y: Tensor) -> Tensor:
    """:func:`lpips_distance` with gradients, in one batch, in the precision that autocast gives: a term of a loss."""
    x, y, leading = _pairs(x, y)
    return _lpips_network(x.device)(x, y).reshape(leading)


def lpips_features(x: Tensor) -> Tensor:
    """Vectors whose squared Euclidean distance is LPIPS: sqrt(w_l / (H_l W_l)) phi_l, all layers, flattened.

    Args:
        x: images as for :func:`lpips_distance`.

    Returns:
        Features ``(..., D)``, float32, on the device of ``x``, without gradients.

    Raises:
        InputError: as for :func:`lpips_distance`.
    """
    return _of_layers(x, _lpips_vectors)


def alexnet_features(x: Tensor) -> Tensor:
    """Features for :func:`kernel_distance`: AlexNet's last convolution after its ReLU, averaged over space.

    Args:
        x: images as for :func:`lpips_distance`; shifted and scaled channel by channel as LPIPS does.

    Returns:
        Features ``(..., 256)``, float32, on the device of ``x``, without gradients.

    Raises:
        InputError: as for :func:`lpips_distance`.
    """
    return _of_layers(x, _last_layer)


def perceptual_features(x: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`lpips_features` and :func:`alexnet_features` of the images from one pass through AlexNet."""
    both = _of_layers(x, lambda *layers: torch.cat([_lpips_vectors(*layers), _last_layer(*layers)], 1))
    return both[..., :-LAST_CHANNELS], both[..., -LAST_CHANNELS:]


def _of_layers(x: Tensor, function: Callable[[LPIPS, Sequence[Tensor]], Tensor]) -> Tensor:
    """``function(network, layers)`` of the images, ``(..., D)``, from AlexNet's five layers."""
    x = _rgb(_images("x", x))
    network = _lpips_network(x.device)
    flat = _in_chunks(lambda images: function(network, network.net(network.scaling_layer(images))), _flat(x))
    return flat.reshape(*x.shape[:-3], flat.shape[1])


def _lpips_vectors(network: LPIPS, layers: Sequence[Tensor]) -> Tensor:
    from lpips import normalize_tensor

    weights = (next(head.parameters()) for head in network.lins)
    weighted = (
        phi * (w / phi[0, 0].numel()).sqrt() for phi, w in zip(map(normalize_tensor, layers), weights, strict=True)
    )
    return torch.cat([phi.flatten(1) for phi in weighted], 1)


def _last_layer(network: LPIPS, layers: Sequence[Tensor]) -> Tensor:
    return layers[-1].mean(dim=(-2, -1))


def kernel_distance(features_x: Tensor, features_y: Tensor, blocks: int = 10) -> KernelDistance:
    r"""Unbiased squared maximum mean discrepancy with the cubic kernel of KID (Bińkowski et al. 2018), from all pairs.

    .. math:: \frac{\sum_{i \ne j} k(f_i, f_j)}{n(n-1)} + \frac{\sum_{i \ne j} k(g_i, g_j)}{m(m-1)}
              - \frac{2 \sum_{ij} k(f_i, g_j)}{nm}, \qquad k(f, g) = (f \cdot g / d + 1)^3

    Close to 0 it can be negative.

    The standard error is the delete-one-block jackknife's. Both sets are cut, in the order of their rows, into B
    blocks, and with :math:`\hat\theta_{-b}` the estimate without the b-th block of either set it is
    :math:`\sqrt{(B-1)/B \sum_b (\hat\theta_{-b} - \bar\theta)^2}`. It estimates how far the estimate would move if
    both sets were drawn anew; near a distance of 0 it is too large rather than too small. It assumes that blocks are
    independent and alike: shuffle sets that are sorted (by class, say), and keep rows that depend on each other, such
    as samples for one image, next to each other.

    Args:
        features_x, features_y: n and m rows of d features, ``(n, d)`` and ``(m, d)``.
        blocks: the number B of jackknife blocks, 2 or more.

    Returns:
        The estimate and its standard error as floats, in the units of the kernel; computed in float64 on the CPU.

    Raises:
        InputError: a set has too few rows for the number of blocks, which leaves each estimate two; the numbers of
            features differ; a feature is infinite or NaN.
    """
    numbers("features_x", features_x, ("n", "d"))
    numbers("features_y", features_y, ("m", features_x.shape[1]))
    xs, ys = _blocks(features_x, blocks), _blocks(features_y, blocks)
    sums = (_kernel_sums(xs, xs, same=True), _kernel_sums(ys, ys, same=True), _kernel_sums(xs, ys, same=False))
    sizes = tuple(torch.tensor([len(block) for block in each], dtype=torch.float64) for each in (xs, ys))
    keep = torch.ones(blocks, dtype=torch.float64)
    estimate = _mmd(keep, sums, sizes)
    leave_one_out = torch.stack([_mmd(row, sums, sizes) for row in 1.0 - torch.eye(blocks, dtype=torch.float64)])
    standard_error = math.sqrt((blocks - 1) * leave_one_out.var(correction=0).item())
    return KernelDistance(estimate.item(), standard_error)


def restored_kernel_distance(samples: Tensor, truth: Tensor) -> float:
    r"""The unbiased squared distance of :func:`kernel_distance` between samples of given images and such images.

    Samples of an image resemble it and each other, so that pairs of the same image would make the estimate negative.
    Only pairs of different images count, in all three means.

    Args:
        samples: features of S samples of each of N images, ``(N, S, d)``.
        truth: features of the images, ``(N, d)``, N of 2 or more.

    Returns:
        The estimate, computed as there; NaN for a single image.

    Raises:
        InputError: the shapes do not fit, or a feature is infinite or NaN.
    """
    numbers("samples", samples, ("N", "S", "d"), least=1)
    numbers("truth", truth, (len(samples), samples.shape[2]))
    f, g = samples.detach().cpu().double(), truth.detach().cpu().double().unsqueeze(1)
    different = ~torch.eye(len(f), dtype=torch.bool)

    def mean(a: Tensor, b: Tensor) -> Tensor:
        kernel = (torch.einsum("isd,jrd->ijsr", a, b) / a.shape[-1] + 1.0) ** 3
        return kernel[different].mean()

    return float(mean(f, f) + mean(g, g) - 2.0 * mean(f, g))


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images ``(..., C, H, W)`` in decibels: 20 log10(2) - 10 log10(mean squared error).

    The peak is 2, the range of images in [-1, 1], to which nothing is clamped. Equal images give infinity.

    Raises:
        InputError: an image is not floating point, or holds a value that is not in [-1, 1] up to noise; the shapes do
            not fit.
    """
    x, y = broadcast(x=_images("x", x), y=_images("y", y))
    squared_error = (x - y).square().mean(dim=(-3, -2, -1))
    return 20.0 * math.log10(2.0) - 10.0 * squared_error.log10()


def observed_error(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error over the observed pixels of each image, in units of the [-1, 1] range.

    Args:
        x: images ``(..., C, H, W)``.
        y: images to compare with; what they hold at hidden pixels has no influence, even NaN.
        mask: 1 = observed, 0 = hidden, booleans or numbers, broadcast against the images: ``(H, W)``,
            ``(N, 1, H, W)``, ...

    Returns:
        Errors of the broadcast leading shape; NaN for an image without an observed pixel.

    Raises:
        InputError: the shapes do not fit, or an observed pixel is infinite or NaN.
    """
    x, y = broadcast(x=x, y=y)
    return _masked_mean((x - y).abs(), _is_observed(mask))


def hidden_std(samples: Tensor, mask: Tensor) -> Tensor:
    """Diversity: the standard deviation over samples, averaged over the hidden pixels of each image.

    Args:
        samples: S samples of each image ``(S, ..., C, H, W)``, S of 2 or more; deviations divide by S - 1.
        mask: as for :func:`observed_error`, broadcast against one sample.

    Returns:
        Deviations ``(...)`` in units of the [-1, 1] range; NaN for a single sample, or an image without a hidden pixel.

    Raises:
        InputError: the shapes do not fit, there is no sample, or a hidden pixel is infinite or NaN.
    """
    deviation = samples.std(dim=0, correction=min(1, whole("the number of samples", len(samples)) - 1))
    mean = _masked_mean(deviation, ~_is_observed(mask))
    return mean if len(samples) > 1 else torch.full_like(mean, math.nan)


def seam(x: Tensor, mask: Tensor) -> Tensor:
    r"""How visible the border of the hole is: the jump across it beyond the gradients on both sides, in [-2, 2].

    For four neighbours a, b, c, d in a row or a column, of which a and b are observed and c and d hidden, or the other
    way round,

    .. math:: \mathrm{seam} = \mathrm{mean} \left( |x_b - x_c| - (|x_a - x_b| + |x_c - x_d|) / 2 \right)

    over all such fours and channels. It is 0 in expectation where the border is like the picture around it, and h for a
    step of height h between flat sides; below 0 the picture is smoother across the border than beside it.

    Args:
        x: images ``(..., C, H, W)`` in [-1, 1].
        mask: 1 where observed, ``(N, 1, H, W)`` or another shape that broadcasts against ``x``; of a soft mask the
            border is where it passes 1/2.

    Returns:
        One number for each image, of the leading shape of ``x``, in the units of images; NaN without a border.

    Raises:
        InputError: the shapes do not fit, or a value is infinite or NaN.
    """
    numbers("x", x, (..., "C", "H", "W"))
    observed = numbers("mask", mask if mask.is_floating_point() else mask.float()) >= 1 / 2
    x, observed = broadcast(images=x, mask=observed)
    jumps = [_jumps(x.movedim(axis, -1), observed.movedim(axis, -1)) for axis in (-1, -2)]
    (down, of_down), (across, of_across) = jumps
    return (down + across) / (of_down + of_across)


def _jumps(x: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the terms of :func:`seam` along the last axis, and their number."""
    steps, same = x.diff(dim=-1).abs(), observed[..., 1:] == observed[..., :-1]
    border = same[..., :-2] & ~same[..., 1:-1] & same[..., 2:]
    excess = steps[..., 1:-1] - (steps[..., :-2] + steps[..., 2:]) / 2
    return torch.where(border, excess, 0.0).sum((-3, -2, -1)), border.sum((-3, -2, -1))


def _is_observed(mask: Tensor) -> Tensor:
    """True where ``mask`` is not zero; refuses NaN."""
    return mask != 0 if isinstance(mask, Tensor) and not mask.is_floating_point() else numbers("mask", mask) != 0


def _masked_mean(values: Tensor, where: Tensor) -> Tensor:
    """The mean over the last three dimensions of the values at ``where``, all finite; NaN where there are none."""
    values, where = broadcast(images=values, mask=where)
    counted = numbers("the counted pixels", torch.where(where, values, torch.zeros_like(values)), (..., "C", "H", "W"))
    return counted.sum(dim=(-3, -2, -1)) / where.sum(dim=(-3, -2, -1))


def takes_lpips(shape: Sequence[int]) -> bool:
    """Whether LPIPS and AlexNet's features are defined for images of this shape, ``(..., C, H, W)``."""
    return len(shape) >= 3 and shape[-3] in (1, 3) and min(shape[-2:]) >= SMALLEST_SIDE


def _images(name: str, images: Tensor) -> Tensor:
    """``images``, floats ``(..., C, H, W)``, refused where a value is not in [-1, 1] up to noise."""
    return numbers(f"{name}, in [-1, 1] up to noise,", images, (..., "C", "H", "W"), low=-LARGEST, high=LARGEST)


def _rgb(images: Tensor) -> Tensor:
    """The images as float32 with three channels; refuses those that AlexNet cannot take."""
    if not (images.is_floating_point() and takes_lpips(images.shape)):
        wanted = f"floats (..., C, H, W) in [-1, 1] with C = 1 or 3 and sides of {SMALLEST_SIDE} pixels or more"
        raise InputError(f"images must be {wanted}, not {images.dtype} {tuple(images.shape)}")
    return images.float().expand(*images.shape[:-3], 3, *images.shape[-2:])


def _pairs(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
    """Both as AlexNet takes them, broadcast to one leading dimension; and their leading shape."""
    x, y = broadcast(x=_rgb(x), y=_rgb(y))
    return _flat(x), _flat(y), x.shape[:-3]


def _flat(images: Tensor) -> Tensor:
    """The images with exactly one leading dimension."""
    return images.reshape(-1, *images.shape[-3:])


@torch.no_grad()
def _in_chunks(function: Callable[..., Tensor], *images: Tensor) -> Tensor:
    """``function`` of the images, a chunk at a time along the first dimension, without gradients."""
    chunks = zip(*(each.split(CHUNK) for each in images), strict=True)
    return torch.cat([function(*chunk) for chunk in chunks])


@lru_cache(maxsize=4)
def _lpips_network(device: torch.device) -> LPIPS:
    """LPIPS with the shipped AlexNet, frozen, in evaluation mode, float32, on a device; nothing is fetched.

    The package first fills AlexNet with random numbers; the global random state is restored afterwards. The network is
    cached, so it must not hold inference tensors if the first caller is in inference mode.
    """
    fresh = torch.random.fork_rng(devices=[])
    with warnings.catch_warnings(), torch.inference_mode(False), fresh, torch.device("cpu"):
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        from lpips import LPIPS

        network = LPIPS(net="alex", pnet_rand=True, verbose=False)
    network.net.load_state_dict(_backbone_weights())
    return network.to(device=device, dtype=torch.float32).eval().requires_grad_(False)


def _backbone_weights() -> dict[str, Tensor]:
    """The shipped AlexNet features under the names of the ``lpips`` package: ``slice1.0.weight`` and so on."""
    from safetensors.torch import load

    path = resources.files("pyro_vipaint.models") / "weights" / "alexnet_features" / "model.safetensors"
    weights = load(path.read_bytes())
    slices = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}  # index in torchvision's features -> slice that ends in its ReLU
    return {
        f"slice{number}.{index}.{kind}": weights[f"features.{index}.{kind}"]
        for index, number in slices.items()
        for kind in ("weight", "bias")
    }


def _blocks(features: Tensor, blocks: int) -> tuple[Tensor, ...]:
    """The rows in ``blocks`` consecutive blocks of nearly equal size, float64 on the CPU."""
    rows = len(features)
    if whole("blocks", blocks) < 2 or rows < blocks or rows - math.ceil(rows / blocks) < 2:
        raise InputError(f"{rows} rows are too few for {blocks} jackknife blocks (2 or more blocks, 2 rows left)")
    return features.detach().cpu().double().tensor_split(blocks)


def _kernel_sums(xs: tuple[Tensor, ...], ys: tuple[Tensor, ...], same: bool) -> Tensor:
    """Sums of (f·g / d + 1)³ over each pair of blocks ``(B, B)``, without i = j if both sets are the ``same``."""

    def kernel_sum(f: Tensor, g: Tensor, diagonal: bool) -> Tensor:
        kernel = (f @ g.T / f.shape[1] + 1.0) ** 3
        return kernel.sum() - kernel.trace() if diagonal else kernel.sum()

    rows = [[kernel_sum(f, g, same and i == j) for j, g in enumerate(ys)] for i, f in enumerate(xs)]
    return torch.stack([torch.stack(row) for row in rows])


def _mmd(keep: Tensor, sums: tuple[Tensor, ...], sizes: tuple[Tensor, ...]) -> Tensor:
    """The unbiased estimate from the blocks whose ``keep`` is 1."""
    n, m = (keep @ size for size in sizes)
    within_x, within_y, between = (keep @ block_sums @ keep for block_sums in sums)
    return within_x / (n * (n - 1.0)) + within_y / (m * (m - 1.0)) - 2.0 * between / (n * m)
