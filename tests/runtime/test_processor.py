"""What a processor can, from what the system says of it."""

import pytest

from pmsm_cli.runtime import processor

INFO = "processor : 0\nmodel name\t: Some CPU @ 3 GHz\nflags\t\t: sse2 avx2 {}\n"


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Sets what the system says of its processor."""

    def tell(text: str, machine: str = "x86_64") -> None:
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(processor, "_INFO", tmp_path / "cpuinfo")
        monkeypatch.setattr(processor.platform, "machine", lambda: machine)
        processor.products_may_overflow.cache_clear()

    yield tell
    processor.products_may_overflow.cache_clear()


@pytest.mark.parametrize(
    ("flags", "machine", "overflow"),
    [
        ("avx512_vnni", "x86_64", False),
        ("avx_vnni", "AMD64", False),
        ("avx512f", "x86_64", True),
        ("", "aarch64", False),
    ],
)
def test_pairs_of_products_may_overflow_without_vnni(told, flags, machine, overflow):
    told(INFO.format(flags), machine)
    assert processor.products_may_overflow() is overflow


def test_where_nothing_is_said_no_vnni_is_taken_to_be_there(told):
    told("")
    assert processor.products_may_overflow()


def test_the_processor_has_its_name(told):
    told(INFO.format(""))
    assert processor.processor_name() == "Some CPU @ 3 GHz"
