// The clock: any number of decks (a song's stems by one preset, or the song itself) played from
// growing 16-bit files, read in pieces of two seconds by HTTP Range, on one AudioContext, at any
// speed and in any key (stretch.js). Knows nothing of the page.
//
//   piece   `length` seconds of the song, `from` seconds in it, due at context time `when`, where
//           they last `lasts` seconds
//   deck    {key, url, base, frames, ready, growing, stems, channels}; all decks share the pieces
//   hot     a deck whose audio is fetched and scheduled, heard or not: switching to it has no gap
const PIECE = 2, AHEAD = 6, FADE = 0.012;
const KEEP = 40;                 // seconds of a loop that are kept, so that it is fetched once
const COOL = 20;                 // seconds unheard after which a deck is fetched no more
const PATIENCE = 0.5;            // seconds of silence after which a gap is told of
const SILENT = 2000;             // milliseconds after which a browser that does not play is told of
const REST = 30000;              // milliseconds of a pause after which the sound output is let go
const NO_SOUND = 'The browser does not begin to play. Check that a sound output is connected, then press Play again.';
const MUTED = 0.1;               // how much what is not heard counts where frames are matched

const toCome = (deck) => deck.growing && deck.ready < deck.frames;

// Lets the page answer to what came meanwhile; a timer would be slowed down in a hidden tab.
const otherTasks = () => new Promise((done) => {
  const {port1, port2} = new MessageChannel();
  port1.onmessage = () => { port1.close(); done(); };
  port2.postMessage(null);
});

class Transport {
  constructor(onchange) {
    this.onchange = onchange;
    this.decks = new Map();
    this.active = null;          // key of the deck that is heard, or 'diff'
    this.position = 0;           // seconds from the start of the part, while not playing
    this.playing = false;
    this.wish = null;            // to play, while the browser wakes
    this.waiting = false;        // playing, but the next piece is not there yet
    this.loop = null;            // [from, to] in seconds
    this.speed = 1;              // seconds of the song in a second
    this.key = 0;                // semitones
    this.master = 1;
    this.run = 0;                // grows with every jump, so that late answers are recognised
    this.pieces = [];
    this.cache = new Map();
    this.bytes = 0;
    this.error = '';
    this.steady = false;         // nothing cools down
    this.failures = 0; this.notBefore = 0;
    this.abort = new AbortController();
    this.recording = () => false;
  }

  // ---- what is there --------------------------------------------------------------------------
  reset() {
    this.pause();
    this.position = 0; this.loop = null; this.cache.clear(); this.error = '';
    for (const deck of this.decks.values()) this.unplug(deck);
    this.decks.clear(); this.active = this.want = null;
  }

  setDeck(deck) {
    const old = this.decks.get(deck.key);
    if (old && old.url === deck.url && old.serial === deck.serial) {
      // a take that had ended goes on: what was made for its end does not fit any more
      const opened = deck.growing && !old.growing && this.pieces.some((piece) => piece.made.has(deck.key) && (piece.from + piece.length) * this.rate + REACH > old.ready);
      old.ready = deck.ready; old.frames = deck.frames; old.gram = deck.gram; old.growing = deck.growing;
      if (opened && this.playing) this.jump(this.now());
    } else {
      if (old) this.unplug(old);
      this.error = ''; this.failures = 0;
      for (const key of [...this.cache.keys()]) if (key.startsWith(deck.key + ':')) this.cache.delete(key);
      this.decks.set(deck.key, {...deck, hot: false, gains: [], levels: deck.stems.map(() => 1)});
      if (this.active === null) this.active = deck.key;
      this.heat();
      if (old && this.playing) this.jump(this.now());
    }
    if (this.waiting) this.pump();
  }

  removeDeck(key) {
    const deck = this.decks.get(key);
    if (!deck) return;
    this.unplug(deck); this.decks.delete(key);
    if (this.active === key || this.active === 'diff') this.active = this.decks.keys().next().value ?? null;
    this.want = null;
  }

  // What was heard is gone: another deck at once, whatever was being switched to.
  fallBack(key) {
    this.active = this.want = key;
    this.join();
  }

