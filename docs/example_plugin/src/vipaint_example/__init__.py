"""A prior, a guide and a baseline for pyro_vipaint; nothing is imported before it is named."""
