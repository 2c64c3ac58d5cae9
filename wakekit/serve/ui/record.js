// Record: what to say, how loud it is, keep it or say it again. And files that are there already.
import { Panel, Trouble, bytes, code, count, field, h, options, several, wavBytes } from './base.js'
import { FULL, Meter, Microphone, RATE, drawWave } from './mic.js'
import { levelDb } from './audio.js'

const NEEDED = 10, GOOD = 40, LONGEST_S = 6, ROOM_S = 5
export const KINDS = { positive: 'the phrase', negative: 'something else', noise: 'no speech' }

/** What is wrong with a recording, and is it worth keeping? */
export function verdict(x, room = false) {
  let clipped = 0, most = 0
  for (const v of x) { most = Math.max(most, Math.abs(v)); if (Math.abs(v) >= FULL) clipped++ }
  const frames = [], n = 320
  for (let i = 0; i + n <= x.length; i += n) frames.push(levelDb(x.subarray(i, i + n)))
  const sorted = [...frames].sort((a, b) => a - b), quiet = sorted[Math.floor(frames.length / 10)] ?? -90, loud = sorted[Math.floor(frames.length * 0.95)] ?? -90, snr = loud - quiet
  const found = { clipped, peakDb: 20 * Math.log10(most + 1e-9), loud, quiet, snr, trouble: [], fatal: false }
  const tell = (text, fatal = false) => { found.trouble.push(text); found.fatal ||= fatal }
  if (most < 1e-4) tell('Nothing arrived: is the microphone muted?', true)
  else if (clipped > 3) tell(`Too loud: ${several(clipped, 'sample')} at full scale. Go back a little or turn the microphone down.`, clipped > 80)
  else if (!room && loud < -52) tell('Very quiet. Come closer, or turn the microphone up.')
  if (!room && most >= 1e-4 && snr < 8) tell('Hardly louder than the room. Say it again, a little louder.', snr < 4)
  if (!room && x.length < 0.3 * RATE) tell('Too short: less than 0.3 s.', true)
  return found
}

export class Record extends Panel {
  constructor(...args) {
    super(...args)
    this.meter = new Meter()
    this.prompts = []
    this.which = 0
    this.made = {}
    this.button = h('button.wk-main.wk-big', { type: 'button', click: () => this.press() }, 'Record')
    this.phrase = h('p.wk-say')
    this.list = h('div.wk-prompts', { role: 'listbox', 'aria-label': 'What to say' })
    this.wave = h('canvas.wk-wave', { role: 'img', 'aria-label': 'The recording' })
    this.words = h('div.wk-verdict')
    this.player = h('audio', { controls: true, hidden: true })
    this.keepButton = h('button.wk-main', { type: 'button', click: () => this.keep() }, 'Keep')
    this.redoButton = h('button', { type: 'button', click: () => this.start() }, 'Again')
    this.after = h('div.wk-after', { hidden: true }, this.wave, this.words, this.player, h('div.wk-bar', this.keepButton, this.redoButton))
    this.speaker = h('input', { type: 'text', maxLength: 100, placeholder: 'anna', value: this.chosen.get('speaker') ?? '', autocomplete: 'off', change: e => this.chosen.set('speaker', e.target.value.trim()) })
    this.distance = h('select', { change: e => this.chosen.set('distance', e.target.value) }, options(['', '0.5 m', '1 m', '2 m', '3 m', '5 m', 'another room'].map(v => [v, v || 'not said']), this.chosen.get('distance') ?? ''))
    this.auto = h('input', { type: 'checkbox' })
    this.tally = h('div.wk-tally')
    this.nothing = h('div.wk-note', 'Choose a dataset above, or make one: it needs a name and the phrase.')
    this.inner = h('div.wk-two',
      h('section.wk-card', this.phrase, h('div.wk-bar', this.button, this.meter.root), this.after, this.said,
        h('div.wk-row', field('Who speaks', this.speaker, 'One name for each voice: training and test never share a voice'), field('Distance', this.distance)),
        h('label.wk-check', this.auto, 'Keep it at once when nothing is wrong with it, and go on'),
        h('p.wk-dim', 'Keys: R records and stops, Enter keeps, ↑ ↓ choose what to say.')),
      h('section.wk-card', h('h3', 'What to say'), this.tally, this.list))
    this.root.append(this.nothing, this.inner, new Uploads(this).root)
    this.inner.addEventListener('keydown', e => this.key(e))
    this.inner.tabIndex = -1
    this.on('dataset', () => this.load())
    this.on('clips', () => this.counts())
    this.on('counts', () => this.counts())
    this.on('back', () => { if (!this.prompts.length) this.load() })
    this.stops.push(() => this.microphone?.close())
    this.load()
  }