  // What is scheduled goes on with what is heard now; where that is not there, it would be silence.
  join() {
    const keys = this.heard();
    if (this.pieces.some((piece) => keys.some((key) => !piece.nodes.has(key)))) this.jump(this.now());
    else { this.heat(); this.pump(); }
  }

  get duration() { let d = 0; for (const deck of this.decks.values()) d = Math.max(d, deck.frames / this.rate); return d; }
  parts(key) { return key === 'diff' ? ['a', 'b'] : [key]; }
  heard() { return this.parts(this.active); }
  heardDecks() { return this.heard().map((key) => this.decks.get(key)).filter(Boolean); }
  // how far the heard decks reach: nothing beyond it can be played yet
  get limit() {
    const short = (deck) => this.bent && toCome(deck) ? REACH : 0;
    const ends = this.heardDecks().map((deck) => Math.max(0, deck.ready - short(deck)) / this.rate);
    return ends.length ? Math.min(...ends) : 0;
  }

  get pitch() { return 2 ** (this.key / 12); }
  get bent() { return this.speed !== 1 || this.key !== 0; }

  // where the sound of a deck, or of the difference, ends: a take that grows no more, where it was stopped
  reach(key) {
    const decks = this.parts(key).map((key) => this.decks.get(key)).filter(Boolean);
    return decks.length ? Math.min(...decks.map((deck) => (deck.growing ? deck.frames : deck.ready) / this.rate)) : 0;
  }
  get end() { return this.reach(this.active); }

  // for how many seconds the next piece has been due already
  get starved() { return this.context.currentTime - this.cursor.when; }

  // ---- the audio graph ------------------------------------------------------------------------
  open(rate) { this.rate = rate; }

  async wake() {
    if (!this.context) {
      // at the stems' own rate: resampling would put a click at every join
      this.context = new AudioContext({latencyHint: 'interactive', sampleRate: this.rate});
      this.out = this.context.createGain(); this.out.gain.value = this.master;
      this.meter = this.context.createAnalyser(); this.meter.fftSize = 1024;
      this.out.connect(this.meter); this.meter.connect(this.context.destination);
      // a telephone call, for one, takes the sound away without asking
      this.context.onstatechange = () => { if (this.playing && this.context.state !== 'running') this.pause(); };
    }
    // else the ring switch of a phone mutes the song; but a microphone that is open would be closed
    if (navigator.audioSession && !this.recording()) navigator.audioSession.type = 'playback';
    return this.context.resume();
  }

  plug(deck) {
    if (deck.gains.length) return;
    deck.bus = this.context.createGain(); deck.bus.gain.value = 0; deck.bus.connect(this.out);
    deck.gains = deck.stems.map((_, i) => {
      const gain = this.context.createGain(), meter = this.context.createAnalyser();
      gain.gain.value = deck.levels[i]; meter.fftSize = 512;
      gain.connect(meter); meter.connect(deck.bus);
      gain.meter = meter;
      return gain;
    });
  }

  // Its sound fades first: cut off, it would click.
  unplug(deck) {
    const {gains, bus} = deck;
    if (bus) {
      bus.gain.setTargetAtTime(0, this.context.currentTime, FADE / 3);
      setTimeout(() => { for (const gain of gains) { gain.disconnect(); gain.meter.disconnect(); } bus.disconnect(); }, 5000 * FADE);
    }
    deck.gains = []; deck.bus = null; deck.hot = false;
    for (const piece of this.pieces) { piece.nodes.delete(deck.key); piece.made.delete(deck.key); }
  }

  setLevels(key, levels) {
    const deck = this.decks.get(key);
    if (!deck) return;
    deck.levels = levels;
    deck.gains.forEach((gain, i) => gain.gain.setTargetAtTime(levels[i], this.context.currentTime, FADE));
  }

  setMaster(level) {
    this.master = level;
    if (this.out) this.out.gain.setTargetAtTime(level, this.context.currentTime, FADE);
  }

