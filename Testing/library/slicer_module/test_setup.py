"""Setup on the panel, with stand-ins for Qt and for child processes: what is said, asked, done, and in which order."""

import errno
import json
import sys
from types import SimpleNamespace

import pytest
from doctor_reports import A4000, a_report
from panel_stand_ins import AComboBox, ATextEdit, AWidget, SomeParameters, clipboard, in_qt, settings  # noqa: F401
from qt_stand_ins import AnEventLoop

from VFMTransferSlicer.setup import install
from VFMTransferSlicer.setup import installer as installer_file
from VFMTransferSlicer.setup.install import (
    TorchInstaller,
    installAndExit,
    torchCommands,
    torchExtensionUnavailableReason,
)
from VFMTransferSlicer.setup.installer import Inspection, Installer
from VFMTransferSlicer.signals import Signal
from VFMTransferSlicer.workers.process import workerPython

READY, NOTHING = a_report(["onnxruntime"]), a_report([])
BOTH = a_report(["onnxruntime", "onnxruntime-gpu"])
LISTING = "numpy==2.4.6\npip==26.1\n"


class ALog(ATextEdit):
    __slots__ = ("plainText",)


class Children:
    """Child processes that end when they are told to, with what is put into `answers`."""

    def __init__(self) -> None:
        self.started: list[list[str]] = []
        self.pythons: list[str] = []
        self.waiting: list = []
        self.report = READY
        self.failing: tuple[str, ...] = ()

    def __call__(self, arguments, onLine, onDone, *, module="VFMTransferLib", python=""):  # noqa: N803  (as LibraryProcess)
        def start() -> None:
            self.started.append([module, *arguments])
            self.pythons.append(python or workerPython())
            self.waiting.append(lambda: self._end(arguments, onLine, onDone))

        return SimpleNamespace(start=start, cancel=lambda: None)

    def end_one(self) -> None:
        self.waiting.pop(0)()

    def end_all(self) -> None:
        while self.waiting:
            self.end_one()

    @property
    def pip_steps(self) -> list[str]:
        return [arguments[1] for arguments in self.started if arguments[0] == "pip"]

    def _end(self, arguments, on_line, on_done) -> None:
        if arguments[0] in self.failing:
            on_line("ERROR: No matching distribution found")
            on_done(1, "", ["ERROR: No matching distribution found"])
        else:
            output = {"doctor": json.dumps(self.report), "list": LISTING}.get(arguments[0], "")
            on_done(0, output, [])


class ALogic:
    """What the section uses of the logic."""

    def __init__(self) -> None:
        self.machine, self.isRunning, self.inspected = None, False, Signal()

    def setMachine(self, machine) -> None:  # noqa: N802
        self.machine = machine
        self.inspected.emit(machine)


@pytest.fixture
def ui():
    buttons = [f"setup{name}Button" for name in ("Install", "Check", "Repair", "Torch", "CopyReport")]
    names = (*buttons, "runInstallButton", "setupStatusLabel", "setupCollapsibleButton", "pythonPathLineEdit")
    ui = SimpleNamespace(
        **{name: AWidget() for name in names}, setupPackageComboBox=AComboBox(), setupLogTextEdit=ALog()
    )
    ui.setupCollapsibleButton.collapsed = True
    return ui


@pytest.fixture
def children():
    return Children()


@pytest.fixture
def answers():
    """What the user was asked, and the answer."""
    return SimpleNamespace(asked=[], yes=True)


@pytest.fixture
def later():
    """What was put off."""
    return []


@pytest.fixture
def logic():
    return ALogic()


@pytest.fixture
def closed(in_qt, ui, logic, children, answers, later, monkeypatch):  # noqa: F811
    """The section before the panel is first opened."""
    sys.modules["qt"].qVersion = lambda: "5.15.2"
    monkeypatch.setattr(Inspection.__init__, "__defaults__", (children,))
    monkeypatch.setattr(Installer.__init__, "__defaults__", (children, None))
    from VFMTransferSlicer.panel import setup

    worker = SimpleNamespace(is_busy=False, closed=0)
    worker.close = lambda: setattr(worker, "closed", worker.closed + 1)
    monkeypatch.setattr(setup, "theWorker", lambda: worker)

    def ask(question: str) -> bool:
        answers.asked.append(question)
        return answers.yes

    section = setup.SetupSection(ui, logic, lambda ms, slot: later.append(slot), ask)
    section.worker = worker
    return section


