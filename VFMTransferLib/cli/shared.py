"""What commands share: options, progress on stderr, the answer as JSON, and one sentence for an error.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import OUT_OF_MEMORY, OutputError, PsaError, VFMTransferError, is_out_of_memory
from ..core.files import plain_text
from ..core.options import Options
from ..core.terms import OnProgress
from ..tasks import TASKS

if TYPE_CHECKING:
    from ..bundles.bundle import Bundle
    from ..core.case import Case

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def sentence(error: BaseException) -> str:
    """The one line on what happened and what to do."""
    if isinstance(error, VFMTransferError):
        text = str(error)
    elif is_out_of_memory(error):
        text = OUT_OF_MEMORY
    elif isinstance(error, ModuleNotFoundError) and error.name:
        text = _missing_package(error.name)
    elif isinstance(error, OSError):
        text = _file_system(error)
    elif isinstance(error, ValueError):
        text = str(error)
    else:
        text = (
            f"An unexpected error stopped the command ({_described(error)}). Run it again with --debug for the details."
        )
    return plain_text(" ".join(text.split()))


def _missing_package(name: str) -> str:
    package = name.partition(".")[0]
    extra = {
        "torch": "torch",
        "safetensors": "torch",
        "onnx": "torch",
        "monai": "train",
        "sklearn": "train",
        "lightning_fabric": "fabric",
        "distributed": "study",
        "yaml": "study",
        "highdicom": "dicom",
    }.get(package)
    target = f"vfm-transfer[{extra}]" if extra else "vfm-transfer"
    return f'This command needs the package {package}, which is not installed. Install it with: pip install "{target}"'


def _file_system(error: OSError) -> str:
    # The file's name alone: a folder's name may be a patient's.
    name = str(error.filename).replace("\\", "/").rpartition("/")[2] if error.filename else "A file"
    if error.errno in _DISK_FULL:
        return f"The disk is full: {name} could not be written. Free some space, or choose another folder with -o."
    return f"{name} cannot be used: {error.strerror or _described(error)}. Check its name and permissions."


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


@contextmanager
def progress_bar() -> Iterator[OnProgress]:
    """A bar that follows `on_progress(stage, fraction)`; it comes with the first call and goes when all is done."""
    if not sys.stderr.isatty():
        yield lambda stage, fraction: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    bar = progress.add_task("", total=1.0)

    def on_progress(stage: str, fraction: float) -> None:
        progress.update(bar, description=stage, completed=fraction)
        # Away when a stage ends all, so that a question can be asked; the next call brings it back.
        progress.stop() if fraction >= 1 else progress.start()

    try:
        yield on_progress
    finally:
        progress.stop()


@contextmanager
def progress_lines() -> Iterator[OnProgress]:
    """As `progress_bar`; where stderr is no terminal, a line for each call, for logs of long runs."""
    if sys.stderr.isatty():
        with progress_bar() as on_progress:
            yield on_progress
    else:
        yield lambda stage, fraction: print(f"{fraction:4.0%} {stage}", file=sys.stderr, flush=True)


Commands = argparse._SubParsersAction  # argparse gives the type of `add_subparsers` no public name


def add_command(
    commands: Commands, name: str, summary: str, run: Callable[[argparse.Namespace], None] | None, epilog: str = ""
) -> argparse.ArgumentParser:
    """The parser of a command that `run` does, with what every command has; without `run` it has actions."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary}.", epilog=epilog or None
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(parser=parser, run=run)
    return parser


def add_output(parser: argparse.ArgumentParser, what: str, required: bool = True) -> argparse.Action:
    return parser.add_argument("-o", "--output", type=Path, required=required, metavar="OUT", help=what)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the answer as JSON, for programs")


