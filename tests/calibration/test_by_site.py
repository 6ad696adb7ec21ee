"""Work on several sites at a time."""

import threading
import time

import pytest

from pmsm_cli.calibration.by_site import by_site


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_results_come_by_name_in_order(threads):
    names = [f"site {index}" for index in range(20)]
    assert list(by_site(str.upper, iter(names), threads=threads).items()) == [(name, name.upper()) for name in names]
    assert by_site(str.upper, [], threads=threads) == {}


def test_several_sites_are_worked_on_at_a_time():
    both = threading.Barrier(2, timeout=20)
    by_site(lambda _: both.wait(), ["one", "other"], threads=2)  # each waits for the other


def test_the_first_error_is_raised_and_nothing_further_is_begun():
    begun = []

    def work(name: str) -> None:
        begun.append(name)
        if name == "0":
            raise ValueError("the first one")
        time.sleep(0.01)

    with pytest.raises(ValueError, match="the first one"):
        by_site(work, [str(index) for index in range(1000)], threads=2)
    assert len(begun) < 1000
