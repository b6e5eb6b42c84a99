import errno
import hashlib
import json
import os
import time

import pytest
from comparison_cases import a_case, anatomy_pair

from VFMTransferLib.core.errors import OutputError
from VFMTransferLib.core.result import Provenance, Result
from VFMTransferLib.evaluation.comparison import compare, save_comparison
from VFMTransferLib.io import output_folder
from VFMTransferLib.io.results import read_result_document, save_result

SOURCE = Provenance("fake", "A fake network", "scratch", "0" * 64, "onnx", "cpu", "fp32")


def names_in(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_results_appear_together_at_the_end(tmp_path):
    with output_folder(tmp_path / "deep" / "out") as work:
        (work / "result.json").write_text("{}", encoding="utf-8")
        assert not (tmp_path / "deep" / "out").exists()
    assert names_in(tmp_path / "deep") == ["out"]
    assert names_in(tmp_path / "deep" / "out") == ["result.json"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing_behind(tmp_path, failure):
    def write_half_and_fail():
        with output_folder(tmp_path / "out") as work:
            (work / "labels.nii.gz").write_bytes(b"half")
            raise failure

    with pytest.raises(failure):
        write_half_and_fail()
    assert names_in(tmp_path) == []


def save_earlier(mark, folder) -> None:
    """An output by which `mark` is known."""
    if mark == "result.json":
        save_result(Result("p001", "classification", SOURCE, class_probabilities={"PI-RADS 2": 1.0}), folder)
        return
    with output_folder(folder) as work:
        a, b = anatomy_pair()
        save_comparison(compare(a_case(), a, b), work)
        save_result(a, work / "a")
        save_result(b, work / "b")


@pytest.mark.parametrize("mark", ["result.json", "comparison.json"])
def test_an_earlier_output_is_replaced_whole(tmp_path, mark):
    save_earlier(mark, tmp_path / "out")
    with output_folder(tmp_path / "out") as work:
        (work / "new.nii.gz").write_bytes(b"new")
    assert names_in(tmp_path / "out") == ["new.nii.gz"]
    assert names_in(tmp_path) == ["out"]


@pytest.mark.parametrize("mark", ["result.json", "comparison.json"])
def test_what_another_program_wrote_is_no_earlier_output(tmp_path, mark):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / mark).write_text('{"mine": 1}', encoding="utf-8")
    with pytest.raises(OutputError, match="must be a new folder or an earlier output"), output_folder(tmp_path / "out"):
        pytest.fail("The block must not run.")
    assert names_in(tmp_path / "out") == [mark]


@pytest.fixture
def an_earlier_output(tmp_path):
    """Written an hour ago: a result with a label map."""
    save_result(anatomy_pair()[0], tmp_path / "out")
    hour_ago = time.time() - 3600
    for path in (tmp_path / "out").iterdir():
        os.utime(path, (hour_ago, hour_ago))
    return tmp_path / "out"


@pytest.mark.parametrize("age_s", [0, 3599, 7200])
@pytest.mark.parametrize("name", ["note.txt", ".note", "other/result.json", "network/labels.nii.gz"])
def test_what_was_added_to_an_earlier_output_is_never_lost(an_earlier_output, name, age_s):
    path = an_earlier_output / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"an hour of work")
    os.utime(path, (time.time() - age_s,) * 2)
    with (
        pytest.raises(OutputError, match=f"'{path.name}' in it was changed or added since"),
        output_folder(an_earlier_output),
    ):
        pytest.fail("The block must not run.")
    assert path.read_bytes() == b"an hour of work"


def test_what_was_changed_in_an_earlier_output_is_never_lost(an_earlier_output):
    path = an_earlier_output / "labels.nii.gz"
    path.write_bytes(b"an hour of work")
    os.utime(path, ((an_earlier_output / "result.json").stat().st_mtime + 1,) * 2)
    with pytest.raises(OutputError, match=r"'labels\.nii\.gz' in it was changed"), output_folder(an_earlier_output):
        pytest.fail("The block must not run.")
    assert path.read_bytes() == b"an hour of work"


@pytest.mark.parametrize("name", ["labels.nii.gz", "dicom/IM1.dcm"])
def test_what_is_older_than_an_output_but_not_of_it_is_never_lost(an_earlier_output, name):
    """As `cp -p`, rsync and unpacked archives leave their times."""
    path = an_earlier_output / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"an hour of work")
    os.utime(path, (0, 0))
    with pytest.raises(OutputError, match=f"'{path.name}' in it was changed"), output_folder(an_earlier_output):
        pytest.fail("The block must not run.")
    assert path.read_bytes() == b"an hour of work"


