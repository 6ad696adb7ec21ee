"""What is found out of each site by itself, for several sites at a time."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Result = TypeVar("_Result")


def by_site(work: Callable[[str], _Result], names: Iterable[str], *, threads: int | None = None) -> dict[str, _Result]:
    """What `work` gives for each name, in their order; the first error is raised.

    Loops over a site's values and histograms, numpy's and the library's, are long and let other threads run meanwhile.
    `threads` of None: one for each processor.
    """
    order = list(names)
    count = threads or os.cpu_count() or 1
    if count == 1 or len(order) < 2:
        return {name: work(name) for name in order}
    pool = ThreadPoolExecutor(count, thread_name_prefix="pmsm-site")
    try:
        return dict(zip(order, pool.map(work, order), strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
