"""Many pictures: a folder or a data set, completed in batches, by workers, and taken up again after a kill."""

from pyro_vipaint.many.run import inpaint_many

__all__ = ["inpaint_many"]