def add_images(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """The images of a case; returns their group."""
    group = parser.add_argument_group("images", "Each a NIfTI, NRRD or MHA file, or a folder of one DICOM series.")
    group.add_argument("--t2w", type=Path, metavar="F", help="axial T2-weighted image")
    group.add_argument("--hbv", type=Path, metavar="F", help="high-b-value diffusion image, or a series of b values")
    group.add_argument("--adc", type=Path, metavar="F", help="apparent diffusion coefficient")
    group.add_argument("--gland", type=Path, metavar="F", help="mask of the prostate, an image file")
    add_mixed_exams(group)
    return group


def add_mixed_exams(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--allow-mixed-exams",
        action="store_true",
        help="take DICOM images of different patients, studies or frames of reference together",
    )


def add_prediction(parser: argparse.ArgumentParser) -> None:
    """The images of a case, how a network is used on it, what runs the network and where."""
    group = add_images(parser)
    group.add_argument(
        "--roi", type=Path, metavar="F", help="center the input window on this mask and mark nothing outside it"
    )
    group.add_argument(
        "--dicom",
        action="store_true",
        help="for DICOM input, also write the results as DICOM: segmentation, structured report, derived images",
    )
    groups = {"images": group, **{name: parser.add_argument_group(name) for name in ("network", "running")}}
    for option in fields(Options):
        add_network_option(groups[option.metadata["group"]], option)


def add_network_option(parser: argparse._ActionsContainer, option: Field[Any]) -> None:
    """The flag of a field of `Options`."""
    about = option.metadata
    flag = "--" + (about["flag"] or option.name).replace("_", "-")
    if isinstance(option.default, bool):
        parser.add_argument(flag, dest=option.name, action="store_true", help=about["help"])
        return
    parser.add_argument(
        flag,
        dest=option.name,
        default=option.default,
        choices=about["choices"] or None,
        type=_argument(about["parse"]),
        metavar=about["unit"] or None,
        help=about["help"],
    )


def _argument(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A reader of a text as an option's type."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except (PsaError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def require_images(args: argparse.Namespace, *cases: Path | None) -> None:
    """Leave with wrong usage unless cases, or files of one, are named, and no network in place of a case."""
    named = [case for case in cases if case is not None]
    if not named and not (args.t2w or args.hbv or args.adc):
        args.parser.error("name a CASE folder, or the files with --t2w, --hbv and --adc")
    missing = [str(case) for case in named if not case.exists()]
    if missing:
        from ..bundles.catalog import list_bundles

        for name in sorted({bundle.name for bundle in list_bundles()}.intersection(missing)):
            how = f"; state it by --bundle {name}" if "bundles" in args else ""
            args.parser.error(f"'{name}' is the name of a network, not of a case{how}")


def given_case(args: argparse.Namespace, folder: Path | None, bundles: Iterable[Bundle] | None = None) -> Case:
    """The case of a folder, or of the files that were given by `add_prediction`; of bundles what they need."""
    from ..core.terms import Sequence
    from ..io import read_case_for

    if "output" in args:
        masks = (args.gland, vars(args).get("roi"), *map(Path, vars(args).get("references") or ()))
        require_output_outside(args.output, (folder, args.t2w, args.hbv, args.adc, *masks))
    needed = frozenset(Sequence)
    if bundles is not None:
        from ..inference.predict import needed_sequences

        needed = needed_sequences(bundles)
    named = {role: vars(args)[role] for role in ("t2w", "hbv", "adc", "gland")}
    case = read_case_for(needed, folder, **named, allow_mixed_exams=args.allow_mixed_exams)
    if vars(args).get("roi") is None:
        return case
    from ..io import read_mask

    return replace(case, roi=read_mask(args.roi, "region of interest"))


def require_output_outside(output: Path, inputs: Iterable[Path | None]) -> None:
    """OutputError where results would lie in a folder that is read, or replace what is read."""
    target = Path(os.path.realpath(output))
    for given in inputs:
        read = None if given is None or not given.exists() else Path(os.path.realpath(given))
        if read is not None and (read.is_relative_to(target) or (read.is_dir() and target.is_relative_to(read))):
            raise OutputError(
                f"Output '{output.name}' and '{read.name}', which is read, lie in one another. Choose another folder "
                "for the output."
            )


def predict_options(args: argparse.Namespace) -> Options:
    """The options of `add_prediction`."""
    return Options(**{option.name: vars(args)[option.name] for option in fields(Options)})


def add_task(parser: argparse.ArgumentParser, **more: Any) -> None:
    parser.add_argument("--task", choices=list(TASKS), metavar="TASK", **more)


def print_answer(args: argparse.Namespace, document: Mapping[str, Any], lines: Iterable[str]) -> None:
    """Print an answer: the document with `--json`, the lines without."""
    if args.json:
        print_json(document)
    else:
        print("\n".join(lines))


def print_json(answer: Any) -> None:
    print(json.dumps(answer, indent=2))  # in ASCII, which every code page of a pipe has
