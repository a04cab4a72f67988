"""Train the context model: its networks in float by the code length they give, one after another in coding order, for
each sees how far those before it were off; then tables and reconstruction points by counting."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from latentcodec.bitstream.context import ContextModel
from latentcodec.bitstream.integers import LOG_UNIT, log2_table
from latentcodec.bitstream.known import Known
from latentcodec.bitstream.lattice import PASSES, Pass, passes
from latentcodec.bitstream.network import Network, Precision, rounded
from latentcodec.bitstream.quality import step_grid
from latentcodec.bitstream.tables import ROWS, SYMBOLS, Split, integer_frequencies, logistic_probabilities
from latentcodec.bitstream.view import NEWEST

HIDDEN = (29, 23)
"""Units in a network's two hidden layers. Beside them in a matrix are the ones and the linear path: 32 and 24 rows, which
processors multiply in whole tiles."""
UPDATES = 1000
"""Of each network of a pass at the finest distance, which has the most positions; the others take `_COARSE` of that."""
_COARSE = 0.4
_SAMPLES = 400_000
"""Positions that a network is trained on, at most."""
_BATCH = 2048
_RATE = 4e-3
_PRIOR = 64.0
"""Weight of the logistic tables, in counts."""
_SHRINK = 16.0
"""Weight of the middle of the cell against the mean of what fell into it, in counts."""

Coefficients = Float64[np.ndarray, "channels height width"]


@dataclass(frozen=True, eq=False)
class Example:
    """An image's coefficients, and the step at which they are quantised."""

    coefficients: Coefficients
    step_index: int


class FloatNetwork(nn.Module):
    """What `context.Network` rounds."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, HIDDEN[0])
        self.second = nn.Linear(*HIDDEN)
        self.last = nn.Linear(HIDDEN[1], 2)
        self.linear = nn.Linear(inputs, 2, bias=False)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.linear.weight)

    def forward(self, inputs: Float[Tensor, "n inputs"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Expected value, in the channel's spreads, and log2 of the spread in those."""
        hidden = F.relu(self.second(F.relu(self.first(inputs))))
        out = self.last(hidden) + self.linear(inputs)
        return out[:, 0], out[:, 1]

    def rounded(self, precision: Precision) -> Network:
        """With integers for weights."""
        parts = {name: value.detach().double().numpy().T for name, value in self.named_parameters()}
        return rounded(parts, precision)


