"""Finding bundles by name: shipped ones, the user's, and pairs of arms."""

import pytest
from bundles import make_bundle

from VFMTransferLib.bundles import catalog
from VFMTransferLib.bundles.catalog import (
    broken_bundles,
    default_pair,
    find_bundle,
    is_own,
    list_bundles,
    remove_bundle,
    shipped_folder,
    user_folder,
)
from VFMTransferLib.bundles.metadata import METADATA
from VFMTransferLib.core.errors import AmbiguousInputError, BundleError
from VFMTransferLib.core.terms import Arm


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """An empty folder of shipped bundles and one of the user's."""
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    shipped.mkdir()
    own.mkdir()
    monkeypatch.setattr(catalog, "_SHIPPED", (shipped,))
    monkeypatch.setenv("VFM_TRANSFER_MODELS", str(own))
    return shipped, own


def test_shipped_bundles_come_first_each_group_by_name(folders):
    shipped, own = folders
    for folder in (own / "a", shipped / "z", shipped / "y"):
        make_bundle(folder)
    assert [bundle.name for bundle in list_bundles()] == ["y", "z", "a"]


def test_bundles_are_listed_by_task(folders):
    make_bundle(folders[1] / "c", "profound-classifier")
    make_bundle(folders[1] / "l", "profound-upernet-lesion")
    assert [bundle.name for bundle in list_bundles("lesion-segmentation")] == ["l"]


def test_a_broken_bundle_hides_no_other_and_has_the_reason(folders):
    make_bundle(folders[1] / "good")
    bad = make_bundle(folders[1] / "bad").folder
    (bad / METADATA).write_text("{", encoding="utf-8")
    assert [bundle.name for bundle in list_bundles()] == ["good"]
    assert list(broken_bundles()) == [bad]
    with pytest.raises(BundleError, match="JSON"):
        find_bundle("bad")


def test_what_is_being_written_is_not_listed(folders):
    make_bundle(folders[1] / ".b.part", name="b")
    assert list_bundles() == []


def test_a_bundle_is_found_by_its_name_and_by_its_folder(folders, tmp_path):
    bundle = make_bundle(folders[1] / "folder", name="its-name")
    elsewhere = make_bundle(tmp_path / "elsewhere")
    assert find_bundle("its-name") == bundle
    assert find_bundle(str(bundle.folder)) == bundle
    assert find_bundle(elsewhere.folder) == elsewhere


def test_an_unknown_name_lists_the_known_ones(folders):
    make_bundle(folders[0] / "gland")
    with pytest.raises(BundleError, match="Installed: gland"):
        find_bundle("glands")


def test_one_name_in_two_places_is_ambiguous(folders):
    for folder in folders:
        make_bundle(folder / "gland")
    with pytest.raises(AmbiguousInputError, match="Give the folder instead"):
        find_bundle("gland")


def test_one_folder_reached_twice_is_one_bundle(folders, monkeypatch):
    make_bundle(folders[0] / "gland")
    monkeypatch.setenv("VFM_TRANSFER_MODELS", str(folders[0]))
    assert len(list_bundles()) == 1


def test_the_default_pair_is_pretrained_then_scratch(folders):
    shipped, own = folders
    make_bundle(shipped / "gland-scratch", "profound-upernet-anatomy", arm=Arm.SCRATCH)
    make_bundle(shipped / "gland-pretrained", "profound-upernet-anatomy", arm=Arm.PRETRAINED)
    make_bundle(own / "mine", "profound-upernet-anatomy", arm=Arm.PRETRAINED)
    make_bundle(shipped / "other", "profound-unetr-anatomy", arm=Arm.PRETRAINED)
    pair = default_pair("anatomy-segmentation")
    assert [bundle.name for bundle in pair] == ["gland-pretrained", "gland-scratch"]


def test_without_a_pair_the_networks_that_there_are_are_named(folders):
    with pytest.raises(BundleError, match="Import one"):
        default_pair("super-resolution")
    make_bundle(folders[0] / "one", "profound-classifier", arm=Arm.PRETRAINED)
    with pytest.raises(BundleError, match="Choose from one"):
        default_pair("classification")


def test_only_the_users_own_bundles_are_removed(folders):
    shipped, own = folders
    make_bundle(shipped / "gland")
    bundle = make_bundle(own / "folder", name="mine")
    assert remove_bundle("mine") == bundle.folder
    assert not bundle.folder.exists()
    with pytest.raises(BundleError, match="Shipped ones stay"):
        remove_bundle("gland")
    assert (shipped / "gland").is_dir()


def test_a_name_of_one_bundle_and_anothers_folder_removes_neither(folders):
    make_bundle(folders[1] / "b", name="a")
    make_bundle(folders[1] / "x", name="b")
    with pytest.raises(AmbiguousInputError, match="'b', 'x'"):
        remove_bundle("b")
    remove_bundle("x")
    remove_bundle("b")
    assert not list(folders[1].iterdir())


@pytest.mark.parametrize("name", ["..", "../shipped", ".", ""])
def test_removing_never_leaves_the_users_folder(folders, name):
    make_bundle(folders[0] / "gland")
    with pytest.raises(BundleError):
        remove_bundle(name)
    assert list_bundles()


def test_removing_a_link_keeps_what_it_points_to(folders, tmp_path):
    bundle = make_bundle(tmp_path / "elsewhere")
    (folders[1] / "elsewhere").symlink_to(bundle.folder, target_is_directory=True)
    remove_bundle("elsewhere")
    assert bundle.weights_path.is_file()
    assert list_bundles() == []


def test_the_users_folder_is_the_platforms_unless_stated(monkeypatch, tmp_path):
    monkeypatch.delenv("VFM_TRANSFER_MODELS")
    monkeypatch.setattr(catalog.sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert user_folder() == tmp_path / "vfm-transfer" / "bundles"


def test_without_a_home_there_are_the_shipped_bundles_alone(folders, no_home):
    make_bundle(folders[0] / "gland")
    assert user_folder() is None
    assert [bundle.name for bundle in list_bundles()] == ["gland"]
    assert find_bundle("gland").name == "gland"
    assert not is_own(find_bundle("gland"))
    with pytest.raises(BundleError, match="none"):
        remove_bundle("gland")


def test_nothing_shipped_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setattr(catalog, "_SHIPPED", (tmp_path / "none",))
    assert shipped_folder() is None
    assert list_bundles() == []
