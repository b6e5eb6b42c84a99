"""Image files that were made to do harm, or that state what cannot be: one sentence, at once, and little memory."""

import gzip
import os
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from image_files import an_odd_volume, encoded, meta_bytes, nifti_bytes, nrrd_bytes, quaternion_fields

from VFMTransferLib.core.errors import GeometryError, ImageError
from VFMTransferLib.core.files import open_regular, read_small
from VFMTransferLib.io import read_volume

SENTENCE = r"'[^']+' must [^\n]+, but [^\n]+\. [A-Z][^\n]+\."
PATIENCE_S = 2.0
VOLUME = an_odd_volume()


@pytest.fixture
def refuse(tmp_path):
    """Write a file, and require that reading it raises one sentence, at once."""

    def _refuse(name: str, content: bytes, words: str, kind: type[Exception] = ImageError) -> None:
        (tmp_path / name).write_bytes(content)
        begin = time.monotonic()
        with pytest.raises(kind, match=words or "must") as caught:
            read_volume(tmp_path / name)
        assert time.monotonic() - begin < PATIENCE_S
        assert re.fullmatch(SENTENCE, str(caught.value)), caught.value
        assert str(tmp_path) not in str(caught.value)

    return _refuse


# Sizes


@pytest.mark.parametrize("dims", ["-1", "0", "1000000", "1e30", "99999999999999999999999", "nan", "", "3 3", "%n%n%n"])
def test_a_metaimage_of_impossible_dimensions(refuse, dims):
    refuse("t2w.mha", meta_bytes(VOLUME, NDims=dims), "")


@pytest.mark.parametrize("data", ["%n%n%n%n 1 14 1", "LIST", "%s.raw 1 5 1", "", "..", ".", "a\0b", "x" * 300])
def test_a_metaimage_whose_voxels_lie_in_a_pattern_or_a_list(refuse, data):
    refuse("t2w.mhd", meta_bytes(VOLUME, ElementDataFile=data), "")


@pytest.mark.parametrize("field", ["space", "encoding", "type", "sizes", "kinds", "space_directions", "endian"])
def test_an_nrrd_with_values_of_thousands_of_characters(refuse, field):
    value = "vector " * 3000 if field == "kinds" else "7" * 9000
    line = re.compile(rb"^" + field.replace("_", " ").encode() + rb": .*$", re.MULTILINE)
    refuse("t2w.nrrd", line.sub(f"{field.replace('_', ' ')}: {value}".encode(), nrrd_bytes(VOLUME)), "")


def test_a_small_file_that_asks_for_much_memory_is_refused_without_taking_it(tmp_path):
    content = nrrd_bytes(VOLUME, "gzip", sizes="1500 1500 400")
    (tmp_path / "t2w.nrrd").write_bytes(content)
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(nifti_bytes(VOLUME) + bytes(300 << 20), 1))
    (tmp_path / "bomb.mha").write_bytes(meta_bytes(VOLUME, compressed=True, DimSize="1000 1000 1000"))
    (tmp_path / "sizes.mha").write_bytes(meta_bytes(VOLUME, compressed=True, DimSize="16000 16000 16000"))
    program = (
        "import sys, resource\n"
        "from VFMTransferLib.io import read_volume\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        read_volume(path)\n"
        "        print('accepted')\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)\n"
    )
    names = [str(tmp_path / name) for name in ("t2w.nrrd", "bomb.nii.gz", "bomb.mha", "sizes.mha")]
    done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, check=True)
    *kinds, megabytes = done.stdout.split()
    assert kinds == ["ImageError"] * 4
    assert int(megabytes) < 60


def test_the_limit_of_memory_can_be_set(refuse, monkeypatch):
    monkeypatch.setenv("VFM_TRANSFER_MAX_IMAGE_MB", "0")
    refuse("t2w.nii", nifti_bytes(VOLUME), "must take at most 0 MB .* raise VFM_TRANSFER_MAX_IMAGE_MB")