@pytest.fixture
def open_with(closed, children, later):
    """Opens the panel on a computer."""

    def open_with(report):
        children.report = report
        closed.setParameters(SomeParameters())
        later.pop(0)()
        children.end_all()
        return closed

    return open_with


def test_nothing_is_done_before_the_panel_is_opened_and_then_once(closed, children, later, ui):
    closed.setParameters(None)
    closed.update()
    assert not later
    assert not ui.setupInstallButton.enabled
    closed.setParameters(SomeParameters())
    closed.setParameters(None)
    closed.setParameters(SomeParameters())
    (look,) = later
    assert children.started == []
    look()
    assert children.started == [["VFMTransferLib", "doctor", "--json"]]
    assert ui.setupStatusLabel.text == "Looking at what is installed…"
    assert not ui.setupCheckButton.enabled


def test_where_all_is_well_the_box_stays_closed(open_with, ui, logic):
    section = open_with(READY)
    assert ui.setupCollapsibleButton.collapsed
    assert ui.setupStatusLabel.text.startswith("Ready: ONNX Runtime 1.32.0 on CPU.")
    assert logic.machine == READY == section.report
    assert section.unavailableReason() == ""
    assert not ui.setupRepairButton.enabled


def test_where_nothing_runs_the_box_opens_and_the_run_button_knows(open_with, ui):
    section = open_with(NOTHING)
    assert not ui.setupCollapsibleButton.collapsed
    assert section.unavailableReason() == "Setup: install ONNX Runtime."
    assert ui.setupInstallButton.enabled
    assert (ui.runInstallButton.visible, ui.runInstallButton.enabled) == (True, True)


def test_a_package_that_every_run_requires_is_named_where_a_runtime_is_there(open_with):
    without = a_report(["onnxruntime"])
    without["packages"]["jinja2"] = None
    assert open_with(without).unavailableReason() == "Setup: install jinja2."


def test_what_is_missing_is_installed_from_beside_the_run_button(open_with, ui, children):
    open_with(NOTHING)
    ui.setupCollapsibleButton.collapsed = True
    ui.runInstallButton.click()
    assert not ui.setupCollapsibleButton.collapsed
    children.report = READY
    children.end_all()
    assert children.pip_steps == ["list", "install"]
    assert not ui.runInstallButton.visible


def test_an_install_asks_closes_the_worker_is_tried_and_told(open_with, ui, children, answers, monkeypatch):
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)  # tests before this one may have it in use
    section = open_with(NOTHING)
    changes = []
    section.changed.connect(lambda: changes.append(section.isBusy))
    ui.setupInstallButton.click()
    assert "onnxruntime-openvino>=1.22" in answers.asked[0]
    assert section.worker.closed == 1
    assert section.unavailableReason() == "Setup: packages are being installed."
    assert not ui.setupInstallButton.enabled
    children.report = READY
    children.end_all()
    assert children.pip_steps == ["list", "install"]
    assert children.started[-1][1] == "doctor"
    assert ui.setupStatusLabel.text.startswith("Installed, and it works.\nReady")
    assert any(line.startswith("pip install") for line in ui.setupLogTextEdit.lines)
    assert changes == [True, False]
    assert section.unavailableReason() == ""


def test_who_says_no_changes_nothing(open_with, ui, children, answers):
    section = open_with(NOTHING)
    answers.yes = False
    ui.setupInstallButton.click()
    assert children.pip_steps == []
    assert section.worker.closed == 0


def test_what_is_installed_but_does_not_work_is_told_and_repaired(open_with, ui, children):
    open_with(NOTHING)
    ui.setupInstallButton.click()
    children.report = BOTH
    children.end_all()
    assert ui.setupStatusLabel.text.startswith("onnxruntime, onnxruntime-gpu overlap")
    children.report, children.failing = READY, ("uninstall",)
    ui.setupRepairButton.click()
    children.end_all()
    assert children.pip_steps == ["list", "install", "list", "install", "uninstall", "install", "install"]
    assert ui.setupStatusLabel.text.startswith("Installed, and it works.")


def test_a_run_of_the_console_is_waited_for(open_with, ui, children, answers):
    section = open_with(NOTHING)
    section.worker.is_busy = True
    ui.setupInstallButton.click()
    assert ui.setupStatusLabel.text.startswith("A run is in progress.")
    assert answers.asked == children.pip_steps == []