  // Which decks are heard, and how loud: {a: 1} or, for the difference, {a: 1, b: -1}
  setMix(mix) {
    this.mix = mix;
    if (!this.context) return;
    for (const [key, deck] of this.decks) {
      if (deck.bus) deck.bus.gain.setTargetAtTime(mix[key] ?? 0, this.context.currentTime, FADE);
    }
  }

  // Switch to another deck at the same playhead. The old one plays on until the new one is loaded.
  async listen(active, mix) {
    this.want = active;
    if (!this.playing) { this.active = active; this.heat(); this.setMix(mix); this.onchange(); return; }
    const keys = this.parts(active), asked = this.context.currentTime;
    const cold = keys.some((key) => !this.decks.get(key)?.hot);
    await Promise.all(keys.map((key) => this.warm(key)));
    // its sound begins 20 ms from now: a cross-fade before that would leave a hole
    if (cold || this.context.currentTime > asked) await new Promise((done) => setTimeout(done, 40));
    if (this.want !== active) return;      // another switch came meanwhile
    this.active = active;
    this.setMix(mix);
    this.join();
    this.onchange();
  }

  heat() { for (const key of this.heard()) { const deck = this.decks.get(key); if (deck) deck.hot = true; } }

  // Make a deck hot and put it under the pieces that are already scheduled.
  async warm(key) {
    const deck = this.decks.get(key);
    if (!deck) return;
    deck.hot = true;
    if (!this.playing) return;
    this.plug(deck);
    await Promise.all(this.pieces.map((piece) => this.attach(piece, deck)));
  }

  // ---- pieces ---------------------------------------------------------------------------------
  async fetch(deck, k) {
    if (this.decks.get(deck.key) !== deck) return null;      // another one has taken its place
    // the grid is fixed, but the last piece grows while the song is still being worked on
    const first = k * PIECE * this.rate, last = Math.min(deck.ready, (k + 1) * PIECE * this.rate);
    if (last <= first) return null;
    const key = `${deck.key}:${k}`, kept = this.cache.get(key);
    if (kept && kept.last === last) return kept.promise;
    const width = 2 * deck.channels, from = (deck.base + first) * width, to = (deck.base + last) * width - 1;
    const {signal} = this.abort, entry = {last, pending: true};
    const promise = entry.promise = (async () => {
      const answer = await fetch(deck.url, {headers: {Range: `bytes=${from}-${to}`}, cache: 'no-store', signal});
      if (answer.status !== 206) throw new Error(String(answer.status));
      const samples = new Int16Array(await answer.arrayBuffer());
      if (samples.byteLength < to - from + 1) throw new Error('short');
      this.bytes += samples.byteLength; entry.pending = false;
      const n = Math.floor(samples.length / deck.channels), scale = deck.headroom / 32768;
      return deck.stems.map((_, s) => {
        const buffer = new AudioBuffer({numberOfChannels: 2, length: n, sampleRate: this.rate});
        for (let c = 0; c < 2; c++) {
          const to = buffer.getChannelData(c);
          for (let i = 0, j = 2 * s + c; i < n; i++, j += deck.channels) to[i] = samples[j] * scale;
        }
        return buffer;
      });
    })();
    this.cache.set(key, entry);
    promise.catch(() => { if (this.cache.get(key) === entry) this.cache.delete(key); });
    return promise;
  }

  // Put a deck's part of a piece under it; resolves when it is there, whoever asked for it first.
  async attach(piece, deck) {
    const there = piece.nodes.get(deck.key);
    if (there || piece.run !== this.run) return there?.loading;
    const nodes = [];
    piece.nodes.set(deck.key, nodes);
    // what could not be had, or made, may be another time
    const forget = () => { if (piece.nodes.get(deck.key) === nodes) piece.nodes.delete(deck.key); };
    nodes.loading = this.start(piece, deck, nodes).then((there) => { if (there === false) forget(); }, forget);
    return nodes.loading;
  }