@pytest.mark.parametrize("value", ["4 GB", "-1", "nan", "\u0663", "9" * 400])
def test_a_limit_that_is_no_number_is_refused(tmp_path, monkeypatch, value):
    (tmp_path / "t2w.nii").write_bytes(nifti_bytes(VOLUME))
    monkeypatch.setenv("VFM_TRANSFER_MAX_IMAGE_MB", value)
    with pytest.raises(ImageError, match=r"VFM_TRANSFER_MAX_IMAGE_MB must be a whole number of megabytes, e.g. 4096"):
        read_volume(tmp_path / "t2w.nii")


def test_a_folder_in_place_of_an_image_is_not_called_missing(tmp_path):
    with pytest.raises(ImageError, match="must be an image file, but is none"):
        read_volume(tmp_path)


@pytest.mark.parametrize("lost", [1, 100, 1600])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t2w.nii", nifti_bytes(VOLUME)),
        ("t2w.nrrd", nrrd_bytes(VOLUME)),
        ("gz.nrrd", nrrd_bytes(VOLUME, "gzip")),
        ("hex.nrrd", nrrd_bytes(VOLUME, "hex")),
        ("t2w.mha", meta_bytes(VOLUME)),
        ("z.mha", meta_bytes(VOLUME, compressed=True)),
        ("a.mha", meta_bytes(VOLUME, binary=False)),
        ("t2w.nii.gz", gzip.compress(nifti_bytes(VOLUME))),
    ],
)
def test_voxels_that_end_early(refuse, name, content, lost):
    lost = max(min(lost, len(content) // 2), 9 if name == "a.mha" else 1)  # the last of its digits may go unnoticed
    refuse(name, content[:-lost], "must be a whole file, but is truncated or damaged" if lost < 700 else "must")


@pytest.mark.parametrize("name", ["t2w.nii.gz", "t2w.nrrd"])
def test_gzip_with_any_byte_changed_is_refused_or_gives_the_same_voxels(tmp_path, name):
    whole = gzip.compress(nifti_bytes(VOLUME), mtime=0) if name.endswith("gz") else nrrd_bytes(VOLUME, "gzip")
    begin = 10 if name.endswith("gz") else whole.index(b"\n\n") + 12  # gzip's own header states a time and a system
    random = np.random.default_rng(0)
    for at in random.integers(begin, len(whole), 60):
        changed = bytearray(whole)
        changed[at] ^= int(random.integers(1, 256))
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(ImageError):
            read_volume(tmp_path / name)


def test_a_gzip_stream_of_many_empty_members_or_with_an_endless_name_costs_no_time(refuse):
    whole = gzip.compress(nifti_bytes(VOLUME))
    refuse("t2w.nii.gz", gzip.compress(b"") * 300_000 + whole, "truncated or damaged")
    refuse("t2w.nii.gz", whole + gzip.compress(b"") * 300_000, "truncated or damaged")
    refuse("t2w.nii.gz", whole[:3] + b"\x08" + whole[4:10] + b"n" * (64 << 20), "truncated or damaged")


def test_a_gzip_stream_of_several_members_is_read(tmp_path):
    whole = nifti_bytes(VOLUME)
    members = [gzip.compress(whole[at : at + 100]) for at in range(0, len(whole), 100)]  # as bgzip writes
    (tmp_path / "t2w.nii.gz").write_bytes(b"".join(members) + gzip.compress(b""))
    np.testing.assert_array_equal(read_volume(tmp_path / "t2w.nii.gz").array, VOLUME.array)


@pytest.mark.parametrize("number", ["99999", "-40000"])
def test_numbers_of_a_text_that_are_beyond_its_type(refuse, number):
    content = nrrd_bytes(VOLUME, "text")
    refuse("t2w.nrrd", content[: content.rindex(b" ") + 1] + number.encode(), "truncated or damaged")


def test_a_file_that_goes_on_long_after_its_voxels(refuse):
    refuse("t2w.nii", nifti_bytes(VOLUME) + bytes(2 << 20), "holds many more")
    refuse("t2w.nii.gz", gzip.compress(nifti_bytes(VOLUME) + bytes(2 << 20)), "holds many more")


# Files that are none


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.raw", "..\\secret.raw", "C:secret.raw", "sub/secret.raw"])
def test_voxels_are_read_only_beside_their_header(tmp_path, name):
    (tmp_path / "case" / "sub").mkdir(parents=True)
    for secret in (tmp_path / "secret.raw", tmp_path / "case" / "sub" / "secret.raw"):
        secret.write_bytes(encoded(VOLUME.array, "raw"))
    for header, content in (
        ("t2w.mhd", meta_bytes(VOLUME, ElementDataFile=name)),
        ("t2w.nhdr", nrrd_bytes(VOLUME, data_file=name)),
    ):
        (tmp_path / "case" / header).write_bytes(content)
        with pytest.raises(ImageError, match="must name one file of voxels in its own folder"):
            read_volume(tmp_path / "case" / header)


@pytest.mark.parametrize("kind", ["link", "folder", "none"] + ["pipe"] * hasattr(os, "mkfifo"))
def test_voxels_must_be_a_regular_file(tmp_path, kind):
    case = tmp_path / "case"
    case.mkdir()
    (tmp_path / "secret.raw").write_bytes(encoded(VOLUME.array, "raw"))
    if kind == "link":
        (case / "t2w.raw").symlink_to(tmp_path / "secret.raw")
    elif kind == "pipe":
        os.mkfifo(case / "t2w.raw")
    elif kind == "folder":
        (case / "t2w.raw").mkdir()
    (case / "t2w.mhd").write_bytes(meta_bytes(VOLUME, ElementDataFile="t2w.raw"))
    with pytest.raises(ImageError, match="no such file of its own there"):
        read_volume(case / "t2w.mhd")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes among its files.")
def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "t2w.nii")
    with pytest.raises(ImageError, match="must be an image file"):
        read_volume(tmp_path / "t2w.nii")
    with pytest.raises(OSError, match="no regular file"):
        open_regular(tmp_path / "t2w.nii")
    (tmp_path / "zero.nii").symlink_to("/dev/zero")
    with pytest.raises(ImageError, match="must be an image file"):
        read_volume(tmp_path / "zero.nii")


def test_a_small_file_is_read_up_to_its_limit(tmp_path):
    (tmp_path / "a.json").write_bytes(b"12345")
    assert read_small(tmp_path / "a.json", 5) == b"12345"
    with pytest.raises(ValueError, match=r"'a.json' must be at most 0 MB, but is larger"):
        read_small(tmp_path / "a.json", 4)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has file names that are no text")
def test_a_path_that_is_no_text_is_read(tmp_path):
    folder = os.fsencode(tmp_path) + b"/\xff\xfe"
    Path(os.fsdecode(folder)).mkdir()
    path = Path(os.fsdecode(folder + b"/t2w\xff.nii"))
    path.write_bytes(nifti_bytes(VOLUME))
    np.testing.assert_array_equal(read_volume(path).array, VOLUME.array)


# Geometry that is not stated is not made up


@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
def test_a_nifti_sform_that_is_not_finite(refuse, row, value):
    for column in range(4):
        affine = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ VOLUME.geometry.affine)[:3]
        affine[row, column] = value
        refuse("t2w.nii", nifti_bytes(VOLUME, srow=tuple(affine.ravel())), "infinite or huge", GeometryError)


