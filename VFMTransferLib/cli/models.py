"""`vfm-transfer models`: list, show, import, check, export-onnx, fetch, remove networks; `vfm-transfer doctor`: what
this machine has, and what would run where.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.terms import Sequence
from .shared import Commands, add_command, add_json, add_output, print_answer, print_json, progress_bar

if TYPE_CHECKING:
    from ..bundles.bundle import Bundle


def add_models(commands: Commands) -> None:
    parser = commands.add_parser("models", help="List, show, import, export, fetch and remove networks")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    summary = "List the bundles on this machine, and what is wrong with broken ones"
    add_json(add_command(actions, "list", summary, run_list))

    parser = add_command(actions, "show", "Show the record of one bundle", run_show)
    parser.add_argument("bundle", metavar="NAME", help="name or folder of a bundle")
    add_json(parser)

    parser = add_command(actions, "import", "Make a bundle of the authors' own files, or copy a bundle", run_import)
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="checkpoint(s), or a bundle's zip or folder"
    )
    _add_importing(parser)
    parser.add_argument(
        "--keep-fusion-streams",
        action="store_true",
        help="keep the fusion file's own first blocks instead of those of the three sequence networks",
    )
    add_json(parser)

    parser = add_command(actions, "check", "Check a bundle's files against their checksums", run_check)
    parser.add_argument("bundle", metavar="NAME", help="name or folder of a bundle")

    summary = "Add the ONNX graph to a bundle, so that it runs without PyTorch; shipped ones have it"
    parser = add_command(actions, "export-onnx", summary, run_export)
    parser.add_argument("bundle", metavar="NAME", help="name or folder of a bundle")

    summary = "Fetch a bundle or a checkpoint by https, check it, and import it"
    parser = add_command(actions, "fetch", summary, run_fetch)
    parser.add_argument("url", metavar="URL", help="https address of a zip or a checkpoint")
    parser.add_argument("--sha256", required=True, metavar="HEX", help="checksum that the publisher states")
    parser.add_argument("--accept-license", action="store_true", help="accept the license that is shown")
    _add_importing(parser)

    parser = add_command(actions, "remove", "Delete one of your own bundles; shipped ones stay", run_remove)
    parser.add_argument("bundle", metavar="NAME", help="name of a bundle")


def _add_importing(parser: argparse.ArgumentParser) -> None:
    add_output(parser, "folder for the bundle (default: among your bundles)", required=False)
    parser.add_argument("--name", metavar="NAME", help="the bundle's name (default: of the folder, or of the network)")
    parser.add_argument(
        "--sequence",
        choices=[str(s) for s in Sequence],
        help="sequence of a ProViCNet file, if its name does not state it",
    )
    parser.add_argument("--no-onnx", action="store_true", help="leave the ONNX graph out")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it is there")


def run_list(args: argparse.Namespace) -> None:
    from ..bundles.catalog import broken_bundles, list_bundles, user_folder

    bundles, broken = list_bundles(), broken_bundles()
    rows = [_facts(bundle) for bundle in bundles]
    width = max([len(bundle.name) for bundle in bundles], default=0)
    lines = []
    for bundle in bundles:
        task, onnx = bundle.spec.task or "encoder", "" if bundle.onnx_path.is_file() else "  (no ONNX graph)"
        lines.append(f"{bundle.name:<{width}}  {task:<21}  {bundle.arm or '-':<10}  {bundle.title}{onnx}")
    lines += [f"{folder.name}: broken. {why}" for folder, why in broken.items()]
    lines.append(f"Your own bundles: {user_folder() or 'none, since no home folder is known'}")
    print_answer(args, {"bundles": rows, "broken": {str(folder): why for folder, why in broken.items()}}, lines)


def run_show(args: argparse.Namespace) -> None:
    from ..bundles.catalog import find_bundle

    bundle = find_bundle(args.bundle)
    if args.json or not bundle.card_path.is_file():
        print_json(_facts(bundle))
    else:
        print(bundle.card_path.read_text(encoding="utf-8"))
        print(f"Folder: {bundle.folder}")


def run_import(args: argparse.Namespace) -> None:
    from ..bundles.importing import import_files

    bundle = import_files(args.files, args.output, keep_fusion_streams=args.keep_fusion_streams, **_importing(args))
    print_answer(args, _facts(bundle), _new(bundle))


def run_check(args: argparse.Namespace) -> None:
    from ..bundles.bundle import verify
    from ..bundles.catalog import find_bundle

    bundle = find_bundle(args.bundle)
    verify(bundle)
    print(f"{bundle.name}: {', '.join(bundle.sha256)} are intact.")


def run_export(args: argparse.Namespace) -> None:
    from ..bundles.catalog import find_bundle, require_not_shipped
    from ..bundles.onnx_export import export_onnx

    bundle = find_bundle(args.bundle)
    require_not_shipped(bundle)
    print(export_onnx(bundle).onnx_path)


def run_fetch(args: argparse.Namespace) -> None:
    from ..bundles.fetching import fetch_bundle

    def accept(text: str) -> bool:
        print(text, file=sys.stderr)
        if args.accept_license or not sys.stdin.isatty():
            return bool(args.accept_license)
        return input("Accept this license? [y/N] ").strip().lower() in ("y", "yes")

    with progress_bar() as on_progress:
        bundle = fetch_bundle(
            args.url, args.sha256, args.output, accept_license=accept, on_progress=on_progress, **_importing(args)
        )
    print("\n".join(_new(bundle)))


def run_remove(args: argparse.Namespace) -> None:
    from ..bundles.catalog import remove_bundle

    print(f"Removed {remove_bundle(args.bundle)}")


def _importing(args: argparse.Namespace) -> dict[str, Any]:
    return {"export": not args.no_onnx, "name": args.name, "sequence": args.sequence, "overwrite": args.overwrite}


def _new(bundle: Bundle) -> list[str]:
    return [f"{bundle.name}: {bundle.title}, {bundle.spec.task or 'a start for fine-tuning'}", str(bundle.folder)]


def _facts(bundle: Bundle) -> dict[str, Any]:
    from ..bundles.metadata import vfm_transfer_block

    return {
        **vfm_transfer_block(bundle),
        "title": bundle.title,
        "version": bundle.version,
        "description": bundle.description,
        "folder": str(bundle.folder),
        "onnx": bundle.onnx_path.is_file(),
    }


def add_doctor(commands: Commands) -> None:
    summary = "Show what this machine has, what would run where, and why not"
    parser = add_command(commands, "doctor", summary, run_doctor)
    add_json(parser)


def run_doctor(args: argparse.Namespace) -> None:
    from ..inference import doctor

    report = doctor.inspect()
    lines = [doctor.describe(report)]
    print_answer(args, report, lines)
