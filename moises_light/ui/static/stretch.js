// Slower, faster, in another key: WSOLA (Verhelst and Roelands 1993). Frames of 2 * HOP are read
// from the song and overlap by half; each goes on where the one before would have, as long as that
// is near its place, and else where the song sounds most like that:
//
//   song      |--- frame m ---|     read from place m, `pitch` samples of the song a sample
//                |--- frame m + 1 ---|     `speed * HOP` further, give or take SEEK
//   output    |--- frame m ---|
//                    |--- frame m + 1 ---|     HOP further
//
// One path of places serves all stems and both presets, so that they stay together. Knows nothing
// of players. `song` is a function: samples of the song from one place to another, and 0 beyond.
const HOP = 1323, SEEK = 1103;   // samples: 30 and 25 ms at 44.1 kHz, a period of the lowest E
const REACH = 6000;              // samples that a path may read beyond the piece it was made for
const COARSE = 4, TAPS = 16, PHASES = 512;

// Continue `before` (the path of the piece before, or null after a jump to `from`) by frames until
// `length` more samples of output are covered. `mono(from, to)` is what the frames are matched on.
function stretchPath(before, from, length, speed, pitch, mono) {
  const path = before
    ? {...before, start: before.start + before.length, places: before.places.slice(Math.floor((before.start + before.length) / HOP) - before.first)}
    : {from, start: 0, places: [from - pitch * HOP]};
  path.first = Math.floor(path.start / HOP);
  path.length = length;
  const last = Math.floor((path.start + length - 1) / HOP) + 1;
  for (let m = path.first + path.places.length; m <= last; m++) {
    const onward = path.places[path.places.length - 1] + pitch * HOP;
    const target = path.from + speed * HOP * m - pitch * HOP;
    const low = Math.max(target - SEEK, path.from), high = Math.max(target + SEEK, low);
    // the far half alone: what sounds most like it is always just inside, for a frame or two
    const middle = (low + high) / 2, [near, far] = onward > high ? [low, middle] : [middle, high];
    path.places.push(onward >= low && onward <= high ? onward : bestPlace(onward, near, far, Math.ceil(2 * pitch * HOP), mono));
  }
  return path;
}

// The place between `low` and `high`, whole samples from `onward`, that sounds most like `onward`.
function bestPlace(onward, low, high, width, mono) {
  const fraction = onward - Math.floor(onward), first = Math.ceil(low - fraction), last = Math.max(first, Math.floor(high - fraction));
  const thin = (x) => { const y = new Float32Array(Math.floor(x.length / COARSE)); for (let i = 0; i < y.length; i++) for (let j = 0; j < COARSE; j++) y[i] += x[i * COARSE + j]; return y; };
  const likeness = (a, b, offset) => {
    let dot = 0, energy = 1e-9;
    for (let i = 0; i < a.length; i++) { const v = b[i + offset]; dot += a[i] * v; energy += v * v; }
    return dot / Math.sqrt(energy);
  };
  const best = (a, b) => {
    let at = 0, most = -Infinity;
    for (let offset = 0; offset + a.length <= b.length; offset++) { const l = likeness(a, b, offset); if (l > most) { most = l; at = offset; } }
    return at;
  };
  const model = mono(Math.floor(onward), Math.floor(onward) + width);
  const rough = first + COARSE * best(thin(model), thin(mono(first, last + width + 1)));
  const near = Math.max(first, rough - COARSE), far = Math.min(last, rough + COARSE);
  return near + best(model, mono(near, far + width)) + fraction;
}

// What a path makes of one channel, `song(from, to)`.
function stretched(path, pitch, song) {
  const out = new Float32Array(path.length), window = hann();
  path.places.forEach((place, i) => {
    const begin = (path.first + i - 1) * HOP - path.start;       // of the frame, in the output
    const j0 = Math.max(0, -begin), j1 = Math.min(2 * HOP, path.length - begin);
    if (j1 <= j0) return;
    const frame = readings(place + pitch * j0, j1 - j0, pitch, song);
    for (let j = j0; j < j1; j++) out[begin + j] += window[j] * frame[j - j0];
  });
  return out;
}

const hann = () => { hann.kept ??= Float32Array.from({length: 2 * HOP}, (_, j) => Math.sin(Math.PI * (j + 0.5) / (2 * HOP)) ** 2); return hann.kept; };

// `n` samples read from `place` on, `pitch` apart: between samples by a windowed sinc, which also
// takes away what would fold over.
function readings(place, n, pitch, song) {
  const whole = Math.floor(place);
  if (pitch === 1 && whole === place) return song(whole, whole + n);
  const x = song(whole - TAPS / 2 + 1, whole + Math.ceil(pitch * n) + TAPS / 2 + 2), out = new Float32Array(n), table = sinc(Math.min(1, 1 / pitch));
  for (let i = 0, at = place - whole; i < n; i++, at += pitch) {
    let k = Math.floor(at), phase = Math.round((at - k) * PHASES), sum = 0;
    for (let t = 0, p = phase * TAPS; t < TAPS; t++) sum += table[p + t] * x[k + t];
    out[i] = sum;
  }
  return out;
}

function sinc(cutoff) {
  if (sinc.cutoff === cutoff) return sinc.kept;
  const table = new Float32Array((PHASES + 1) * TAPS);
  for (let phase = 0; phase <= PHASES; phase++) {
    let sum = 0;
    for (let t = 0; t < TAPS; t++) {
      const d = t - TAPS / 2 + 1 - phase / PHASES, z = Math.PI * cutoff * d;
      const v = (z ? Math.sin(z) / z : 1) * Math.max(0, Math.cos(Math.PI * d / (TAPS + 1))) ** 2;
      table[phase * TAPS + t] = v; sum += v;
    }
    for (let t = 0; t < TAPS; t++) table[phase * TAPS + t] /= sum;
  }
  sinc.cutoff = cutoff; sinc.kept = table;
  return table;
}
