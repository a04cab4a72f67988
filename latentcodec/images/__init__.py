"""Images on their way in and out: files, pixels, geometry and sources.

decode.py        any image file -> sRGB uint8 HWC, or one BrokenImageError with a reason
color.py         pixel modes, ICC profiles and transparency -> sRGB (used by decode)
pixels.py        uint8 HWC <-> float32 [-1, 1] NCHW
geometry.py      resize, crop

sources.py       open_source(spec) and the SOURCES registry: start reading here
items.py         ImageItem, the ImageSource and ImageStream protocols, SourceError
folder.py webdataset.py parquet.py hub.py procedural.py   one kind of source each
mixed.py         several sources interleaved by weight
skipped.py       the images that could not be read, counted and written down

paths.py         braces, globs, folders, URLs            tar_index.py   where each file lies in a tar
sidecars.py      captions, labels and JSON of an image   stream.py      shuffle buffer
process.py       handles that stay in their process      packed.py      millions of names in one buffer
procedural_*.py  random numbers, shapes, textures and text of the synthetic images
"""
