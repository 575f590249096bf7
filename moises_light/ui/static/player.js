// The player's face: lanes, faders, waveforms, keys. The clock is in transport.js.
const $ = (selector) => element.querySelector(selector);
const root = $('.ml-player');
const make = (tag, cls, text) => { const e = document.createElement(tag); if (cls) e.className = cls; if (text !== undefined) e.textContent = text; return e; };
const button = (cls, text, label) => { const e = make('button', cls, text); e.type = 'button'; if (label) e.setAttribute('aria-label', label); return e; };
const clock = (s) => { s = Math.max(0, Math.floor(s + 1e-6)); return `${Math.floor(s / 60)}:${String(s % 60).padStart(2, '0')}`; };
const tenths = (s) => { const n = Math.max(0, Math.floor(10 * s + 1e-6)); return `${clock(n / 10)}.${n % 10}`; };
const lasting = (s) => s < 59.95 ? `${s.toFixed(1)} s` : `${Math.floor(Math.round(s) / 60)} min ${Math.round(s) % 60} s`;
const spoken = (s) => { s = Math.max(0, Math.floor(s)); const m = Math.floor(s / 60); return (m ? `${m} min ` : '') + `${s % 60} s`; };
const gainOf = (v) => (v / 75) ** 2;                 // a fader's position: 75 is 0 dB, 100 is +5 dB
const decibel = (v) => v <= 0 ? 'silent' : `${(20 * Math.log10(gainOf(v))).toFixed(1).replace('-', '−')} dB`;
const joined = (...texts) => texts.filter(Boolean).join(' ');
const address = (path) => ((window.gradio_config && window.gradio_config.root) || '') + path;
const press = (id) => { const e = document.querySelector(id); if (e) (e.matches('button') ? e : e.querySelector('button, input') || e).click(); };

const INVITATION = matchMedia('(hover: none)').matches ? 'Choose a song to begin' : 'Drop a song anywhere on this page';
const ON_ITS_WAY = 'Fetching your song …';
const stage = () => document.querySelector('#ml-studio') || document.body;

let value = null, faders = {}, stems = [], chosen = false, blind = null, dirty = true, ratios = {};
let fetching = new Set();                            // what is being prepared to be taken away
let stopping = false;                                // whether the run was told to end, and has not
let leaving = null;                                  // the song that another one, on its way, comes after
let alone = '';                                      // that of several files which were dropped one is taken
let begun = false;                                   // whether this page, since it was loaded, saw a run
let lock = null;                                     // what keeps a phone's screen on, as a promise
let beyond = null;                                   // the deck that was chosen after its end
let held = null;                                     // where a drag over the song points, until it ends
let linked = null;                                   // the song that a shared link brought, or 'next'
let waves = {};                                      // key -> {bytes, stems, url, loaded, busy}
let colours = {};
const transport = new Transport(() => { dirty = true; face(); });
const atWork = () => !!value && ['queued', 'running'].includes(value.phase);
transport.loopOff = () => { transport.loop = null; announce('Loop off'); };

// ---- what the server says -----------------------------------------------------------------------
function keptToken() { try { return sessionStorage.getItem('studio-song'); } catch { return null; } }
function load(next) {
  if (value && next && next.opening === '' && !next.trouble) return;   // somebody was faster than the answer
  const opening = next && 'opening' in next ? next : null;
  if (opening) { next = null; linked = opening.opening ? 'next' : null; }
  invite(opening);
  const other = !next || !value || next.token !== value.token || next.start !== value.start || next.frames !== value.frames;
  const back = other && next && (value ? sameSong(next) && moment() : keptMoment(next.token));
  value = next;
  if (other || !atWork()) stopping = false;
  if (other) leaveSong();
  root.dataset.phase = next ? next.phase : 'empty';
  stage().dataset.stage = next ? (next.takes.some((take) => take.ready) ? 'result' : 'song') : 'empty';
  if (!next) { stems = []; face(); return; }
  if (other) $('.ml-name').textContent = next.name;
  if (other && !back) resetMix();
  if (other && next.phase === 'ready') requestAnimationFrame(() => toStage('instant'));   // when all of it is there
  if (linked === 'next') linked = next.token;
  settle(next.token);
  try { sessionStorage.setItem('studio-song', next.token); } catch { /* private window */ }
  if (blind && blind.serials !== serials()) endBlind();
  syncDecks(next);
  const names = (next.takes[0] && next.takes[0].stems) || next.sources;
  if (names.join() !== stems.join() || !$('.ml-lanes').children.length) buildLanes(names);
  turnToStems(next);
  $('.ml-facts').textContent = next.facts;
  buildDecks(); buildCompare(); levels(); face(); stayAwake();
  if (back) comeBack(back);
  if (chosen) takeFrom(transport.active);
  goOn();
}

// What stands where there is no song: what is on its way, what went wrong, or what to do.
function invite(opening) {
  $('.ml-invite').textContent = (opening && (opening.opening || opening.trouble)) || INVITATION;
  $('.ml-hint').hidden = $('.ml-actions').hidden = !!(opening && opening.opening);
  root.dataset.trouble = opening && opening.trouble ? '1' : '';
  if (opening) tell($('.ml-invite').textContent);
}

// Nothing of the song, or the part of it, that was here stays.
function leaveSong() {
  transport.reset(); setPace(1, 0); endBlind(); fetching.clear();
  waves = {}; chosen = false; beyond = null;
}

// The decks and waveforms as the server has them now.
function syncDecks(next) {
  transport.open(next.rate);
  transport.setDeck({key: 'o', url: address(next.original.url), base: next.start, frames: next.frames, ready: next.frames, growing: false,
    stems: ['original'], channels: 2, headroom: next.headroom, serial: next.token});
  // what was heard is separated anew, or gone: the song plays on until stems are ahead again
  const lost = (key) => transport.decks.get(key)?.serial !== next.takes.find((take) => take.slot === key)?.serial;
  if (transport.heard().some((key) => ['a', 'b'].includes(key) && lost(key))) { transport.fallBack('o'); chosen = false; }
  const slots = next.takes.map((take) => take.slot);
  for (const key of ['a', 'b']) if (!slots.includes(key)) { transport.removeDeck(key); delete waves[key]; }
  for (const take of next.takes) {
    const growing = take.state === 'running' && atWork();
    transport.setDeck({key: take.slot, url: address(take.url), base: 0, frames: take.frames, ready: take.ready, growing,
      stems: take.stems, channels: 2 * take.stems.length, headroom: next.headroom, serial: take.serial, gram: take.gram});
    wave(take.slot, take.peaks, take.stems.length, Math.floor(take.ready / next.rate * next.peaksPerSecond), take.serial);
  }
  wave('o', next.original.peaks, 1, Math.floor(next.songFrames / next.rate * next.peaksPerSecond), next.token);
}