def test_what_was_written_after_a_result_into_its_output_is_of_it(tmp_path):
    for _ in range(2):  # the second time in place of the first
        with output_folder(tmp_path / "out") as work:
            save_earlier("result.json", work)
            (work / "dicom").mkdir()
            (work / "dicom" / "1.dcm").write_bytes(b"dicom")
        for path in (tmp_path / "out").rglob("*"):
            os.utime(path)  # an archive that was unpacked has other times
    document = json.loads((tmp_path / "out" / "result.json").read_text("utf-8"))
    assert document["sha256"] == {"dicom/1.dcm": hashlib.sha256(b"dicom").hexdigest()}
    assert read_result_document(tmp_path / "out").sha256 == document["sha256"]


def test_a_link_in_place_of_a_file_is_no_file_of_the_output(an_earlier_output):
    (an_earlier_output / "labels.nii.gz").unlink()
    (an_earlier_output / "labels.nii.gz").symlink_to("nowhere")
    with pytest.raises(OutputError, match=r"'labels\.nii\.gz' in it was changed"), output_folder(an_earlier_output):
        pytest.fail("The block must not run.")


@pytest.mark.parametrize("mark", ["result.json", "comparison.json"])
def test_outputs_of_versions_without_checksums_are_replaced_by_their_times(tmp_path, mark):
    out = tmp_path / "out"
    save_earlier(mark, out)
    for path in [*sorted(out.rglob("*.json")), out / mark]:
        document = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps({key: value for key, value in document.items() if key != "sha256"}), "utf-8")
    (out / "notes.txt").write_text("x")
    with pytest.raises(OutputError, match=r"'notes\.txt' in it was"), output_folder(out):
        pytest.fail("The block must not run.")
    (out / "notes.txt").unlink()
    with output_folder(out) as work:
        (work / "new.nii.gz").write_bytes(b"new")
    assert names_in(out) == ["new.nii.gz"]


def test_what_is_added_while_an_output_is_replaced_is_never_lost(an_earlier_output):
    def replace() -> None:
        with output_folder(an_earlier_output) as work:
            (work / "result.json").write_text("{}", encoding="utf-8")
            (an_earlier_output / "corrected.nii.gz").write_bytes(b"an hour of work")

    with pytest.raises(OutputError, match=r"'corrected\.nii\.gz' in it was .* is kept in 'out-1'\."):
        replace()
    assert (an_earlier_output / "corrected.nii.gz").read_bytes() == b"an hour of work"
    assert names_in(an_earlier_output.parent) == ["out", "out-1"]
    assert names_in(an_earlier_output.parent / "out-1") == ["result.json"]


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db"])
def test_what_a_file_browser_leaves_keeps_no_output(an_earlier_output, name):
    (an_earlier_output / name).write_bytes(b"icons")
    with output_folder(an_earlier_output) as work:
        (work / "result.json").write_text("{}", encoding="utf-8")
    assert names_in(an_earlier_output) == ["result.json"]


def test_a_link_to_a_folder_on_another_disk_stays(tmp_path):
    (tmp_path / "large-disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "large-disk")
    with output_folder(tmp_path / "out") as work:
        (work / "result.json").write_text("{}", encoding="utf-8")
    assert (tmp_path / "out").is_symlink()
    assert names_in(tmp_path / "large-disk") == ["result.json"]


def test_an_earlier_output_stays_when_the_new_one_fails(tmp_path):
    save_earlier("result.json", tmp_path / "out")
    with pytest.raises(RuntimeError), output_folder(tmp_path / "out"):
        raise RuntimeError
    assert names_in(tmp_path / "out") == ["result.json"]


def test_a_folder_of_something_else_is_never_touched(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").write_bytes(b"years of work")
    with (
        pytest.raises(OutputError, match="Output 'out' must be a new folder or an earlier output"),
        output_folder(tmp_path / "out"),
    ):
        pytest.fail("The block must not run.")
    assert names_in(tmp_path / "out") == ["thesis.docx"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "out").write_bytes(b"a file")
    with pytest.raises(OutputError, match="must be a new folder"), output_folder(tmp_path / "out"):
        pytest.fail("The block must not run.")


def test_a_parent_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"a file")
    with pytest.raises(OutputError), output_folder(tmp_path / "file" / "out"):
        pytest.fail("The block must not run.")


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    with output_folder(tmp_path / "out") as work:
        (work / "result.json").write_text("{}", encoding="utf-8")
    assert names_in(tmp_path / "out") == ["result.json"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "could not be written"), (errno.EACCES, "could not be written")],
)
def test_what_the_disk_refuses_is_said_in_words(tmp_path, number, text):
    with pytest.raises(OutputError, match=text), output_folder(tmp_path / "out") as work:
        raise OSError(number, "refused", str(work / "labels.nii.gz"))
    assert names_in(tmp_path) == []
