"""Latent priors, loaded from a folder, against the diffusers pipelines that were saved there."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiTTransformer2DModel,
)
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from pyro_vipaint.cli.main import app
from pyro_vipaint.errors import InputError
from pyro_vipaint.models import DiffusionPrior, from_diffusers, load_prior
from pyro_vipaint.models.pretrained.components import read_network
from pyro_vipaint.restoration import inpaint
from tests import pipelines
from tests.networks import random_unet
from tests.pipelines import IMAGE, LATENT
from tests.priors.test_pretrained import Bomb

PROMPT, OTHER = "a cat", "the dog"
WEIGHT = 4.0

FLOW = {"num_inference_steps": 1, "sigmas": [0.6]}
TEXT = [pipelines.stable_diffusion, pipelines.stable_diffusion_3]
each_text_pipeline = pytest.mark.parametrize("make", TEXT)


def latents(count: int = 2) -> Tensor:
    return torch.randn(count, *LATENT)


def saved(pipeline: Any, folder: Path, **options: Any) -> DiffusionPrior:
    """The pipeline saved to a folder and loaded as a prior."""
    pipeline.save_pretrained(folder)
    return load_prior(folder, **options)


def bare_folder(folder: Path, scheduler: Any, network: Any = None, **details: Any) -> Path:
    """Network, autoencoder and scheduler side by side, with our prior.json and no pipeline."""
    (network or random_unet(in_channels=4, out_channels=4)).save_pretrained(folder / "unet")
    pipelines.random_vae().save_pretrained(folder / "vae")
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "prior.json").write_text(json.dumps(details), encoding="utf-8")
    return folder


# against the pipelines themselves: one step of sampling is one prediction, decoded


@torch.no_grad()
def test_ldm_equals_its_pipeline(tmp_path: Path) -> None:
    """One step of LDMPipeline from noise to an image is decode(E[z_0 | z_1])."""
    pipeline = pipelines.ldm_pipeline()
    settings = {"beta_schedule": "scaled_linear", "clip_sample": False, "timestep_spacing": "trailing"}
    pipeline.register_modules(scheduler=DDIMScheduler(**settings))
    prior = saved(pipeline, tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    (pixels,) = pipeline(2, generator, num_inference_steps=1, output_type="np", return_dict=False)
    image = torch.from_numpy(np.array(pixels))
    z = torch.randn(2, *LATENT, generator=torch.Generator().manual_seed(1))
    ours = (prior.decode(prior.denoise(z, 1.0)) / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    assert image.std() > 0.05
    torch.testing.assert_close(ours, image, rtol=1e-4, atol=1e-4)


def generated(pipeline: Any, z: Tensor, weight: float, kind: str, options: dict[str, Any]) -> Tensor:
    """One step of the pipeline from ``z``, prompted and guided: a latent, or an image in [-1, 1]."""
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline([PROMPT, OTHER], guidance_scale=weight, latents=z, output_type=kind, **options).images
    return images if kind == "latent" else images * 2 - 1


@torch.no_grad()
def test_stable_diffusion_equals_its_pipeline(tmp_path: Path) -> None:
    """One step of StableDiffusionPipeline is E[z_0 | z_1, prompt], guided or not, decoded by its autoencoder."""
    pipeline = pipelines.stable_diffusion()
    settings = {"beta_schedule": "scaled_linear", "clip_sample": False, "timestep_spacing": "trailing"}
    pipeline.register_modules(scheduler=DDIMScheduler(**settings, steps_offset=1))
    prior, z = saved(pipeline, tmp_path), latents()
    for weight in (1.0, WEIGHT):
        condition = {**prior.encode_prompt([PROMPT, OTHER], 2), "guidance_scale": weight}
        ours, options = prior.denoise(z, 1.0, **condition), {"num_inference_steps": 1}
        torch.testing.assert_close(ours, generated(pipeline, z, weight, "latent", options), rtol=1e-4, atol=1e-3)
        image = generated(pipeline, z, weight, "pt", options)
        torch.testing.assert_close(prior.decode(ours).clamp(-1, 1), image, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("t5", "weight"), [(False, WEIGHT), (True, 1.0)])
@torch.no_grad()
def test_stable_diffusion_3_equals_its_pipeline(tmp_path: Path, t5: bool, weight: float) -> None:
    """One step of StableDiffusion3Pipeline (shift 3) is E[z_0 | z_t, prompt] at t = 0.6, with and without T5."""
    pipeline = pipelines.stable_diffusion_3(t5)
    prior, z = saved(pipeline, tmp_path), latents()
    condition = {**prior.encode_prompt([PROMPT, OTHER], 2), "guidance_scale": weight}
    ours = prior.denoise(z, 0.6, **condition)
    torch.testing.assert_close(ours, generated(pipeline, z, weight, "latent", FLOW), rtol=1e-4, atol=1e-3)
    image = generated(pipeline, z, weight, "pt", FLOW)
    torch.testing.assert_close(prior.decode(ours).clamp(-1, 1), image, rtol=1e-3, atol=1e-3)
    codec: Any = prior.codec
    assert (codec.scaling_factor, codec.shift_factor) == (0.7, 0.2)


# conditions


@each_text_pipeline
@torch.no_grad()
def test_the_prompt_reaches_the_network(tmp_path: Path, make: Callable[[], Any]) -> None:
    """Another prompt is another prediction; no prompt is the empty one; each image of a batch has its own."""
    prior, z = saved(make(), tmp_path), latents()
    cat, dog = (prior.denoise(z, 0.5, **prior.encode_prompt(prompt, 2)) for prompt in (PROMPT, OTHER))
    assert (cat - dog).norm() / cat.norm() > 0.1
    torch.testing.assert_close(prior.denoise(z, 0.5), prior.denoise(z, 0.5, **prior.encode_prompt("", 2)))
    both = prior.denoise(z.expand(3, -1, -1, -1, -1), 0.5, **prior.encode_prompt([PROMPT, OTHER], 2))
    torch.testing.assert_close(both, torch.stack([cat[0], dog[1]]).expand_as(both), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_labels_are_guided_by_the_null_label(tmp_path: Path) -> None:
    """A class-conditional UNet on latents: null + w (cond - null) with prior.json's null_label; no label is null."""
    network = random_unet(in_channels=4, out_channels=4, num_class_embeds=4)
    prior = load_prior(bare_folder(tmp_path, pipelines.ddpm(), network, null_label=3, classes=["a", "b", "c"]))
    z, labels, n = latents(), torch.tensor([0, 2]), 499
    null, cond = (network(z, n, class_labels=value).sample for value in (torch.tensor([3, 3]), labels))
    guided: dict[str, Any] = {"class_labels": labels, "guidance_scale": WEIGHT}
    for epsilon, condition in ((null + WEIGHT * (cond - null), guided), (null, {})):
        _, expected = pipelines.ddpm().step(epsilon, n, z, return_dict=False)
        torch.testing.assert_close(prior.denoise(z, 0.5, **condition), expected, rtol=1e-4, atol=1e-4)
    assert prior.guided_by == prior.conditions == ("class_labels",) and (cond - null).std() > 0.01


