"""What an endorectal coil, metal, motion and a scanner's flaws do to the signal, of T2w and of diffusion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.volume import Geometry, Triple
from .canvas import Canvas, Lattice, smooth_field
from .conditions import Conditions, VendorProtocol
from .pelvis import Habitus, Rectum, implant_spheres
from .scanner import GYROMAGNETIC_MHZ_PER_T, EchoPlanar, distort

# Water's T1 and T2 at 1.5 T against 3 T: prostate 1317 / 1597 ms and 88 / 74 ms (de Bazelaire et al., Radiology 230:652
# (2004)); fat hardly changes.
WATER_T1_AT_1_5_T, WATER_T2_AT_1_5_T, FAT_T1_AT_1_5_T = 0.82, 1.15, 0.92
_WATER_FROM_T1_MS = 800.0
# Endorectal coil: gain against the array's at the balloon, the depth over which it falls, half its length.
_NEAR_GAIN, _DEPTH_MM, _COIL_HALF_MM, _COIL_BACK_MM = (6.0, 14.0), (9.0, 14.0), 36.0, 6.0
# Metal: susceptibility against tissue, hertz a pixel of T2w's readout, and the off-resonance at which excitation fails.
_METAL_PPM, _READOUT_HZ, _EXCITED_HZ, _EPI_HZ = (90.0, 240.0), 220.0, 1500.0, 900.0
_MAX_SHIFT_VOXELS = 12.0
_SHIM_MM = 45.0  # half the box that a scanner shims on
_SHOTS = (8, 24)
_GHOSTS = (2, 5)  # copies along the phase axis
_FAT_PPM = 3.5
_WEAKEST = (0.04, 0.2)  # signal that diffusion does not show any more, against the strong ones


@dataclass(frozen=True)
class Artifacts:
    """Effects of one phantom's conditions on its signal; `place` takes points of a grid to body coordinates."""

    conditions: Conditions
    lattice: Lattice
    rng: np.random.Generator
    rectum: Rectum
    habitus: Habitus
    protocol: VendorProtocol | None

    def full_scale(self, default: float) -> float:
        """Stored value of water at TE 0."""
        return default if self.protocol is None else float(self.rng.uniform(*self.protocol.full_scale))

    def set_field(self, canvas: Canvas) -> None:
        """Change the tissues' T1 and T2 to those of the field and of the vendor's refocusing train."""
        t1, t2 = canvas.maps[1], canvas.maps[2]
        if self.conditions.tesla < 3:
            water = t1 >= _WATER_FROM_T1_MS
            t2 *= np.where(water, np.float32(WATER_T2_AT_1_5_T), np.float32(1))
            t1 *= np.where(water, np.float32(WATER_T1_AT_1_5_T), np.float32(FAT_T1_AT_1_5_T))

    def water_t1_factor(self) -> float:
        """T1 of water against 3 T, by which fat saturation tells it from fat."""
        return WATER_T1_AT_1_5_T if self.conditions.tesla < 3 else 1.0

    def apparent_t2(self) -> float:
        """Factor of T2 that T2w's refocusing train shows."""
        return 1.0 if self.protocol is None else float(self.rng.uniform(*self.protocol.apparent_t2))

    def t2w(self, signal: np.ndarray, spacing_mm: Triple) -> np.ndarray:
        """The signal (D, H, W) of slices as it reaches the receiver, complex64, before noise; voxel along (z, y, x)."""
        signal = self._metal(signal)
        body = self._body(signal.shape)
        received = (signal * self._coil_gain(*body)).astype(np.complex64)
        if self.conditions.interleave:
            darker = 1 - self.conditions.interleave * self.rng.uniform(0.7, 1.3, len(received))
            darker[self.rng.integers(2) :: 2] = 1.0
            received *= darker[:, None, None].astype(np.float32)
        if self.conditions.motion_mm or self.conditions.ghosts:
            received = self._corrupted(received, spacing_mm)
        return received

    def _body(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Body coordinates x, y, z (D, H, W, broadcast) of slices that share the lattice's extent."""
        axes = []
        for axis, count in enumerate(shape):
            extent = self.lattice.shape[axis] * self.lattice.spacing_mm[axis]
            step = extent / count
            axes.append((self.lattice.center_mm[axis] + (np.arange(count) - (count - 1) / 2) * step).astype(np.float32))
        return axes[2][None, None, :], axes[1][None, :, None], axes[0][:, None, None]

    def _coil_gain(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Gain of array and endorectal coil, 1 far from it."""
        if not self.conditions.endorectal_coil:
            return np.ones((1, 1, 1), np.float32)
        near, depth = self.rng.uniform(*_NEAR_GAIN), self.rng.uniform(*_DEPTH_MM)
        distance = np.maximum(self.rectum.distance_of(x, y, z), 0)
        # The loop lies on the front of the balloon: hardly any gain behind it, or beyond its ends.
        middle = np.interp(z.ravel(), *self._course()).astype(np.float32)
        front = 1 / (1 + np.exp((y - middle.reshape(z.shape)) / np.float32(_COIL_BACK_MM)))
        along = np.exp(-((z / np.float32(_COIL_HALF_MM)) ** 4))
        return (1 + near * np.exp(-distance / depth) * front * along).astype(np.float32)

    def _course(self) -> tuple[list[float], list[float]]:
        """Heights of the rectum's joints, and its middle's y there."""
        points = [self.rectum.tubes[0].start, *(tube.end for tube in self.rectum.tubes)]
        return [point[2] for point in points], [point[1] for point in points]

    def metal_hz(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Off-resonance of the implants in Hz: each a row of spheres, whose field is that of a dipole along z."""
        ppm = self.rng.uniform(*_METAL_PPM)
        total = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), np.float32)
        for (cx, cy, cz), radius in implant_spheres(self.conditions.hip_implants, self.habitus):
            square = (x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2
            square = np.maximum(square, np.float32(radius**2))
            total += (radius**3 / 3) * (3 * (z - cz) ** 2 - square) / square**2.5
        return total * np.float32(ppm * GYROMAGNETIC_MHZ_PER_T * self.conditions.tesla)

    def _metal(self, signal: np.ndarray) -> np.ndarray:
        """T2w around metal: nothing is excited close by, and signal moves along the readout (columns) and piles up."""
        if not self.conditions.hip_implants:
            return signal
        x, y, z = self._body(signal.shape)
        hertz = self.metal_hz(x, y, z)
        excited = signal * np.exp(-((hertz / np.float32(_EXCITED_HZ)) ** 2))
        near = (np.abs(x) < _SHIM_MM) & (np.abs(y) < _SHIM_MM) & (np.abs(z) < _SHIM_MM)
        hertz = hertz - np.median(hertz[near])  # a scanner's frequency is that of the prostate
        shift = np.clip(hertz / np.float32(_READOUT_HZ), -_MAX_SHIFT_VOXELS, _MAX_SHIFT_VOXELS)
        return distort(excited, shift, 2)

    def _corrupted(self, received: np.ndarray, spacing_mm: Triple) -> np.ndarray:
        """Ghosts and motion along the phase axis: lines of k-space (D, H, W, axis 1) weighted, and moved by shots."""
        rows = received.shape[1]
        spectrum = np.fft.fft(received, axis=1)
        line = np.fft.fftfreq(rows)
        if self.conditions.ghosts:
            period, phase = int(self.rng.integers(*_GHOSTS)), self.rng.uniform(0, 2 * np.pi)
            wave = np.cos(2 * np.pi * np.arange(rows) / period + phase)
            spectrum *= (1 + 2 * self.conditions.ghosts * wave).astype(np.float32)[None, :, None]
        if self.conditions.motion_mm:
            shots = int(self.rng.integers(*_SHOTS))
            # The shots' lines interleave, so that a jump between two shots repeats all over k-space.
            walk = np.cumsum(self.rng.normal(0, 1, (2, shots)), axis=1)
            walk -= walk[:, :1]
            walk *= self.conditions.motion_mm / max(float(walk.std()), 1e-6)
            shot = np.arange(rows) % shots
            along, across = walk[:, shot] / np.array([[spacing_mm[1]], [spacing_mm[2]]])
            spectrum = np.fft.fft(spectrum, axis=2)
            column = np.fft.fftfreq(received.shape[2])
            # The image lies where its lines do on average, each weighted by how much a shift changes it; there its
            # labels and its diffusion are.
            power = (np.abs(spectrum) ** 2).sum(axis=0, dtype=np.float64)
            along -= np.average(along, weights=power.sum(axis=1) * line**2)
            across -= np.average(across, weights=power @ column**2)
            phases = line[:, None] * along[:, None] + column[None, :] * across[:, None]
            spectrum = np.fft.ifft(spectrum * np.exp(-2j * np.pi * phases).astype(np.complex64), axis=2)
        return np.fft.ifft(spectrum, axis=1).astype(np.complex64)

    def diffusion(
        self, pure: list[np.ndarray], fat: np.ndarray, fine: Geometry, grid: Geometry, protocol: EchoPlanar
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """The undistorted signals (D, H, W) of each b under the conditions, and the metal's off-resonance in Hz.

        Args:
            fat: Signal of unsaturated fat.
            fine: The lattice's grid.
        """
        x, y, z = self._diffusion_points(fine, grid)
        axis = 2 - protocol.phase_axis
        gain = self._coil_gain(x, y, z)
        metal_hz = self.metal_hz(x, y, z) if self.conditions.hip_implants else np.zeros(grid.shape, np.float32)
        if self.conditions.surroundings:
            front, back, side = self.rng.uniform(0.1, 0.7), self.rng.uniform(0.1, 0.7), self.rng.uniform(0.0, 0.4)
            shade = front * np.clip(-y / 95, 0, None) ** 2 + back * np.clip(y / 95, 0, None) ** 2 + side * (x / 95) ** 2
            gain = gain * np.exp(shade)
            missed = self._missed_fat(fat, protocol, axis)
            pure = [signal + missed for signal in pure]
        gain = (gain * np.exp(-((metal_hz / np.float32(_EPI_HZ)) ** 2))).astype(np.float32)
        metal_hz = _shimmed(metal_hz, x, y, z)
        pure = [signal * gain for signal in pure]
        if self.conditions.ghosts:  # of odd against even lines: half a field of view away
            half = grid.shape[axis] // 2
            pure = [s + np.float32(self.conditions.ghosts) * np.roll(s, half, axis=axis) for s in pure]
        return pure, metal_hz

    def _diffusion_points(self, fine: Geometry, grid: Geometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Body coordinates x, y, z (D, H, W) of the voxels of diffusion."""
        d, h, w = grid.shape
        k, j, i = np.meshgrid(np.arange(d), np.arange(h), np.arange(w), indexing="ij")
        index = fine.to_index(grid.to_world(np.stack([i, j, k], axis=-1).reshape(-1, 3)))
        points = []
        for axis in range(3):
            middle, step = self.lattice.center_mm[2 - axis], self.lattice.spacing_mm[2 - axis]
            points.append(middle + (index[:, axis] - (fine.size[axis] - 1) / 2) * step)
        x, y, z = (point.reshape(grid.shape).astype(np.float32) for point in points)
        return x, y, z

    def _missed_fat(self, fat: np.ndarray, protocol: EchoPlanar, axis: int) -> np.ndarray:
        """Signal of fat that saturation missed in some places, displaced as a whole by its chemical shift."""
        _, h, w = fat.shape
        rim = np.hypot(np.linspace(-1, 1, h)[:, None], np.linspace(-1, 1, w)[None, :]).astype(np.float32)
        field = smooth_field(Lattice(fat.shape, (3.0, 2.0, 2.0)), self.rng, 60.0)
        missed = np.clip(field * np.float32(0.5) + (rim - 0.95) * 2, 0, 1) * np.float32(self.rng.uniform(0, 0.35))
        hertz = _FAT_PPM * GYROMAGNETIC_MHZ_PER_T * self.conditions.tesla
        shift = -hertz * protocol.total_readout_s * protocol.sign
        return distort(fat * missed, np.full(fat.shape, shift, np.float32), axis)

    def weakest(self, signal: np.ndarray, default: float) -> float:
        """Signal below which diffusion shows nothing."""
        if not self.conditions.surroundings:
            return default
        strong = float(np.percentile(signal[signal > default], 90)) if (signal > default).any() else 0.0
        return max(default, float(self.rng.uniform(*_WEAKEST)) * strong)


def _shimmed(hertz: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """A field (D, H, W) in Hz less the constant and linear part that fits it best around the prostate."""
    inside = (np.abs(x) < _SHIM_MM) & (np.abs(y) < _SHIM_MM)
    terms = np.stack([np.ones_like(x), x, y, z], axis=-1)
    fitted, *_ = np.linalg.lstsq(terms[inside].astype(np.float64), hertz[inside].astype(np.float64), rcond=None)
    return (hertz - terms @ fitted).astype(np.float32)
