"""Networks that stay loaded: loaded once, let go when memory is short, loaded anew when their files changed."""

from dataclasses import dataclass, replace

from prediction_cases import a_bundle
from specs import MODELS

from VFMTransferLib.bundles.bundle import Bundle
from VFMTransferLib.inference.runtimes import LoadedNetworks

SPEC = MODELS["profound-upernet-anatomy"]
NETWORK_BYTES = 100


@dataclass
class Loaded:
    bundle: Bundle


def networks(limit: int) -> LoadedNetworks:
    """Networks of 100 bytes each, in a process that holds nothing else."""

    def held() -> int:
        return NETWORK_BYTES * len(kept.names)

    kept = LoadedNetworks(limit, held, lambda bundle, *options: Loaded(bundle))
    return kept


def test_a_network_is_loaded_once():
    kept = networks(1000)
    first = kept.open(a_bundle(SPEC, "a"))
    assert kept.open(a_bundle(SPEC, "a")) is first
    assert kept.loads == 1


def test_another_device_or_precision_is_another_network():
    kept = networks(1000)
    kept.open(a_bundle(SPEC, "a"))
    kept.open(a_bundle(SPEC, "a"), device="cpu")
    kept.open(a_bundle(SPEC, "a"), precision="fp16")
    assert kept.loads == 3


def test_changed_weights_are_loaded_anew():
    kept = networks(1000)
    bundle = a_bundle(SPEC, "a")
    kept.open(bundle)
    kept.open(replace(bundle, sha256={"models/model.safetensors": "1" * 64}))
    assert kept.loads == 2


def test_the_network_used_longest_ago_goes_first():
    kept = networks(250)
    for name in ("a", "b", "c"):
        kept.open(replace(a_bundle(SPEC, name), folder=a_bundle(SPEC).folder / name))
    kept.open(replace(a_bundle(SPEC, "a"), folder=a_bundle(SPEC).folder / "a"))
    assert kept.names == ("b", "c", "a")
    kept.make_room()
    assert kept.names == ("c", "a")


def test_memory_that_others_hold_lets_all_networks_go():
    kept = LoadedNetworks(10, lambda: 1000, lambda bundle, *options: Loaded(bundle))
    kept.open(a_bundle(SPEC, "a"))
    kept.make_room()
    assert kept.names == ()
