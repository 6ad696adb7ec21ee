"""Energy profiles: those of the package, the user's own, and those that cannot be used."""

import json
from pathlib import Path

import pytest

from pmsm_cli.energy.constants import MemoryLevel, NeuronPicojoule, Picojoule, RestPicojoule, SpikeSize
from pmsm_cli.energy.profile import bundled_profiles, open_profile
from pmsm_cli.errors import ProfileError

GOOD = "[picojoule]\nmac_fp32 = 1\naccumulate_fp32 = 0\nmac_int8 = 0.5\naccumulate_int8 = 2e-1\n"
MEMORY = '[[memory]]\nname = "near"\nsize = 1024\naccess = 1\n[[memory]]\nname = "far"\naccess = 100\n'
EVERYTHING = (
    'name = "chip"\ndescription = "mine"\nsource = "measured"\nassumptions = ["a", "b"]\nspike = "graded"\n'
    + GOOD
    + "graded_event = 3\n[rest]\ncompare = 1\nexponential = 2\ndivide = 3\nroot = 4\n"
    + "[neuron]\nactive = 5\nidle = 6\nspike = 7\n"
    + MEMORY
    + '[sources]\n"picojoule.graded_event" = "page 3"\n"memory.far" = "page 4"\n'
)


def written(folder: Path, text: str, name: str = "mine.toml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_papers_profile_holds_horowitz_s_numbers_and_nothing_else():
    assert bundled_profiles() == ["45nm", "45nm-memory", "loihi2"]
    profile = open_profile("45nm")
    assert profile.picojoule == Picojoule(mac_fp32=4.6, accumulate_fp32=0.9, mac_int8=0.23, accumulate_int8=0.03)
    assert (profile.spike, profile.rest, profile.neuron, profile.memory) == (SpikeSize.UNIT, None, None, ())
    assert "Horowitz" in profile.source


def test_the_memory_profile_states_its_sizes():
    profile = open_profile("45nm-memory")
    assert [(level.size, level.access) for level in profile.memory] == [
        (8192, 10),
        (32768, 20),
        (1048576, 100),
        (None, 1950),
    ]
    assert profile.rest is not None


def test_the_neuromorphic_profile_says_that_its_numbers_are_another_chip_s():
    profile = open_profile("loihi2")
    assert profile.spike is SpikeSize.GRADED
    assert profile.picojoule.graded_event == 23.6
    assert profile.neuron == NeuronPicojoule(active=81, idle=52, spike=1.7)
    assert "no energy per operation has been published for Loihi 2" in profile.assumptions[0]


@pytest.mark.parametrize("name", bundled_profiles())
def test_every_constant_of_a_bundled_profile_has_a_source_of_its_own(name: str):
    profile = open_profile(name)
    assert {constant.name for constant in profile.constants} == set(profile.sources)
    assert all(constant.source == profile.sources[constant.name] for constant in profile.constants)
    assert profile.description
    assert profile.assumptions


def test_a_profile_of_the_user_s_own_is_read(tmp_path: Path):
    profile = open_profile(written(tmp_path, 'description = "mine"\nassumptions = ["a", "b"]\n' + GOOD))
    assert (profile.name, profile.description, profile.source) == ("mine", "mine", "not stated")
    assert profile.assumptions == ("a", "b")
    assert profile.picojoule == Picojoule(mac_fp32=1, accumulate_fp32=0, mac_int8=0.5, accumulate_int8=0.2)
    assert {constant.source for constant in profile.constants} == {"not stated"}


def test_a_profile_may_say_everything(tmp_path: Path):
    profile = open_profile(written(tmp_path, EVERYTHING))
    assert (profile.name, profile.source, profile.spike) == ("chip", "measured", SpikeSize.GRADED)
    assert profile.picojoule.graded_event == 3
    assert profile.rest == RestPicojoule(compare=1, exponential=2, divide=3, root=4)
    assert profile.neuron == NeuronPicojoule(active=5, idle=6, spike=7)
    assert profile.memory == (
        MemoryLevel(name="near", size=1024, access=1),
        MemoryLevel(name="far", size=None, access=100),
    )
    sources = {constant.name: constant.source for constant in profile.constants}
    assert (sources["picojoule.graded_event"], sources["memory.far"]) == ("page 3", "page 4")
    assert sources["rest.root"] == "measured"


def test_json_says_what_toml_says(tmp_path: Path):
    import tomllib

    record = json.dumps(tomllib.loads(EVERYTHING))
    assert open_profile(written(tmp_path, record, "mine.json")) == open_profile(written(tmp_path, EVERYTHING))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("mac_int8 = 0.5\n", ""), "[picojoule] does not hold the constants needed\n  missing: mac_int8"),
        (GOOD + "extra = 1\n", "[picojoule] does not hold the constants needed\n  unknown: extra"),
        ('name = "empty"\n', "  missing: mac_int8"),
        ("picojoule = 3\n", "[picojoule] does not hold the constants needed"),
        (GOOD.replace("= 1\n", "= -1\n"), "mac_fp32 must be a number of pJ, 0 or from 1e-09 to 1e+12, not -1"),
        (GOOD.replace("= 1\n", "= nan\n"), "mac_fp32 must be a number of pJ, 0 or from 1e-09 to 1e+12, not nan"),
        (GOOD.replace("= 1\n", "= inf\n"), "mac_fp32 must be a number of pJ, 0 or from 1e-09 to 1e+12, not inf"),
        (GOOD.replace("= 1\n", "= 1e308\n"), "mac_fp32 must be a number of pJ, 0 or from 1e-09 to 1e+12, not 1e+308"),
        (GOOD.replace("= 1\n", "= true\n"), "mac_fp32 must be a number of pJ, 0 or from 1e-09 to 1e+12, not True"),
        (GOOD.replace("= 1\n", '= "1"\n'), "mac_fp32 must be a number of pJ, 0 or from 1e-09 to 1e+12, not '1'"),
        ('assumptions = "one line"\n' + GOOD, "assumptions must be a list of lines"),
        ("assumptions = [1]\n" + GOOD, "assumptions must be a list of lines"),
        ("name = 3\n" + GOOD, "name must be a text, not 3"),
        ("pico = 1\n" + GOOD, "holds what no profile has\n  unknown: pico\nhint: known are assumptions, description"),
        ('spike = "square"\n' + GOOD, 'spike must be "unit" or "graded", not \'square\''),
        ('spike = "graded"\n' + GOOD, "[picojoule] does not hold the constants needed\n  missing: graded_event"),
        (GOOD + "graded_event = 1\n", 'graded_event is for machines of graded spikes: add spike = "graded"'),
        (GOOD + "[rest]\ncompare = 1\n", "[rest] does not hold the constants needed\n  missing: divide"),
        (
            GOOD + "[neuron]\nactive = 1\nidle = 1\nspike = -1\n",
            "spike must be a number of pJ, 0 or from 1e-09 to 1e+12, not -1",
        ),
        ("memory = 3\n" + GOOD, "memory must be a list of levels, [[memory]] each"),
        (
            GOOD + MEMORY.replace("size = 1024\n", ""),
            "level 1 of its memory does not hold what it has to\n  missing: size",
        ),
        (GOOD + MEMORY + "size = 3\n", "level 2 of its memory does not hold what it has to\n  unknown: size"),
        (GOOD + MEMORY.replace("1024", "0"), "the size of near must be a number of bytes, more than the level before"),
        (GOOD + MEMORY.replace("1024", "1.5"), "not 1.5"),
        (
            GOOD + MEMORY.replace("100", "-100"),
            "access of far must be a number of pJ, 0 or from 1e-09 to 1e+12, not -100",
        ),
        (GOOD + '[sources]\nmac_fp32 = "p. 3"\n', "[sources] names constants that there are not\n  unknown: mac_fp32"),
        ("sources = [1]\n" + GOOD, "[sources] must hold a text for each constant that it names"),
        ("not toml", "is not TOML"),
    ],
)
def test_a_profile_that_cannot_be_used_is_refused(text: str, message: str, tmp_path: Path):
    path = written(tmp_path, text)
    with pytest.raises(ProfileError) as refused:
        open_profile(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert message in str(refused.value)


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[1]", "is no table of constants")])
def test_a_json_file_that_is_no_profile_is_refused(text: str, message: str, tmp_path: Path):
    with pytest.raises(ProfileError, match=message):
        open_profile(written(tmp_path, text, "mine.json"))


def test_a_profile_that_is_missing_or_unknown_is_refused(tmp_path: Path):
    with pytest.raises(ProfileError, match="cannot be read"):
        open_profile(str(tmp_path / "missing.toml"))
    known = "known: 45nm, 45nm-memory, loihi2, or a .toml or .json file"
    with pytest.raises(ProfileError, match=f"unknown energy profile '7nm'; {known}"):
        open_profile("7nm")


DOCUMENT = (Path(__file__).parents[2] / "docs" / "energy.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", bundled_profiles())
def test_the_documentation_holds_every_constant_of_every_profile(name: str):
    rows = [[cell.strip() for cell in line.split("|")] for line in DOCUMENT.splitlines()]
    table = {row[1]: row for row in rows if len(row) == 7 and row[1].partition(".")[2]}
    column = 2 + bundled_profiles().index(name)
    documented = {constant: float(row[column]) for constant, row in table.items() if row[column]}
    assert documented == {constant.name: constant.picojoule for constant in open_profile(name).constants}


def test_the_documentation_s_example_of_a_profile_can_be_used(tmp_path: Path):
    example = DOCUMENT.split("```toml\n")[1].split("```")[0]
    profile = open_profile(written(tmp_path, example))
    assert profile.picojoule.graded_event == 8
    assert [level.size for level in profile.memory] == [65536, None]
    assert profile.neuron is not None
    assert profile.rest is not None