  // False if it is not there, or not all of it yet.
  async start(piece, deck, nodes) {
    const buffers = piece.path ? await this.made(piece, deck) : await this.fetch(deck, piece.k).catch(() => null);
    const covered = buffers && (piece.path || piece.k * PIECE + buffers[0].length / this.rate >= piece.from + piece.length - 1e-4);
    if (!covered) return false;
    if (piece.run !== this.run || !deck.gains.length) return;
    const late = Math.max(0, this.context.currentTime + 0.02 - piece.when);
    if (late >= piece.lasts) return;
    buffers.forEach((buffer, i) => {
      const node = this.context.createBufferSource(), gate = this.context.createGain();
      node.buffer = buffer; node.connect(gate); gate.connect(deck.gains[i]);
      const offset = (piece.path ? 0 : piece.from - piece.k * PIECE) + late;
      node.start(piece.when + late, offset, Math.max(0, piece.lasts - late));
      // after a jump, and where a loop comes round, two moments meet that do not belong together
      const {lasts} = piece, when = piece.when + late, end = piece.when + lasts, fade = Math.min(FADE, (lasts - late) / 4);
      // silent before, too: times are rounded to samples, and one would come through
      if (piece.enters || late) { gate.gain.value = 0; gate.gain.setValueAtTime(0, when); gate.gain.linearRampToValueAtTime(1, when + fade); }
      if (piece.leaves) { gate.gain.setValueAtTime(1, end - fade); gate.gain.linearRampToValueAtTime(0, end); }
      node.onended = () => { node.disconnect(); gate.disconnect(); };
      nodes.push({node, gate});
    });
  }

  // ---- speed and key --------------------------------------------------------------------------
  // The pieces whose audio goes into one that is bent: k, and a neighbour that its path may lead into.
  needs(piece) {
    const over = piece.from + piece.length + REACH / this.rate > (piece.k + 1) * PIECE;
    return [...(piece.before && piece.k ? [piece.k - 1] : []), piece.k, ...(over ? [piece.k + 1] : [])];
  }

  // All that a deck has of them, or null if something of it is missing.
  async around(piece, deck) {
    const size = PIECE * this.rate, near = new Map();
    await Promise.all(this.needs(piece).map(async (k) => near.set(k, await this.fetch(deck, k).catch(() => null))));
    const wanted = Math.round((piece.from + piece.length) * this.rate) + REACH;
    const last = toCome(deck) ? wanted : Math.min(wanted, deck.ready);
    for (const [k, buffers] of near) if (k * size < last && (buffers ? k * size + buffers[0].length : 0) < Math.min(last, (k + 1) * size)) return null;
    return near;
  }

  // Samples of one channel from one place in the song to another, as stretch.js reads them.
  reader(near, s, c) {
    const size = PIECE * this.rate;
    return (from, to) => {
      const out = new Float32Array(to - from);
      for (const [k, buffers] of near) {
        if (!buffers) continue;
        const data = buffers[s].getChannelData(c), first = Math.max(from, k * size), last = Math.min(to, k * size + data.length);
        if (last > first) out.set(data.subarray(first - k * size, last - k * size), first - from);
      }
      return out;
    };
  }

  // Where a piece's frames are read, from all decks alike; null if something is missing. What is heard
  // decides, and both where the listener compares, if they reach so far.
  async course(piece) {
    const from = Math.round(piece.from * this.rate), first = from - REACH, last = from + Math.round(piece.length * this.rate) + REACH;
    const sum = new Float32Array(last - first);
    const heard = this.heard(), both = this.steady && !heard.includes('o') ? ['a', 'b'] : heard;
    for (const [key, deck] of both.map((key) => [key, this.decks.get(key)])) {
      const near = deck && await this.around(piece, deck);
      if (piece.run !== this.run || (!near && heard.includes(key))) return null;
      if (!near) continue;
      for (const [s, level] of deck.levels.entries()) for (let c = 0; c < 2; c++) {
        const x = this.reader(near, s, c)(first, last), weight = Math.max(MUTED, level);
        for (let i = 0; i < x.length; i++) sum[i] += weight * x[i];
      }
      await otherTasks();
    }
    const mono = (from, to) => sum.subarray(from - first, to - first);
    return stretchPath(piece.before, from, Math.round(piece.lasts * this.rate), this.speed, this.pitch, mono);
  }

