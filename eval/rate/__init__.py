"""Real files of many codecs on the same images: sizes, quality, times, BD-rates, plots.

codec.py             what a codec of the comparison is
pillow_codecs.py     JPEG, WebP, AVIF, JPEG XL
latent_codecs.py     .lvc files of a VAE, and its ceiling
compressai_codec.py  CompressAI's models, where it is installed
registry.py          all of them by name; how a command line names them
measure.py           one image through one codec at one quality
run.py               all of them, in one process or several
journal.py           rows on disk as they come; a run that was stopped goes on
summary.py           rows to points: means over images
curves.py            points to curves, BD-rate
published.py         curves of others, from published.json; shown apart
sanity.py            JPEG and WebP against what others measured
plots.py table.py    the figures as pictures and text
report.py            all that a run leaves
command.py           `python -m eval rate`
"""
