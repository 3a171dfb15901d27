"""Priors whose posterior is known in closed form. ``pyro_vipaint.models`` exports them."""