  // A deck's part of a piece as it is to be heard, or null. Made once, a channel at a time.
  made(piece, deck) {
    if (piece.made.has(deck.key)) return piece.made.get(deck.key);
    const made = this.bend(piece, deck), forget = () => { if (piece.made.get(deck.key) === made) piece.made.delete(deck.key); };
    piece.made.set(deck.key, made);
    made.then((buffers) => buffers || forget(), forget);
    return made;
  }

  async bend(piece, deck) {
    // beyond the end of a take that may go on one day there is nothing, not silence
    if ((piece.from + piece.length - 1e-4) * this.rate > deck.ready) return null;
    const near = await this.around(piece, deck), buffers = [];
    if (!near) return null;
    for (let s = 0; s < deck.stems.length; s++) {
      if (piece.run !== this.run || (piece.when && this.context.currentTime > piece.when + piece.lasts)) return buffers;   // for nothing
      const buffer = new AudioBuffer({numberOfChannels: 2, length: piece.path.length, sampleRate: this.rate});
      for (let c = 0; c < 2; c++) buffer.copyToChannel(stretched(piece.path, this.pitch, this.reader(near, s, c)), c);
      buffers.push(buffer);
      await otherTasks();
    }
    return buffers;
  }

  setPace(speed, key) {
    if (speed === this.speed && key === this.key) return;
    const at = this.now();
    this.speed = speed; this.key = key;
    if (this.playing) this.jump(at);
    this.onchange();
  }

  // Schedule what is due in the next seconds. Called by a timer, by new blocks and by jumps.
  async pump() {
    if (!this.playing || this.pumping === this.run || performance.now() < this.notBefore) return;
    const run = this.run;
    this.pumping = run;
    try {
      while (this.playing && run === this.run && this.cursor.when - this.context.currentTime < AHEAD && this.cursor.from < this.end - 1e-4) {
        const active = this.active, piece = this.next();
        if (!piece) { this.setWaiting(true); break; }
        let there = false;
        try { there = await this.load(piece); } catch (problem) {
          if (run === this.run) this.failed(problem);
          return;
        }
        if (run !== this.run) return;
        if (active !== this.active) continue;     // another deck, which may end elsewhere
        if (!there) { this.setWaiting(true); break; }
        this.schedule(piece);
      }
    } finally { if (this.pumping === run) this.pumping = null; }
    this.position = this.now();    // where the playhead stands when nothing is left to play
    this.forget();
  }

  // The piece that comes next, or null where too little of it is there to be worth one.
  next() {
    const {from, enters, round, path} = this.cursor, end = this.end;
    const k = Math.floor(from / PIECE + 1e-6);
    const turn = this.loop && this.loop[0] < end - 0.05 ? Math.min(this.loop[1], end) : -1;   // where the loop comes round
    const whole = Math.min((k + 1) * PIECE, end, from < turn ? turn : end), to = Math.min(whole, this.limit);
    if (to - from < (to < whole - 1e-4 ? 0.25 : 1e-4)) return null;
    const leaves = from < turn && to >= turn - 1e-6, onward = leaves ? this.loop[0] : to;
    const lasts = Math.round((to - from) * this.rate / this.speed) / this.rate;
    return {run: this.run, k, from, length: to - from, lasts, before: path, enters, round, leaves, onward, nodes: new Map(), made: new Map()};
  }

  // Fetch what a piece needs, and bend what is to be bent; false if something of it is missing.
  async load(piece) {
    const load = (k) => Promise.all(this.heardDecks().map((deck) => this.fetch(deck, k)));
    await Promise.all((this.bent ? this.needs(piece) : [piece.k]).map(load));
    // the connection is slow: one gap and then a few pieces, not a gap after each
    if (this.pieces.length && this.starved > 0) await Promise.all([piece.k + 1, piece.k + 2].map(load));
    if (piece.run !== this.run || !this.bent) return true;
    // made before it has its time, which goes on meanwhile
    piece.path = await this.course(piece);
    if (piece.run !== this.run || !piece.path) return false;
    const made = await Promise.all(this.heardDecks().map((deck) => this.made(piece, deck)));
    return !made.includes(null);
  }