@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38, 2.0])
def test_a_nifti_quaternion_that_is_none(refuse, value):
    fields = quaternion_fields(VOLUME) | {"sform_code": 0}
    fields["quatern"] = (value, *fields["quatern"][1:])
    refuse("t2w.nii", nifti_bytes(VOLUME, **fields), "quaternion", GeometryError)


def test_qform_and_sform_that_disagree(refuse, tmp_path):
    fields = quaternion_fields(VOLUME)
    q = fields["quatern"]
    fields["quatern"] = (*q[:3], q[3] + 0.2, *q[4:])
    (tmp_path / "near.nii").write_bytes(nifti_bytes(VOLUME, **fields))
    read_volume(tmp_path / "near.nii")  # rounding of other programs
    fields["quatern"] = (*q[:3], q[3] + 7, *q[4:])
    refuse("t2w.nii", nifti_bytes(VOLUME, **fields), "its qform and its sform lie 7.0 mm apart", GeometryError)


def test_pixdim_and_sform_that_disagree(refuse):
    refuse(
        "t2w.nii",
        nifti_bytes(VOLUME, pixdim=(1, 3.0, 3.5, 6.0, 0, 0, 0, 0)),
        "pixdim states 3 x 3.5 x 6 and its sform 3 x 3.5 x 5 mm",
        GeometryError,
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"space_directions": None}, "must state its space directions, but states none"),
        ({"space_directions": "none none none"}, "leaves out one of the first three"),
        ({"space_directions": "(1,0,0) (0,1,0)"}, "states 2 for 3 axes"),
        ({"space_directions": "(1,0,0) (0,1,0) (0,0,inf)"}, "finite numbers"),
        ({"space_directions": "(1,0,0) (0,1,0) (0,0,0)"}, "above 0"),
        ({"space": None}, "names no space"),
        ({"space": "scanner-xyz"}, "lies in 'scanner-xyz'"),
        ({"space": "3D-left-handed"}, "lies in '3d-left-handed'"),
        ({"space": None, "space_dimension": "3"}, "names no space"),
        ({"space_origin": None}, "must state its position"),
        ({"space_origin": "(nan,0,0)"}, "finite numbers"),
        ({"space_units": '"um" "um" "um"'}, "spacings in mm"),
        ({"space_units": "um um um"}, "spacings in mm"),
        ({"spacings": "9 9 9"}, "by space directions alone"),
        ({"space_directions": "(3,0,0) x (0,3,0) (0,0,3)"}, "for each axis, but has"),
        ({"space_origin": "0,0,0"}, "finite numbers"),
        ({"space_origin": "(1_0,0,0)"}, "finite numbers"),
    ],
)
def test_an_nrrd_that_does_not_state_its_grid(refuse, fields, words):
    refuse("t2w.nrrd", nrrd_bytes(VOLUME, **fields), words, GeometryError)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ElementSpacing": None}, "must state a spacing along each axis"),
        ({"ElementSpacing": "1 0 3"}, "spacing above 0"),
        ({"ElementSpacing": "1 1"}, "3 finite numbers"),
        ({"ElementSpacing": "1 1 -3"}, "spacing above 0"),
        ({"TransformMatrix": None}, "TransformMatrix"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 0 0"}, "above 0"),
        ({"TransformMatrix": "2 0 0 0 1 0 0 0 1"}, "length 1"),
        ({"TransformMatrix": "1 0 0 0.3 1 0 0 0 1"}, "perpendicular"),
        ({"Offset": None}, "position"),
        ({"Offset": "0 nan 0"}, "finite numbers"),
        ({"DistanceUnits": "cm"}, "has them in 'cm'"),
    ],
)
def test_a_metaimage_that_does_not_state_its_grid(refuse, fields, words):
    refuse("t2w.mha", meta_bytes(VOLUME, **fields), words, GeometryError)


