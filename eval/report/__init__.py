"""Results as one page that opens from disk: plots, tables, and pictures to compare.

inputs.py      results files, with their rows and the hash of each
content.py     what the page says, as JSON; benchmark.py: the part about images; wording.py: names of metrics
pictures.py    what it shows: which pictures, in which quality, and where each differs from its original
writer.py      template, style, scripts, content and pictures into one file
page/          the page itself: HTML, CSS and JavaScript, without any library
"""
