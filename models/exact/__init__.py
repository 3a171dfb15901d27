"""Priors whose posterior is known in closed form. Their public names stand in ``pyro_vipaint.models``."""
