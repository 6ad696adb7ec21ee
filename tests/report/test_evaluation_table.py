"""The table of an evaluation: which errors it shows where a network has several outputs."""

import pytest
from rich.console import Console

from pmsm_cli.report.tables import evaluation_table
from pmsm_cli.runtime.evaluate import Accuracy, Evaluation, OutputError


def shown(*errors: tuple[float, ...]) -> str:
    """The table of two timesteps, each output with its errors at either."""
    accuracy = Accuracy(top1=None, top5=None)
    outputs = tuple(OutputError(name=f"o{n}", relative_error=each[-1], per_step=each) for n, each in enumerate(errors))
    evaluation = Evaluation(
        images=3,
        timesteps=2,
        snn=accuracy,
        ann=accuracy if errors else None,
        agreement=None,
        agreement_per_step=None,
        expected_drop=None,
        outputs=outputs,
        skipped=(),
    )
    console = Console(width=160)
    with console.capture() as capture:
        console.print(evaluation_table(evaluation))
    return capture.get()


def test_of_a_few_outputs_each_has_a_column():
    text = shown((4.0, 2.0), (3.0, 1.0))
    assert all(
        each in text for each in ("output error: o0", "output error: o1", "4.00 %", "2.00 %", "3.00 %", "1.00 %")
    )


def test_of_one_output_the_column_needs_no_name():
    text = shown((4.0, 2.0))
    assert "output error" in text
    assert "o0" not in text


def test_of_many_outputs_there_is_their_mean():
    text = shown((1.0, 1.0), (2.0, 1.0), (3.0, 1.0), (6.0, 5.0))
    assert all(each in text for each in ("output error, mean of 4", "3.00 %", "2.00 %"))


@pytest.mark.parametrize("step", ["T = 1", "T = 2"])
def test_without_a_source_there_is_a_dash(step: str):
    (row,) = (line for line in shown().splitlines() if step in line)
    assert "%" not in row