// The first stems that are there take over from the original, unless the listener chose or is further.
function turnToStems(next) {
  const first = next.takes.find((take) => take.ready > 0);
  if (!first || chosen || transport.active !== 'o') return;
  const ahead = first.ready / next.rate - transport.now(), ended = !transport.playing && transport.now() >= transport.duration - 0.05;
  const far = AHEAD * transport.speed + PIECE + (transport.bent ? REACH / next.rate : 0);   // what is scheduled at most
  if (ended || ahead > (transport.playing && transport.decks.get(first.slot).growing ? far : 0)) hear(first.slot);
}

// Where the player stands above the form, who brings a song from down there is taken to it.
function toStage(behavior) {
  if (matchMedia('(max-width: 860px)').matches) stage().scrollIntoView({block: 'start', behavior});
}

// Another song begins with all of it; how loud the room is stays.
function resetMix() { for (const name of Object.keys(faders)) faders[name] = {mute: false, solo: false, level: 75}; }

// ---- where the listener was ---------------------------------------------------------------------
// A part of the song that is heard, or a copy of it, is separated: the music goes on where it was.
const sameSong = (next) => next.phase !== 'ready' && next.name === value.name && next.songFrames === value.songFrames;
function moment() {
  const base = value.start / value.rate;
  return {playing: transport.playing, at: base + transport.now(), loop: transport.loop && transport.loop.map((t) => base + t), speed: transport.speed, key: transport.key};
}
// Nor does a page that is loaded anew, as phones do with tabs in the background, cost a mix.
function keepMoment() {
  if (!value) return;
  const kept = {...moment(), playing: false, token: value.token, faders, active: hidden() ? null : transport.active, chosen, master: +$('.ml-master-range').value};
  try { sessionStorage.setItem('studio-moment', JSON.stringify(kept)); } catch { /* private window */ }
}
function keptMoment(token) {
  try { const kept = JSON.parse(sessionStorage.getItem('studio-moment')); return kept && kept.token === token ? kept : null; } catch { return null; }
}
function comeBack({playing, at, loop, speed: tempo, key, faders: kept, active, chosen: was, master}) {
  const base = value.start / value.rate, inside = (t) => t - base >= 0 && t - base <= transport.duration;
  for (const name of stems) if (kept && kept[name]) faders[name] = {mute: !!kept[name].mute, solo: !!kept[name].solo, level: Math.min(100, Math.max(0, +kept[name].level || 0))};
  if (master >= 0) { $('.ml-master-range').value = master; transport.setMaster(gainOf(master)); }
  if (was && (transport.decks.get(active)?.ready > 0 || (active === 'diff' && value.takes.length > 1))) { chosen = true; hear(active); }
  setPace(tempo, key);
  if (loop && loop.every(inside)) transport.setLoop(loop.map((t) => t - base));
  if (inside(at)) { transport.seek(at - base); if (playing) transport.play(); }
  levels(); face();
}
window.addEventListener('pagehide', keepMoment);
document.addEventListener('visibilitychange', () => { if (document.visibilityState === 'hidden') keepMoment(); });

// A run ends with the connection, and the page is loaded anew when that is back: the run goes on then.
function goOn() {
  begun ||= atWork();
  try {
    const cut = value.cut && !begun && sessionStorage.getItem('studio-run') === value.token;
    if (atWork()) sessionStorage.setItem('studio-run', value.token); else sessionStorage.removeItem('studio-run');
    if (cut) press('#go-on');
  } catch { /* private window */ }
}

// A screen that locks cuts the connection on many phones, and the run ends with it.
function stayAwake() {
  if (atWork() && document.visibilityState === 'visible') lock ??= navigator.wakeLock?.request('screen').catch(() => null);
  else { lock?.then((held) => held?.release()); lock = null; }
}
document.addEventListener('visibilitychange', stayAwake);

// The address that deleted a link says so once.
function deleted() { if (new URL(location.href).searchParams.has('delete')) leaveOut('r', 'delete'); }

// Loaded anew, the page's address must not bring back what the visitor has gone on from.
function settle(token) { leaveOut('example', ...(token !== linked ? ['r', 'delete'] : [])); }

function leaveOut(...names) {
  const here = new URL(location.href);
  for (const name of names) here.searchParams.delete(name);
  if (here.href !== location.href) history.replaceState(history.state, '', here);
}

// Waveform bytes grow with the file; only the new part is asked for.
async function wave(key, url, width, n, serial) {
  let w = waves[key];
  if (!w || w.serial !== serial) w = waves[key] = {bytes: new Uint8Array(0), width, loaded: 0, serial};
  w.wanted = n;
  if (w.busy) return;
  clearTimeout(w.again);
  w.busy = true;
  try {
    while (w.loaded < w.wanted && waves[key] === w) {
      const to = w.wanted;
      const answer = await fetch(address(url), {headers: {Range: `bytes=${w.loaded * width}-${to * width - 1}`}, cache: 'no-store'});
      if (answer.status !== 206) break;
      const more = new Uint8Array(await answer.arrayBuffer());
      if (!more.length) break;
      const all = new Uint8Array(w.loaded * width + more.length);
      all.set(w.bytes); all.set(more, w.loaded * width);
      w.bytes = all; w.loaded = Math.floor(all.length / width); w.failures = 0; dirty = true;
    }
  } catch { /* it is tried again */ }
  w.busy = false;
  if (w.loaded < w.wanted && waves[key] === w) {
    w.failures = (w.failures || 0) + 1;
    if (w.failures < 8) w.again = setTimeout(() => waves[key] === w && wave(key, url, width, w.wanted, serial), Math.min(30000, 500 * 2 ** w.failures));
  }
}

