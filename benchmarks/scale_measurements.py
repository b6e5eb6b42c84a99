"""What `scale` rests on: seconds of this processor at published size, operations counted, sizes of files and networks.

Times are seconds of one thread of a processor (`time.process_time`), so that other programs do not lengthen them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.machine import cpu_name
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Volume
from VFMTransferLib.encoders import build_network, find_family, pretrained_families, published_models
from VFMTransferLib.encoders.base import NEIGHBORS, ModelSpec, family_of
from VFMTransferLib.encoders.pretext import PretextTask, View, pretext_task
from VFMTransferLib.encoders.profound.pretraining import MaskedAutoencoder
from VFMTransferLib.encoders.profound.spec import PROFOUND_ENCODER
from VFMTransferLib.io import read_case, write_volume
from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.tasks import TASKS, find_task, lesion_task
from VFMTransferLib.tasks.lesions import class_map
from VFMTransferLib.training.augmentation import Augmentation
from VFMTransferLib.training.loop import Run, Schedule
from VFMTransferLib.training.prepared import stored
from VFMTransferLib.training.samples import crop_samples, slice_samples

DECODER_WIDTH = 512  # as published
# A coarse phantom, quickly made, is brought to the voxels of a clinical T2w, and to those of its diffusion.
_COARSE_MM = (3.0, 3.0, 3.0)
_T2W_MM, _DIFFUSION_MM = (0.5, 0.5, 3.0), (2.0, 2.0, 3.0)
_FUSION = published_models()["provicnet-fusion"]
_TASKS_READ = 500
_DRAWN = 9  # samples of each kind


def measured() -> dict[str, Any]:
    """All of it; takes minutes of a processor and 6 GB of memory."""
    torch.set_num_threads(1)
    return {"machine": cpu_name(), "torch": torch.__version__, **samples_and_steps(), **counted()}


def samples_and_steps() -> dict[str, Any]:
    """What a training does, at published size.

    `seconds` of a processor; `prepared_bytes` of a case on disk, for views and slices; `two_threads`, how many times as
    fast two threads make views as one, by the clock.
    """
    case, gland, classes = _a_study()
    how = Augmentation()
    lesions = replace(PROFOUND_ENCODER, task="lesion-segmentation")
    with TemporaryDirectory() as name:
        files, views, slices = (Path(name) / kind for kind in ("files", "views", "slices"))
        files.mkdir()
        for sequence, volume in case.volumes.items():
            write_volume(volume, files / f"{sequence}.nii.gz")

        def view(number: int) -> Tensor:
            return stored(views, lesions, lambda: crop_samples(case, lesions)).view(_generator(number), how)[0]

        def slice_of(number: int) -> tuple[Tensor, Tensor, Tensor]:
            return stored(slices, _FUSION, lambda: slice_samples(case, _FUSION)).view(_generator(number), how)

        prepare_view, _ = _timed(lambda: stored(views, lesions, lambda: crop_samples(read_case(files), lesions)))
        prepare_slice, _ = _timed(
            lambda: stored(slices, _FUSION, lambda: slice_samples(read_case(files), _FUSION, gland, classes))
        )
        draw_view, image = _median(view)
        draw_slice, (windows, position, maps) = _median(slice_of)
        two_threads = _two_threads(view)
        sizes = {k: sum(f.stat().st_size for f in p.iterdir()) for k, p in (("view", views), ("slice", slices))}
    seconds = {
        "prepare_view": prepare_view,
        "prepare_slice": prepare_slice,
        "draw_view": draw_view,
        "draw_slice": draw_slice,
        "step_mae": _pretext_step(pretext_task("mae", lesions, decoder_width=DECODER_WIDTH), View(image)),
        "step_contrast": _pretext_step(
            pretext_task("contrastive", _FUSION, drop_path=0.0), View(windows, position, maps[0].long())
        ),
        "scheduled_task": _scheduled_task(),
    }
    return {"seconds": seconds, "prepared_bytes": sizes, "two_threads": two_threads}


def _generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def _two_threads(draw: Callable[[int], object]) -> float:
    """How many times as fast two threads draw as one, which is not to be had on a machine with other work."""
    took = []
    for threads in (1, 2):
        with ThreadPoolExecutor(threads) as pool:
            began = time.perf_counter()
            list(pool.map(draw, range(_DRAWN)))
            took.append(time.perf_counter() - began)
    return round(took[0] / took[1], 2)


def _a_study() -> tuple[Case, Volume, Volume]:
    """Three sequences of clinical size with their gland and classes."""
    phantom = make_phantom(0, t2w_spacing_mm=_COARSE_MM)
    volumes = {}
    for sequence, volume in phantom.case.volumes.items():
        spacing = _T2W_MM if sequence == Sequence.T2W else _DIFFUSION_MM
        volumes[sequence] = volume.resample_to(volume.geometry.with_spacing(spacing))
    return Case("study", volumes), phantom.gland, class_map(lesion_task().from_phantom(phantom), _FUSION.labels)


def counted() -> dict[str, Any]:
    """Operations forward of one sample, and parameters, of each network at published size; nothing is computed.

    The counter takes the gradient of a grouped convolution for that of a full one, 30 times too much for ProFound, so
    forward alone is counted.
    """
    with torch.device("meta"):
        autoencoder = MaskedAutoencoder(PROFOUND_ENCODER, DECODER_WIDTH)
        image, visible = torch.randn(1, 3, *PROFOUND_ENCODER.preprocess.patch), torch.ones(1, 1, 4, 14, 14)
        rows = {"mae": _row(autoencoder, lambda: autoencoder.loss(image, visible))}
    rows |= {f"{family} {task}": of_network(family, task) for family in pretrained_families() for task in TASKS}
    return {"forward_flop": {k: v[0] for k, v in rows.items()}, "parameters": {k: v[1] for k, v in rows.items()}}


def of_network(family: str, task: str) -> tuple[int, int]:
    """Operations and parameters of a task's network."""
    spec = find_family(family).network_for(find_task(task), "published")
    with torch.device("meta"):
        network, inputs = build_network(spec).eval().to("meta"), _inputs(spec)  # buffers too
        return _row(network, lambda: network(*inputs))


