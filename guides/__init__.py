"""Families of approximate posteriors, one file each; import as ``pyro_vipaint.guides``."""

if __name__ == "guides":
    raise ImportError("import pyro_vipaint.guides, not guides: the folder is packaged under that name.")

from pyro_vipaint.guides.hierarchical import HierarchicalGuide

__all__ = ["HierarchicalGuide"]
