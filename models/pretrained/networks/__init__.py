"""Networks of published checkpoints that no class of diffusers can hold. The files here import diffusers."""
