"""Codecs: the scaled latents of diffusers' autoencoders, and the gradient through the decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor

from pyro_vipaint.models.priors.codecs import AutoencoderCodec, Identity
from tests.pipelines import IMAGE, LATENT, random_vae, random_vq

SCALE, SHIFT = 0.7, 0.2

each_autoencoder = pytest.mark.parametrize("make", [random_vae, random_vq])


def encoded(autoencoder: Any, x: Tensor) -> Tensor:
    """E(x) by the parts of the autoencoder: the first half of the moments, or the input of the quantiser."""
    features = autoencoder.quant_conv(autoencoder.encoder(x))
    return features.chunk(2, 1)[0] if isinstance(autoencoder, AutoencoderKL) else features


def decoded(autoencoder: Any, z: Tensor) -> Tensor:
    """D(z) by the parts of the autoencoder, with the nearest entry of the codebook at each place."""
    if isinstance(autoencoder, VQModel):
        codebook = autoencoder.quantize.embedding.weight
        distance = (z.movedim(1, -1).unsqueeze(-2) - codebook).square().sum(-1)
        z = codebook[distance.argmin(-1)].movedim(-1, 1)
    return autoencoder.decoder(autoencoder.post_quant_conv(z))


@each_autoencoder
@torch.no_grad()
def test_encode_and_decode_are_shifted_and_scaled(make: Callable[[], Any]) -> None:
    """encode is (E(x) - shift) scale and decode D(z / scale + shift), with two leading dimensions."""
    autoencoder = make()
    codec = AutoencoderCodec(autoencoder, SCALE, SHIFT)
    x, z = torch.rand(2, 3, *IMAGE) * 2 - 1, torch.randn(2, 3, *LATENT)
    expected = (encoded(autoencoder, x.flatten(0, 1)) - SHIFT) * SCALE
    torch.testing.assert_close(codec.encode(x), expected.reshape(2, 3, *LATENT), rtol=1e-4, atol=1e-5)
    expected = decoded(autoencoder, z.flatten(0, 1) / SCALE + SHIFT)
    assert expected.std() > 0.05
    torch.testing.assert_close(codec.decode(z), expected.reshape(2, 3, *IMAGE), rtol=1e-4, atol=1e-5)


def test_the_gradient_through_the_decoder_is_right() -> None:
    """decode agrees with finite differences in double precision, with two leading dimensions."""
    codec = AutoencoderCodec(random_vae().double(), SCALE, SHIFT)
    z = torch.randn(1, 2, *LATENT, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(codec.decode, z, fast_mode=True)


def test_the_gradient_passes_through_the_quantiser() -> None:
    """Straight-through: the gradient at z is that of the decoder at the quantised latent."""
    autoencoder = random_vq().double()
    codec = AutoencoderCodec(autoencoder, SCALE)
    z = torch.randn(2, *LATENT, dtype=torch.float64, requires_grad=True)
    quantised = autoencoder.quantize(z / SCALE)[0].detach().requires_grad_()
    weight = torch.randn(2, *IMAGE, dtype=torch.float64)
    (ours,) = torch.autograd.grad((weight * codec.decode(z)).sum(), z)
    output = autoencoder.decoder(autoencoder.post_quant_conv(quantised))
    (expected,) = torch.autograd.grad((weight * output).sum(), quantised)
    assert (quantised - z / SCALE).abs().max() > 0.1
    torch.testing.assert_close(ours, expected / SCALE, rtol=1e-9, atol=1e-12)


@each_autoencoder
@torch.no_grad()
def test_image_shape_is_the_shape_of_decoded_images(make: Callable[[], Any]) -> None:
    """(C, f H, f W), rectangles included."""
    for size in ((8, 8), (4, 12)):
        codec = AutoencoderCodec(make(), SCALE)
        assert codec.image_shape((4, *size)) == codec.decode(torch.randn(4, *size)).shape
        assert Identity().image_shape((1, *size)) == (1, *size)


@each_autoencoder
def test_few_images_at_once_are_all_images_at_once(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU no pass has more than PIXELS_AT_ONCE pixels of images; values and gradients do not change."""
    codec, sizes = AutoencoderCodec(make(), SCALE, SHIFT), []
    codec.autoencoder.decoder.register_forward_hook(lambda module, arguments, output: sizes.append(len(output)))
    codec.autoencoder.encoder.register_forward_hook(lambda module, arguments, output: sizes.append(len(output)))
    x, z = torch.rand(5, 1, *IMAGE) * 2 - 1, torch.randn(5, 1, *LATENT, requires_grad=True)

    def results() -> tuple[Tensor, ...]:
        image = codec.decode(z)
        return image.detach(), torch.autograd.grad(image.square().sum(), z)[0], codec.encode(x)

    together, sizes[:] = results(), []
    monkeypatch.setattr("pyro_vipaint.models.priors.codecs.PIXELS_AT_ONCE", 2 * IMAGE[-1] * IMAGE[-2])
    apart = results()
    assert sizes == [2, 2, 1, 2, 2, 1]
    for few, all_at_once in zip(apart, together, strict=True):
        torch.testing.assert_close(few, all_at_once, rtol=1e-4, atol=1e-5)


@each_autoencoder
def test_autoencoders_are_frozen(make: Callable[[], Any]) -> None:
    """No weight requires a gradient, and no module is in training mode."""
    autoencoder = make().train()
    AutoencoderCodec(autoencoder, SCALE)
    assert not any(parameter.requires_grad for parameter in autoencoder.parameters())
    assert not any(module.training for module in autoencoder.modules())


@torch.no_grad()
def test_half_precision_stays_inside() -> None:
    """A bfloat16 autoencoder takes and returns float32, within the rounding of bfloat16 (2^-8) and a few layers."""
    autoencoder: Any = random_vae()
    x, z = torch.rand(4, *IMAGE) * 2 - 1, torch.randn(4, *LATENT)
    exact = AutoencoderCodec(autoencoder, SCALE, SHIFT)
    expected = exact.encode(x), exact.decode(z)
    half = AutoencoderCodec(autoencoder.to(torch.bfloat16), SCALE, SHIFT)
    for ours, value in zip((half.encode(x), half.decode(z)), expected, strict=True):
        assert ours.dtype == torch.float32
        assert 0 < (ours - value).norm() / value.norm() < 0.03
