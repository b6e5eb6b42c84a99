"""Which volumes of Slicer's real scenes are chosen as a study, by DICOM tags, names and how they lie."""

import numpy as np
import pytest
from slicer_scenes import a_scene, matrix_of, slicer

from VFMTransferLib.core.terms import Sequence
from VFMTransferSlicer.inputs.series import seriesOf
from VFMTransferSlicer.inputs.studies import findStudy

AXIAL = ((-1, 0, 0), (0, -1, 0), (0, 0, 1))
SAGITTAL = ((0, -1, 0), (0, 0, -1), (1, 0, 0))
CORONAL = ((-1, 0, 0), (0, 0, -1), (0, 1, 0))
KEYS = {
    "description": "0008,103E",
    "image_type": "0008,0008",
    "modality": "0008,0060",
    "sequence": "0018,0020",
    "echo": "0018,0081",
    "b": "0018,9087",
    "siemens_b": "0019,100C",
    "ge_b": "0043,1039",
    "sequence_name": "0018,0024",
}


@pytest.fixture
def scene():
    return a_scene()


class Tags:
    """Stands for Slicer's DICOM database: one instance a volume, with these tags."""

    def __init__(self):
        self.tags = {}

    def __call__(self, uid, tag):
        return self.tags[uid].get(tag, "")

    def add(self, node, *instances, **tags):
        uids = [f"1.2.{len(self.tags) + i}" for i in range(max(len(instances), 1))]
        for uid, own in zip(uids, instances or ({},), strict=True):
            self.tags[uid] = {KEYS[name]: value for name, value in ({"modality": "MR"} | tags | own).items()}
        node.SetAttribute("DICOM.instanceUIDs", " ".join(uids))
        return node


def add(
    scene, name, *, axes=AXIAL, spacing=(0.5, 0.5, 3.0), size=(4, 5, 3), kind="vtkMRMLScalarVolumeNode", study=None
):
    node = scene.AddNewNodeByClass(kind, name)
    slicer.util.updateVolumeFromArray(node, np.zeros(tuple(reversed(size)), np.int16))
    rows = [[axes[axis][row] * spacing[axis] for axis in range(3)] + [0] for row in range(3)]
    node.SetIJKToRASMatrix(matrix_of([*rows, [0, 0, 0, 1]]))
    if study is not None:
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        hierarchy.CreateItem(study, node)
    return node


def add_study(scene, name):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    return hierarchy.CreateStudyItem(hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), name), "Study")


def names_of(found):
    return tuple(None if node is None else node.GetName() for node in found.volumes.values())  # t2w, hbv, adc


SIEMENS = [
    "4: t2_tse_tra",
    "8: ep2d_diff_tra_DYNDISTCALC_BVAL",
    "7: ep2d_diff_tra_DYNDIST_ADC",
    "3: t2_tse_sag",
    "5: t2_tse_cor",
    "9: tfl_3d PD ref_tra_1.5x1.5_t3",
    "2: localizer",
]
GE = [
    "5: Ax T2 FRFSE",
    "9: Ax DWI b=1400",
    "901: Apparent Diffusion Coefficient (mm2/s)",
    "902: eADC",
    "903: Exponential Apparent Diffusion Coefficient",
    "8: Ax DWI b=50",
    "4: Ax T1 FSE",
]
PHILIPS = ["301: T2W_TSE_ax", "402: DWI_1500", "403: dADC", "401: DWI_800", "201: Survey_MST", "501: T1W_DCE"]


@pytest.mark.parametrize(
    "names",
    [
        SIEMENS,
        GE,
        PHILIPS,
        ["t2w", "hbv", "adc"],
        ["T2", "high-b", "ADC", "zones", "gland_taps", "lesion"],
        ["ProstateX-0001_t2w", "ProstateX-0001_hbv", "ProstateX-0001_adc"],
        ["t2_tse_tra_p2", "b1400", "ADC_1", "T1_vibe_dixon"],
        ["sT2W_TSE", "dwi b2000 trace", "ADCmap"],
        ["t2tsetra", "ep2d_diff_b50_500_800_1400_tra_CALC_BVAL", "ep2d_diff_b50_500_800_1400_tra_ADC"],
        ["tT2W_TSE_ax", "resolve_tra_b1000_TRACEW", "resolve_tra_ADC"],
        ["t2_spc_tra t2", "DWI high b", "adc headcoil"],
    ],
)
def test_names_of_all_vendors_tell_the_sequences(scene, names):
    for name in names:
        axes = SAGITTAL if "sag" in name else CORONAL if "cor" in name else AXIAL
        add(scene, name, axes=axes)
    assert names_of(findStudy(scene)) == tuple(names[:3])


