"""Metrics: independent LPIPS, closed forms, unbiasedness of the kernel distance, and no network."""

from __future__ import annotations

import itertools
import math
import socket
import warnings
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor

from pyro_vipaint import metrics
from tests.statistics import STANDARD_ERRORS, assert_within, mean_and_error

WEIGHTS = resources.files("pyro_vipaint.models") / "weights"

# LPIPS between shipped images: (first, second, distance)
DISTANCES = [
    (0, 1, 0.14517),  # ankle boot, pullover
    (2, 5, 0.02324),  # two pairs of trousers
    (7, 8, 0.36501),  # shirt, sandal
]


@pytest.fixture(scope="module")
def images() -> Tensor:
    """The shipped held-out images ``(64, 1, 32, 32)`` in [-1, 1]."""
    pixels = load((WEIGHTS / "fashion32" / "held_out.safetensors").read_bytes())["images"]
    return (pixels.float() / 127.5 - 1.0).unsqueeze(1)


def reference_layers(x: Tensor) -> list[Tensor]:
    """AlexNet's five ReLU outputs for RGB images in [-1, 1], written out."""
    state = load((WEIGHTS / "alexnet_features" / "model.safetensors").read_bytes())
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    hidden, layers = (x - shift) / scale, []
    for index, stride, padding in [(0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)]:
        hidden = F.max_pool2d(hidden, 3, 2) if index in (3, 6) else hidden
        weight, bias = state[f"features.{index}.weight"].float(), state[f"features.{index}.bias"].float()
        hidden = F.conv2d(hidden, weight, bias, stride=stride, padding=padding).clamp(min=0.0)
        layers.append(hidden)
    return layers


def reference_lpips(x: Tensor, y: Tensor) -> Tensor:
    """LPIPS of RGB images ``(N, 3, H, W)`` with the heads of the ``lpips`` package."""
    path = Path(str(resources.files("lpips"))) / "weights" / "v0.1" / "alex.pth"
    heads = torch.load(path, map_location="cpu", weights_only=True)
    total = torch.zeros(len(x))
    for number, (f, g) in enumerate(zip(reference_layers(x), reference_layers(y), strict=True)):
        f, g = (h / (h.square().sum(1, keepdim=True).sqrt() + 1e-10) for h in (f, g))
        head = heads[f"lin{number}.model.1.weight"].flatten()
        total += torch.einsum("c,nchw->nhw", head, (f - g).square()).mean((1, 2))
    return total


def cubic(f: Tensor, g: Tensor) -> float:
    return (sum(a * b for a, b in zip(f.tolist(), g.tolist(), strict=True)) / len(f) + 1.0) ** 3


