"""What training makes small. Spectra are real: `[B, S, C, T, F, 2]`, real and imaginary part."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from moises_light.config import SOURCES
from moises_light.model import MoisesLight
from moises_light.stft import stft

RESOLUTIONS = (4096, 2048, 1024, 512, 256)
"""FFT lengths of `mae_loss`; the hop is a quarter of each. Source: Moises-Light, sec. 4.2."""

FLOOR = 0.02
"""Share of the mixture's energy that an error may have before it counts, 17 dB below it."""


EDGES = (250.0, 800.0, 2000.0, 4000.0, 8000.0)
"""Where one band of the loss `bands` ends and the next begins, in Hz."""

HIGHS = 2000.0
"""Where the bands begin that `Objective` can have count more, in Hz."""

WHISPER = 1e-5
"""Share of the whole mixture's energy below which nothing counts in any band, 50 dB below it."""


SPECTRUM = ("sample_rate", "n_fft", "hop_size", "win_size", "audio_channels", "n_enc")
"""Fields of `Config` in which a teacher must not differ from who is taught."""


def loss_bands(n_bins: int, hz_per_bin: float, edges: Sequence[float] = EDGES) -> Tensor:
    """Which bins each band of the loss `bands` sums up: `[F, N]` of zeros and ones."""
    borders = torch.tensor([edge / hz_per_bin for edge in edges])
    band = torch.bucketize(torch.arange(n_bins, dtype=torch.float), borders, right=True)
    return nn.functional.one_hot(band, len(edges) + 1).float()


def band_energies(spectra: Tensor, bands: Tensor) -> Tensor:
    """Energy in each band: `[..., C, T, F, 2], [F, N] -> [..., N]`."""
    return spectra.square().sum((-4, -3, -1)) @ bands


def snr_loss(error: Tensor, target: Tensor, mixture: Tensor, floor: float = FLOOR) -> Tensor:
    """Negative signal-to-noise ratio in dB, softened, from energies.

        10 log10((error + floor * mixture) / (target + floor * mixture))

    The ratio weighs quiet and loud sources alike, and it has no basin at silence as mean absolute
    errors have (they are content with the median of sparse spectra, which is zero). The floor makes
    it defined for sources that are absent. It must not be low: at 0.001 a trace of an absent source
    costs more than anything that present ones can gain, and silence is what is learnt first.

    This is our choice; the floor follows MixIT (arXiv 2006.12701).

    Args:
        error: energy of the difference between estimate and target, by band: `[B, S, N]`.
        target: energy of the target, alike.
        mixture: energy of the mixture, `[B, 1, N]`.
        floor: share of the mixture's energy.

    Shape: `[B, S, N]`.
    """
    soft = floor * mixture + WHISPER * mixture.sum(-1, keepdim=True) + 1e-8
    return 10 * torch.log10((error + soft) / (target + soft))


def presence(target: Tensor, mixture: Tensor) -> Tensor:
    """One for sources within 20 dB of the mixture, less for quieter ones, zero for absent ones.

    From energies, as `snr_loss`.

    Shape: `[B, S, N]` from `[B, S, N]` and `[B, 1, N]`.
    """
    return (100 * target / (mixture + WHISPER * mixture.sum(-1, keepdim=True) + 1e-8)).clamp(max=1)


