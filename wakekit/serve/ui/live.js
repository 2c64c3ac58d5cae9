// Try live: the microphone to the detector and back: spectrogram, score, events.
import { Panel, Trouble, code, h, options } from './base.js'
import { Meter, Microphone, RATE, colour, drawColumns, sharp } from './mic.js'
import { Resampler, Spectrogram, readWav } from './audio.js'

const SPAN_S = 10, STEP_S = 0.02, BANDS = 56, COLUMNS = SPAN_S / STEP_S, CHUNK = 1280

/** A rolling picture of sound and score; also of a whole recording */
export class Trace {
  constructor() {
    this.picture = h('canvas.wk-picture', { role: 'img', 'aria-label': 'Spectrogram, 50 Hz to 8 kHz' })
    this.chart = h('canvas.wk-chart', { role: 'img', 'aria-label': 'Score' })
    this.axis = h('div.wk-axis', h('span', `${SPAN_S} s ago`), h('span', 'now'))
    this.root = h('div', this.picture, this.chart, this.axis, h('div.wk-legend', h('span', 'score'), h('span.limit', 'threshold'), h('span.hit', 'heard')))
    this.begin(0.5)
  }
  begin(threshold) {
    Object.assign(this, { threshold, cells: [], scores: new Map(), events: [], steps: 0, spectrogram: new Spectrogram(RATE, RATE * STEP_S, BANDS) })
    this.dirty()
  }
  hear(x) {
    const fresh = this.spectrogram.process(x)
    for (let i = 0; i < fresh.length; i += BANDS) this.cells.push(fresh.subarray(i, i + BANDS))
    this.steps += fresh.length / BANDS
    if (this.cells.length > COLUMNS) this.cells.splice(0, this.cells.length - COLUMNS)
    this.dirty()
  }
  score(startS, stepS, values) {
    values.forEach((v, i) => this.scores.set(Math.round((startS + i * stepS) / STEP_S), v))
    for (const k of this.scores.keys()) { if (k >= this.steps - COLUMNS - 50) break; this.scores.delete(k) }
    this.dirty()
  }
  event(timeS) { this.events.push(timeS); this.events = this.events.slice(-50); this.dirty() }
  dirty() { if (!this.asked) { this.asked = true; requestAnimationFrame(() => { this.asked = false; this.draw() }) } }
  draw() {
    if (!this.root.isConnected || !this.picture.clientWidth) return
    const cells = new Uint8Array(COLUMNS * BANDS), first = COLUMNS - this.cells.length
    this.cells.forEach((c, i) => cells.set(c, (first + i) * BANDS))
    drawColumns(this.picture, cells, BANDS)
    const [g, width, height] = sharp(this.chart), X = step => (step - this.steps + COLUMNS) / COLUMNS * width, Y = v => height - 3 - v * (height - 6)
    g.strokeStyle = colour(this.chart, 'orange'); g.setLineDash([5, 4]); g.lineWidth = 1.5
    g.beginPath(); g.moveTo(0, Y(this.threshold)); g.lineTo(width, Y(this.threshold)); g.stroke()
    g.setLineDash([])
    g.fillStyle = colour(this.chart, 'good')
    for (const t of this.events) g.fillRect(X(t / STEP_S) - 1, 0, 2, height)
    g.strokeStyle = colour(this.chart, 'blue'); g.lineWidth = 2
    g.beginPath()
    let before = null
    for (const [k, v] of this.scores) {
      if (before === null || k > before + 10) g.moveTo(X(k), Y(v)); else g.lineTo(X(k), Y(v))
      before = k
    }
    g.stroke()
  }
}

export class Live extends Panel {
  constructor(...args) {
    super(...args)
    this.which = h('select', { 'aria-label': 'Model', change: () => this.stop() })
    this.button = h('button.wk-main.wk-big', { type: 'button', click: () => this.socket ? this.stop() : this.start() }, 'Listen')
    this.file = h('input', { type: 'file', accept: 'audio/*,.wav,.flac,.ogg,.opus,.mp3', change: () => this.hearFile() })
    this.meter = new Meter()
    this.trace = new Trace()
    this.phrase = h('p.wk-heard', '')
    this.list = h('ol.wk-events', { 'aria-live': 'polite' })
    this.none = h('p.wk-dim', 'There is no model yet: train one.')
    this.inner = h('section.wk-card', h('div.wk-bar', this.which, this.button, this.meter.root, h('label.wk-button', 'A recording …', this.file)), this.said, this.phrase, this.trace.root, h('h3', 'Heard'), this.list,
      h('p.wk-dim', `The sound goes to ${this.props.kernel ? 'the kernel' : 'this dashboard'} only, and is not kept.`))
    this.root.append(this.none, this.inner)
    this.on('jobs', () => this.load())
    this.on('models', () => this.load())
    this.every(5000, () => this.load())
    this.stops.push(() => this.stop())
  }
  recolour() { this.trace?.dirty() }

