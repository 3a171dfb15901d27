"""``vipaint app``: a page in the browser that paints a hole, watches the run and questions its result.

The page (:mod:`pyro_vipaint.app.page`) only arranges what the other modules compute: :mod:`.pictures` turns uploads and
brush strokes into an image and a mask, :mod:`.job` says what is run, as a call and as the lines of Python that repeat
it, :mod:`.run` runs it step by step, :mod:`.views` draws and questions the result.
"""