  recolour() { if (this.sound) drawWave(this.wave, this.sound) }

  async load() {
    const name = this.chosen.get('dataset')
    this.nothing.hidden = !!name
    this.inner.hidden = !name
    if (name !== this.loaded) { this.prompts = []; this.list.replaceChildren(); this.phrase.replaceChildren() }
    this.loaded = name
    this.nameKeep()
    if (!name) return
    await this.doing(null, async () => {
      const about = await this.service.get(`/datasets/${code(name)}`)
      const phrase = about.phrase || name, prompts = [{ text: phrase, label: 'positive' }, { text: `${phrase} (from further away)`, label: 'positive' }, { text: `${phrase} (quietly)`, label: 'positive' }]
      try {
        const near = await this.service.get('/near-misses', { phrase, count: 40 })
        prompts.push(...near.near_misses.filter(n => !n.text.includes('[[')).slice(0, 12).map(n => ({ text: n.text, label: 'negative', hint: n.kind.replaceAll('_', ' ') })))
      } catch (e) { if (!(e instanceof Trouble)) throw e }
      prompts.push({ text: 'anything else you would say here', label: 'negative' }, { text: `the room, ${ROOM_S} seconds, nobody speaks`, label: 'noise', room: true })
      if (this.chosen.get('dataset') !== name) return
      this.prompts = prompts
      this.made = {}
      this.choose(0)
      this.counts()
    })
  }

  async counts() {
    const name = this.chosen.get('dataset')
    if (!name) return
    try {
      const { labels } = await this.service.get(`/datasets/${code(name)}`), of = l => labels[l]?.clips ?? 0, other = of('negative') + of('noise')
      const part = (n, text) => h('div', h('b', count(n)), ` ${text} `, h('progress', { max: GOOD, value: Math.min(n, GOOD), 'aria-label': text }), h('small', n < NEEDED ? `${NEEDED - n} more are needed` : n < GOOD ? `enough to begin; ${GOOD} make it good` : 'plenty'))
      if (this.chosen.get('dataset') !== name) return
      this.tally.replaceChildren(part(of('positive'), 'with the phrase'), part(other, 'without it'))
    } catch (e) { if (!(e instanceof Trouble)) throw e }
  }

  nameKeep() {
    const elsewhere = this.took && this.took.name !== this.chosen.get('dataset')
    this.keepButton.textContent = `Keep${this.found?.trouble.length ? ' it all the same' : ''}${elsewhere ? ` in ${this.took.name}` : ''}`
  }

  choose(k) {
    if (!this.prompts.length) return
    this.which = (k + this.prompts.length) % this.prompts.length
    const inside = this.list.contains(document.activeElement)
    const p = this.prompts[this.which]
    this.phrase.replaceChildren(h('span.wk-dim', p.room ? 'Record' : 'Say'), h('strong', p.text), h(`span.wk-tag.${p.label}`, KINDS[p.label]))
    this.list.replaceChildren(...this.prompts.map((q, i) => h('button.wk-prompt', { type: 'button', role: 'option', 'aria-selected': String(i === this.which), title: q.hint ?? '', click: () => this.choose(i) }, h(`i.${q.label}`), q.text, this.made[i] ? h('small', `✓ ${this.made[i]}`) : null)))
    if (inside) this.list.children[this.which].focus()
  }