def test_prompts_that_do_not_fit(tmp_path: Path) -> None:
    """A prior without text, and prompts that are neither one text nor one per image, are refused."""
    prior = saved(pipelines.stable_diffusion(), tmp_path / "text")
    unconditional = saved(pipelines.ldm_pipeline(), tmp_path / "plain")
    with pytest.raises(InputError, match="plain takes no text"):
        unconditional.encode_prompt(PROMPT)
    with pytest.raises(InputError, match=r"one per image \(3\)"):
        prior.encode_prompt([PROMPT, OTHER], 3)
    for prompt in ([PROMPT, 7], 7):
        with pytest.raises(InputError, match="prompt must be a text"):
            inpaint(torch.zeros(2, *IMAGE), half_mask(), prior, prompt=prompt)  # pyright: ignore[reportArgumentType]


def test_without_text_encoder_the_embedding_is_required(tmp_path: Path) -> None:
    """A pipeline without its text encoder takes embeddings, and names them where they are missing."""
    pipeline, z = pipelines.stable_diffusion(), latents()
    condition = from_diffusers(pipeline).encode_prompt(PROMPT, 2)
    expected = from_diffusers(pipeline).denoise(z, 0.5, **condition)
    pipeline.register_modules(text_encoder=None)
    stripped = from_diffusers(pipeline)
    with pytest.raises(InputError, match="give encoder_hidden_states"):
        stripped.denoise(z, 0.5)
    torch.testing.assert_close(stripped.denoise(z, 0.5, **condition), expected)
    assert stripped.guided_by == ()


# precision and memory


ALL = [*TEXT, pipelines.ldm_pipeline]


def gradient(prior: DiffusionPrior, z: Tensor) -> Tensor:
    """Of a function of the decoded prediction at ``z``."""
    z = z.clone().requires_grad_()
    return torch.autograd.grad(prior.decode(prior.denoise(z, 0.5)).square().sum(), z)[0]


def passes(block: Any, run: Callable[[], Any]) -> int:
    """How often ``run`` goes through the block."""
    count = 0

    def record(*_: Any) -> None:
        nonlocal count
        count += 1

    hook = block.register_forward_pre_hook(record)
    run()
    hook.remove()
    return count


