"""Which images are not like those that a detector was fitted on, and where.

    terms.py      maps of how strange each place is: in pixels, in the encoder's features, in latents
    gaussian.py   a Gaussian fitted to vectors that come a few at a time
    detector.py   fit, calibrate, score: from maps to one number with a meaning
    files.py      a detector as one file
    heat.py       a map over its image

Nothing is imported here.
"""