  async load() {
    const [{ models }, { jobs }] = await Promise.all([this.service.get('/models'), this.service.get('/jobs', { state: 'succeeded', kind: 'train', limit: 200 })])
    const found = [...models.map(m => [`model ${m.name}`, `${m.name}, version ${m.current}`]), ...jobs.map(j => [`job ${j.id}`, `training of ${j.dataset}, ${new Date(j.finished).toLocaleString()}`])]
    this.none.hidden = found.length > 0
    this.inner.hidden = !found.length
    const key = JSON.stringify(found)
    if (key === this.known) return
    this.known = key
    const now = this.which.value || (this.chosen.get('job') && `job ${this.chosen.get('job')}`)
    this.which.replaceChildren(...options(found, found.some(([v]) => v === now) ? now : found[0]?.[0]))
  }

  /** The detector of what is chosen, fetched if it is not here yet */
  async model() {
    const chosen = this.which.value, at = chosen.indexOf(' ')
    return this.props.use(chosen.slice(0, at), chosen.slice(at + 1))
  }

  start() {
    return this.doing(this.button, async () => {
      const model = await this.model()
      this.microphone = await (this.props.microphone ?? Microphone.open)({ worklet: this.props.worklet, chunk: CHUNK, hear: x => this.hear(x), lost: () => this.stop('The microphone is gone. Plug it in again, and press Listen.') })
      this.trace.begin(model.threshold)
      this.list.replaceChildren()
      this.phrase.textContent = model.phrase
      await this.connect(model)
      if (!this.microphone) return this.stop() // another model was chosen meanwhile
      this.button.textContent = 'Stop'
      this.button.classList.add('on')
    })
  }

  connect(model) {
    return new Promise((done, failed) => {
      const w = this.props.socket(model, { scores: true, rate: RATE })
      w.binaryType = 'arraybuffer'
      w.onopen = () => { this.socket = w; done() }
      w.onmessage = ({ data }) => this.told(JSON.parse(data), model)
      w.onclose = e => {
        if (this.socket === w) this.stop(e.code === 1000 ? '' : `The detector has gone: ${e.reason || `code ${e.code}`}. Press Listen to go on.`)
        else { this.microphone?.close(); failed(new Trouble(0, { detail: `The detector does not answer: ${e.reason || `code ${e.code}`}.` })) }
      }
    })
  }

  hear(x) {
    this.meter.hear(x)
    if (!this.socket || this.socket.readyState !== 1) return
    this.trace.hear(x)
    const pcm = new Int16Array(x.length)
    x.forEach((v, i) => { pcm[i] = Math.max(-32768, Math.min(32767, Math.round(v * 32768))) })
    this.socket.send(pcm.buffer)
  }

  told(m, model) {
    if (m.type === 'scores') this.trace.score(m.start_s, m.step_s, m.scores)
    if (m.type === 'event') this.heard(m.time_s, m.score, new Date().toLocaleTimeString())
  }
  heard(timeS, score, when = '') {
    this.trace.event(timeS)
    this.list.prepend(h('li', h('b', this.phrase.textContent), ` at ${timeS.toFixed(2)} s, score ${score.toFixed(2)} `, h('span.wk-dim', when)))
    this.phrase.classList.add('heard')
    clearTimeout(this.calm)
    this.calm = setTimeout(() => this.phrase.classList.remove('heard'), 900)
  }

  stop(why = '') {
    const w = this.socket
    this.socket = null
    this.microphone?.close()
    this.microphone = null
    if (w && w.readyState < 2) w.close()
    this.meter.rest()
    this.button.textContent = 'Listen'
    this.button.classList.remove('on')
    if (why) this.say(why, 'bad')
  }

  /** A recording through the same stream, as fast as it goes */
  hearFile() {
    const file = this.file.files[0]
    this.file.value = ''
    if (!file) return
    this.stop()
    return this.doing(this.button, async () => {
      const buffer = await file.arrayBuffer(), wav = readWav(buffer) ?? await this.decode(buffer, file.name), x = new Resampler(wav.rate, RATE).process(wav.samples), model = await this.model()
      if (x.length > 600 * RATE) throw new Trouble(0, { detail: 'Longer than ten minutes: use wakekit detect for that.' })
      this.trace.begin(model.threshold)
      this.list.replaceChildren()
      this.phrase.textContent = model.phrase
      const end = new Promise(done => { this.over = done })
      await this.connect(model)
      const w = this.socket, told = w.onmessage
      w.onmessage = e => { told(e); if (JSON.parse(e.data).type === 'done') this.over() }
      for (let i = 0; i < x.length && this.socket; i += CHUNK) {
        const part = x.subarray(i, i + CHUNK)
        this.hear(part)
        if (w.bufferedAmount > 200_000) await new Promise(r => setTimeout(r, 20))
      }
      w.send('{"type": "end"}')
      await Promise.race([end, new Promise(r => setTimeout(r, 30_000))])
      this.stop()
      if (!this.list.children.length) this.say(`“${model.phrase}” was not heard in ${file.name}.`)
    })
  }
  async decode(buffer, name) {
    try { const d = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(buffer); return { samples: d.getChannelData(0), rate: d.sampleRate } } catch { throw new Trouble(0, { detail: `${name} is not a recording that this browser can read. WAV always works.` }) }
  }
}