def double_loop(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> float:
    """The unbiased estimate, one pair at a time."""
    n, m = len(xs), len(ys)
    within_x = sum(cubic(xs[i], xs[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(cubic(ys[i], ys[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2.0 * sum(cubic(f, g) for f in xs for g in ys) / (n * m)


class TestLpips:
    @pytest.mark.parametrize("size", [(31, 31), (32, 32), (47, 64)])
    def test_equals_an_independent_forward_pass(self, size: tuple[int, int]) -> None:
        generator = torch.Generator().manual_seed(0)
        x, y = torch.rand(2, 3, 3, *size, generator=generator) * 2.0 - 1.0
        torch.testing.assert_close(metrics.lpips_distance(x, y), reference_lpips(x, y), atol=1e-5, rtol=0.0)

    def test_grey_is_taken_three_times(self, images: Tensor) -> None:
        x, y = images[:4], images[4:8]
        expected = reference_lpips(x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1))
        torch.testing.assert_close(metrics.lpips_distance(x, y), expected, atol=1e-5, rtol=0.0)
        mixed = metrics.lpips_distance(x, y.expand(-1, 3, -1, -1))
        torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=0.0)

    def test_leading_dimensions_broadcast(self, images: Tensor) -> None:
        samples, truth = images[:60].reshape(5, 4, 3, 1, 32, 32), images[60:63]
        together = metrics.lpips_distance(samples, truth)
        assert together.shape == (5, 4, 3)
        alone = metrics.lpips_distance(samples[3, 2, 1], truth[1])
        assert alone.shape == ()
        torch.testing.assert_close(together[3, 2, 1], alone, atol=1e-6, rtol=0.0)
        torch.testing.assert_close(metrics.lpips_distance(truth, samples), together, atol=1e-6, rtol=0.0)

    def test_chunks_do_not_matter(self, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = metrics.lpips_distance(images[:10], images[10:20]), metrics.alexnet_features(images[:10])
        monkeypatch.setattr(metrics, "CHUNK", 3)
        parts = metrics.lpips_distance(images[:10], images[10:20]), metrics.alexnet_features(images[:10])
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)

    def test_no_gradients_and_single_precision(self, images: Tensor) -> None:
        x = images[:2].double().requires_grad_()
        distance = metrics.lpips_distance(x, images[2:4])
        assert not distance.requires_grad
        assert distance.dtype == torch.float32

    def test_table(self, images: Tensor) -> None:
        first, second, distances = zip(*DISTANCES, strict=True)
        found = metrics.lpips_distance(images[list(first)], images[list(second)])
        assert found.tolist() == pytest.approx(distances, abs=1e-4)

    @pytest.mark.parametrize(
        ("x", "y", "message"),
        [
            (torch.zeros(1, 32, 30), torch.zeros(1, 32, 30), "31 pixels"),
            (torch.zeros(2, 32, 32), torch.zeros(2, 32, 32), "C = 1 or 3"),
            (torch.zeros(1, 32, 32, dtype=torch.uint8), torch.zeros(1, 32, 32), "must be a tensor of floats"),
        ],
    )
    def test_refuses(self, x: Tensor, y: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            metrics.lpips_distance(x, y)
        assert "\n" not in str(caught.value)


class TestLoading:
    def test_quiet_offline_and_without_side_effects(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str], images: Tensor
    ) -> None:
        def refuse(*args: object, **kwargs: object) -> None:
            raise AssertionError("the network was asked")

        monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # an empty cache: a fetched backbone would need the network
        monkeypatch.setattr(socket, "socket", refuse)
        monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
        metrics._lpips_network.cache_clear()
        state = torch.get_rng_state()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            distance = metrics.lpips_distance(images[0], images[1])
        assert torch.equal(torch.get_rng_state(), state)
        assert capfd.readouterr() == ("", "")
        metrics._lpips_network.cache_clear()
        assert torch.equal(metrics.lpips_distance(images[0], images[1]), distance)


class TestFeatures:
    def test_equal_the_last_layer(self, images: Tensor) -> None:
        """Averaged over space, of grey images and of larger ones in colour."""
        large = torch.rand(2, 3, 80, 64, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
        for x in (images[:6], large):
            expected = reference_layers(x.expand(-1, 3, -1, -1))[-1].mean((2, 3))
            features = metrics.alexnet_features(x.unsqueeze(0))
            torch.testing.assert_close(features, expected.unsqueeze(0), atol=1e-5, rtol=1e-4)
            assert features.std() > 0.01


class TestKernelDistance:
    def test_double_loop(self) -> None:
        generator = torch.Generator().manual_seed(1)
        xs, ys = torch.randn(7, 3, generator=generator), 0.5 + torch.randn(5, 3, generator=generator)
        assert metrics.kernel_distance(xs, ys, blocks=2).estimate == pytest.approx(
            double_loop(list(xs), list(ys)), rel=1e-6
        )

    def test_jackknife_by_explicit_deletion(self) -> None:
        generator = torch.Generator().manual_seed(2)
        xs, ys = torch.randn(6, 3, generator=generator), 0.5 + torch.randn(9, 3, generator=generator)
        without = []
        for b in range(3):
            keep_x = [x for i, x in enumerate(xs) if i // 2 != b]
            keep_y = [y for i, y in enumerate(ys) if i // 3 != b]
            without.append(double_loop(keep_x, keep_y))
        mean = sum(without) / 3
        expected = math.sqrt(2 / 3 * sum((value - mean) ** 2 for value in without))
        assert metrics.kernel_distance(xs, ys, blocks=3).standard_error == pytest.approx(expected, rel=1e-6)

    def test_unbiased_over_all_subsets(self) -> None:
        """Averaged over all subsets of a finite population the estimate is that of the population, exactly."""
        generator = torch.Generator().manual_seed(3)
        xs, ys = torch.randn(5, 2, generator=generator), 1.0 + torch.randn(5, 2, generator=generator)
        subsets = [list(rows) for rows in itertools.combinations(range(5), 4)]
        estimates = [metrics.kernel_distance(xs[i], ys[j], blocks=2).estimate for i in subsets for j in subsets]
        population = metrics.kernel_distance(xs, ys, blocks=2).estimate
        assert sum(estimates) / len(estimates) == pytest.approx(population, rel=1e-6)

    @pytest.mark.parametrize(("rows", "blocks"), [(8, 1), (4, 5), (3, 2)])
    def test_refuses_too_few_rows(self, rows: int, blocks: int) -> None:
        with pytest.raises(ValueError, match="too few"):
            metrics.kernel_distance(torch.zeros(8, 3), torch.zeros(rows, 3), blocks=blocks)


class TestPsnr:
    def test_closed_form(self) -> None:
        y = torch.rand(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
        error = torch.tensor([2.0, 0.2, 0.02]).view(3, 1, 1, 1)
        torch.testing.assert_close(metrics.psnr(y + error, y), torch.tensor([[0.0, 20.0, 40.0]] * 2), atol=1e-3, rtol=0)
        assert metrics.psnr(y, y[0, 0]).shape == (2, 3)
        assert metrics.psnr(y[0, 0], y[0, 0]) == math.inf


class TestMasked:
    @pytest.mark.parametrize("kind", [torch.bool, torch.float32])
    def test_observed_error(self, kind: torch.dtype) -> None:
        y = torch.zeros(3, 2, 2)
        x = torch.stack([y + torch.tensor([[1.0, 5.0], [3.0, 7.0]]), y - 4.0])
        mask = torch.tensor([[1, 0], [1, 0]]).to(kind)
        torch.testing.assert_close(metrics.observed_error(x, y, mask), torch.tensor([2.0, 4.0]))

    def test_hidden_pixels_have_no_influence(self) -> None:
        y = torch.full((1, 1, 2, 2), math.nan)
        y[..., 0] = 0.5
        mask = torch.tensor([1, 0]).view(1, 1, 1, 2)
        torch.testing.assert_close(metrics.observed_error(torch.ones(4, 1, 1, 2, 2), y, mask), torch.full((4, 1), 0.5))

    def test_hidden_std(self) -> None:
        base = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
        offsets = torch.tensor([-3.0, 0.0, 3.0]).view(3, 1, 1, 1, 1)  # unbiased standard deviation 3
        spread = torch.tensor([[9.0, 1.0], [9.0, 2.0]])
        mask = torch.tensor([[1, 0], [1, 0]])
        torch.testing.assert_close(metrics.hidden_std(base + offsets * spread, mask), torch.tensor([4.5, 4.5]))

    def test_nothing_to_average(self) -> None:
        x = torch.rand(2, 1, 4, 4)
        assert metrics.observed_error(x, x, torch.zeros(4, 4)).isnan().all()
        assert metrics.hidden_std(x, torch.ones(4, 4)).isnan().all()
        assert metrics.hidden_std(x[:1], torch.zeros(4, 4)).isnan().all(), "one sample has no spread"


def test_the_distance_of_restored_images_is_unbiased_where_that_of_sets_is_not() -> None:
    """Samples that are alike for one image but, over images, distributed as the images are: 0 in the mean."""
    torch.manual_seed(0)
    ours, sets = [], []
    for _ in range(400):
        truth = torch.randn(6, 8)
        noise = torch.randn(6, 3, 8)
        samples = 0.8 * truth.unsqueeze(1) + 0.6 * noise
        ours.append(metrics.restored_kernel_distance(samples, truth))
        sets.append(metrics.kernel_distance(samples.flatten(0, 1), truth, blocks=2).estimate)
    mean, error = mean_and_error(torch.tensor(ours))
    assert_within(mean, 0.0, error)
    mean, error = mean_and_error(torch.tensor(sets))
    assert mean < -STANDARD_ERRORS * error


def test_the_distance_of_restored_images_is_the_written_out_sum() -> None:
    torch.manual_seed(0)
    samples, truth = torch.randn(3, 2, 4).double(), torch.randn(3, 4).double()
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    within = [cubic(samples[i, s], samples[j, r]) for i, j in pairs for s in range(2) for r in range(2)]
    between = [cubic(samples[i, s], truth[j]) for i, j in pairs for s in range(2)]
    real = [cubic(truth[i], truth[j]) for i, j in pairs]
    expected = sum(within) / len(within) + sum(real) / len(real) - 2 * sum(between) / len(between)
    assert metrics.restored_kernel_distance(samples, truth) == pytest.approx(expected, rel=1e-12)


def test_a_first_use_in_inference_mode_leaves_lpips_differentiable() -> None:
    """The network is kept: made of inference tensors it could be used in no later fit of the process."""
    metrics._lpips_network.cache_clear()
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        metrics.lpips_distance(x, x.flip(-1))
    moved = x.clone().requires_grad_()
    metrics.perceptual_distance(moved, x.flip(-1)).sum().backward()
    assert moved.grad is not None and moved.grad.abs().sum() > 0


def test_the_seam_is_the_step_across_the_border() -> None:
    """Of a ramp it is 0, of a step between flat sides its height, with a ramp too; other pixels change nothing."""
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    ramp = torch.linspace(-0.5, 0.5, 8).expand(2, 1, 3, 8, 8)
    assert metrics.seam(ramp, mask).shape == (2, 1)
    torch.testing.assert_close(metrics.seam(ramp, mask), torch.zeros(2, 1), rtol=0, atol=1e-6)
    torch.testing.assert_close(metrics.seam(ramp - 0.25 * mask, mask), torch.full((2, 1), 0.25))
    step = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)).expand(1, 1, 8, 8).clone()
    found, rows = metrics.seam(step, mask), step[0, 0]
    step[..., 0], step[..., 7] = 5.0, -5.0
    assert torch.equal(metrics.seam(step, mask), found)
    by_hand = [abs(r[3] - r[4]) - (abs(r[2] - r[3]) + abs(r[4] - r[5])) / 2 for r in rows.tolist()]
    torch.testing.assert_close(found, torch.tensor([sum(by_hand) / 8]))
    turned = metrics.seam(step.mT, mask.mT)
    torch.testing.assert_close(turned, found)
    torch.testing.assert_close(metrics.seam(step, 1 - mask), found)
    assert metrics.seam(step, torch.ones(1, 1, 8, 8)).isnan()
