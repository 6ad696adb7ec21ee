"""What is said about a calibration, and what is not."""

import numpy as np
import pytest
from observing import observe

from pmsm_cli.calibration.calibrate import Calibration, Images, calibrate
from pmsm_cli.calibration.method import Method
from pmsm_cli.pipeline.remarks import remarks


def calibrated(dead: int, *, count: int = 40) -> Calibration:
    values = np.abs(np.random.default_rng(0).normal(size=(8, 40 * 500)))
    values[:dead] = 0
    images = Images(origin="images", images=count, skipped=0, digest="", seed=0)
    statistics = {f"site{index}": observe(values, images=40) for index in range(5)}
    return calibrate(statistics, levels=7, method=Method.MSE, source_sha256="", images=images)


@pytest.mark.parametrize("dead", [0, 1, 4])
def test_some_dead_channels_are_no_reason_to_warn(dead: int):
    assert remarks(calibrated(dead)) == []


def test_sites_of_which_most_is_dead_are_named_in_one_line_the_first_three_of_them():
    (line,) = remarks(calibrated(5))
    assert "at 5 of 5 tensors: site0 (5 of 8), site1 (5 of 8), site2 (5 of 8), ... and 2 more;" in line


def test_few_images_are_said_once():
    (line,) = remarks(calibrated(0, count=15))
    assert line == "calibrated on 15 image(s) only: a few hundred give steadier thresholds"
