"""How well VAEs give images back: several side by side, under one protocol.

modes.py      through a VAE and back: the posterior's mean, or a draw from it
evaluate.py   every image through every VAE, measured
summary.py    means with intervals, differences, ranking
protocol.py   what the figures depend on, to print and to store
table.py      the figures as text
published.py  figures of others, from published.json; shown apart
command.py    `python -m eval reconstruct`
"""
