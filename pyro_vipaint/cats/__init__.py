"""Pictures painted from parts: layers, the exact posterior over parts, scores of sampled parts, a classifier."""
