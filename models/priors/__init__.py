"""Priors p(z): schedules, kernels, denoisers, codecs, and what is made of them.

Their public names stand in ``pyro_vipaint.models``.
"""
