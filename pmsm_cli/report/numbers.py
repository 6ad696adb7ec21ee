"""Numbers as people read them."""

from collections.abc import Sequence


def count(number: float | None) -> str:
    """A count with a prefix.

    >>> count(36957504), count(940), count(None)
    ('36.96 M', '940', '?')
    """
    if number is None:
        return "?"
    for limit, prefix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= limit:
            return f"{number / (1e3 if prefix == 'k' else limit):.{1 if prefix == 'k' else 2}f} {prefix}"
    return f"{number:.0f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A percentage, or a dash.

    >>> percent(88.05, 2), percent(None)
    ('88.05 %', '-')
    """
    return "-" if value is None else f"{value:.{digits}f} %"


def energy(millijoule: float) -> str:
    """An energy in the unit that suits it.

    >>> energy(0.17), energy(12.5), energy(0.00003)
    ('170 uJ', '12.5 mJ', '30 nJ')
    """
    if millijoule >= 1:
        return f"{millijoule:.4g} mJ"
    return f"{millijoule * 1e3:.3g} uJ" if millijoule >= 1e-3 or millijoule == 0 else f"{millijoule * 1e6:.3g} nJ"


def steps(values: Sequence[str]) -> str:
    """One cell for all timesteps: the first and the last of many.

    >>> steps(["0.55", "0.26", "0.25", "0.25"])
    '0.55 ... 0.25'
    """
    return values[0] if len(values) == 1 else f"{values[0]} ... {values[-1]}"