def test_a_failed_install_says_what_to_do(open_with, ui, children):
    section = open_with(NOTHING)
    children.failing = ("install",)
    ui.setupInstallButton.click()
    children.end_all()
    assert ui.setupStatusLabel.text.startswith("There is no ready-made package for this Python on this system.")
    assert section.unavailableReason() == "Setup: install ONNX Runtime."
    assert ui.setupInstallButton.enabled


def test_a_locked_folder_is_said_before_anybody_is_asked(open_with, ui, answers, children):
    report = a_report([])
    report["site_packages"]["writable"] = False
    open_with(report)
    ui.setupInstallButton.click()
    assert "cannot be written" in ui.setupStatusLabel.text
    assert answers.asked == children.pip_steps == []


def test_a_build_that_cannot_work_here_cannot_be_installed(open_with, ui):
    open_with(NOTHING)
    ui.setupPackageComboBox.choose("onnxruntime-gpu")
    assert not ui.setupInstallButton.enabled
    assert "NVIDIA" in ui.setupInstallButton.toolTip


def test_the_build_for_the_gpu_is_offered_where_there_is_one(open_with, ui, answers):
    open_with(a_report([], [A4000]))
    ui.setupInstallButton.click()
    assert "onnxruntime-gpu[cuda,cudnn]" in answers.asked[0]


def test_another_python_is_looked_at_once_its_path_is_whole(open_with, ui, children, later):
    open_with(READY)
    for path in ("/opt/p", "/opt/python"):
        ui.pythonPathLineEdit.slots["currentPathChanged(QString)"](path)
    later.pop(0)()
    assert len(children.started) == 1
    while later:
        later.pop(0)()
    assert len(children.started) == 2


def change_python(ui, path: str = "/opt/python") -> None:
    ui.pythonPathLineEdit.slots["currentPathChanged(QString)"](path)


def can_change_packages(ui) -> bool:
    buttons = (ui.setupInstallButton, ui.runInstallButton, ui.setupRepairButton, ui.setupTorchButton)
    return any(button.enabled for button in buttons)


def test_packages_stay_while_it_is_looked_at_what_they_are(open_with, ui, children):
    open_with(NOTHING)
    assert can_change_packages(ui)
    ui.setupCheckButton.click()
    assert not can_change_packages(ui)
    children.end_all()
    assert can_change_packages(ui)


def test_the_packages_of_another_python_stay_until_it_was_looked_at(open_with, ui, children, later):
    open_with(NOTHING)
    change_python(ui)
    assert not can_change_packages(ui)
    later.pop()()
    assert not can_change_packages(ui)
    children.end_all()
    assert can_change_packages(ui)


def test_what_was_found_in_the_former_python_does_not_stand_for_another_one(open_with, ui, children, logic):
    open_with(NOTHING)
    ui.setupCheckButton.click()
    change_python(ui)
    children.report = READY
    children.end_all()
    assert logic.machine == NOTHING
    assert not can_change_packages(ui)


def test_a_look_that_began_before_an_install_does_not_tell_how_it_ended(open_with, ui, children):
    section = open_with(NOTHING)
    section._ask = lambda question: section.inspect() or True
    ui.setupInstallButton.click()
    children.end_one()
    assert section.isBusy
    assert ui.setupStatusLabel.text == "Installing…"
    children.report = BOTH
    children.end_all()
    assert ui.setupStatusLabel.text.startswith("onnxruntime, onnxruntime-gpu overlap")


def test_an_install_ends_in_the_python_in_which_it_began(open_with, ui, children, settings):  # noqa: F811
    settings["VFMTransfer/Python"] = "/opt/python"
    open_with(a_report(["onnxruntime-openvino"]))
    ui.setupPackageComboBox.choose("onnxruntime")
    ui.setupInstallButton.click()
    children.end_one()
    settings["VFMTransfer/Python"] = "/opt/another"
    children.end_all()
    assert children.pip_steps == ["list", "install", "uninstall", "install"]
    assert children.pythons[1:] == ["/opt/python"] * 4 + ["/opt/another"]


def test_a_way_to_run_pip_is_kept_through_an_install(open_with, ui, children, monkeypatch):
    steps = []

    def slicers_pip(step, onLine, onEnd) -> None:  # noqa: N803  (as RunPip)
        steps.append(step[0])
        monkeypatch.setattr(installer_file, "slicersPip", lambda: None)  # as where another Python is chosen
        onEnd(0)

    open_with(a_report(["onnxruntime-openvino"]))
    monkeypatch.setattr(installer_file, "slicersPip", lambda: slicers_pip)
    ui.setupPackageComboBox.choose("onnxruntime")
    ui.setupInstallButton.click()
    children.end_all()
    assert steps == ["install", "uninstall", "install"]
    assert children.pip_steps == ["list"]