def test_a_field_of_view_beyond_any_patient(refuse):
    fields = {"ElementSpacing": "40 40 40", "DimSize": "70 12 1"}
    refuse("t2w.mha", meta_bytes(VOLUME, **fields), "volume|field of view", GeometryError)
    refuse(
        "t2w.nrrd",
        nrrd_bytes(VOLUME, sizes="70 6 2", space_directions="(40,0,0) (0,40,0) (0,0,40)"),
        "field of view of at most 2500 mm, but has 2800 x 240 x 80",
        GeometryError,
    )


@pytest.mark.parametrize("value", [3e38, -1e12, 1e300])
def test_values_that_no_image_has(refuse, value):
    array = VOLUME.array.astype(np.float64)
    array[1, 2, 3] = value
    refuse("t2w.mha", meta_bytes(VOLUME.with_array(array)), "values as images do|finite values")


def test_values_that_differ_by_next_to_nothing(refuse):
    refuse("t2w.mha", meta_bytes(VOLUME.with_array((VOLUME.array * 1e-30).astype(np.float32))), "not all within 1e-08")


# Headers


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"vox_offset": np.nan}, "voxels begin at byte nan"),
        ({"vox_offset": 1e30}, "voxels begin at byte"),
        ({"vox_offset": 0}, "voxels begin at byte 0, where 352"),
        ({"vox_offset": -352}, "voxels begin"),
        ({"bitpix": 8}, "16 bits, and it states 8"),
        ({"datatype": 1}, "data type is 1"),
        ({"datatype": 1536, "bitpix": 128}, "data type is 1536"),
        ({"datatype": 128, "bitpix": 24}, "color"),
        ({"datatype": 32, "bitpix": 64}, "complex"),
        ({"dim": (3, 32767, 32767, 32767, 1, 1, 1, 1)}, "at most 16384 voxels along an axis"),
        ({"dim": (3, 16000, 16000, 16000, 1, 1, 1, 1)}, "at most 2048 MB of memory"),
        ({"dim": (7, 14, 12, 5, 2, 2, 2, 2)}, "is 7D"),
        ({"dim": (2, 14, 60, 1, 1, 1, 1, 1)}, "is 2D"),
        ({"scl_slope": np.inf}, "scale is inf"),
        ({"magic": b"ni1\0"}, "in an .img file"),
        ({"magic": b"\0\0\0\0"}, "no known type"),
    ],
)
def test_a_nifti_header_that_cannot_be(refuse, fields, words):
    refuse("t2w.nii", nifti_bytes(VOLUME, **fields), words)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"endian": None}, "byte order"),
        ({"type": "block"}, "its type is 'block'"),
        ({"sizes": "14 12"}, "3 dimensions and 2 sizes"),
        ({"sizes": "14 12 x"}, "must be whole numbers and is '14 12 x'"),
        ({"dimension": "2", "sizes": "14 60"}, "is 2D"),
        ({"byte_skip": "-2"}, "byte skip"),
        ({"line_skip": "99999999999"}, "line skip"),
        ({"kinds": "vector domain domain"}, "color, vectors"),
        ({"sizes": "14 12 5\nsizes: 14 12 5"}, "stated twice"),
    ],
)
def test_an_nrrd_header_that_cannot_be(refuse, fields, words):
    refuse("t2w.nrrd", nrrd_bytes(VOLUME, **fields), words)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ObjectType": "Mesh"}, "of type 'Mesh'"),
        ({"BinaryData": "maybe"}, "True or False"),
        ({"ElementType": "MET_STRING"}, "type is 'MET_STRING'"),
        ({"ElementNumberOfChannels": "-3"}, "-3 values a voxel"),
        ({"ElementNumberOfChannels": "3", "DimSize": "2 12 5"}, "color, vectors"),
        ({"ElementToIntensityFunctionSlope": "2"}, "to be scaled"),
        ({"DimSize": "14 -12 5"}, "14x-12x5"),
        ({"DimSize": None}, "lacks DimSize"),
        ({"b\xe9b\xe9": "1"}, "truncated"),
        ({"HeaderSize": "-7", "ElementDataFile": "t2w.mha"}, "HeaderSize"),
    ],
)
def test_a_metaimage_header_that_cannot_be(refuse, fields, words):
    refuse("t2w.mha", meta_bytes(VOLUME, **fields), words)


def test_headers_that_never_end(refuse):
    refuse("t2w.nrrd", b"NRRD0004\n" + b"# and so on\n" * (1 << 19), "truncated")
    refuse("t2w.mha", b"NDims = 3\n" + b"Comment" * (1 << 20), "truncated")


def test_random_bytes_with_a_known_beginning(tmp_path):
    random = np.random.default_rng(1)
    for start, name in (
        (struct.pack("<i", 348), "t2w.nii"),
        (b"\x1f\x8b\x08", "t2w.nii.gz"),
        (b"NRRD0005\n", "t2w.nrrd"),
        (b"NDims = 3\n", "t2w.mha"),
    ):
        for size in (1, 10, 400, 3000):
            (tmp_path / name).write_bytes(start + random.bytes(size))
            with pytest.raises(ImageError):
                read_volume(tmp_path / name)