// ---- decks: the original, A, B, their difference ------------------------------------------------
let last = 'a';                                      // the stems that were heard last
function hear(key) {
  if (key === 'a' || key === 'b') last = key;
  transport.listen(key, mixFor(key));
}
function mixFor(key) {
  if (key === 'diff') return {a: 1, b: -1};
  return {[key]: matched(key)};
}

// A and B at the same loudness: the louder one is turned down. The energy of what the faders let
// through follows from the stems' products g' G g, so no audio has to be measured.
function matched(key) {
  const a = transport.decks.get('a'), b = transport.decks.get('b');
  if (!a || !b || (key !== 'a' && key !== 'b') || !a.gram.length || !b.gram.length) return 1;
  if (a.ready !== b.ready) return 1;     // two parts of a song may differ in loudness by themselves
  const energy = (deck) => {
    const g = levelsFor(deck);
    let sum = 0;
    for (let i = 0; i < g.length; i++) for (let j = 0; j < g.length; j++) sum += g[i] * g[j] * deck.gram[i][j];
    return sum;
  };
  const ea = energy(a), eb = energy(b);
  if (ea <= 0 || eb <= 0) return 1;
  const ratio = Math.sqrt(key === 'a' ? eb / ea : ea / eb);
  return Math.min(1, Math.max(0.1, ratio));
}

function audible(name) {
  const soloed = Object.values(faders).some((f) => f.solo);
  const f = faders[name];
  return !f || (soloed ? f.solo : !f.mute);
}
const levelsFor = (deck) => deck.stems.map((name) => name === 'original' ? 1 : (audible(name) ? gainOf(faders[name] ? faders[name].level : 75) : 0));
function levels() {
  for (const [key, deck] of transport.decks) transport.setLevels(key, levelsFor(deck));
  if (transport.active) transport.setMix(mixFor(transport.active));
  dirty = true;
}

const comparable = () => !!value && value.takes.length > 1 && !value.takes.some((take) => take.state === 'running' && atWork());
const serials = () => value.takes.map((take) => take.serial).join();
function choose(key) {
  beyond = transport.playing && pastEnd(key) ? key : null;
  if (beyond) { face(); return false; }     // the music would end there, and the place be lost
  chosen = true; hear(key); takeFrom(key);
  return true;
}
const pastEnd = (key) => transport.now() > transport.reach(key);
// What is taken away is what was chosen to be heard, once it is finished; in a blind test that would tell.
function takeFrom(key) {
  const take = value.takes.find((take) => take.slot === key), radio = document.querySelector(`#slot input[value="${key}"]`);
  if (!hidden() && take && take.state !== 'running' && radio && !radio.checked) radio.click();
}

function buildDecks() {
  const box = $('.ml-decks'), takes = value.takes.filter((take) => take.ready > 0 || take.state === 'running');
  const plan = [['o', 'Original', 'The song as it is (O)']];
  if (hidden()) plan.push(['x', 'X', 'Preset X'], ['y', 'Y', 'Preset Y']);
  else {
    for (const take of takes) plan.push([take.slot, takes.length > 1 ? `${take.slot.toUpperCase()}  ${take.label}` : 'Stems', `${take.label} (${take.slot.toUpperCase()})`]);
    if (takes.length > 1) plan.push(['diff', 'A − B', 'Only what differs between A and B']);
  }
  const signature = JSON.stringify(plan);
  if (box.dataset.plan === signature) return;
  box.dataset.plan = signature;
  const had = box.contains(document.activeElement) && document.activeElement.dataset.key;
  box.replaceChildren(...plan.map(([key, text, title]) => {
    const e = button('ml-deck', text); e.dataset.key = key; e.title = title;
    e.onclick = () => choose(hidden() && blind[key] || key);
    return e;
  }));
  box.hidden = plan.length < 2;
  // once it is known which can be heard, see `face`
  if (had) refocus = plan.some(([key]) => key === had) ? had : 'o';
}
let refocus = null;

// ---- lanes --------------------------------------------------------------------------------------
function buildLanes(names) {
  stems = names;
  for (const name of names) faders[name] = faders[name] || {mute: false, solo: false, level: 75};
  $('.ml-lanes').replaceChildren(...names.map((name, i) => {
    const lane = make('div', 'ml-lane'); lane.dataset.stem = name; lane.setAttribute('role', 'group'); lane.setAttribute('aria-label', name);
    const label = make('span', 'ml-stem', name);
    const mute = button('ml-m', 'M', `Mute ${name}`), solo = button('ml-s', 'S', `Solo ${name}`);
    mute.title = `Mute (${i + 1})`; solo.title = `Solo (Shift + ${i + 1}); with Ctrl, this one alone`;
    const volume = make('input', 'ml-volume'); volume.type = 'range'; volume.min = 0; volume.max = 100; volume.step = 1;
    volume.setAttribute('aria-label', `Volume of ${name}`);
    const canvas = make('canvas', 'ml-wave'); canvas.setAttribute('aria-hidden', 'true');
    const take = button('ml-take', '', `Download ${name}`); take.title = `Download ${name}`;
    take.innerHTML = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 4v11m0 0 4.5-4.5M12 15l-4.5-4.5M5 20h14"/></svg>';
    mute.onclick = () => toggle(name, 'mute'); solo.onclick = (event) => toggle(name, 'solo', event.ctrlKey || event.metaKey || event.altKey);
    volume.oninput = () => { hearStems(); faders[name].level = +volume.value; levels(); face(); };
    volume.ondblclick = () => { hearStems(); faders[name].level = 75; levels(); face(); };
    take.onclick = () => { prepare(name); press(`#take-${name}`); };
    let heard = [];                                   // as it was where a finger came down
    volume.addEventListener('pointerdown', () => { heard = [transport.want ?? transport.active, chosen]; });
    scrub(canvas); unmoved(volume, () => {
      faders[name].level = +volume.value;
      if (heard[0] === 'o') { hear('o'); chosen = heard[1]; }
      levels(); face();
    });
    const controls = make('div', 'ml-controls'); controls.append(label, mute, solo, volume, take);
    lane.append(controls, canvas);
    return lane;
  }));
}
function toggle(name, what, alone = false) {
  if (!faders[name]) return;
  hearStems();
  const was = faders[name][what] && !(alone && stems.some((other) => other !== name && faders[other][what]));
  if (alone) for (const other of stems) faders[other][what] = false;
  faders[name][what] = !was;
  levels(); face();
}