@pytest.mark.parametrize("name", ["TemporaryDirectory", "Path.write_text"])
def test_an_install_that_cannot_write_its_files_ends_with_the_reason(open_with, ui, children, monkeypatch, name):
    def fail(*arguments, **options) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    section = open_with(NOTHING)
    monkeypatch.setattr(f"VFMTransferSlicer.setup.installer.{name}", fail)
    ui.setupInstallButton.click()
    children.end_all()
    assert ui.setupStatusLabel.text.startswith("The install could not begin: [Errno 28] No space left on device")
    assert children.pip_steps == ["list"]
    assert not section.isBusy
    assert section.unavailableReason() == "Setup: install ONNX Runtime."
    assert ui.setupInstallButton.enabled


def test_an_install_ends_where_its_folder_cannot_be_removed(open_with, ui, children, monkeypatch, tmp_path):
    def fail(*arguments, **options) -> None:
        raise OSError(errno.EBUSY, "It is in use")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    section = open_with(NOTHING)
    ui.setupInstallButton.click()
    children.report = READY
    with monkeypatch.context() as patch:
        patch.setattr("os.rmdir", fail)
        children.end_all()
    assert ui.setupStatusLabel.text.startswith("Installed, and it works.")
    assert not section.isBusy


def test_another_python_can_be_chosen_before_an_install_and_once_it_was_tried(open_with, ui, children):
    open_with(NOTHING)
    assert ui.pythonPathLineEdit.enabled
    ui.setupInstallButton.click()
    while children.waiting:
        assert not ui.pythonPathLineEdit.enabled
        children.end_one()
    assert ui.pythonPathLineEdit.enabled


def test_a_python_that_cannot_look_at_itself_is_said(closed, children, ui, later):
    children.failing = ("doctor",)
    closed.setParameters(SomeParameters())
    later.pop(0)()
    children.end_all()
    assert ui.setupStatusLabel.text.startswith("Python could not be inspected")
    assert not ui.setupCollapsibleButton.collapsed
    assert ui.setupCheckButton.enabled


def test_what_was_found_in_the_former_python_is_forgotten(open_with, children, ui, later, logic):
    open_with(READY)
    children.failing = ("doctor",)
    ui.pythonPathLineEdit.slots["currentPathChanged(QString)"]("/no/python")
    later.pop()()
    children.end_all()
    assert logic.machine is None
    assert not ui.setupInstallButton.enabled


def test_the_report_goes_to_the_clipboard_without_folders(open_with, ui, clipboard):  # noqa: F811
    open_with(READY)
    ui.setupCopyReportButton.click()
    assert "Slicer 5.12" in clipboard.text
    assert "/home" not in clipboard.text
    assert ui.setupStatusLabel.text.startswith("The report is on the clipboard.")


def test_a_closed_panel_hears_of_nothing(open_with, ui, children):
    section = open_with(NOTHING)
    ui.setupInstallButton.click()
    section.close()
    children.end_all()
    assert ui.setupStatusLabel.text == "Installing…"
    assert children.pip_steps == ["list", "install"]  # what was begun goes on
    looks = len(children.started)
    section.inspect()
    assert len(children.started) == looks


def test_during_a_run_nothing_is_installed(open_with, ui, logic):
    section = open_with(READY)
    logic.isRunning = True
    section.update()
    assert not ui.setupInstallButton.enabled
    assert not ui.setupTorchButton.enabled


# ---- PyTorch


@pytest.fixture
def extension(monkeypatch):
    """Slicer with the PyTorch extension."""
    module = SimpleNamespace(path="/extensions/PyTorchUtils/PyTorchUtils.py")
    monkeypatch.setattr(install.slicer, "modules", SimpleNamespace(pytorchutils=module), raising=False)


@pytest.fixture
def no_extension(monkeypatch):
    monkeypatch.setattr(install.slicer, "modules", SimpleNamespace(), raising=False)


def test_without_its_extension_the_way_to_pytorch_is_said(no_extension, open_with, ui, answers):
    open_with(READY)
    ui.setupTorchButton.click()
    assert "Open the Extensions Manager, install PyTorch" in ui.setupStatusLabel.text
    assert answers.asked == []


