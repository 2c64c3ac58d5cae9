// A sound as a picture, with two handles: what lies between them is kept.
import { h } from './base.js'
import { RATE, drawColumns, drawWave } from './mic.js'
import { Resampler, Spectrogram, readWav } from './audio.js'

const BANDS = 56, LEAST_S = 0.1, STEP_S = 0.02, FINE = 100
const round = s => Math.round(s * FINE) / FINE

/** What there is to see of a WAV file; as loud as it can be, since faint sounds are to be judged, too */
export function seen(bytes) {
  const wav = readWav(bytes)
  if (!wav) return null
  const x = new Resampler(wav.rate, RATE).process(wav.samples)
  let most = 1e-4
  for (const v of x) most = Math.max(most, Math.abs(v))
  return { x, cells: new Spectrogram(RATE, Math.max(160, Math.round(x.length / 600)), BANDS).process(x.map(v => 0.5 * v / most)) }
}

export class Trim {
  /** tell() after each change of the part; hear(seconds) when somebody clicks at a moment */
  constructor({ tell = () => {}, hear = () => {} } = {}) {
    Object.assign(this, { tell, hear, duration_s: 0, start: 0, end: 0, picture: null })
    this.wave = h('canvas.wk-wave', { role: 'img', 'aria-label': 'Waveform' })
    this.columns = h('canvas.wk-picture', { role: 'img', 'aria-label': 'Spectrogram, 50 Hz to 8 kHz' })
    this.cuts = [h('i.wk-cut'), h('i.wk-cut')]
    this.line = h('i.wk-now', { hidden: true })
    this.handles = ['start', 'end'].map(which => h(`span.wk-handle.${which}`, { role: 'slider', tabIndex: 0, 'aria-label': which === 'start' ? 'What is kept begins at' : 'What is kept ends at', keydown: e => this.key(e, which), pointerdown: e => this.drag(e, which) }))
    this.over = h('div.wk-trim-over', this.cuts, this.line, this.handles)
    this.over.addEventListener('click', e => { if (!e.target.closest('.wk-handle')) this.hear(this.at(e.clientX)) })
    this.root = h('div.wk-trim', this.wave, this.columns, this.over)
    this.size = new ResizeObserver(() => this.draw())
    this.size.observe(this.wave)
  }
  close() { this.size.disconnect() }

  /** Another sound: how long it is; its picture comes when it is there */
  load(duration_s, start_s, end_s) {
    this.duration_s = duration_s
    this.picture = null
    this.now(null)
    this.set(start_s ?? 0, end_s ?? duration_s)
    this.draw()
  }
  show(picture) { this.picture = picture; this.draw() }
  draw() {
    if (this.picture) { drawWave(this.wave, this.picture.x, true); drawColumns(this.columns, this.picture.cells, BANDS) } else for (const c of [this.wave, this.columns]) c.getContext('2d').clearRect(0, 0, c.width, c.height)
  }

  get whole() { return this.start <= 0.005 && this.end >= this.duration_s - 0.005 }
  /** What the service is asked to keep; nothing when it is all of it */
  get part() { return this.whole ? {} : { start_s: this.start, end_s: Math.min(this.end, this.duration_s) } }
  set(start, end) {
    const d = this.duration_s
    this.start = round(Math.max(0, Math.min(start, d - LEAST_S)))
    this.end = Math.max(this.start + LEAST_S, end >= d - 0.005 ? d : Math.min(round(end), d))
    const [a, b] = [this.start, this.end].map(s => `${100 * Math.min(s / (d || 1), 1)}%`)
    this.cuts[0].style.width = a
    this.cuts[1].style.left = b
    this.handles[0].style.left = a
    this.handles[1].style.left = b
    for (const [k, s] of [this.start, this.end].entries()) for (const [name, v] of [['valuemin', 0], ['valuemax', d.toFixed(2)], ['valuenow', s.toFixed(2)], ['valuetext', `${s.toFixed(2)} s`]]) this.handles[k].setAttribute(`aria-${name}`, v)
    this.tell()
  }
  /** The line of what is heard now; null: nothing */
  now(s) {
    this.line.hidden = s === null
    if (s !== null) this.line.style.left = `${100 * Math.min(s / (this.duration_s || 1), 1)}%`
  }

  at(clientX) { const r = this.over.getBoundingClientRect(); return this.duration_s * Math.min(Math.max((clientX - r.left) / r.width, 0), 1) }
  move(which, to) { which === 'start' ? this.set(Math.min(to, this.end - LEAST_S), this.end) : this.set(this.start, Math.max(to, this.start + LEAST_S)) }
  drag(e, which) {
    if (e.button) return
    e.preventDefault()
    e.currentTarget.focus({ preventScroll: true })
    const handle = e.currentTarget, off = e.clientX - this.over.getBoundingClientRect().left - this.over.clientWidth * (which === 'start' ? this.start : this.end) / (this.duration_s || 1)
    handle.setPointerCapture(e.pointerId)
    const move = m => this.move(which, this.at(m.clientX - off))
    const up = () => { for (const [k, f] of [['pointermove', move], ['pointerup', up], ['pointercancel', up]]) handle.removeEventListener(k, f) }
    for (const [k, f] of [['pointermove', move], ['pointerup', up], ['pointercancel', up]]) handle.addEventListener(k, f)
  }
  key(e, which) {
    if (e.ctrlKey || e.metaKey || e.altKey) return
    const now = which === 'start' ? this.start : this.end, by = e.shiftKey ? 10 * STEP_S : STEP_S
    const to = { ArrowLeft: now - by, ArrowDown: now - by, ArrowRight: now + by, ArrowUp: now + by, PageDown: now - 10 * STEP_S, PageUp: now + 10 * STEP_S, Home: 0, End: this.duration_s }[e.key]
    if (to === undefined) return
    e.preventDefault()
    e.stopPropagation()
    this.move(which, to)
  }
}
