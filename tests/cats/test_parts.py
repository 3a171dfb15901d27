"""The exact posterior of parts against a loop over all pictures, and its scores against their laws."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_vipaint.cats import posterior as parts
from pyro_vipaint.cats.parts import Layers, draw_parts, shipped_layers
from pyro_vipaint.cats.posterior import given_class
from pyro_vipaint.cats.scores import part_scores
from pyro_vipaint.diagnostics import (
    expected_total_variation,
    is_shown,
    parts_posterior,
)
from pyro_vipaint.errors import InputError
from tests.layered import SIZE, random_layers
from tests.statistics import assert_within, mean_and_error

LAYERS = random_layers()


def observations(layers: Layers, sigma: float, num: int = 4, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Part numbers, noisy pictures with NaN where nothing is observed, and masks that see about half."""
    generator = torch.Generator().manual_seed(seed)
    index = layers.draw(num, generator)
    x = layers.compose(index)
    mask = (torch.rand(num, 1, *x.shape[2:], generator=generator) < 0.5).float()
    y = x + sigma * torch.randn(x.shape, generator=generator)
    return index, torch.where(mask != 0, y, torch.nan), mask


def brute_force(layers: Layers, y: Tensor, mask: Tensor, sigma: float) -> Tensor:
    """log p(y, k) ``(N, n_1, …, n_L)``: every picture painted and compared by itself, in plain loops."""
    table = torch.empty(len(y), *layers.sizes, dtype=torch.float64)
    for k in itertools.product(*map(range, layers.sizes)):
        x = torch.ones(y.shape[1:], dtype=torch.float64)
        for number, part in zip(k, layers.parts.values(), strict=True):
            colour, opacity = part[number].double().split([3, 1])
            x = x - opacity * x + colour
        for n in range(len(y)):
            seen = mask[n].expand_as(y[n]) != 0
            log_likelihood = Normal(2 * x[seen] - 1, sigma).log_prob(y[n][seen].double())
            table[(n, *k)] = log_likelihood.sum() - math.log(math.prod(layers.sizes))
    return table