  // What could not be fetched is tried again, later each time.
  failed(problem) {
    // stems that make way for new ones are gone before the page has heard of these
    const missing = /40[34]|416/.test(problem.message), gone = missing && this.failures > 1;
    if (gone) this.pause(); else this.setWaiting(true);
    this.error = gone
      ? 'What plays here is no longer on the server. Load this page anew.'
      : missing ? '' : 'The connection is too slow or gone; trying again.';
    this.notBefore = performance.now() + Math.min(8000, 500 * 2 ** this.failures++);
    this.onchange();
  }

  schedule(piece) {
    const grid = (t) => Math.ceil(t * this.rate) / this.rate;   // joins fall on whole samples
    this.error = ''; this.failures = 0;
    piece.when = Math.max(this.cursor.when, grid(this.context.currentTime + 0.04));
    piece.enters ||= piece.when > this.cursor.when;             // after a gap
    // only now: a deck may have become hot meanwhile
    const heard = this.heard(), first = (deck) => heard.includes(deck.key) ? 0 : 1;
    const decks = [...this.decks.values()].filter((deck) => deck.hot).sort((a, b) => first(a) - first(b));
    for (const deck of decks) this.plug(deck);
    this.setMix(this.mix ?? {[this.active]: 1});
    this.pieces.push(piece);
    for (const deck of decks) this.attach(piece, deck);
    const {leaves} = piece;
    this.cursor = {when: piece.when + piece.lasts, from: piece.onward, enters: leaves, round: leaves, path: leaves ? null : piece.path ?? null};
    this.setWaiting(false);
  }

  // Let go of pieces that were played, of decks unheard for long, and of audio that is far away.
  forget() {
    const t = this.context.currentTime;
    this.pieces = this.pieces.filter((piece) => piece.when + piece.lasts > t - 1);
    for (const deck of this.decks.values()) {
      if (this.steady || this.heard().includes(deck.key)) deck.heardAt = t;
      else if (t - (deck.heardAt ??= t) > COOL) { deck.hot = false; deck.heardAt = undefined; }
    }
    const near = Math.floor(this.now() / PIECE);
    for (const key of [...this.cache.keys()]) {
      const k = +key.split(':')[1];
      if ((k < near - 1 || k > near + 5) && !this.inLoop(k)) this.cache.delete(key);
    }
  }

  // Whether audio is kept for the loop: all of a short one, the beginning of a long one.
  inLoop(k) {
    if (!this.loop) return false;
    const [from, to] = this.loop, kept = Math.min(to, from + (to - from > KEEP ? AHEAD : KEEP));
    return (k + 1) * PIECE > from && k * PIECE < kept + (this.bent ? REACH / this.rate : 0);
  }

  setWaiting(waiting) { if (waiting !== this.waiting) { this.waiting = waiting; this.onchange(); } }

  // Where the listener is. Between pieces (nothing to play yet) the playhead stands.
  now() {
    if (!this.playing || !this.context) return this.position;
    const t = this.context.currentTime;
    let best = this.position;
    for (const piece of this.pieces) {
      if (piece.run === this.run && t >= piece.when) best = piece.from + Math.min(piece.length, (t - piece.when) * this.speed);
    }
    return best;
  }

  // What is heard now: headphones without a wire may be a quarter of a second behind.
  heardAt() {
    const t = this.now(), lag = this.playing && this.context ? this.speed * Math.min(0.5, this.context.outputLatency || 0) : 0;
    const heard = t - lag, [from, to] = this.loop || [0, 0];
    if (!this.loop || t < from || heard >= from) return Math.max(0, heard);
    // the loop has just come round, and its end is still heard
    const round = this.pieces.some((piece) => piece.run === this.run && piece.round && this.context.currentTime >= piece.when);
    return round ? Math.max(from, to - (from - heard)) : from;
  }

