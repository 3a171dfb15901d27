"""Priors from files, hubs and pipelines. Their public names stand in ``pyro_vipaint.models``."""