@pytest.mark.parametrize("make", ALL)
def test_checkpointing_keeps_the_gradient(tmp_path: Path, make: Callable[[], Any]) -> None:
    """The gradient is the same; network and decoder run twice, also in evaluation mode."""
    pipeline, z = make(), latents()
    plain = saved(pipeline, tmp_path)
    checkpointed = load_prior(tmp_path, checkpointing=True)
    torch.testing.assert_close(gradient(checkpointed, z), gradient(plain, z), rtol=1e-5, atol=1e-6)
    for prior, times in ((plain, 1), (checkpointed, 2)):
        for block in inner_blocks(prior):
            assert passes(block, lambda prior=prior: gradient(prior, z)) == times
            with torch.no_grad():
                assert passes(block, lambda prior=prior: prior.decode(prior.denoise(z, 0.5))) == 1


def inner_blocks(prior: DiffusionPrior) -> list[Any]:
    """A block of the network and one of the decoder, in the middle of each."""
    denoiser, codec = prior.denoiser, prior.codec
    module: Any = denoiser.network.network.module  # pyright: ignore[reportAttributeAccessIssue]
    assert not module.training
    inner = module.transformer_blocks[0].attn if hasattr(module, "transformer_blocks") else module.mid_block.resnets[1]
    return [inner, codec.autoencoder.decoder.up_blocks[0].resnets[0]]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("make", [pipelines.stable_diffusion, pipelines.ldm_pipeline, pipelines.stable_diffusion_3])
@torch.no_grad()
def test_half_precision_is_close(tmp_path: Path, make: Callable[[], Any]) -> None:
    """With dtype=bfloat16 the networks compute in it, latents and the algebra in float32; a few per cent apart."""
    pipeline = make()
    exact = saved(pipeline, tmp_path)
    half, z = load_prior(tmp_path, dtype=torch.bfloat16), latents()
    module: Any = half.denoiser.network.network.module  # pyright: ignore[reportAttributeAccessIssue]
    assert module.dtype == half.codec.autoencoder.dtype == torch.bfloat16  # pyright: ignore[reportAttributeAccessIssue]
    ours, expected = half.transition(z, 0.5, 0.4), exact.transition(z, 0.5, 0.4)
    assert ours.mean.dtype == torch.float32 and torch.equal(ours.stddev, expected.stddev)
    assert 0 < (ours.mean - expected.mean).norm() / expected.mean.norm() < 0.03


@torch.no_grad()
def test_half_precision_keeps_the_timestep(tmp_path: Path) -> None:
    """Timestep 803 is not rounded to bfloat16's 804: the network is called at the timestep of its training."""
    prior, z = saved(pipelines.ldm_pipeline(), tmp_path, dtype=torch.bfloat16), latents()
    network = read_network(tmp_path / "unet", ("UNet2DModel",), torch.bfloat16)
    alpha, sigma = (float(value) for value in prior.schedule(torch.tensor(0.804, dtype=torch.float64)))
    exact, rounded = (network(z.bfloat16(), torch.tensor(n)).sample.float() for n in (803.0, 804.0))
    ours = (z - alpha * prior.denoise(z, 0.804)) / sigma
    torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-4)
    assert torch.tensor(803.0).bfloat16() == 804 and (exact - rounded).abs().max() > 1e-3


# refusals


def test_a_pickled_part_is_refused_unopened(tmp_path: Path) -> None:
    """A part that has only a pickle is refused in one line that names safetensors, and the pickle never runs."""
    pipelines.stable_diffusion_3().save_pretrained(tmp_path / "prior")
    target = tmp_path / "opened"
    for part, suffix in (
        ("text_encoder", ".bin"),
        ("text_encoder_2", ".pt"),
        ("transformer", ".bin"),
        ("vae", ".ckpt"),
    ):
        (weights,) = (tmp_path / "prior" / part).glob("*.safetensors")
        bomb = weights.with_suffix(suffix)
        bomb.write_bytes(pickle.dumps(Bomb(target)))
        kept = weights.rename(tmp_path / "kept")
        with pytest.raises(InputError, match=rf"{part} has only .*{suffix}, a pickle.*safetensors") as error:
            load_prior(tmp_path / "prior")
        assert "\n" not in str(error.value) and not target.exists()
        pickle.loads(bomb.read_bytes())
        assert target.exists(), "the pickle would have shown itself"
        target.unlink()
        kept.rename(weights)
        bomb.unlink()


