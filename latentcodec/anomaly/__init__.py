"""Which images are not like those that a detector was fitted on, and where.

    terms.py      what is looked at in each place: pixels, the encoder's features, latents
    gaussian.py   what is normal: a Gaussian fitted to vectors that come a few at a time
    detector.py   fit, calibrate, score: from maps to one number with a meaning
    files.py      a detector as one file
    heat.py       a map over its image

Nothing is imported here.
"""
