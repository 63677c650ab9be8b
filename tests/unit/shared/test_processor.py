import pytest

from shared.processor import processor, session_entries


@pytest.fixture
def cpuinfo(tmp_path):
    def with_flags(flags: str):
        file = tmp_path / f"cpuinfo-{flags}"
        file.write_text(
            f"processor\t: 0\nmodel name\t: Abacus 9\nflags\t\t: {flags}\nprocessor\t: 1\nflags\t: fpu\n"
        )
        return file

    return with_flags


def test_the_processor_is_named_with_what_matters_to_8_bits(cpuinfo, tmp_path):
    assert processor(cpuinfo("fpu avx2 avx512_vnni")) == "Abacus 9 (AVX2, AVX-512 VNNI)"
    assert processor(tmp_path / "none")


@pytest.mark.parametrize("flags", ["avx2", "avx2 avx512f", ""])
def test_where_8_bit_sums_overflow_the_slower_way_that_is_right_is_taken(cpuinfo, flags):
    assert session_entries(cpuinfo(flags)) == {"session.x64quantprecision": "1"}


@pytest.mark.parametrize("flags", ["avx2 avx_vnni", "avx2 avx512f avx512_vnni amx_int8"])
def test_where_8_bit_sums_fit_the_quick_way_is_taken(cpuinfo, flags):
    assert session_entries(cpuinfo(flags)) == {}


def test_an_unknown_processor_is_taken_for_one_whose_sums_overflow(tmp_path):
    assert session_entries(tmp_path / "none") == {"session.x64quantprecision": "1"}