// Who moves a fader while the song itself is heard means the stems: the song has none.
function hearStems() {
  if ((transport.want ?? transport.active) !== 'o') return;
  const there = value.takes.filter((take) => take.ready > 0), take = there.find((take) => take.slot === last) || there[0];
  if (take) choose(take.slot);
}

// A finger that scrolls the page may begin on a slider. What it moved there goes back.
function unmoved(range, restored) {
  let before = null;
  range.addEventListener('pointerdown', () => { before = range.value; });
  range.addEventListener('pointercancel', () => {
    if (before === null) return;
    range.value = before; before = null;
    range.dataset.undone = '1';                       // a browser tells of the change all the same
    setTimeout(() => delete range.dataset.undone, 100);
    restored();
  });
}

// Click to seek, drag to scrub; over the song's own waveform a drag marks the loop.
function scrub(canvas, marks = false) {
  let from = null, before = null;
  const at = (event) => { const box = canvas.getBoundingClientRect(); return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * transport.duration; };
  canvas.onpointerdown = (event) => { if (!value || event.button) return; from = at(event); before = transport.loop; canvas.setPointerCapture(event.pointerId); if (!marks) hold(from); };
  canvas.onpointermove = (event) => {
    if (from === null) return;
    const to = at(event);
    if (!marks) hold(to);
    else if (Math.abs(to - from) > transport.duration / 120) { canvas.dataset.drag = '1'; transport.loop = [Math.min(from, to), Math.max(from, to)]; dirty = true; face(); }
  };
  canvas.onpointerup = (event) => {
    if (from === null) return;
    if (marks && canvas.dataset.drag) transport.setLoop(transport.loop);
    else if (marks) transport.seek(from);
    else release(at(event));
    delete canvas.dataset.drag; from = null; face();
  };
  // the page scrolls instead, and nothing was meant
  canvas.onpointercancel = () => {
    if (canvas.dataset.drag) { transport.loop = before; delete canvas.dataset.drag; }
    from = held = null; face();
  };
}
// A drag moves the playhead alone: every place on the way would ask for its audio.
function hold(to) { held = to; dirty = true; }
function release(to) { held = null; transport.seek(to); }
const shownTime = () => held ?? transport.heardAt();

// ---- loop ---------------------------------------------------------------------------------------
let mark = null;
function loopToggle() {
  if (transport.loop) transport.setLoop(null);
  else {
    const t = transport.now(), d = transport.duration;
    transport.setLoop([t, Math.min(d, t + Math.min(8, d))]);
    if (transport.loop[1] - transport.loop[0] < 1) transport.setLoop([Math.max(0, d - 8), d]);
  }
  face(); tellLoop();
}
function loopMark(end) {
  const t = transport.heardAt(), d = transport.duration;
  const [from, to] = transport.loop || [0, d];
  const next = end ? [Math.min(from, t - 0.1), t] : [t, Math.max(to, t + 0.1)];
  transport.setLoop([Math.max(0, Math.min(next[0], d - 0.1)), Math.min(d, Math.max(next[1], 0.1))]);
  face(); tellLoop();
}
function tellLoop() {
  const base = value.start / value.rate;
  announce(transport.loop ? `Loop from ${spoken(base + transport.loop[0])} to ${spoken(base + transport.loop[1])}` : 'Loop off');
}

// ---- speed and key ------------------------------------------------------------------------------
const SPEEDS = [0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1, 1.1, 1.25];
const speed = $('.ml-speed'), pitch = $('.ml-key');
speed.replaceChildren(...SPEEDS.map((v) => new Option(`${Math.round(100 * v)} %`, v)));
pitch.replaceChildren(...[...Array(13).keys()].map((v) => new Option(v === 6 ? '0' : v > 6 ? `+${v - 6}` : `−${6 - v}`, v - 6)));
function setPace(tempo, key) {
  speed.value = SPEEDS.includes(tempo) ? tempo : 1; pitch.value = Math.abs(key) <= 6 ? Math.round(key) : 0;
  for (const [select, usual] of [[speed, 1], [pitch, 0]]) select.dataset.on = +select.value === usual ? '' : '1';
  transport.setPace(+speed.value, +pitch.value);
}
function pace(step) {
  setPace(SPEEDS[Math.min(SPEEDS.length - 1, Math.max(0, SPEEDS.indexOf(transport.speed) + step))], transport.key);
  announce(`Speed ${Math.round(100 * transport.speed)} %`);
}
for (const select of [speed, pitch]) {
  // after a click the next Space is for the music; who chooses by keys goes on choosing
  select.addEventListener('pointerdown', () => { select.dataset.clicked = '1'; });
  select.addEventListener('blur', () => delete select.dataset.clicked);
  select.onchange = () => { setPace(+speed.value, +pitch.value); if (select.dataset.clicked) select.blur(); };
}

