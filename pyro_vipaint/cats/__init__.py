"""Pictures painted from parts: their layers, the exact posterior over parts, its scores, a classifier of parts."""