@pytest.mark.parametrize(
    "name",
    [
        "T1 headcoil",
        "t2_map",
        "t2_star_gre",
        "T2 FLAIR",
        "eADC",
        "b0",
        "dwi_b50",
        "prostate mask t2",
        "T2w ADC (from scratch, synthetic)",
        "t2w-super-resolved",
        "hbv-corrected",
        "CT",
        "probability csPCa t2w",
    ],
)
def test_what_is_no_sequence_is_not_chosen(scene, name):
    add(scene, name)
    found = findStudy(scene)
    assert found.isEmpty
    assert found.sentences


def test_tags_outweigh_names(scene):
    tags = Tags()
    tags.add(add(scene, "one"), description="t2_tse_tra", sequence="SE", echo="101")
    tags.add(add(scene, "two"), description="weird", image_type="ORIGINAL\\PRIMARY\\DIFFUSION\\NONE", siemens_b="1400")
    tags.add(add(scene, "three"), description="weird", image_type="DERIVED\\PRIMARY\\DIFFUSION\\ADC\\DIS2D")
    tags.add(add(scene, "four"), description="t2 like", sequence="SE", echo="12")
    assert names_of(findStudy(scene, tags)) == ("one", "two", "three")


def test_the_axial_t2w_is_chosen_by_how_it_lies_and_the_reason_is_told(scene):
    for name, axes in (("T2 a", SAGITTAL), ("T2 b", AXIAL), ("T2 c", CORONAL)):
        add(scene, name, axes=axes)
    found = findStudy(scene)
    assert found.volumes[Sequence.T2W].GetName() == "T2 b"
    assert "T2w: 'T2 b' rather than 'T2 c', 'T2 a', since it is axial." in found.sentences


def test_a_measured_high_b_goes_before_a_calculated_one_and_that_before_a_low_one(scene):
    add(scene, "dwi b1000")
    calculated = add(scene, "dwi calc bval")
    assert findStudy(scene).volumes[Sequence.HBV] is calculated
    measured = add(scene, "dwi b1500")
    assert findStudy(scene).volumes[Sequence.HBV] is measured


def test_a_series_that_mixes_b_values_is_not_taken_for_a_high_b_image(scene):
    tags = Tags()
    tags.add(add(scene, "t2w"), description="t2_tse_tra")
    tags.add(add(scene, "diff"), {"siemens_b": "50"}, {"siemens_b": "800"}, description="ep2d_diff")
    found = findStudy(scene, tags)
    assert found.volumes[Sequence.HBV] is None
    assert "'diff' mixes several b-values; load each as a volume of its own." in found.sentences
    assert "No high-b DWI and no ADC was recognized by DICOM tags or names." in found.sentences


def test_b_values_are_read_from_all_vendors_tags(scene):
    tags = Tags()
    stated = {"b": "1500", "siemens_b": "1400", "ge_b": "1000001400\\8\\0\\0", "sequence_name": "*ep_b1400t"}
    for name, text in stated.items():
        node = tags.add(add(scene, name), description="dwi", **{name: text})
        assert seriesOf(node, 0, tags).bValue == (1500 if name == "b" else 1400)


def test_the_adc_on_the_grid_of_the_high_b_image_is_chosen(scene):
    add(scene, "hbv", size=(6, 7, 8))
    add(scene, "adc", size=(6, 7, 8))
    add(scene, "adc again", size=(4, 7, 8))
    found = findStudy(scene)
    assert found.volumes[Sequence.ADC].GetName() == "adc"
    assert "ADC: 'adc' rather than 'adc again', since it lies on the grid of the high-b DWI." in found.sentences


def test_the_newest_study_is_chosen_and_nothing_of_another(scene):
    first, second = add_study(scene, "First"), add_study(scene, "Second")
    for name in ("t2w", "hbv", "adc"):
        add(scene, name, study=first)
    add(scene, "t2_tse_tra", study=second)
    found = findStudy(scene)
    assert names_of(found) == ("t2_tse_tra", None, None)
    assert "The scene holds 2 cases; this is the one that was loaded last." in found.sentences


def test_files_go_together_by_their_folder(scene, tmp_path):
    for folder in ("case1", "case2"):
        for name in ("t2w", "adc") if folder == "case2" else ("t2w", "hbv", "adc"):
            storage = scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
            storage.SetFileName(str(tmp_path / folder / f"{name}.nii.gz"))
            node = add(scene, f"{name} {folder}")
            node.SetAndObserveStorageNodeID(storage.GetID())
    assert names_of(findStudy(scene)) == ("t2w case2", None, "adc case2")


def test_an_empty_scene_is_told(scene):
    found = findStudy(scene)
    assert found.isEmpty
    assert found.sentences == ["No volume in the scene is a T2w, a high-b DWI or an ADC map by its tags or name."]
