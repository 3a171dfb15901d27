"""The covariance of images against dense linear algebra, and its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.models import DataCovariance
from pyro_vipaint.models.pretrained.load import read_covariance
from recipes.covariance import write

SHAPE = (1, 2, 4)
EYE = torch.eye(8, dtype=torch.float64)
CPU = torch.device("cpu")


def covariance(rank: int = 3, rest: float = 0.2) -> DataCovariance:
    vectors = torch.linalg.qr(torch.randn(8, rank, dtype=torch.float64)).Q.T.reshape(rank, *SHAPE)
    return DataCovariance(vectors, torch.tensor([3.0, 1.0, rest]).double()[:rank], rest)


def dense(c: DataCovariance) -> Tensor:
    """U diag(variances) U^T + rest (I - U U^T)."""
    u = c.vectors.flatten(1).double()
    return u.T @ torch.diag(c.variances.double()) @ u + c.rest * (EYE - u.T @ u)


def test_root_columns_and_the_law_given_a_noisy_image() -> None:
    c = covariance()
    expected = dense(c)
    root = c.root(EYE.reshape(8, *SHAPE)).flatten(1)
    columns = c.columns.flatten(1)
    assert torch.allclose(root @ root, expected) and torch.allclose(root, root.T)
    assert torch.allclose(columns.T @ columns + c.rest * EYE, expected)
    assert torch.allclose(c.mean(), expected.trace() / 8)
    for level in (0.05, 0.7, 40.0):
        assert torch.allclose(dense(c.given(level)), (expected.inverse() + EYE / level**2).inverse())


def test_the_posterior_is_the_dense_inverse() -> None:
    """Elements that nobody sees among them, and one that is seen exactly, for two images and three samples."""
    c, weight = covariance(), torch.rand(2, *SHAPE).double() * 50
    weight[0, 0, 0], weight[1, 0, 1, 2] = 0, 1e9
    total = dense(c).inverse() + torch.diag_embed(weight.flatten(1))
    variance, columns = c.posterior(weight)
    factor = columns.flatten(2)
    assert torch.allclose(factor.mT @ factor + torch.diag_embed(variance.flatten(1)), total.inverse(), atol=1e-9)
    b = torch.randn(3, 2, *SHAPE).double()
    expected = torch.linalg.solve(total, b.flatten(2).unsqueeze(-1)).reshape(b.shape)
    assert torch.allclose(c.posterior_mean(weight, b), expected, atol=1e-9)
    assert torch.allclose(c.posterior_mean(weight[0], b[:, :1]), expected[:, :1], atol=1e-9)  # one mask for all


def test_that_of_images_is_around_the_means_of_classes() -> None:
    """With all directions but one it is the pooled sample covariance, with fewer its nearest one in Frobenius' norm."""
    labels = torch.arange(500) % 3
    noise = torch.randn(500, 8).double() @ dense(covariance()).double()
    images = (noise + 5 * torch.nn.functional.one_hot(labels, 8)).reshape(500, *SHAPE)
    before = images.clone()
    pooled: Any = (
        sum(torch.cov(images[labels == k].flatten(1).T, correction=0) * (labels == k).sum() for k in range(3)) / 500
    )
    assert torch.allclose(dense(DataCovariance.of(images, labels, 7)), pooled, rtol=1e-5, atol=1e-5)
    assert torch.equal(images, before)
    few = DataCovariance.of(images, labels, 2)
    assert float(dense(few).trace()) == pytest.approx(float(pooled.trace()), rel=1e-5)
    values = torch.linalg.eigvalsh(pooled)[:6]
    assert float((dense(few) - pooled).square().sum()) == pytest.approx(float(6 * values.var(correction=0)), rel=1e-3)


def test_that_of_many_draws_is_their_covariance() -> None:
    """E|S - C|^2 = (tr(C)^2 + tr C^2) / N for the sample covariance S; the nearest of this form errs twice at most."""
    expected, count, labels = dense(covariance()), 20_000, torch.arange(20_000) % 4
    draws = torch.randn(count, 8).double() @ torch.linalg.cholesky(expected).T + labels[:, None]
    found = DataCovariance.of(draws.reshape(count, *SHAPE), labels, rank=2)
    error = ((expected.trace() ** 2 + expected.square().sum()) / count) ** 0.5
    assert float((dense(found) - expected).norm()) < 2 * 3 * float(error)