// ---- compare ------------------------------------------------------------------------------------
function buildCompare() {
  const box = $('.ml-compare'), both = value.takes.length > 1;
  box.hidden = !both;
  if (!both) { box.replaceChildren(); delete box.dataset.plan; return; }
  const signature = JSON.stringify([value.takes.map((t) => [t.serial, t.state, t.work, t.ready]), atWork(), blind && [blind.rounds, blind.revealed]]);
  if (box.dataset.plan === signature) return;
  box.dataset.plan = signature;
  const [a, b] = value.takes, alike = a.ready === b.ready;
  const kHz = (hz) => `0–${(hz / 1000).toFixed(1)} kHz`;
  if (!blind) {
    const table = make('table', 'ml-table');
    const row = (head, ...cells) => { const r = make('tr'); const h = make('th', '', head); h.scope = 'row'; r.append(h, ...cells.map((c) => make('td', '', c))); return r; };
    const headRow = make('tr'); headRow.append(make('td', '', ''), ...[a, b].map((t) => { const h = make('th', '', `${t.slot.toUpperCase()}  ${t.label}`); h.scope = 'col'; return h; }));
    const head = make('thead'); head.append(headRow);
    const body = make('tbody');
    const pace = (t) => t.ready ? `${lasting(t.work)} for ${clock(t.ready / value.rate)} (${t.device})` : 'not yet known';
    body.append(row('Time here', pace(a), pace(b)), row('Size', ...[a, b].map((t) => `${(t.parameters / 1e6).toFixed(2)} M parameters`)), row('Range', kHz(a.cutoff), kHz(b.cutoff)));
    table.append(head, body);
    const start = button('ml-blind-start', 'Blind test', 'Start a blind test'); start.onclick = startBlind; start.disabled = !comparable() || !alike;
    const loudness = !comparable() ? 'Once both are done, A and B are played at the same loudness.' : alike
      ? 'A and B are played at the same loudness (equal energy of what you hear).'
      : 'A and B are played as they are, and not blind, for one of them is only a part of the other.';
    const note = make('p', 'ml-note', `${loudness} A − B plays only what they disagree on, at its true level.`);
    refill(box, table, note, start);
    return;
  }
  const ask = make('div', 'ml-blind');
  if (blind.revealed) {
    const v = blind.votes, n = blind.rounds;
    const result = make('p', 'ml-verdict', n
      ? `${a.label} (A): ${v.a} of ${n}.  ${b.label} (B): ${v.b} of ${n}.` + (v.same ? `  No difference: ${v.same}.` : '')
      : 'No choices were made.');
    const odds = make('p', 'ml-note', v.a + v.b ? `Somebody who only guesses gets a result at least this clear ${Math.round(100 * blind.chance)} % of the time.` : '');
    const again = button('ml-blind-again', 'Again'), done = button('ml-blind-end', 'Done');
    again.onclick = startBlind; done.onclick = () => { endBlind(); takeFrom(transport.active); buildDecks(); buildCompare(); levels(); face(); };
    ask.append(result, odds, again, done);
  } else {
    const text = make('p', 'ml-verdict', 'Switch between X and Y as you listen. Which one do you prefer?');
    const vote = (letter, label) => { const e = button('ml-vote', label); e.dataset.vote = letter; e.onclick = () => { blind.choose(letter); hear(blind.x); buildCompare(); announce($('.ml-count').textContent); face(); }; return e; };
    const count = make('p', 'ml-note ml-count', blind.rounds ? `${blind.rounds} ${blind.rounds === 1 ? 'choice' : 'choices'} so far. X and Y are dealt anew after each.` : 'X and Y are dealt anew after each choice.');
    const reveal = button('ml-reveal', 'Reveal'); reveal.onclick = () => { blind.revealed = true; choose('a'); buildDecks(); buildCompare(); announce([...$('.ml-blind').querySelectorAll('p')].map((e) => e.textContent).join(' ')); face(); };
    ask.append(text, vote('x', 'X is better'), vote('same', 'No difference'), vote('y', 'Y is better'), reveal, count);
  }
  refill(box, ask);
}
async function startBlind() {
  announce('');                              // it may name a preset
  const test = blind = new Blind(); blind.serials = serials(); chosen = transport.steady = true;
  await Promise.all(['a', 'b'].map((key) => transport.warm(key)));   // or the wait would tell
  if (blind !== test) return;                // another result came meanwhile, and ended it
  hear(blind.x); buildDecks(); buildCompare(); face();
}
const hidden = () => !!blind && !blind.revealed;      // whether which is which must not be seen
function endBlind() { blind = null; transport.steady = false; }

// Rebuild a box, and leave the focus on the button that stands for the one that had it.
function refill(box, ...parts) {
  const had = box.contains(document.activeElement) ? document.activeElement : null;
  box.replaceChildren(...parts);
  const buttons = [...box.querySelectorAll('button')];
  if (had) (buttons.find((e) => e.className === had.className && e.dataset.vote === had.dataset.vote) || buttons[0])?.focus();
}

// What takes a while, and where it was asked for.
const WAITS = {all: 'zip', mix: 'mix', karaoke: 'karaoke version', drumless: 'drumless version', link: 'link'};
function fetchingText(asked = [...fetching]) {
  const files = asked.filter((what) => what !== 'link').map((what) => WAITS[what] || what);
  const text = files.length ? `Preparing the ${files.join(' and the ')} to be taken away …` : '';
  return joined(text, asked.includes('link') && 'Making the link: the stems are being stored …');
}
function prepare(what) { fetching.add(what); face(); }
function showFetching() {
  for (const what of [...stems, ...Object.keys(WAITS)]) {
    const e = document.querySelector(what === 'link' ? '#share-make' : `#take-${what}`), busy = String(fetching.has(what));
    if (e && e.getAttribute('aria-busy') !== busy) e.setAttribute('aria-busy', busy);
  }
}

