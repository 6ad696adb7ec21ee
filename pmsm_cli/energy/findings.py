"""The comparison in two sentences: what the spiking network is cheaper than, and, as plainly, what it is not."""

from collections.abc import Sequence

from pmsm_cli.energy.records import ColumnReport

_NAMES = {
    "ann": "the source in fp32",
    "ann_int8": "the source in int8",
    "quantised": "the equally precise quantised network",
}
_WEIGHTS = {"with fp32 weights": "over_snn", "with int8 weights": "over_snn_int8"}


def findings(columns: Sequence[ColumnReport]) -> tuple[str | None, str | None]:
    """What is better and what is worse; None where nothing is."""
    better, worse = list[str](), list[str]()
    for weights, field in _WEIGHTS.items():
        ratios = [(column.name, getattr(column, field)) for column in columns if column.name in _NAMES]
        told_apart = [each for each in ratios if each[1] and times(1.0) not in (times(each[1]), times(1 / each[1]))]
        less = [f"{times(ratio)} less energy than {_NAMES[name]}" for name, ratio in told_apart if ratio > 1]
        more = [f"{times(1 / ratio)} more energy than {_NAMES[name]}" for name, ratio in told_apart if ratio < 1]
        for found, parts in ((better, less), (worse, more)):
            if parts:
                subject = "" if found else "the spiking network takes "
                found.append(f"{weights} {subject}{_listed(parts)}")
    return _sentence(better), _sentence(worse)


def times(ratio: float) -> str:
    """A ratio as people say it.

    >>> times(3.069), times(41.5), times(1234.5)
    ('3.07x', '42x', '1,234x')
    """
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:,.0f}x"


def _listed(parts: Sequence[str]) -> str:
    first, *others = parts
    named = [first, *(part.replace(" energy", "") for part in others)]
    return " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))


def _sentence(parts: Sequence[str]) -> str | None:
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else None
