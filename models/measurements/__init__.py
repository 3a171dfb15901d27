"""Measurements p(y | z): operators, likelihoods, masks. ``pyro_vipaint.models`` exports them."""
