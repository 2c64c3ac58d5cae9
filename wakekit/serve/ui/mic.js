// The microphone as chunks of 16 kHz samples, and pictures of sound.
import { Trouble, h } from './base.js'
import { levelDb } from './audio.js'

export const RATE = 16000, FULL = 0.985, FEWEST = -70

const why = {
  NotAllowedError: 'The browser may not use the microphone. Allow it for this page (the icon beside the address), then press the button again.',
  NotFoundError: 'There is no microphone. Plug one in, or upload files instead.',
  NotReadableError: 'The microphone is in use by another program. Close that one, then press the button again.',
  OverconstrainedError: 'The microphone that was chosen is gone. Choose another one, or upload files instead.',
}

export class Microphone {
  /** hear(samples) is called with each chunk; worklet is the address of recorder.js */
  static async open({ worklet, chunk = 1280, hear, lost = () => {} }) {
    if (!navigator.mediaDevices?.getUserMedia) throw new Trouble(0, { detail: `Browsers give the microphone only to pages at https:// or at localhost. This one is at ${location.origin}: open it through localhost (ssh -L 7860:localhost:7860 …) or behind a proxy with a certificate, or upload files instead.` })
    const m = new Microphone()
    try {
      m.stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false } })
    } catch (e) { throw new Trouble(0, { detail: why[e.name] ?? `The microphone cannot be used: ${e.message}` }) }
    m.stream.getAudioTracks()[0].addEventListener('ended', () => { m.close(); lost() })
    m.context = new AudioContext()
    try {
      await m.context.audioWorklet.addModule(worklet)
      await m.context.resume()
      const source = m.context.createMediaStreamSource(m.stream), { port1, port2 } = new MessageChannel()
      m.node = new AudioWorkletNode(m.context, 'recorder', { numberOfOutputs: 0, processorOptions: { rate: RATE, chunk } })
      port2.onmessage = ({ data }) => hear(data)
      m.node.port.postMessage({ port: port1 }, [port1])
      source.connect(m.node)
    } catch (e) { m.close(); throw e }
    return m
  }
  close() {
    this.node?.port.postMessage({})
    for (const t of this.stream.getTracks()) t.stop()
    if (this.context?.state !== 'closed') this.context?.close()
  }
}

/** A meter that holds the peak and says when it was too loud */
export class Meter {
  constructor() {
    this.bar = h('i')
    this.hold = h('b')
    this.lamp = h('span.wk-lamp', 'too loud')
    this.number = h('output', '–')
    this.root = h('div.wk-meter-row', h('div.wk-meter', { role: 'meter', 'aria-label': 'Level', 'aria-valuemin': FEWEST, 'aria-valuemax': 0 }, this.bar, this.hold), this.number, this.lamp)
    this.peak = FEWEST
  }
  hear(x) {
    let most = 0
    for (const v of x) most = Math.max(most, Math.abs(v))
    const db = levelDb(x), top = 20 * Math.log10(most + 1e-9), at = v => Math.min(Math.max((v - FEWEST) / -FEWEST, 0), 1)
    this.peak = Math.max(top, this.peak - 0.8)
    this.bar.style.transform = `scaleX(${at(db)})`
    this.hold.style.left = `${100 * at(this.peak)}%`
    this.root.firstChild.setAttribute('aria-valuenow', Math.round(Math.max(db, FEWEST)))
    this.number.textContent = `${Math.round(Math.max(top, -99)).toString().replace('-', '−')} dB`
    if (most >= FULL) {
      this.lamp.classList.add('on')
      clearTimeout(this.calm)
      this.calm = setTimeout(() => this.lamp.classList.remove('on'), 1500)
    }
    return { db, top, clipped: most >= FULL }
  }
  rest() {
    this.peak = FEWEST
    this.bar.style.transform = 'scaleX(0)'
    this.hold.style.left = '0'
    this.number.textContent = '–'
  }
}

/** A canvas as sharp as the screen; its size in CSS pixels */
export function sharp(canvas) {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth || 300, height = canvas.clientHeight || 80
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio)
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio)
  const g = canvas.getContext('2d')
  g.setTransform(ratio, 0, 0, ratio, 0, 0)
  g.clearRect(0, 0, width, height)
  return [g, width, height]
}

export const colour = (element, name) => getComputedStyle(element).getPropertyValue(`--${name}`).trim()

/** Draw samples; parts at full scale in the colour of trouble */
export function drawWave(canvas, x, stretch = false) {
  const [g, width, height] = sharp(canvas), ink = colour(canvas, 'blue'), bad = colour(canvas, 'bad'), columns = Math.max(1, Math.floor(width))
  let most = stretch ? 1e-4 : 1
  if (stretch) for (const v of x) most = Math.max(most, Math.abs(v))
  for (let c = 0; c < columns; c++) {
    let low = 1, high = -1
    for (let i = Math.floor(c * x.length / columns); i < Math.max(Math.floor(c * x.length / columns) + 1, Math.floor((c + 1) * x.length / columns)) && i < x.length; i++) { low = Math.min(low, x[i]); high = Math.max(high, x[i]) }
    if (high < low) continue
    g.fillStyle = Math.max(-low, high) >= FULL ? bad : ink
    const top = (1 - high / most) * height / 2, bottom = (1 - low / most) * height / 2
    g.fillRect(c, top, 1, Math.max(bottom - top, 1))
  }
}

const parse = text => {
  const hex = text.slice(1), wide = hex.length === 3 ? [...hex].map(c => c + c).join('') : hex
  return [0, 2, 4].map(i => parseInt(wide.slice(i, i + 2), 16))
}
export function palette(element) {
  const [quiet, mid, loud] = ['quiet', 'mid', 'loud'].map(k => parse(colour(element, k)))
  return Array.from({ length: 256 }, (_, i) => i < 128 ? quiet.map((v, c) => v + (mid[c] - v) * i / 128) : mid.map((v, c) => v + (loud[c] - v) * (i - 128) / 127))
}

/** Draw columns of a spectrogram, `bands` bytes each, low frequencies at the bottom */
export function drawColumns(canvas, cells, bands) {
  const [g, width, height] = sharp(canvas), n = cells.length / bands
  if (!n) return
  const colours = palette(canvas), image = new ImageData(n, bands)
  for (let c = 0; c < n; c++) for (let b = 0; b < bands; b++) {
    const at = 4 * ((bands - 1 - b) * n + c), [r, gr, bl] = colours[cells[c * bands + b]]
    image.data[at] = r; image.data[at + 1] = gr; image.data[at + 2] = bl; image.data[at + 3] = 255
  }
  const small = document.createElement('canvas')
  small.width = n; small.height = bands
  small.getContext('2d').putImageData(image, 0, 0)
  g.drawImage(small, 0, 0, width, height)
}