def _row(network: nn.Module, forward: Callable[[], object]) -> tuple[int, int]:
    with FlopCounterMode(display=False) as counter:
        forward()
    return counter.get_total_flops(), sum(parameter.numel() for parameter in network.parameters())


def _inputs(spec: ModelSpec) -> tuple[Tensor, ...]:
    """One sample: a volume, or a slice of each sequence and where it is."""
    if not spec.is_slice_based:
        return (torch.randn(1, len(spec.preprocess.sequences), *spec.preprocess.patch),)
    pixels = family_of(spec).image_px(spec)
    slices = (torch.randn(1, NEIGHBORS, pixels, pixels) for _ in spec.preprocess.images)
    return (*slices, torch.tensor([[3.0, 20.0]]))


def _pretext_step(pretext: PretextTask, view: View) -> float:
    generator = Generator().manual_seed(0)
    run = Run.start(pretext.build(), Schedule(2), pretext.loss)
    batch = (tensor[None] for tensor in pretext.sample(view, generator))
    return _timed(lambda: run.learn([(generator, *batch)], seed=0))[0]


def _scheduled_task() -> float:
    """Of scheduler, worker and client together, for a task that does nothing."""
    from distributed import Client

    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        client.submit(abs, -1).result()
        began = time.process_time()
        client.gather(client.map(abs, range(_TASKS_READ), pure=False))
        return round((time.process_time() - began) / _TASKS_READ, 5)


def _median(draw: Callable[[int], Any]) -> tuple[float, Any]:
    """Processor seconds of a sample, which differ by what is drawn, and the last one."""
    found = [_timed(lambda number=number: draw(number)) for number in range(_DRAWN)]
    return median(seconds for seconds, _ in found), found[-1][1]


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of `work`, and what it gives."""
    began = time.process_time()
    found = work()
    return round(time.process_time() - began, 3), found