def mae_loss(estimate: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of complex spectra at several resolutions, and of the waveform.

    Shape: `[B, S]` from `[B, S, C, L]`.

    Source: Moises-Light, sec. 4.2.
    """
    error = estimate - target
    total = error.abs().mean((2, 3))
    for n_fft in RESOLUTIONS:
        window = torch.hann_window(n_fft, device=error.device)
        spectrum = torch.stft(
            error.flatten(0, 2), n_fft, n_fft // 4, window=window, return_complex=True
        )
        parts = torch.view_as_real(spectrum).abs()
        total = total + parts.mean((1, 2, 3)).view(error.shape[:3]).mean(2)
    return total


def known_apart(mixture: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
    """Targets without NaN, and which sources are known apart only as a sum.

    Sources that are NaN in an example get, each, what they add up to: the mixture less the others.

    Shape:
        `[B, C, L], [B, S, C, L] -> [B, S, C, L]` and, true where a source was NaN, `[B, S]`.
    """
    together = sources[:, :, 0, 0].isnan()
    known = sources.nan_to_num()
    rest = mixture - known.sum(1)
    return known + together[..., None, None] * rest[:, None], together


def join(estimates: Tensor, together: Tensor) -> Tensor:
    """Estimates to compare with the targets of `known_apart`: summed where those are.

    Shape: `[B, S, ...]`, `[B, S] -> [B, S, ...]`.
    """
    # a small matrix for each example: a row of ones for the sum, one of the identity for the others
    alone = torch.diag_embed((~together).to(estimates))
    joint = (together[:, :, None] & together[:, None]).to(estimates)
    return torch.einsum("b s t, b t ... -> b s ...", alone + joint, estimates)


def narrow(audio: Tensor, widths: Tensor) -> Tensor:
    """Stereo whose sides are scaled: 0 is mono, 1 leaves them.

    Shape: `[B, S, C, ...], [B, S] -> [B, S, C, ...]`.
    """
    middle = audio.mean(2, keepdim=True)
    return middle + widths.reshape(*widths.shape, *[1] * (audio.ndim - 2)) * (audio - middle)


def narrowed(mixture: Tensor, sources: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
    """A mixture and its sources as narrow as `widths` says, see `TrainConfig.widths`.

    Sources that are NaN stay so; what they add up to is narrowed with whatever else is in the
    mixture.

    Shape: `[B, C, L], [B, S, C, L], [B, S + 1] -> [B, C, L], [B, S, C, L]`.
    """
    known = sources.nan_to_num()
    parts = torch.cat([known, (mixture - known.sum(1))[:, None]], dim=1)
    return narrow(parts, widths).sum(1), narrow(sources, widths[:, :-1])


class Objective(nn.Module):
    """Network and loss as one module, so that whatever wraps the training step wraps one call.

    Args:
        model: the network.
        loss: `snr`, over all frequencies; `bands`, half of it that and half the mean of the same
            ratio in each of six bands, so that highs count, where there is little energy; or `mae`.
        bf16: compute the masks in bfloat16; spectra and losses stay in float32.
        absent: weight of sources that are absent from an example (and a band), see `presence`; not
            for `mae`.
        highs: how many times the bands above 2 kHz of some sources count in `bands`: consonants
            and breath have little energy, and a network that learns without this may leave them
            out.
        highs_of: these sources.
        teacher: another network, whose estimates are targets, too; it is put in `eval` and learns
            nothing. Where its range of frequencies ends, the sources alone are the target.
        teaching: share of the loss that is counted against the teacher's estimates, see
            `corrected`.

    Most of what a smaller network's estimates lack no network of its kind could give, and to its
    gradient that part is noise. What a better network of the same kind gives, it can learn; so
    fewer examples teach it more. Source: Hinton et al. (arXiv 1503.02531), for pruned networks
    Muralidharan et al. (arXiv 2407.14679).

    Raises:
        ValueError: if the teacher hears another spectrum or does not separate every source.
    """

    bands: Tensor
    band_weights: Tensor

    def __init__(
        self,
        model: MoisesLight,
        loss: str,
        bf16: bool,
        absent: float = 1.0,
        highs: float = 1.0,
        highs_of: Collection[str] = ("vocals",),
        teacher: MoisesLight | None = None,
        teaching: float = 0.5,
    ):
        super().__init__()
        self.model = model
        self.loss = loss
        self.bf16 = bf16
        self.absent = absent
        c = model.config
        bands = loss_bands(c.freq_dim, c.sample_rate / c.n_fft)
        self.register_buffer("bands", bands, persistent=False)
        high = torch.tensor([0.0, *EDGES]) >= HIGHS
        chosen = torch.tensor([source in highs_of for source in model.sources])
        band_weights = torch.where(chosen[:, None] & high, highs, 1.0)
        self.register_buffer("band_weights", band_weights, persistent=False)
        self.teaching = teaching
        self.teacher = teacher
        if teacher is not None:
            _check_teacher(teacher, model)
            teacher.eval().requires_grad_(False)

    def forward(self, mixture: Tensor, sources: Tensor, widths: Tensor | None = None) -> Tensor:
        """Loss of every example and source. `[B, C, L], [B, S, C, L] -> [B, S]`.

        Sources that are NaN in an example are known by their sum alone, which is the mixture less
        the others. The loss of the sum of their estimates counts once: it is shared out evenly
        among them. Were it to count for each, what vocals take from the rest would cost three times
        what they lack, and the network would learn to keep them quiet. A network that does not
        separate all sources cannot tell that sum: their loss is zero there.

        With `widths` `[B, S + 1]`, see `TrainConfig.widths`, the network hears the example and is
        asked for its sources as if they had been recorded that narrow. The teacher hears the
        example as it is, and its estimates are narrowed: it may know more than the network can hear
        by itself, and it has not learnt to do without the sides.
        """
        wide = mixture
        if widths is not None:
            if sources.shape[1] == len(SOURCES):
                # where all are known, what is left is a codec's noise, which is as narrow as they
                apart = ~sources[:, :, 0, 0].isnan().any(1)
                rest = torch.where(apart, widths.amin(1), widths[:, -1])
                widths = torch.cat([widths[:, :-1], rest[:, None]], dim=1)
            mixture, sources = narrowed(mixture, sources, widths)
        sources, together = known_apart(mixture, sources)
        with torch.autocast(mixture.device.type, torch.bfloat16, enabled=self.bf16):
            if self.loss == "mae":
                estimate = self.model(mixture).float()
                return self.shared_out(mae_loss(join(estimate, together), sources), together)
            mixed = self.spectrum(mixture)
            estimate = self.model.estimate_masks(mixed) * mixed[:, None]
        target = self.spectrum(sources)
        losses = self.distance(join(estimate, together), target, mixed)
        losses = self.shared_out(losses, together)
        if self.teacher is None:
            return losses
        taught = self.taught(wide)
        if widths is not None:
            taught = narrow(taught, widths[:, :-1])
        n_bins = taught.shape[-2]
        taught = self.corrected(taught, target[..., :n_bins, :], mixed[..., :n_bins, :])
        from_teacher = self.distance(estimate[..., :n_bins, :], taught, mixed[..., :n_bins, :])
        return torch.lerp(losses, from_teacher, self.teaching)

    @staticmethod
    def corrected(taught: Tensor, target: Tensor, mixture: Tensor) -> Tensor:
        """Estimates of the teacher without what it makes up.

        A frequency at which a source has nothing throughout the example is not the teacher's to
        fill: highs above the wall of a recording, or a source that is absent.

        Shape: `[B, S, C, T, F, 2]` twice, `[B, C, T, F, 2] -> [B, S, C, T, F, 2]`.
        """
        wanted, heard = (x.square().sum((-4, -3, -1)) for x in (target, mixture[:, None]))
        nothing = wanted <= WHISPER * heard
        return torch.where(nothing[:, :, None, None, :, None], target, taught)

    def shared_out(self, losses: Tensor, together: Tensor) -> Tensor:
        """What sources that are known as a sum alone count: its loss in even parts. `[B, S]`."""
        if len(self.model.sources) < len(SOURCES):
            return torch.where(together, 0.0, losses)
        return losses / torch.where(together, together.sum(1, keepdim=True), 1)

    @torch.no_grad()
    def taught(self, mixture: Tensor) -> Tensor:
        """Spectra that the teacher gives for the network's sources. `[B, C, L] -> [B, S, ...]`."""
        assert self.teacher is not None
        n_bins = self.teacher.config.freq_dim
        mixed = self.spectrum(mixture, n_bins)
        with torch.autocast(mixture.device.type, torch.bfloat16, enabled=self.bf16):
            masks = self.teacher.estimate_masks(mixed)
        order = [self.teacher.sources.index(source) for source in self.model.sources]
        return (masks[:, order] * mixed[:, None])[..., : self.model.config.freq_dim, :]

    def distance(self, estimate: Tensor, target: Tensor, mixture: Tensor) -> Tensor:
        """Loss of spectra that are of the network's range or end below it.

        Shape: `[B, S, C, T, F, 2]` twice, `[B, C, T, F, 2] -> [B, S]`.
        """
        bands = self.bands[: target.shape[-2]]
        spectra = (estimate - target, target, mixture[:, None])
        error, wanted, heard = (band_energies(x, bands) for x in spectra)
        whole = self.weighted(*(x.sum(-1, keepdim=True) for x in (error, wanted, heard)))
        if self.loss == "snr":
            return whole
        return (whole + self.weighted(error, wanted, heard, self.band_weights)) / 2

    def weighted(
        self, error: Tensor, target: Tensor, mixture: Tensor, bands: Tensor | float = 1.0
    ) -> Tensor:
        """Mean over the bands, in which sources that are absent weigh less. `[B, S]`.

        Args:
            error, target, mixture: energies, see `snr_loss`.
            bands: weights of the sources' bands, `[S, N]`.
        """
        weight = self.absent + (1 - self.absent) * presence(target, mixture)
        return (bands * weight * snr_loss(error, target, mixture)).mean(-1)

    def spectrum(self, audio: Tensor, n_bins: int = 0) -> Tensor:
        """`[..., C, L] -> [..., C, T, F, 2]`: the part of the spectrum that the network masks.

        Its lowest `n_bins` where they are given.

        The loss needs no way back to the waveform: the transform is orthonormal, so energies here
        and there agree but for the overlap, and the most expensive layer of a step is saved.
        """
        c = self.model.config
        flat = audio.reshape(-1, *audio.shape[-2:])
        spectrum = stft(flat, self.model.window, c.hop_size)[..., : n_bins or c.freq_dim]
        return torch.view_as_real(spectrum).unflatten(0, audio.shape[:-2])


def _check_teacher(teacher: MoisesLight, model: MoisesLight) -> None:
    theirs, ours = teacher.config, model.config
    if odd := [f"{k}={theirs[k]} against {ours[k]}" for k in SPECTRUM if theirs[k] != ours[k]]:
        raise ValueError(f"the teacher hears {', '.join(odd)}; take one of the same spectrum")
    if unknown := [source for source in ours.sources if source not in theirs.sources]:
        raise ValueError(
            f"the teacher separates {', '.join(theirs.sources)} and cannot teach "
            f"{', '.join(unknown)}; take one that separates every source of the network"
        )
