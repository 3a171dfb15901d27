"""What could be behind the hole? Eight draws from the posterior for each of four held-out pictures."""

from pathlib import Path

import pyro_vipaint as vp
from pyro_vipaint.demo import demo_problem

images, masks, labels = demo_problem("fashion32")  # mask 1 = observed
result = vp.inpaint(images, masks, "fashion32", num_samples=8, label=labels, seed=0)
result.plot(images).savefig(Path(__file__).with_suffix(".png"), dpi=80)