// ---- the face -----------------------------------------------------------------------------------
function face() {
  const playing = transport.playing, d = transport.duration, play = $('.ml-play');
  play.disabled = !value || transport.limit <= 0;
  play.dataset.on = playing ? '1' : ''; play.setAttribute('aria-label', playing ? 'Pause' : 'Play');
  const seek = $('.ml-seek'); seek.max = d || 1; seek.disabled = !value;
  const master = $('.ml-master-range'); master.setAttribute('aria-valuetext', decibel(+master.value)); fill(master);
  speed.disabled = pitch.disabled = !value;
  const loop = $('.ml-loop'); loop.setAttribute('aria-pressed', String(!!transport.loop)); loop.disabled = !value;
  stage().dataset.loop = transport.loop ? '1' : ''; stage().dataset.bent = transport.bent ? '1' : '';
  const base = value ? value.start / value.rate : 0;
  $('.ml-loopspan').textContent = transport.loop ? `${tenths(base + transport.loop[0])} – ${tenths(base + transport.loop[1])}` : '';
  const from = document.querySelector('#slot input:checked')?.value || 'a', slot = value && value.takes.find((take) => take.slot === from);
  const takable = !!slot && slot.ready > 0 && !(slot.state === 'running' && atWork());
  for (const lane of element.querySelectorAll('.ml-lane')) {
    const name = lane.dataset.stem, f = faders[name], there = !!value && value.takes.length > 0;
    lane.querySelector('.ml-m').setAttribute('aria-pressed', String(f.mute));
    lane.querySelector('.ml-s').setAttribute('aria-pressed', String(f.solo));
    const volume = lane.querySelector('.ml-volume');
    if (+volume.value !== f.level) volume.value = f.level;
    volume.setAttribute('aria-valuetext', decibel(f.level)); fill(volume);
    lane.querySelector('.ml-take').disabled = !takable;
    for (const e of lane.querySelectorAll('.ml-m, .ml-s, .ml-volume')) e.disabled = !there;
    lane.dataset.silent = there && !audible(name) ? '1' : '';
  }
  for (const e of element.querySelectorAll('.ml-deck')) {
    const key = e.dataset.key, real = hidden() && blind[key] || key;
    e.setAttribute('aria-pressed', String(real === transport.active));
    const deck = transport.decks.get(real);
    e.disabled = real === 'diff' ? !comparable() : !(deck && deck.ready > 0);
  }
  if (refocus) {
    const deck = (key) => element.querySelector(`.ml-deck[data-key="${key}"]:not(:disabled)`);
    (deck(refocus) || deck('o'))?.focus({preventScroll: true}); refocus = null;
  }
  $('.ml-keys-ab').hidden = !(value && value.takes.length > 1);
  $('.ml-keys-ab kbd').textContent = hidden() ? 'X' : 'A'; $('.ml-keys-ab kbd + kbd').textContent = hidden() ? 'Y' : 'B';
  if (value) {
    const share = value.done, status = $('.ml-status');
    const running = value.phase === 'running', slow = transport.waiting && !running ? 'Waiting for the connection …' : '';
    const behind = transport.waiting && running ? 'Waiting for the stems to get here.' : '';
    const busy = fetchingText(), next = leaving === value.token;
    const coming = next && !atWork() ? joined(alone, 'Your next song is on its way …') : '';
    const replaced = next && atWork() ? joined(alone, 'Your next song is on its way, and will take the place of this one.') : '';
    const work = stopping ? value.phase === 'running' ? 'Stopping at the end of this piece …' : 'Stopping …' : joined(behind, value.text);
    const short = beyond && pastEnd(beyond) ? `${deckName(beyond)}: nothing after ${clock(value.start / value.rate + transport.reach(beyond))}. Go back to hear it.` : '';
    const text = transport.error || slow || short || busy || coming || joined(work, replaced);
    if (status.textContent !== text) status.textContent = text;
    const quarter = 25 * Math.floor(4 * share);
    tell(running && share && !transport.error && !short && !busy && !coming && !stopping ? joined(behind || (quarter ? `${quarter} % separated` : 'Separating'), replaced) : text);
    root.dataset.trouble = transport.error || value.phase === 'failed' ? '1' : '';
    const bar = $('.ml-bar'), percent = share === null || share === undefined ? (value.phase === 'finished' ? 100 : 0) : Math.round(100 * share);
    bar.setAttribute('aria-valuenow', String(percent)); bar.firstElementChild.style.width = `${percent}%`;
    const had = ['.ml-stop', '.ml-go', '.ml-on'].find((name) => $(name) === document.activeElement);
    $('.ml-stop').hidden = !atWork(); $('.ml-stop').setAttribute('aria-disabled', String(stopping));
    $('.ml-go').hidden = value.phase !== 'ready';
    $('.ml-on').hidden = atWork() || !value.unfinished;
    $('.ml-work').hidden = !text;
    // the keys of who works with them must not fall to the page when a button goes
    if (had && $(had).hidden) ($('.ml-on').hidden ? play : $('.ml-on')).focus({preventScroll: true});
    bar.hidden = !atWork() && value.phase !== 'stopped';
  }
  showFetching(); entitle();
  dirty = true;
}

// Who waits in another tab sees in the title of this one how far it is.
const TITLE = document.title;
function entitle() {
  const share = atWork() && value.done ? `${Math.floor(100 * value.done)} % · ` : atWork() ? '… ' : '';
  if (share) finished = true;
  else if (document.visibilityState === 'visible' || !value || value.phase !== 'finished') finished = false;
  const title = (share || (finished ? '✓ ' : '')) + (value && (share || finished) ? value.name : TITLE);
  if (document.title !== title) document.title = title;
}
let finished = false;                                // a run ended while nobody looked
document.addEventListener('visibilitychange', entitle);

// A screen reader is told of what begins and ends and of each quarter, not of every block.
function tell(text) { const said = $('.ml-said'); if (said.textContent !== text) said.textContent = text; }
// What somebody did by a key or to the loop; the same once more is another text, or it is not said.
function announce(text) { const said = $('.ml-said-loop'); said.textContent = said.textContent === text ? `${text}\u00a0` : text; }
const deckName = (key) => element.querySelector(`.ml-deck[data-key="${key}"]`)?.textContent.replace(/ +/, ', ') ?? '';
function tellFader(name, what) {
  const on = faders[name][what];
  announce(`${name[0].toUpperCase()}${name.slice(1)} ${what === 'mute' ? on ? 'muted' : 'unmuted' : on ? 'solo' : 'solo off'}`);
}

const fill = (range) => { const part = range.value / range.max; range.style.setProperty('--part', part); range.style.setProperty('--fill', `${100 * part}%`); };

function readColours() {
  const style = getComputedStyle(root);
  const names = ['vocals', 'drums', 'bass', 'other', 'ink', 'line', 'accent', 'muted'];
  colours = Object.fromEntries(names.map((n) => [n, style.getPropertyValue(`--ml-${n}`).trim() || '#888']));
}

