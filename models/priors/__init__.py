"""Priors p(z): schedules, kernels, denoisers, codecs, the prior and its marginal.

``pyro_vipaint.models`` exports their public names.
"""