  key(e) {
    if (e.target.matches('input[type=text],select,textarea') || e.ctrlKey || e.metaKey || e.altKey) return
    if (e.key === 'r' || e.key === 'R') this.press()
    else if (e.key === 'Enter' && !this.after.hidden && !e.target.matches('button,summary')) this.keep()
    else if (e.key === 'ArrowDown') this.choose(this.which + 1)
    else if (e.key === 'ArrowUp') this.choose(this.which - 1)
    else return
    e.preventDefault()
  }

  press() { return this.chunks ? this.stop() : this.start() }

  start() {
    return this.doing(this.button, async () => {
      if (!this.prompts.length) await this.load()
      if (!this.prompts.length) return
      this.say('')
      this.after.hidden = true
      this.player.pause()
      this.microphone ??= await (this.props.microphone ?? Microphone.open)({ worklet: this.props.worklet, chunk: 800, hear: x => this.hear(x), lost: () => { this.microphone = null; this.stop(); this.say('The microphone is gone. Plug it in again, and go on.', 'bad') } })
      Object.assign(this, { chunks: [], heardS: 0, quietS: 0, floor: -35, room: !!this.prompts[this.which].room, taking: { name: this.chosen.get('dataset'), which: this.which, p: this.prompts[this.which] } })
      this.button.textContent = 'Stop'
      this.button.classList.add('on')
      clearTimeout(this.idle)
    })
  }

  hear(x) {
    const { db } = this.meter.hear(x)
    if (!this.chunks) return
    this.chunks.push(x)
    const s = x.length / RATE, length = this.chunks.length * s
    this.floor = Math.min(this.floor + 3 * s, Math.max(db, -75)) // follows the quietest
    if (db > this.floor + 14) { this.heardS += s; this.quietS = 0 } else this.quietS += s
    if (length >= (this.room ? ROOM_S : LONGEST_S) || (!this.room && this.heardS > 0.2 && this.quietS > 0.9)) this.stop()
  }

  async stop() {
    if (!this.chunks) return
    const parts = this.chunks, x = new Float32Array(parts.reduce((n, p) => n + p.length, 0))
    parts.reduce((at, p) => { x.set(p, at); return at + p.length }, 0)
    this.chunks = null
    this.button.textContent = 'Record'
    this.button.classList.remove('on')
    this.idle = setTimeout(() => { this.microphone?.close(); this.microphone = null; this.meter.rest() }, 60_000) // the lamp of the microphone shall not burn for ever
    if (!x.length) return
    this.sound = x
    this.took = this.taking // whatever is chosen when it is kept
    const v = this.found = verdict(x, this.room)
    URL.revokeObjectURL(this.player.src)
    this.player.src = URL.createObjectURL(new Blob([wavBytes(x, RATE)], { type: 'audio/wav' }))
    this.player.hidden = this.after.hidden = false
    this.words.replaceChildren(h('span', `${(x.length / RATE).toFixed(1)} s · peak ${v.peakDb.toFixed(0).replace('-', '−')} dB · ${v.snr.toFixed(0)} dB above the room`), ...v.trouble.map(t => h('p.wk-bad', t)), ...v.trouble.length ? [] : [h('p.wk-good', 'Sounds good.')])
    this.nameKeep()
    drawWave(this.wave, x)
    if (this.auto.checked && !v.trouble.length && await this.keep()) setTimeout(() => this.shown && this.start(), 700)
  }

  keep() {
    return this.doing(this.keepButton, async () => {
      const { name, p, which } = this.took, sound = this.sound, here = () => name === this.chosen.get('dataset')
      const file = new File([wavBytes(sound, RATE)], `${p.label}-${Date.now()}.wav`, { type: 'audio/wav' })
      const notes = [p.label === 'positive' || p.room ? '' : `said: ${p.text}`, this.distance.value && `distance: ${this.distance.value}`].filter(Boolean).join('; ')
      const got = await this.service.send(`/datasets/${code(name)}/recordings`, file, { label: p.label, speaker: this.speaker.value.trim(), source: 'microphone', notes })
      if (this.sound === sound) { this.after.hidden = true; this.player.pause() }
      if (here()) this.made[which] = (this.made[which] ?? 0) + 1
      this.say(got.warning ? `Kept, but: ${got.warning}` : 'Kept.', 'good')
      if (here() && !this.chunks) this.choose(p.label === 'negative' && which + 1 < this.prompts.length && this.prompts[which + 1].label === 'negative' ? which + 1 : which)
      this.chosen.set('clips', Date.now())
      this.button.focus()
      return true
    })
  }
}