// One waveform: bars three pixels apart; what has been played is stronger; what is not there yet is a line.
function paint(canvas, key, index, colour, ready, loud) {
  const w = canvas.clientWidth, h = canvas.clientHeight, ratio = window.devicePixelRatio || 1;
  if (!w || !h) return;
  if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) { canvas.width = Math.round(w * ratio); canvas.height = Math.round(h * ratio); }
  const g = canvas.getContext('2d');
  g.setTransform(ratio, 0, 0, ratio, 0, 0); g.clearRect(0, 0, w, h);
  const d = transport.duration || 1, at = shownTime() / d * w, base = value ? value.start / value.rate : 0;
  if (transport.loop) { g.globalAlpha = 0.14; g.fillStyle = colours.accent; g.fillRect(transport.loop[0] / d * w, 0, (transport.loop[1] - transport.loop[0]) / d * w, h); }
  const keys = hidden() && key !== 'o' ? ['a', 'b'] : [key];     // in a blind test the picture must not tell
  const rows = keys.map((k) => waves[k]).filter(Boolean);
  const pps = value ? value.peaksPerSecond : 50, step = 3, edge = ready / d * w;
  g.fillStyle = colour;
  for (let x = 0; x < Math.min(w, edge); x += step) {
    let peak = 0;
    for (const row of rows) {
      const offset = key === 'o' ? base * pps : 0;
      const i0 = Math.floor(offset + x / w * d * pps), i1 = Math.max(i0 + 1, Math.floor(offset + (x + step) / w * d * pps));
      for (let i = i0; i < Math.min(i1, row.loaded); i++) peak = Math.max(peak, row.bytes[i * row.width + (index < row.width ? index : 0)]);
    }
    const a = Math.min(1, (peak / 255) ** 2 * (value ? value.headroom : 1) / loud) ** 0.75, y = Math.max(1.5, a * (h - 4));
    g.globalAlpha = x < at ? 1 : 0.42;
    g.fillRect(x, (h - y) / 2, step - 1, y);
  }
  g.globalAlpha = 0.6; g.fillStyle = colours.line;
  if (edge < w - 1) g.fillRect(Math.max(0, edge), h / 2 - 0.5, w - edge, 1);
  g.globalAlpha = 1; g.fillStyle = colours.ink; g.fillRect(Math.min(w - 1.5, Math.max(0, at - 0.75)), 0, 1.5, h);
}

function frame() {
  requestAnimationFrame(frame);
  if (!value || !root.isConnected) return;
  if (!transport.playing && !dirty) return;
  const asked = dirty;
  dirty = false;
  const t = shownTime(), base = value.start / value.rate;
  $('.ml-time b').textContent = clock(base + t); $('.ml-time span').textContent = clock(base + transport.duration);
  const seek = $('.ml-seek');
  seek.value = t;
  fill(seek);
  // a screen reader on it would read the seconds over the music
  if (asked || document.activeElement !== seek) seek.setAttribute('aria-valuetext', `${spoken(base + t)} of ${spoken(base + transport.duration)}`);
  const loud = Math.max(0.1, value.original.peak);
  paint($('.ml-song'), 'o', 0, colours.muted, transport.duration, loud);
  const shown = hidden() ? 'a' : ['a', 'b'].includes(transport.active) ? transport.active : (value.takes[0] ? value.takes[0].slot : 'a');
  const deck = transport.decks.get(shown), ready = deck ? deck.ready / value.rate : 0;
  const heard = transport.heard();
  const live = hidden() ? transport.decks.get(heard.find((k) => k !== 'o')) : heard.includes(shown) ? deck : null;
  element.querySelectorAll('.ml-lane').forEach((lane, i) => {
    paint(lane.querySelector('.ml-wave'), shown, i, colours[lane.dataset.stem] || colours.accent, ready, loud * 0.8);
    const gain = live ? live.gains[i] : null;
    lane.style.setProperty('--level', Math.min(1, Math.sqrt(transport.level(gain && gain.meter))).toFixed(3));
  });
  const level = Math.min(1, Math.sqrt(transport.level(transport.meter)));
  const meter = $('.ml-meter'), g = meter.getContext('2d');
  meter.width = 120; meter.height = 6; g.fillStyle = colours.line; g.fillRect(0, 0, 120, 6); g.fillStyle = colours.accent; g.fillRect(0, 0, 120 * level, 6);
  for (const listener of watchers) listener(t + base);
}
const watchers = [];