def test_broken_text_parts_are_refused(tmp_path: Path) -> None:
    """An encoder of another class and a vocabulary that cannot be read raise InputError that names them."""
    pipelines.stable_diffusion().save_pretrained(tmp_path)
    config = tmp_path / "text_encoder" / "config.json"
    whole = config.read_text(encoding="utf-8")
    for kind in ("BertModel", "CLIPTextModelWithProjection"):
        config.write_text(whole.replace("CLIPTextModel", kind), encoding="utf-8")
        with pytest.raises(InputError, match=kind):
            load_prior(tmp_path)
    config.write_text(whole, encoding="utf-8")
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="vocabulary in tokenizer"):
        load_prior(tmp_path)


def test_networks_that_would_be_misread_are_refused(tmp_path: Path) -> None:
    """Other conditions, and channels that differ from the autoencoder's, raise InputError."""
    settings = {"addition_embed_type": "text", "addition_embed_type_num_heads": 2, "encoder_hid_dim": None}
    extra = pipelines.random_conditional_unet(**settings)
    wide = pipelines.random_conditional_unet(in_channels=8, out_channels=8)
    for network, reason in ((extra, "addition_embed_type"), (wide, "channels")):
        pipeline = pipelines.stable_diffusion()
        pipeline.register_modules(unet=network)
        with pytest.raises(InputError, match=reason):
            from_diffusers(pipeline)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=4, num_layers=1, sample_size=8,
        norm_num_groups=4,
    )  # fmt: skip
    transformer.save_pretrained(tmp_path / "transformer")
    pipelines.ddpm().save_pretrained(tmp_path / "scheduler")
    with pytest.raises(InputError, match="DiTTransformer2DModel"):
        load_prior(tmp_path)


# facade and command line


def half_mask() -> Tensor:
    """The left half is observed."""
    mask = torch.zeros(IMAGE[1:])
    mask[:, :8] = 1
    return mask


def test_inpainting_with_a_prompt(tmp_path: Path) -> None:
    """Prompt and weight reach the samples; guided calls count twice the images; samples have the shape of images."""
    prior, image = saved(pipelines.stable_diffusion(), tmp_path), torch.zeros(IMAGE)
    options: dict[str, Any] = {"steps": 2, "refine_steps": 2, "seed": 0}
    plain = inpaint(image, half_mask(), prior, 2, 2, **options)
    prompted = inpaint(image, half_mask(), prior, 2, 2, prompt=PROMPT, **options)
    guided = inpaint(image, half_mask(), prior, 2, 2, prompt=[PROMPT], guidance_scale=WEIGHT, **options)
    assert plain.samples.shape == (2, 1, *IMAGE)
    assert plain.calls == prompted.calls == guided.calls == 1 + 2 * 3 + 1 + 2
    assert 2 * plain.nfe == 2 * prompted.nfe == guided.nfe
    for one, other in ((plain, prompted), (prompted, guided)):
        assert (one.samples - other.samples).abs().max() > 0.01


@pytest.mark.slow
def test_a_prompt_on_the_command_line(tmp_path: Path) -> None:
    """--prompt and --guidance-scale run, samples have the size of the resized image, and the report holds both."""
    pipelines.stable_diffusion().save_pretrained(tmp_path / "prior")
    Image.new("RGB", (32, 32), "grey").save(tmp_path / "image.png")
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 32))
    mask.save(tmp_path / "mask.png")
    numbers = {"levels": 2, "samples": 2, "steps": 2, "refine-steps": 2, "guidance-scale": 3.0, "prompt": PROMPT}
    paths = {"mask": tmp_path / "mask.png", "out": tmp_path / "out", "prior": tmp_path / "prior"}
    options = [text for name, value in {**numbers, **paths}.items() for text in (f"--{name}", str(value))]
    result = CliRunner().invoke(app, ["inpaint", str(tmp_path / "image.png"), "--resize", "--device", "cpu", *options])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert (report["prompt"], report["guidance_scale"]) == (PROMPT, 3.0)
    assert report["nfe"] > report["network_calls"]
    with Image.open(tmp_path / "out" / "sample_00.png") as picture:
        assert picture.size == (IMAGE[2], IMAGE[1])


def test_a_latent_prior_describes_itself(tmp_path: Path) -> None:
    """Latents and images each have their shape; the unit of noise is that of scaled latents, or prior.json's."""
    prior = load_prior(bare_folder(tmp_path, pipelines.ddpm(), sigma_data=0.9))
    assert (prior.event_shape, prior.image_shape, prior.sigma_data) == (LATENT, IMAGE, 0.9)
    assert saved(pipelines.ldm_pipeline(), tmp_path / "ldm").sigma_data == 1.0
