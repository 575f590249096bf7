// The page around the player: a song may be dropped anywhere, and light or dark is the reader's.
const files = () => document.querySelector('#song input[type=file]');
let over = 0;
const hasFile = (event) => event.dataTransfer && [...event.dataTransfer.types].includes('Files');
document.addEventListener('dragenter', (event) => { if (hasFile(event)) { over++; stage().dataset.drop = '1'; } });
document.addEventListener('dragleave', () => { over = Math.max(0, over - 1); if (!over) delete stage().dataset.drop; });
document.addEventListener('dragover', (event) => { if (hasFile(event)) event.preventDefault(); });
// Everywhere and first: a folder cannot be sent, and of several files one alone is taken.
document.addEventListener('drop', (event) => {
  over = 0; delete stage().dataset.drop;
  if (!hasFile(event)) return;
  const items = [...event.dataTransfer.items].filter((item) => item.kind === 'file'), file = event.dataTransfer.files[0];
  const folder = items.some((item) => item.webkitGetAsEntry?.()?.isDirectory), several = items.length > 1;
  const field = files() && document.querySelector('#song').contains(event.target);
  alone = '';
  if (field && !folder && !several) return;
  event.preventDefault();    // or the browser would leave the page for the file
  if (field) {               // it would send all of them; without any it only ends its highlight
    event.stopPropagation();
    event.target.dispatchEvent(new DragEvent('drop', {bubbles: true}));
  }
  if (folder) notice('This is a folder. Drop one song.');
  else if (file) bring(file, several ? `Only ${file.name} is taken: one song at a time.` : '');
}, true);
function notice(text) {
  if (value) { value = {...value, text}; face(); } else { $('.ml-invite').textContent = text; tell(text); }
}
let later = null;                     // dropped while another song was on its way: the last one counts
let sending = null;
const same = (a, b) => !!b && ['name', 'size', 'lastModified'].every((what) => a[what] === b[what]);
document.addEventListener('change', (event) => { if (event.target === files()) { sending = event.target.files[0] || null; alone = ''; } }, true);
function bring(file, words) {
  if (files()) give([file, words]);
  else if (!same(file, sending)) { later = [file, words]; tell(`${file.name} comes next.`); }
}
function give([file, words]) {
  const one = new DataTransfer(), input = files();
  one.items.add(file); later = null;
  input.files = one.files; input.dispatchEvent(new Event('change', {bubbles: true}));
  alone = words;
}

// On a narrow screen the result stands above the form: who asks for it down there is taken to it.
document.addEventListener('click', (event) => {
  if (!event.isTrusted || !event.target.closest('#go, #go-b') || stage().dataset.stage === 'empty') return;
  toStage(matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth');
});

// The recorder stays where it is while it records.
function openRecorder(on = stage().dataset.recorder !== '1') {
  if (!on && transport.recording?.()) return;
  stage().dataset.recorder = on ? '1' : '';
  document.querySelector('#recorder')?.setAttribute('aria-expanded', String(on));
}

// Gradio leaves a menu open that Tab goes on from.
document.addEventListener('keydown', (event) => {
  const menu = event.target;
  if (event.key !== 'Tab' || !menu.matches('[role=combobox]')) return;
  setTimeout(() => {
    if (document.activeElement === menu || menu.getAttribute('aria-expanded') !== 'true') return;
    menu.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape', bubbles: true}));
  }, 100);
});

const remember = (value) => { try { localStorage.setItem('studio-theme', value); } catch { /* private window */ } };
const dark = (on) => { document.body.classList.toggle('dark', on); pressed(); };
const pressed = () => document.querySelector('#theme-toggle')?.setAttribute('aria-pressed', String(document.body.classList.contains('dark')));
try {
  const kept = localStorage.getItem('studio-theme');
  if (kept && !new URLSearchParams(location.search).has('__theme')) dark(kept === 'dark');
} catch { /* private window */ }
pressed();
document.addEventListener('click', (event) => {
  const toggle = event.target.closest && event.target.closest('#theme-toggle');
  if (!toggle) return;
  dark(!document.body.classList.contains('dark'));
  remember(document.body.classList.contains('dark') ? 'dark' : 'light');
});

// A microphone takes music as it is: what makes speech clearer ducks and gates a song. On a phone
// nothing may be set to play while it is open.
const devices = navigator.mediaDevices;
if (devices && devices.getUserMedia && !devices.asIs) {
  const ask = devices.getUserMedia.bind(devices);
  let tracks = [];
  transport.recording = () => tracks.some((track) => track.readyState === 'live');
  devices.asIs = true;
  devices.getUserMedia = async (wanted) => {
    if (!wanted || !wanted.audio) return ask(wanted);
    if (transport.playing) transport.pause();
    if (navigator.audioSession) navigator.audioSession.type = 'auto';
    const raw = {echoCancellation: false, noiseSuppression: false, autoGainControl: false};
    const stream = await ask({...wanted, audio: {...(wanted.audio === true ? {} : wanted.audio), ...raw}});
    tracks = stream.getAudioTracks();
    return stream;
  };
}

// Gradio's upload field says its own words, anew whenever it is emptied; ours are in the style sheet.
const OURS = matchMedia('(hover: none)').matches ? 'Choose a song' : 'Drop a song, or choose a file', SENT = 'Your song is on its way …';
let bringing = false;                 // whether the example was asked for and is not there
let shown = null, since = 0;          // the song when this was asked last, and since when
function showSent() {
  // the field goes while a song is sent and read, and the page should not ask for another one
  const invite = element.querySelector('.ml-invite'), sent = bringing || (!!document.querySelector('#song') && !files());
  if (sent !== (invite.dataset.sent === '1')) {
    invite.dataset.sent = sent ? '1' : '';
    const words = sent ? joined(alone, SENT) : invite.textContent.endsWith(SENT) ? INVITATION : '';
    if (!value && words) { invite.textContent = words; tell(words); }
  }
  // a song that has just come may be the one that was sent: the field is back a moment later
  if (shown !== (value && value.token)) { shown = value && value.token; since = performance.now(); }
  const left = sent && value && performance.now() - since > 1000 ? shown : null;
  if (left !== leaving) { leaving = left; face(); }
}
setInterval(() => {
  showSent();
  if (later && atWork()) later = null;     // the first one turned out to be wanted
  if (later && files()) give(later);
  const recorder = document.querySelector('#recorder:not([aria-expanded])');
  if (recorder) recorder.setAttribute('aria-expanded', 'false');
  const field = document.querySelector('#song button[aria-label]');
  if (!field || field.ariaLabel === OURS || !field.querySelector('.wrap')) return;
  field.ariaLabel = OURS;
  const texts = document.createTreeWalker(field.querySelector('.wrap'), NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) texts.currentNode.nodeValue = '';
}, 300);