@pytest.mark.parametrize(("sigma", "chunk"), [(0.02, 2**24), (0.3, 1), (1.0, 2**24)])
def test_equals_brute_force(sigma: float, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole table and the evidence, in whatever chunks of pixels."""
    monkeypatch.setattr(parts, "CHUNK", chunk)
    _, y, mask = observations(LAYERS, sigma)
    posterior, table = parts_posterior(LAYERS, y, mask, sigma), brute_force(LAYERS, y, mask, sigma)
    evidence = table.flatten(1).logsumexp(1)
    torch.testing.assert_close(posterior.log_evidence, evidence, rtol=0, atol=1e-8)
    expected = table - evidence[:, None, None, None]
    torch.testing.assert_close(posterior.log_probs, expected, rtol=1e-9, atol=1e-8)


def test_marginals_and_entropy_are_over_classes() -> None:
    """Equal parts of slot 1 add up, and which of them it is carries no entropy."""
    _, y, mask = observations(LAYERS, 1.0)
    posterior = parts_posterior(LAYERS, y, mask, 1.0)
    probs = brute_force(LAYERS, y, mask, 1.0).flatten(1).softmax(1).reshape(-1, *LAYERS.sizes)
    merged = torch.stack([probs[:, :, 0], probs[:, :, 1] + probs[:, :, 2]], 2)
    expected = {"slot0": merged.sum((2, 3)), "slot1": merged.sum((1, 3)), "slot2": merged.sum((1, 2))}
    for slot, marginal in posterior.marginals.items():
        torch.testing.assert_close(marginal, expected[slot])
        torch.testing.assert_close(marginal.sum(1), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(posterior.entropy, torch.special.entr(merged).flatten(1).sum(1))


def test_nothing_observed_is_the_prior() -> None:
    """Equal parts count double, the evidence is one, the entropy that of the classes."""
    y, mask = torch.full((2, 3, SIZE, SIZE), torch.nan), torch.zeros(2, 1, SIZE, SIZE)
    posterior = parts_posterior(LAYERS, y, mask, 0.02)
    expected = {"slot0": [1 / 3] * 3, "slot1": [1 / 3, 2 / 3], "slot2": [1 / 4] * 4}
    for slot, values in expected.items():
        prior = torch.tensor([values] * 2, dtype=torch.float64)
        torch.testing.assert_close(posterior.marginals[slot], prior)
    torch.testing.assert_close(posterior.log_evidence, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    entropy = math.log(3) + math.log(3) - 2 / 3 * math.log(2) + math.log(4)
    torch.testing.assert_close(posterior.entropy, torch.full((2,), entropy, dtype=torch.float64))


def test_samples_follow_the_posterior() -> None:
    """The joint frequencies of all 36 combinations, not the marginals alone."""
    _, y, mask = observations(LAYERS, 1.5, num=2)
    posterior, num = parts_posterior(LAYERS, y, mask, 1.5), 20_000
    index = posterior.sample(num, torch.Generator().manual_seed(0))
    assert index.shape == (num, 2, 3)
    cells = (index * torch.tensor([12, 4, 1])).sum(-1)
    probs = posterior.log_probs.flatten(1).exp()
    found = torch.stack([column.bincount(minlength=36) for column in cells.T]) / num
    assert_within(found, probs, (probs * (1 - probs) / num).sqrt(), slack=1 / num)


def test_given_the_class_it_is_that_of_the_class_alone() -> None:
    """As by layers whose last slot has the parts of the class only; and the law of total probability."""
    _, y, mask = observations(LAYERS, 0.5)
    posterior, labels = parts_posterior(LAYERS, y, mask, 0.5), torch.tensor([0, 1, 1, 0])
    given = given_class(posterior, labels, 2)
    for n, label in enumerate(labels.tolist()):
        of_class = {**LAYERS.parts, "slot2": LAYERS.parts["slot2"][2 * label : 2 * label + 2]}
        alone = parts_posterior(Layers(of_class), y[[n]], mask[[n]], 0.5)
        here = given.log_probs[n, ..., 2 * label : 2 * label + 2]
        torch.testing.assert_close(here, alone.log_probs[0])
        torch.testing.assert_close(given.log_evidence[n], alone.log_evidence[0])
        assert given.log_probs[n].exp().sum().item() == pytest.approx(1)
    other = given_class(posterior, 1 - labels, 2)
    torch.testing.assert_close(
        torch.logaddexp(given.log_evidence, other.log_evidence) - math.log(2), posterior.log_evidence
    )
    for wrong in (torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1])):
        with pytest.raises(InputError, match="labels"):
            given_class(posterior, wrong, 2)


def test_inputs_that_do_not_fit_are_refused() -> None:
    y, mask = torch.zeros(2, 3, SIZE, SIZE), torch.ones(2, 1, SIZE, SIZE)
    for wrong in [(y[:, :1], mask), (y, mask[:1]), (y[..., 1:], mask)]:
        with pytest.raises(InputError, match="do not fit"):
            parts_posterior(LAYERS, *wrong, 0.1)
    with pytest.raises(InputError, match="sigma"):
        parts_posterior(LAYERS, y, mask, 0.0)


# --- scores -----------------------------------------------------------------------------------------------------------


def random_probabilities(rows: int = 5, classes: int = 4) -> Tensor:
    probs = torch.rand(rows, classes, dtype=torch.float64) ** 3
    probs[0, 1:] = 0  # one class is certain
    probs[1, 0] = 0
    return probs / probs.sum(1, keepdim=True)


@pytest.mark.parametrize("num_samples", [1, 4, 25])
def test_expected_total_variation_is_de_moivres(num_samples: int) -> None:
    """E|F - S p| = 2 v C(S, v) p^v (1 - p)^(S - v + 1) with v = floor(S p) + 1."""

    def deviation(p: float) -> float:
        v = math.floor(num_samples * p) + 1
        return 2 * v * math.comb(num_samples, v) * p**v * (1 - p) ** (num_samples - v + 1)

    probs = random_probabilities()
    expected = [sum(deviation(p) for p in row) / (2 * num_samples) for row in probs.tolist()]
    found = expected_total_variation(probs, num_samples)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_scores_of_exact_draws_have_their_expectations() -> None:
    """Many repetitions of S = 4 draws: the mean of each score is what stands beside it."""
    probs = torch.cat([random_probabilities(), torch.tensor([[0.995, 0.005, 0.0, 0.0]], dtype=torch.float64)])
    repeats, num = 3000, 4
    images = probs.repeat(repeats, 1)
    labels = images.multinomial(num, replacement=True).T
    table = part_scores({"slot": images}, {"slot": labels})
    for name in ("total_variation", "agreement", "coverage"):
        found, expected = (
            torch.tensor(table[column].to_numpy()).reshape(repeats, -1) for column in (name, f"{name}_exact")
        )
        here = ~expected[0].isnan()
        assert here.any() and (found.isnan() == expected.isnan()).all()
        mean, error = mean_and_error(found[:, here])
        assert_within(mean, expected[0, here], error, slack=1e-12)


def test_scores_by_hand() -> None:
    """One slot shown, one open; three samples."""
    marginals = {
        "body": torch.tensor([[0.0, 1.0]], dtype=torch.float64),
        "mouth": torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64),
    }
    labels = {"body": torch.tensor([[1], [1], [0]]), "mouth": torch.tensor([[0], [0], [2]])}
    body, mouth = part_scores(marginals, labels).to_dict("records")
    assert (body["slot"], body["shown"], mouth["slot"], mouth["shown"]) == ("body", True, "mouth", False)
    assert body["total_variation"] == pytest.approx(1 / 3) and body["agreement"] == pytest.approx(2 / 3)
    assert body["agreement_exact"] == 1 and body["total_variation_exact"] == pytest.approx(0)
    assert math.isnan(body["coverage"]) and math.isnan(mouth["agreement"])
    assert mouth["coverage"] == pytest.approx(0.75)
    assert mouth["coverage_exact"] == pytest.approx(0.5 * (1 - 0.5**3) + 0.5 * (1 - 0.75**3))
    assert mouth["total_variation"] == pytest.approx((abs(2 / 3 - 0.5) + 0.25 + abs(1 / 3 - 0.25)) / 2)


# --- the cats ---------------------------------------------------------------------------------------------------------


def test_cats() -> None:
    """Two cats seen whole and two of which the lower half is seen, at the smallest noise of interest.

    Log ratios are those of whole pictures, painted and subtracted one by one in float64, to 1e-6 of 1e6 nats: random
    combinations, and those that differ from the truth in one part. In float32 the same sums are off by several nats.
    """
    layers, generator, sigma = shipped_layers(), torch.Generator().manual_seed(3), 0.02
    exact = Layers({slot: part.double() for slot, part in layers.parts.items()})
    index = draw_parts(layers, 4, held_out=True, generator=generator)
    mask = torch.ones(4, 1, 64, 64)
    mask[2:, :, :32] = 0
    y = layers.compose(index)
    y = y + sigma * torch.randn(y.shape, generator=generator)
    posterior = parts_posterior(layers, y, mask, sigma)
    others, row = torch.cat([layers.draw(20, generator), index.repeat(10, 1)]), torch.arange(40)
    others[20:][row, row % 5] = layers.draw(40, generator)[row, row % 5]
    for n in range(4):
        x = exact.compose(torch.cat([index[n : n + 1], others]))
        errors = (mask[n] * (y[n].double() - x) ** 2).sum((1, 2, 3)) / (2 * sigma**2)
        found = posterior.log_probs[n][tuple(others.T)] - posterior.log_probs[n][tuple(index[n])]
        torch.testing.assert_close(found, errors[0] - errors[1:], rtol=0, atol=1e-6)
    shown = is_shown(posterior.marginals)
    assert shown["body"].all() and shown["fur"][:2].all() and shown["accessory"][:2].all()
    for column, (slot, classes) in enumerate(layers.classes.items()):
        best = posterior.marginals[slot].argmax(1)
        assert torch.equal(best[shown[slot]], classes[index[:, column]][shown[slot]])


def test_no_two_parts_of_the_cats_are_equal_but_the_blank_furs() -> None:
    assert shipped_layers().num_classes == {"body": 15, "fur": 9, "eyes": 15, "mouth": 10, "accessory": 16}
    furs = shipped_layers().parts["fur"]
    assert shipped_layers().classes["fur"][2] == shipped_layers().classes["fur"][6] and not furs[[2, 6]].any()
