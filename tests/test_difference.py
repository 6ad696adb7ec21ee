"""What `pmsm diff` advises, and the fewest sites that it finds by bisection."""

import numpy as np
import pytest

from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.pipeline.bisection import bisect
from pmsm_cli.pipeline.difference import advise
from pmsm_cli.runtime.differences import Distance, SiteDifference
from pmsm_cli.runtime.evaluate import Accuracy, Evaluation

UNSIGNED = NeuronParameters(threshold=np.ones((), np.float32), negative_levels=0, positive_levels=3)


def seen(*, alone: float, accumulated: float | None = None, negative: int = 0) -> SiteDifference:
    """A site of signal 1, with these squared errors."""
    return SiteDifference(
        alone=Distance(signal=1.0, error=alone, carried=1.0, product=1.0),
        accumulated=Distance(signal=1.0, error=alone if accumulated is None else accumulated),
        values=100,
        negative=negative,
    )


@pytest.mark.parametrize(
    ("site", "clipped", "damage", "advice"),
    [
        (seen(alone=0.0), 0.0, 0.0, "nothing: it is exact"),
        (seen(alone=0.1), 0.9, 0.001, "nothing, or fewer levels"),
        (seen(alone=0.1), 0.1, 0.5, "more levels"),
        (seen(alone=0.1), 0.9, 0.5, "a wider threshold, or more levels"),
        (seen(alone=0.1, negative=40), 0.9, 0.5, "negative levels: calibrate on such images"),
        (seen(alone=0.01, accumulated=0.2), 0.1, 0.5, "more levels; most of its error comes from before it"),
    ],
)
def test_advice_follows_from_what_makes_the_error(site: SiteDifference, clipped: float, damage: float, advice: str):
    assert advise(site, UNSIGNED, clipped, damage) == advice


class Costs:
    """Variants that lose the sum of what each site costs while it is not finer."""

    def __init__(self, costs: dict[str, float]) -> None:
        self.costs, self.tried = costs, 0

    def drop(self, finer) -> float:
        self.tried += 1
        return sum(cost for name, cost in self.costs.items() if name not in finer)


def measured(drop: float) -> Evaluation:
    return Evaluation(
        images=100,
        timesteps=1,
        snn=Accuracy(top1=90.0 - drop, top5=None),
        ann=Accuracy(top1=90.0, top5=None),
        agreement=95.0,
        agreement_per_step=(95.0,),
        expected_drop=drop,
        outputs=(),
        skipped=(),
    )


def test_bisection_finds_the_fewest_of_the_most_damaging_sites():
    costs = Costs({f"s{index}": 8.0 / 2**index for index in range(12)})
    found = bisect(costs, list(costs.costs), 1.2, measured(sum(costs.costs.values())))
    assert found.sites == ("s0", "s1", "s2", "s3")
    assert (found.kept, found.measure) == (True, "top-1")
    assert found.drop == pytest.approx(1.0, abs=0.01)
    assert found.tried == costs.tried <= 1 + 4 + 3


def test_a_site_ranked_high_that_costs_nothing_is_left_out_again():
    costs = Costs({"a": 3.0, "b": 0.0, "c": 2.0, "d": 0.1})
    assert bisect(costs, list(costs.costs), 0.5, measured(5.1)).sites == ("a", "c")


def test_nothing_is_named_where_the_target_holds_already_or_cannot_be_kept():
    costs = Costs({"a": 0.2, "b": 0.1})
    within = bisect(costs, ["a", "b"], 0.5, measured(0.3))
    assert (within.sites, within.kept, within.drop) == ((), True, pytest.approx(0.3))

    class Hopeless(Costs):
        def drop(self, finer) -> float:
            return 2 + super().drop(finer)

    beyond = bisect(Hopeless({"a": 1.0}), ["a"], 0.5, measured(3.0))
    assert (beyond.sites, beyond.kept, beyond.drop_everywhere) == ((), False, 2.0)