def test_images_without_variance_in_most_directions() -> None:
    """The rest is a millionth of the largest variance then; rounding to float32 does not make a variance less."""
    for scale in torch.linspace(0.5, 2, 9).tolist():
        images = torch.zeros(10, *SHAPE)
        images[:5, 0, 0, 0] = scale
        found = DataCovariance.of(images, rank=4)
        assert found.rest == pytest.approx(1e-6 * scale**2 / 4)


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Vectors in half precision, relative error 2^-11; they are orthonormal again."""
    c = covariance()
    single = DataCovariance(c.vectors.float(), c.variances.float(), c.rest)
    write(single, tmp_path / "covariance.safetensors")
    found: Any = read_covariance(tmp_path / "covariance.safetensors", SHAPE, CPU)
    flat = found.vectors.flatten(1)
    assert torch.allclose(flat @ flat.T, torch.eye(3), atol=1e-6)
    assert torch.allclose(dense(found), dense(c), atol=8 * 3.0 * 2**-11)
    assert read_covariance(tmp_path / "none.safetensors", SHAPE, CPU) is None


def _file(**changes: Any) -> dict[str, Tensor]:
    c = covariance()
    entries = {"vectors": c.vectors.float(), "variances": c.variances.float(), "rest": torch.tensor([c.rest])}
    return {name: value for name, value in {**entries, **changes}.items() if value is not None}


UNUSABLE: dict[str, dict[str, Any]] = {
    "vectors of other events": {"vectors": torch.zeros(3, 1, 4, 4)},
    "fewer variances": {"variances": torch.ones(2)},
    "no directions": {"variances": torch.ones(0), "vectors": torch.zeros(0, *SHAPE)},
    "more directions than elements": {"variances": torch.ones(9), "vectors": torch.randn(9, *SHAPE)},
    "whole numbers": {"variances": torch.ones(3).long()},
    "no rest": {"rest": None},
    "two rests": {"rest": torch.ones(2)},
    "another tensor": {"mean": torch.zeros(SHAPE)},
    "a vector of NaN": {"vectors": torch.full((3, *SHAPE), torch.nan)},
    "a negative rest": {"rest": torch.tensor([-0.1])},
    "a variance below the rest": {"variances": torch.tensor([3.0, 1.0, 0.1])},
    "an infinite variance": {"variances": torch.tensor([torch.inf, 1.0, 1.0])},
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_unusable_file_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    save_file(_file(**UNUSABLE[kind]), tmp_path / "covariance.safetensors")
    with pytest.raises(vp.InputError, match=r"covariance\.safetensors") as refusal:
        read_covariance(tmp_path / "covariance.safetensors", SHAPE, CPU)
    assert "\n" not in str(refusal.value)


def test_a_damaged_file_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "covariance.safetensors").write_bytes(b"no such thing")
    with pytest.raises(vp.InputError, match=r"covariance\.safetensors"):
        read_covariance(tmp_path / "covariance.safetensors", SHAPE, CPU)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda c: DataCovariance(2 * c.vectors, c.variances, c.rest), "orthonormal"),
        (lambda c: DataCovariance(c.vectors, c.variances - 1, c.rest), "variances"),
        (lambda c: DataCovariance(c.vectors, c.variances, 0.0), "rest"),
        (lambda c: DataCovariance.of(torch.zeros(1, *SHAPE)), "rows of images"),
        (lambda c: DataCovariance.of(torch.randn(20, *SHAPE), rank=8), "rank"),
        (lambda c: DataCovariance.of(torch.randn(20, *SHAPE), torch.zeros(19).long(), 2), "labels"),
    ],
)
def test_what_is_no_covariance_is_refused(act: Any, says: str) -> None:
    with pytest.raises(vp.InputError, match=says):
        act(covariance())


def test_directions_no_larger_than_the_rest_stay_so_at_every_noise_level() -> None:
    """Single precision rounds a variance below a rest in double precision; such a covariance was refused."""
    rest = float(torch.tensor(0.01))
    covariance = DataCovariance(torch.eye(6)[:4], torch.tensor([rest, rest, rest, 0.2]), rest)
    for level in torch.linspace(0.01, 26, 500).tolist():
        given = covariance.given(level)
        expected = 1 / (1 / covariance.variances.double() + 1 / level**2)
        torch.testing.assert_close(given.variances.double(), expected, rtol=1e-6, atol=0)