def test_another_python_gets_pytorch_by_itself(in_qt, extension, settings):  # noqa: F811
    settings["VFMTransfer/Python"] = "/opt/python"
    assert "install PyTorch there" in torchExtensionUnavailableReason()


def test_the_extension_installs_in_a_second_slicer_and_what_lacks_follows(
    extension, open_with, ui, children, answers, monkeypatch
):
    commands = []
    monkeypatch.setattr(TorchInstaller, "start", lambda self, each: commands.extend(each))
    monkeypatch.setattr(TorchInstaller, "isRunning", property(lambda self: bool(commands)))
    monkeypatch.setattr(install.slicer.app, "launcherExecutableFilePath", "/Slicer", raising=False)
    section = open_with(READY)
    ui.setupTorchButton.click()
    ((application, *arguments),) = commands
    assert application == "/Slicer"
    assert "--no-main-window" in arguments
    assert "\n" not in "".join(arguments)
    assert section.isBusy
    commands.clear()
    section._torch._onEnd(0)
    children.end_all()
    assert children.pip_steps == ["list", "install"]
    assert children.started[-2][-2:] == ["safetensors", "onnx"]


def test_a_look_that_began_before_pytorch_and_fails_does_not_stop_what_follows(
    extension, open_with, ui, children, monkeypatch
):
    commands = []
    monkeypatch.setattr(TorchInstaller, "start", lambda self, each: commands.extend(each))
    monkeypatch.setattr(install.slicer.app, "launcherExecutableFilePath", "/Slicer", raising=False)
    section = open_with(READY)
    section._ask = lambda question: section.inspect() or True
    ui.setupTorchButton.click()
    assert len(commands) == 1
    children.failing = ("doctor",)
    children.end_one()
    section._torch._onEnd(0)
    assert children.started[-1] == ["pip", "list", "--format=freeze", "--disable-pip-version-check"]


def test_a_broken_pytorch_is_removed_before_the_extension_comes(extension, in_qt, monkeypatch):  # noqa: F811
    monkeypatch.setattr(install.slicer.app, "launcherExecutableFilePath", "/Slicer", raising=False)
    report = a_report(["onnxruntime"])
    assert [command[0] for command in torchCommands(report)] == ["/Slicer"]
    report["packages"]["torch"] = "2.12.0"
    remove, second = torchCommands(report)
    assert remove[1:] == ["-m", "pip", "uninstall", "--yes", "torch", "torchvision"]
    assert second[0] == "/Slicer"


def test_the_second_step_waits_for_the_first_and_a_failure_ends_it():
    loop, lines, ends = AnEventLoop(), [], []
    installer = TorchInstaller(lines.append, ends.append, loop.make_process)
    say = [sys.executable, "-c", "import sys; print(sys.argv[1]); sys.exit(int(sys.argv[2]))"]
    for codes, outcome in (((0, 0), ""), ((3, 0), "The PyTorch extension could not install it")):
        lines.clear(), ends.clear()
        installer.start([[*say, "one", str(codes[0])], [*say, "two", str(codes[1])]])
        assert installer.isRunning
        loop.turn_until(lambda: ends)
        assert ends[0].startswith(outcome)
        assert bool(ends[0]) == bool(outcome)
        assert lines == (["one", "two"] if not outcome else ["one"])


def test_an_extension_that_fails_is_said(extension, open_with, ui, children):
    section = open_with(READY)
    section._torch._onEnd(1)
    children.end_all()
    assert ui.setupStatusLabel.text.startswith("The PyTorch extension could not install it")
    assert children.pip_steps == []


@pytest.mark.parametrize(("error", "status"), [(None, 0), (TypeError("'NoneType' object is not iterable"), 1)])
def test_the_second_slicer_ends_whatever_the_extension_does(monkeypatch, capsys, error, status):
    def install_torch(self, torchVersionRequirement):  # noqa: N803  (the extension's name)
        assert torchVersionRequirement.startswith(">=2.6")
        if error:
            raise error

    monkeypatch.setitem(
        sys.modules,
        "PyTorchUtils",
        SimpleNamespace(PyTorchUtilsLogic=type("Logic", (), {"installTorch": install_torch})),
    )
    ends = []
    monkeypatch.setattr(install.slicer.util, "exit", ends.append, raising=False)
    installAndExit()
    assert ends == [status]
    assert ("NoneType" in capsys.readouterr().err) == bool(error)
