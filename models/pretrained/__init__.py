"""Priors from files, hubs and pipelines. ``pyro_vipaint.models`` exports them."""