// ---- keys and buttons ---------------------------------------------------------------------------
function key(event) {
  // many keyboards write brackets with AltGr (which is Ctrl + Alt) or Option
  const bracket = /^[[\]<>]$/.test(event.key) && (event.altKey || !event.ctrlKey);
  if (!value || event.metaKey || (!bracket && (event.ctrlKey || event.altKey))) return;
  const target = event.target, tag = target.tagName, place = target.classList.contains('ml-seek'), range = tag === 'INPUT' && target.type === 'range' && !place;
  const tick = tag === 'INPUT' && ['radio', 'checkbox'].includes(target.type), flap = target.closest('[role=tab]');
  if (target.dataset.clicked) {
    if (/^(Arrow(Up|Down)|Enter|Home|End|Page|Tab|Escape)/.test(event.key)) { delete target.dataset.clicked; return; }
    target.blur();
  } else if (tag === 'SELECT') return;
  if ((tag === 'INPUT' && !range && !place && !tick) || tag === 'TEXTAREA' || target.isContentEditable) return;
  root.dataset.keyboard = '1';                        // a tablet may have one, and its list of keys is shown then
  if (target.closest('[role=listbox], [role=menu], [role=dialog]')) return;
  if (!shortcuts.checked && /^[^ ]$/.test(event.key)) return;
  const ours = element.contains(target), k = event.key;
  // what chooses keeps the keys that choose, but not Space where that would choose what is chosen
  const done = tick ? target.type === 'radio' && target.checked : flap && flap.getAttribute('aria-selected') === 'true';
  if ((tick && target.type === 'radio' && k.length > 1) || ((tick || flap) && k === ' ' && !done)) return;
  const digit = /^Digit([1-4])$/.exec(event.code), pressed = tag === 'BUTTON' || tag === 'A' || tag === 'SUMMARY';
  if (event.repeat && !k.startsWith('Arrow')) { if (k === ' ' && !flap && !pressed) event.preventDefault(); return; }
  const step = event.shiftKey ? 0.1 : 5;
  if (k === ' ') { if (!flap && pressed) return; transport.toggle(); }
  else if (k === 'ArrowRight' && !range) transport.seek(transport.now() + step);
  else if (k === 'ArrowLeft' && !range) transport.seek(transport.now() - step);
  else if (k === 'ArrowUp' && place) transport.seek(transport.now() + 1);
  else if (k === 'ArrowDown' && place) transport.seek(transport.now() - 1);
  else if (k === 'Home' && !range && ours) transport.seek(0);
  else if (digit) { const name = stems[+digit[1] - 1]; if (name && value.takes.length) { const what = event.shiftKey ? 'solo' : 'mute'; toggle(name, what); tellFader(name, what); } }
  else if (/^[aAbBxXyY]$/.test(k)) {
    const asked = k.toLowerCase(), real = hidden() ? {a: blind.x, b: blind.y, ...blind}[asked] : asked;
    if (!(transport.decks.get(real)?.ready > 0)) return;
    if (choose(real)) announce(deckName(hidden() && {a: 'x', b: 'y'}[asked] || asked));
  }
  else if (/^[oO]$/.test(k)) { choose('o'); announce(deckName('o')); }
  else if (/^[lL]$/.test(k)) loopToggle();
  else if (k === '<' || k === '>') pace(k === '>' ? 1 : -1);
  else if (k === '[') loopMark(false);
  else if (k === ']') loopMark(true);
  else if (k === 'Escape' && transport.loop) { transport.setLoop(null); tellLoop(); }
  else return;
  event.preventDefault(); face();
}
document.addEventListener('keydown', key);
$('.ml-play').onclick = () => transport.toggle();
$('.ml-loop').onclick = loopToggle;
$('.ml-stop').onclick = () => { if (stopping) return; stopping = true; press('#stop'); face(); };
$('.ml-on').onclick = () => press('#go-on');
$('.ml-go').onclick = () => {
  const go = document.querySelector('#go');
  if (go && go.disabled && value) { value = {...value, text: document.querySelector('#price')?.textContent.trim() ?? ''}; face(); } else press('#go');
};
$('.ml-seek').oninput = (event) => hold(+event.target.value);
$('.ml-seek').onchange = (event) => { if (!event.target.dataset.undone) release(+event.target.value); };
unmoved($('.ml-seek'), () => { held = null; face(); });
unmoved($('.ml-master-range'), () => $('.ml-master-range').oninput({target: $('.ml-master-range')}));
// the next Space is for the music, not for what was clicked last
root.addEventListener('mousedown', (event) => {
  if (!event.target.closest('button')) return;
  event.preventDefault();
  if (!root.contains(document.activeElement)) document.activeElement?.blur();
});
document.addEventListener('click', (event) => {
  if (event.detail && event.target.closest('#desk, #tabs')) event.target.closest('button:not([role=tab])')?.blur();
});
const shortcuts = $('.ml-shortcuts');
try { shortcuts.checked = localStorage.getItem('studio-shortcuts') !== 'off'; } catch { /* private window */ }
shortcuts.onchange = () => { try { localStorage.setItem('studio-shortcuts', shortcuts.checked ? 'on' : 'off'); } catch { /* private window */ } };
$('.ml-master-range').oninput = (event) => { transport.setMaster(gainOf(+event.target.value)); face(); };
$('.ml-choose').onclick = () => press('#song input[type=file]');
$('.ml-example').onclick = () => press('#example');
scrub($('.ml-song'), true);
new ResizeObserver(() => { dirty = true; }).observe(element);
new MutationObserver(() => { readColours(); dirty = true; }).observe(document.body, {attributes: true, attributeFilter: ['class']});

// What the rest of the page, and the tests, may ask.
window.studio = {
  Blind, transport,
  fetching: (what) => { prepare(what); return fetchingText(what === 'link' ? ['link'] : [...fetching].filter((other) => other !== 'link')); },
  fetched: (what) => { fetching.delete(what); face(); },
  runsOn: () => { stopping = false; face(); },
  bringing: (on) => { bringing = on; if (on) alone = ''; document.querySelector('#example')?.setAttribute('aria-busy', String(on)); showSent(); },
  recorder: (on) => openRecorder(on),
  deleted,
  nothingCame: () => { if (!value) { load(null); linked = null; } },
  faders: () => Object.fromEntries(stems.map((name) => [name, audible(name) ? +gainOf(faders[name].level).toFixed(4) : 0])),
  wanted: () => {
    const checked = (id) => document.querySelector(`#${id} input`)?.checked;
    return {
      faders: window.studio.faders(), loop: transport.loop && checked('only-loop') ? transport.loop : null,
      pace: transport.bent && checked('as-heard') ? [transport.speed, transport.key] : null,
    };
  },
  seek: (t) => transport.seek(t - (value ? value.start / value.rate : 0)),
  watch: (listener) => watchers.push(listener),
  now: () => transport.now() + (value ? value.start / value.rate : 0),
  state: () => ({
    phase: root.dataset.phase, playing: transport.playing, waiting: transport.waiting, position: transport.now(), duration: transport.duration,
    limit: transport.limit, active: transport.active, loop: transport.loop, speed: transport.speed, key: transport.key, bytes: transport.bytes, error: transport.error,
    time: transport.context ? transport.context.currentTime : 0, clock: transport.context ? transport.context.state : 'none',
    level: transport.level(transport.meter), scheduled: transport.pieces.reduce((n, p) => n + [...p.nodes.values()].reduce((m, x) => m + x.length, 0), 0),
    levels: Object.fromEntries([...transport.decks].map(([k, d]) => [k, d.gains.map((x) => +x.gain.value.toFixed(3))])),
    meters: Object.fromEntries([...transport.decks].map(([k, d]) => [k, d.gains.map((x) => +transport.level(x.meter).toFixed(4))])),
    buses: Object.fromEntries([...transport.decks].map(([k, d]) => [k, d.bus ? +d.bus.gain.value.toFixed(3) : 0])),
    ready: Object.fromEntries([...transport.decks].map(([k, d]) => [k, d.ready])),
    peaks: Object.fromEntries(Object.entries(waves).map(([k, w]) => [k, w.loaded])),
    blind: blind && {rounds: blind.rounds, revealed: !!blind.revealed}, takes: value ? value.takes.map((t) => t.preset) : [], serials: value ? value.takes.map((t) => t.serial) : [],
  }),
};

readColours();
watch('value', () => load(props.value));
load(props.value || (keptToken() ? {opening: ON_ITS_WAY} : null));
requestAnimationFrame(frame);
