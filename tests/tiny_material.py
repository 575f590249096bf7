"""Material for tests of the corpus: a bank of sines, and song folders of tones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RATE = 44100

FILES = {
    # path: (class, Hz, seconds); what is held out for real is held out here too
    "vocals/producerspace/shv_e_125/SHV_-_E_minor_-_125_BPM_-_Ah": ("vocals", 330.0, 0.9),
    "vocals/producerspace/shv_e_125/SHV_-_E_minor_-_125_BPM_-_Oh": ("vocals", 392.0, 1.4),
    "vocals/producerspace/shv_c_126/SHV_-_C_minor_-_126_BPM_-_Ah": ("vocals", 262.0, 1.0),
    "vocals/oatsu/song": ("vocals", 500.0, 10.0),
    "vocals/vocobox/note_A3": ("vocals", 220.0, 1.0),
    "speech/kathleen/one": ("speech", 200.0, 1.0),
    "speech/vctk_demo/one": ("speech", 210.0, 1.0),
    "drums/muldjordkit/KdrumL_01": ("drums", 60.0, 0.3),
    "drums/muldjordkit/KdrumL_04": ("drums", 60.0, 0.3),
    "drums/muldjordkit/Snare_01": ("drums", 190.0, 0.2),
    "drums/sonicpi/drum_snare_hard": ("drums", 200.0, 0.2),
    "bass/growlybass/a2_f_rr1": ("bass", 55.0, 1.0),
    "bass/growlybass/c3_f_rr1": ("bass", 65.41, 1.0),
    "bass/pastabass/e2_vl2_rr1": ("bass", 41.2, 1.0),
    "other/shinyguitar/a3_vl2_rr1_1": ("other", 220.0, 1.0),
    "other/emilyguitar/a3_f_rr1": ("other", 220.0, 1.0),
    "songs/nobody/vocals": ("vocals", 700.0, 1.0),
    "validation/never/vocals": ("vocals", 900.0, 1.0),
}


def tone(hertz: float, seconds: float, level: float = 0.5, channels: int = 2) -> np.ndarray:
    """A sine that dies away slowly, `[C, L]` float32."""
    time = np.arange(int(seconds * RATE)) / RATE
    wave = level * np.sin(2 * np.pi * hertz * time) * np.exp(-time / 2)
    return np.repeat(wave[None], channels, axis=0).astype(np.float32)


def make_bank(folder: Path) -> Path:
    """A bank folder with its table; every file is one sine."""
    rows = ["path\tclass\tsource\tauthor\tlicence\tnote\tseconds"]
    for name, (source, hertz, seconds) in FILES.items():
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tone(hertz, seconds, channels=1).T, RATE)
        rows.append(f"{name}.wav\t{source}\ttests\tA. Tester\tCC0-1.0\ta sine\t{seconds}")
    (folder / "LICENSES.tsv").write_text("\n".join(rows) + "\n")
    return folder


def make_song(
    folder: Path, stems: dict[str, float], seconds: float = 2.0, rate: int = RATE
) -> None:
    """A song folder with a file for each name, holding a sine of that frequency."""
    for name, hertz in stems.items():
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(int(seconds * rate)) / rate
        wave = 0.25 * np.sin(2 * np.pi * hertz * time)
        soundfile.write(path, np.stack([wave, wave], axis=1), rate, subtype="FLOAT")
