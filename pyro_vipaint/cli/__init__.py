"""``vipaint``: the command line."""