def code_length(
    expected: Float[Tensor, " n"],
    log2_spread: Float[Tensor, " n"],
    target: Float[Tensor, " n"],
    width: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """Bits of cells of this width about `target` under logistic distributions:
    log(F(a) - F(b)) = log F(a) + log F(-b) + log(1 - exp(b - a))."""
    scale = torch.exp2(log2_spread.clamp(-14, 8)) * (3**0.5 / torch.pi)
    upper, lower = (target + width / 2 - expected) / scale, (target - width / 2 - expected) / scale
    inside = torch.log(-torch.expm1(-(width / scale).clamp(1e-6, 80)))
    return -(F.logsigmoid(upper) + F.logsigmoid(-lower) + inside) / np.log(2)


def train_network(
    inputs: Float[np.ndarray, "n inputs"],
    target: Float64[np.ndarray, " n"],
    width: Float64[np.ndarray, " n"],
    precision: Precision,
    *,
    updates: int,
    seed: int,
) -> Network:
    """Fit one network; `target` and `width` of its cell in the channel's spreads, `inputs` as `Known` gives them, without
    the ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FloatNetwork(inputs.shape[1])
    given = torch.from_numpy(inputs).float() / precision.unit
    wanted, cell = (torch.from_numpy(values).float() for values in (target, width))
    start = torch.linalg.lstsq(
        given.double().T @ given.double() + torch.eye(given.shape[1]), given.double().T @ wanted.double()[:, None]
    )
    with torch.no_grad():
        network.linear.weight[0] = start.solution[:, 0].float()
    optimizer = torch.optim.Adam(network.parameters(), lr=_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates, 0.02 * _RATE)
    for _ in range(updates):
        batch = torch.randint(len(given), (min(_BATCH, len(given)),), generator=generator)
        expected, log2_spread = network(given[batch])
        loss = code_length(expected, log2_spread, wanted[batch], cell[batch]).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return network.rounded(precision)


def train_context(
    examples: Sequence[Example],
    *,
    updates: int = UPDATES,
    seed: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> ContextModel:
    """Networks for all channels and passes. `progress` is called after each of them.

    Args:
        examples: images of at least a few positions, at steps across the grid.
        updates: of each network of the finest passes, at least 1.
    """
    grid = step_grid()
    spreads = np.sqrt(np.mean([np.square(e.coefficients).mean(axis=(1, 2)) for e in examples], axis=0))
    scales = np.maximum(1, np.rint(spreads)).astype(np.int64)
    log2_steps = np.rint(LOG_UNIT * np.log2(grid)).astype(np.int64)
    model = ContextModel({}, scales, grid, log2_steps, log2_table(), NEWEST)
    knowns = [model.known(e.coefficients.shape[1:], e.step_index) for e in examples]
    integers = [np.rint(e.coefficients / grid[e.step_index]).astype(np.int64) for e in examples]
    for channel in range(model.channels):
        for known in knowns:
            known.begin_channel()
        for each in passes():
            count = updates if each.distance == 1 else max(1, round(_COARSE * updates))
            _train_pass(model, channel, each, knowns, integers, count, seed * 10_000 + channel * PASSES + each.index)
            progress()
        for known in knowns:
            known.end_channel(channel)
    return model


def _train_pass(
    model: ContextModel,
    channel: int,
    each: Pass,
    knowns: Sequence[Known],
    integers: Sequence[np.ndarray],
    updates: int,
    seed: int,
) -> None:
    rows, columns = each.slices()
    used = [(k, i[channel, rows, columns]) for k, i in zip(knowns, integers, strict=True)]
    used = [(known, values) for known, values in used if values.size]
    inputs = [known.inputs(channel, each) for known, _ in used]
    scale = model.scales[channel]
    share = min(1.0, _SAMPLES / sum(values.size for _, values in used))
    random = np.random.default_rng(seed)
    chosen = [random.permutation(values.size)[: math.ceil(share * values.size)] for _, values in used]
    targets = [values.ravel()[some] * known.step / scale for (known, values), some in zip(used, chosen, strict=True)]
    network = train_network(
        np.concatenate([given[:-1, some] for given, some in zip(inputs, chosen, strict=True)], axis=1).T,
        np.concatenate(targets),
        np.concatenate([np.full(len(some), known.step / scale) for (known, _), some in zip(used, chosen, strict=True)]),
        model.view.precision, updates=updates, seed=seed,
    )  # fmt: skip
    model.networks[channel, each.index] = network
    for (known, values), given in zip(used, inputs, strict=True):
        expected = (network(given)[0] * scale) // LOG_UNIT
        known.learn(channel, each, values * known.step, expected.reshape(values.shape))


def count_tables(
    model: ContextModel, examples: Sequence[Example]
) -> tuple[Int64[np.ndarray, "rows symbols"], Float64[np.ndarray, "rows symbols"]]:
    """Frequencies of the bank, and where in its cell each symbol's coefficient lies on average (-0.5 ... 0.5 steps)."""
    counts, offsets = np.zeros((ROWS, SYMBOLS)), np.zeros((ROWS, SYMBOLS))
    for example in examples:
        _count(model, example, counts, offsets)
    frequencies = integer_frequencies(counts + _PRIOR * logistic_probabilities())
    return frequencies, offsets / (counts + _SHRINK)


def _count(model: ContextModel, example: Example, counts: np.ndarray, offsets: np.ndarray) -> None:
    """Add one image's symbols, and how far their coefficients lie from the middle of the cell."""
    scaled = example.coefficients / model.steps[example.step_index]
    nearest = np.rint(scaled).astype(np.int64)

    def choose(channel: int, each: Pass, expected: np.ndarray, where: Split) -> np.ndarray:
        rows, columns = each.slices()
        values = nearest[channel, rows, columns].ravel()
        symbols = where.symbols(values)
        inside = scaled[channel, rows, columns].ravel() - values
        np.add.at(counts, (where.table, symbols), 1)
        np.add.at(offsets, (where.table, symbols), np.where(where.shift > 0, 0.0, inside))
        return values

    height, width = nearest.shape[1:]
    model.run(height, width, example.step_index, choose)
