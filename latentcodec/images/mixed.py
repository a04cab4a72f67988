"""Several sources as one, interleaved in fixed proportions."""

from collections.abc import Sequence

import numpy as np

from latentcodec.images.items import ImageItem, ImageSource, SourceError, checked_index

_PERIOD = 1000


class MixedSource:
    """Interleaves sources by weight: which source gives item k, and which of its items, is arithmetic on k alone.

    The weights become whole counts in a period of 1000 items (largest remainder), spread evenly over it. Item k is then
    item ``position`` of source ``number``, ``(number, position) = locate(k)``; positions of one source count up from 0
    without gaps. Ids are ``number:id``.

    The length ends just before the first source would have to repeat. Whoever wants to go on calls `locate` with larger
    k and decides how a source's positions wrap.

    Args:
        weighted: pairs of source and weight; the weights need not sum to 1.

    Raises:
        SourceError: no sources, a weight that is not positive and finite, or less than 1/1000 of the whole.
    """

    def __init__(self, weighted: Sequence[tuple[ImageSource, float | int]]) -> None:
        self.sources = [source for source, _ in weighted]
        counts = _largest_remainder([float(weight) for _, weight in weighted], _PERIOD)
        self._pattern = _spread(counts)
        # earlier[s, k]: how many of the first k items of a period are of source s
        belongs = self._pattern[None] == np.arange(len(counts))[:, None]
        self._earlier = np.concatenate([np.zeros((len(counts), 1), int), np.cumsum(belongs, axis=1)], axis=1)
        self._length = min(self._first_beyond(number, len(source)) for number, source in enumerate(self.sources))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> ImageItem:
        number, position = self.locate(checked_index(index, len(self)))
        item = self.sources[number][position]
        return ImageItem(f"{number}:{item.id}", item.data, item.metadata)

    def locate(self, index: int) -> tuple[int, int]:
        """(number of the source, position in it) of item ``index``, for any index from 0 up, past ``len`` too."""
        if index < 0:
            raise IndexError(f"index: expected at least 0, found {index}")
        periods, place = divmod(index, _PERIOD)
        number = int(self._pattern[place])
        return number, periods * int(self._earlier[number, -1]) + int(self._earlier[number, place])

    def _first_beyond(self, number: int, length: int) -> int:
        """The index of the first item that needs position ``length`` of source ``number``."""
        periods, rest = divmod(length, int(self._earlier[number, -1]))
        return periods * _PERIOD + int(np.searchsorted(self._earlier[number], rest, side="right")) - 1


def _largest_remainder(weights: Sequence[float], total: int) -> list[int]:
    """Whole counts with sum ``total``, as near to the weights as can be (Hamilton's method)."""
    if not weights or not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise SourceError(f"mix: expected sources with positive, finite weights, found weights {list(weights)}")
    shares = [weight / sum(weights) * total for weight in weights]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda number: counts[number] - shares[number])
    for number in by_remainder[: total - sum(counts)]:
        counts[number] += 1
    if min(counts) == 0:
        least = min(range(len(weights)), key=lambda number: counts[number])
        raise SourceError(
            f"mix: weight {weights[least]} of source {least} is less than 1/{total} of all; leave it out or raise it"
        )
    return counts


def _spread(counts: Sequence[int]) -> np.ndarray:
    """A pattern with ``counts[s]`` times s, the j-th of them near (j + 1/2) / counts[s] of the way."""
    numbers = np.repeat(np.arange(len(counts)), counts)
    ideal = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    return numbers[np.argsort(ideal, kind="stable")]
