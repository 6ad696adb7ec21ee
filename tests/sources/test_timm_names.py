"""Names of timm models: what is suggested for wrong ones, and what is said where timm is missing or broken."""

import importlib.abc
import sys

import pytest

from pmsm_cli.errors import ModelFileError, SetupError
from pmsm_cli.sources.timm_names import check_timm, resolve_name


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SetupError) as caught:
        check_timm("timm:resnet50")
    assert str(caught.value) == (
        "timm:resnet50: needs timm, which is not installed\nhint: pip install 'pmsm-cli[timm]'"
    )


class Broken(importlib.abc.MetaPathFinder):
    """Fails as timm does where torchvision was built for another torch."""

    def find_spec(self, name, path, target=None):
        if name == "timm":
            raise RuntimeError("operator torchvision::nms does not exist")


def test_a_torchvision_of_another_torch_is_named_with_the_versions(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(SetupError) as caught:
        check_timm("timm:resnet50")
    first, *versions, reason, hint = str(caught.value).splitlines()
    assert first == "timm:resnet50: timm cannot be imported: torchvision has to fit torch"
    assert [line.split()[0].rstrip(":") for line in versions] == ["torch", "torchvision", "timm"]
    assert reason == "  RuntimeError: operator torchvision::nms does not exist"
    assert hint == "hint: pip install 'pmsm-cli[timm]' --upgrade torch torchvision"


def refusal(name: str) -> list[str]:
    pytest.importorskip("timm", reason="timm is not installed")
    with pytest.raises(ModelFileError) as caught:
        resolve_name(name)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("resnet5", "resnet50"),
        ("ResNet50", "resnet50"),
        ("vit_smal_patch16_224", "vit_small_patch16_224"),
        ("mobilenetv3_small", "mobilenetv3_small_050"),
    ],
)
def test_the_nearest_names_are_suggested(wrong, nearest):
    first, *names, hint = refusal(wrong)
    assert first == f"timm:{wrong}: timm has no model of this name"
    assert f"  {nearest}" in names
    assert hint == f"hint: did you mean timm:{nearest}?"


def test_where_no_name_is_near_it_is_said_how_to_list_all():
    first, hint = refusal("xyzzy")
    assert first == "timm:xyzzy: timm has no model of this name"
    assert hint == 'hint: python -c "import timm; print(timm.list_models())" lists all'


def test_no_name_at_all_is_refused():
    assert refusal("")[0] == "timm:: a model's name has to follow"


def test_a_wrong_tag_is_refused_with_the_tags_that_there_are():
    first, *names, hint = refusal("resnet50.a9_in1k")
    assert first == "timm:resnet50.a9_in1k: timm has no weights 'a9_in1k' for resnet50"
    assert "  resnet50.a1_in1k" in names
    assert hint.startswith("hint: did you mean timm:resnet50.")


@pytest.mark.parametrize("name", ["resnet50", "resnet50.a1_in1k", "test_vit"])
def test_a_right_name_stays_as_it_is(name):
    pytest.importorskip("timm", reason="timm is not installed")
    assert resolve_name(name) == name


def test_a_name_that_timm_has_changed_is_followed():
    zoo = pytest.importorskip("timm.models", reason="timm is not installed")
    old, new = next((old, new) for old, new in zoo.get_deprecated_models().items() if new and "." in new)
    assert resolve_name(old) == new