  // ---- transport ------------------------------------------------------------------------------
  async play() {
    if (this.playing || this.wish || !this.decks.size) return;
    const wish = this.wish = {};
    clearTimeout(this.resting);
    // without a sound output some browsers neither begin nor refuse
    const late = new Promise((done) => setTimeout(done, SILENT, 'late'));
    const begun = await Promise.race([this.wake(), late]).catch(() => 'late');
    if (this.wish !== wish) return;           // another wish came meanwhile
    this.wish = null;
    if (begun === 'late') { this.error = NO_SOUND; this.onchange(); return; }
    this.playing = true; this.error = '';
    const stood = this.context.currentTime, since = performance.now();
    if (this.position >= this.end - 0.05) this.position = this.loop && this.loop[0] < this.end - 0.05 ? this.loop[0] : 0;
    this.timer = setInterval(() => {
      // others say that they run, and stand still
      if (this.context.currentTime === stood && performance.now() - since > SILENT) { this.pause(); this.restart(); this.error = NO_SOUND; this.onchange(); return; }
      if (this.cursor.from >= this.end - 1e-4 && this.now() >= this.end - 0.03 * this.speed) { this.pause(); this.position = this.end; this.onchange(); return; }
      if (this.starved > PATIENCE) this.setWaiting(true);
      this.pump();
    }, 120);
    this.jump(this.position);
    this.onchange();
  }

  pause() {
    this.position = this.now();
    this.playing = false; this.wish = null; this.waiting = false; this.error = '';
    clearInterval(this.timer); clearTimeout(this.resting);
    this.silence();
    this.resting = setTimeout(() => this.context?.suspend(), REST);
    this.onchange();
  }

  toggle() { if (this.playing || this.wish) this.pause(); else this.play(); }

  // The next one to play gets another context.
  restart() {
    for (const deck of this.decks.values()) this.unplug(deck);
    this.context.onstatechange = null;
    this.context.close();
    this.context = this.out = this.meter = null;
  }

  // Fade out what is scheduled: stopping it dead would click.
  silence() {
    this.run++; this.pumping = null; this.notBefore = 0;
    this.abort.abort(); this.abort = new AbortController();   // or what is wanted next waits behind it
    for (const [key, entry] of [...this.cache]) if (entry.pending) this.cache.delete(key);
    if (this.context) {
      const t = this.context.currentTime;
      for (const piece of this.pieces) for (const nodes of piece.nodes.values()) for (const {node, gate} of nodes) {
        gate.gain.cancelScheduledValues(t); gate.gain.setTargetAtTime(0, t, FADE / 3);
        try { node.stop(t + 2 * FADE); } catch { /* it has not begun */ }
      }
    }
    this.pieces = [];
  }

  jump(to) {
    this.silence();
    this.position = to;
    const grid = Math.ceil((this.context.currentTime + 0.05) * this.rate) / this.rate;
    this.cursor = {when: grid, from: Math.round(to * this.rate) / this.rate, enters: true};
    this.heat();
    this.pump();
  }

  seek(to) {
    to = Math.min(Math.max(0, to), this.duration);
    if (this.loop && (to < this.loop[0] || to > this.loop[1])) this.loopOff?.();
    if (this.playing) this.jump(to); else this.position = to;
    this.onchange();
  }

  setLoop(loop) {
    // on whole samples, as all joins
    this.loop = loop && loop.map((t) => Math.round(t * this.rate) / this.rate);
    const t = this.now(), to = this.loop && (t < this.loop[0] || t >= this.loop[1]) ? this.loop[0] : t;
    if (!this.playing) this.position = to;
    else if (to !== t || !this.fits) this.jump(to);
  }

  // Whether what is scheduled already is what the loop wants.
  get fits() {
    const t = this.context.currentTime, before = !this.loop || this.cursor.from < this.loop[1] - 0.05;
    return before && this.pumping === null && !this.pieces.some((piece) => piece.leaves && piece.when + piece.lasts > t);
  }

  level(meter) {
    if (!meter || !this.playing) return 0;
    const x = new Float32Array(meter.fftSize);
    meter.getFloatTimeDomainData(x);
    let peak = 0;
    for (const v of x) peak = Math.max(peak, Math.abs(v));
    return peak;
  }
}
