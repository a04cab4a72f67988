"""Images on their way in and out: files, pixels, geometry and sources.

decode.py      any image file -> sRGB uint8 HWC, or one BrokenImageError with a reason
color.py         pixel modes, ICC profiles and transparency -> sRGB (used by decode)
pixels.py      uint8 HWC <-> float32 [-1, 1] NCHW
geometry.py    resize, crop
sources.py     open_source(spec) and the SOURCES registry
items.py         ImageItem, the ImageSource and ImageStream protocols, SourceError
folder.py webdataset.py parquet.py hub.py procedural.py   one kind of source each
mixed.py         several sources interleaved by weight
skipped.py     the images that could not be read, counted and written down
"""