/** Files that are there already: dropped, or chosen */
class Uploads {
  constructor(panel) {
    this.panel = panel
    this.files = h('input', { type: 'file', multiple: true, accept: 'audio/*,.wav,.flac,.ogg,.opus,.mp3,.aiff,.au,.w64,.caf', change: () => { this.take([...this.files.files]); this.files.value = '' } })
    this.label = h('select', options(Object.entries(KINDS).map(([k, t]) => [k, `${t} (${k})`])))
    this.rows = h('div.wk-uploads', { 'aria-live': 'polite' })
    const zone = h('label.wk-drop', this.files, h('strong', 'Drop recordings here, or choose files'), h('span.wk-dim', 'WAV, FLAC, OGG, MP3 … of any rate; each is one clip'))
    for (const kind of ['dragenter', 'dragover']) zone.addEventListener(kind, e => { e.preventDefault(); zone.classList.add('over') })
    for (const kind of ['dragleave', 'drop']) zone.addEventListener(kind, e => { e.preventDefault(); zone.classList.remove('over') })
    zone.addEventListener('drop', e => this.take([...e.dataTransfer.files]))
    this.root = h('details.wk-card', { open: true }, h('summary', 'Upload files'), h('div.wk-row', field('In them is', this.label)), zone, this.rows)
    this.queue = []
  }

  take(files) {
    const { panel } = this, name = panel.chosen.get('dataset')
    if (!name) return panel.say('Choose a dataset first.', 'bad')
    for (const f of files) {
      const bar = h('progress', { max: 1, value: 0 }), words = h('span.wk-dim', 'waits'), row = h('div.wk-upload', h('span', f.name), bar, words)
      this.rows.prepend(row)
      this.queue.push({ f, bar, words, row, name, label: this.label.value, speaker: panel.speaker.value.trim() })
    }
    while (this.rows.children.length > 200) this.rows.lastChild.remove()
    this.work()
  }

  async work() {
    if (this.busy) return
    this.busy = true
    for (let job; (job = this.queue.shift());) {
      const { f, bar, words, row, name, label, speaker } = job
      try {
        const most = this.panel.props.mostBytes
        if (most && f.size > most) throw new Trouble(413, { detail: `${bytes(f.size)}: at most ${bytes(most)} are taken at once (WAKEKIT_MAX_UPLOAD_MB). Cut it into parts, or use wakekit data import on the machine of the service.` })
        words.textContent = 'on its way'
        const got = await this.panel.service.send(`/datasets/${code(name)}/recordings`, f, { label, speaker }, share => { bar.value = share; if (share === 1) words.textContent = 'being checked' })
        const clip = got.added?.[0] ?? got.already?.[0] ?? got
        words.textContent = got.already?.length ? 'was there already' : `stored, ${clip.duration_s.toFixed(1)} s${clip.warning ? `; ${clip.warning}` : ''}`
        row.classList.add('good')
      } catch (e) {
        if (!(e instanceof Trouble)) console.error(e)
        if ([0, 502, 503].includes(e.status) && (job.tries = (job.tries ?? 0) + 1) < 200) { // the service is away: it will be back
          words.textContent = `${e.message} It is tried again.`
          this.queue.unshift(job)
          await new Promise(done => setTimeout(done, 3000))
          continue
        }
        words.textContent = e.problem?.problems?.[0]?.detail ?? e.message
        row.classList.add('bad')
      }
      bar.hidden = true
    }
    this.busy = false
    this.panel.chosen.set('clips', Date.now())
  }
}
