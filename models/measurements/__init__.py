"""Measurements p(y | z): operators, likelihoods, masks. Their public names stand in ``pyro_vipaint.models``."""
