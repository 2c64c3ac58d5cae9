// When is the wake word said? The decision of wakekit/ship/stream.py and wakekit/learn/metrics.py, step by step.
// It knows nothing of browsers: `run` and `look` ask the networks.

export const SAMPLE_RATE = 16000, SCHEMA_VERSION = 3, RECENT_FRAMES = 25, MAX_STEPS = 400

/** To the nearest whole number, halves to the even one, as Python rounds */
export function roundEven(x) {
  const up = Math.round(x)
  return up - x === 0.5 && up % 2 ? up - 1 : up
}

/** Mean of each score and the n - 1 before it; at the start, of what there is */
export class Smoother {
  constructor(n) { this.n = n; this.reset() }
  reset() { this.tail = new Float64Array(this.n); this.seen = 0 }
  process(score) {
    this.tail.copyWithin(0, 1)
    this.tail[this.n - 1] = score
    this.seen = Math.min(this.seen + 1, this.n)
    let total = 0
    for (const v of this.tail) total += v // the oldest first
    return total / this.seen
  }
}

/** A window whose sounds are shortened, with silence before them: n rows of `frames` numbers each */
export function windowAt(mel, frames, rate) {
  if (rate === 1) return mel
  const short = Math.max(1, roundEven(frames * rate)), left = frames - short, out = new Float32Array(mel.length)
  out.fill(mel.reduce((a, b) => Math.min(a, b)))
  for (let j = 0; j < short; j++) {
    const at = Math.min(Math.max((j + 0.5) * (frames / short) - 0.5, 0), frames - 1), low = Math.floor(at), high = Math.min(low + 1, frames - 1), share = Math.fround(at - low)
    for (let row = 0; row < mel.length; row += frames) out[row + left + j] = mel[row + low] * (1 - share) + mel[row + high] * share
  }
  return out
}

/**
 * Asks the verifier while the first look is convinced, and until there were enough looks in a row.
 * It is given the frames of the first look where that hands them over (rows of bands), else samples (one row).
 */
export class SecondLook {
  constructor(manifest, look) {
    const v = manifest.verifier, stepS = manifest.step_samples / manifest.sample_rate, mel = 'frames' in v
    Object.assign(this, { look, openAt: v.open_at, firstWeight: v.first_weight ?? 0, looks: v.looks ?? 1, rates: mel ? v.rates ?? [1] : [1], sure: v.sure ?? [-Infinity, Infinity] })
    Object.assign(this, mel ? { size: v.frames, rows: v.n_mels, step: manifest.step_samples / v.hop_samples, floor: v.floor } : { size: v.samples, rows: 1, step: manifest.step_samples, floor: 0 })
    this.everyFrames = Math.max(1, Math.ceil(v.every_ms / 1000 / stepS - 1e-9))
    this.smoother = new Smoother(Math.max(1, roundEven(v.smooth_ms / 1000 / stepS)))
    this.holdFrames = this.looks === 1 ? 0 : this.looks * this.everyFrames
    this.reset()
  }

  reset() {
    this.ring = new Float32Array(this.size * this.rows).fill(this.floor) // row after row
    this.recent = new Float64Array(RECENT_FRAMES) // of the first look, the newest last
    this.convinced = -this.holdFrames - 1
    this.logits = []
    this.end = this.seen = this.due = this.nLooks = this.held = this.gate = 0
    this.smoother.reset()
  }

  /** Remember `n` numbers of each row of `heard`, from number `from` on */
  keep(heard, from, n) {
    const width = heard.length / this.rows, skip = Math.max(0, n - this.size), kept = n - skip, straight = Math.min(kept, this.size - this.end)
    for (let r = 0; r < this.rows; r++) {
      const x = heard.subarray(r * width + from + skip, r * width + from + n)
      this.ring.set(x.subarray(0, straight), r * this.size + this.end)
      this.ring.set(x.subarray(straight), r * this.size)
    }
    this.end = (this.end + kept) % this.size
  }

  window() {
    const out = new Float32Array(this.ring.length)
    for (let r = 0; r < this.rows; r++) {
      const row = this.ring.subarray(r * this.size, (r + 1) * this.size)
      out.set(row.subarray(this.end), r * this.size)
      out.set(row.subarray(0, this.end), (r + 1) * this.size - this.end)
    }
    return out
  }

  /** The verifier's logit: of all rates where the first one leaves it in doubt */
  async judge(window) {
    const ask = rates => this.look(rates.map(r => windowAt(window, this.size, r))), [first] = await ask(this.rates.slice(0, 1))
    if (this.rates.length === 1 || !(first >= this.sure[0] && first <= this.sure[1])) return first
    const more = await ask(this.rates.slice(1))
    return more.reduce((a, b) => a + b, first) / this.rates.length
  }

  /** The final score of one step, number `k` of those that `heard` is of, of its raw score; nobody listens for `deaf` steps from this one on */
  async process(score, heard, k, deaf = -Infinity) {
    this.gate = this.smoother.process(score)
    this.recent.copyWithin(0, 1)
    this.recent[RECENT_FRAMES - 1] = this.gate
    this.keep(heard, k * this.step, this.step)
    const at = this.seen++
    if (this.gate >= this.openAt) this.convinced = at
    if (at - this.convinced > this.holdFrames) return 0
    if (at >= this.due) {
      if (this.looks * this.everyFrames <= deaf) this.skip(at)
      else await this.answer(at)
    }
    return Math.fround(this.held)
  }

  async answer(at) {
    const first = Math.min(Math.max(Math.max(...this.recent), 1e-4), 1 - 1e-4)
    const logit = await this.judge(this.window()) + this.firstWeight * Math.log(first / (1 - first))
    this.nLooks++
    this.logits = [...(at === this.due ? this.logits : []), logit].slice(-this.looks)
    const mean = this.logits.reduce((a, b) => a + b, 0) / this.looks
    this.held = this.logits.length === this.looks ? 1 / (1 + Math.exp(-Math.min(Math.max(mean, -80), 80))) : 0
    this.due = at + this.everyFrames
  }

  /** A look that would change nothing: the answer of the last one is held */
  skip(at) {
    if (at !== this.due) this.held = 0
    this.logits = []
    this.due = at + this.everyFrames
  }
}

/** Samples as the graph takes them: within [-1, 1], not-a-number as silence */
export function toPcm(chunk) {
  const out = new Float32Array(chunk.length)
  let bad = 0
  for (let i = 0; i < out.length; i++) {
    if (Number.isFinite(chunk[i])) out[i] = Math.min(Math.max(chunk[i], -1), 1)
    else bad++
  }
  return [out, bad]
}

/**
 * Listens for one wake word in a stream of 16 kHz samples.
 * run(pcm, state) -> {scores, state, mel}, state null at the start; look(windows) -> logits
 */
export class Detector {
  constructor(manifest, run, look = null, { graph = null, threshold = null, smoothMs = null, refractoryMs = null, verify = true } = {}) {
    const m = manifest, second = m.verifier, stepS = m.step_samples / m.sample_rate
    Object.assign(this, { manifest, run, stepS, phrase: m.phrase, step: m.step_samples, graph: graph ?? m.default_graph })
    this.second = second && verify ? new SecondLook(m, look) : null
    const usual = second && !verify ? [second.open_at, second.smooth_ms] : [m.graphs[this.graph].threshold, m.smooth_ms]
    this.aim(threshold ?? usual[0])
    this.smoothMs = smoothMs ?? usual[1]
    this.refractoryMs = refractoryMs ?? m.refractory_ms
    this.refractoryFrames = Math.max(1, Math.ceil(this.refractoryMs / 1000 / stepS - 1e-9))
    this.smoother = new Smoother(Math.max(1, roundEven(this.smoothMs / 1000 / stepS)))
    this.nBad = 0
    this.reset()
  }

  /** Fire at another score; the second look is in doubt around it */
  aim(threshold) {
    this.threshold = threshold
    const v = this.manifest.verifier, logit = p => Math.log(Math.min(Math.max(p, 1e-6), 1 - 1e-6) / (1 - Math.min(Math.max(p, 1e-6), 1 - 1e-6)))
    if (this.second && v.sure) this.second.sure = v.sure.map(x => x + logit(threshold) - logit(this.manifest.graphs[this.graph].threshold))
  }

  /** Forget everything heard: the next sample is time zero, after silence */
  reset() {
    this.state = null
    this.rest = new Float32Array(0)
    this.nSteps = this.free = this.nEvents = 0
    this.event = null // the one whose end is not known yet
    this.smoother.reset()
    this.second?.reset()
  }

  at(k) { return Number((k * this.stepS).toFixed(6)) } // where step k begins, s

  /** What new audio brings: {smoothed, gate} with one value per step, and the events that began, rose or ended in it */
  async process(chunk) {
    const [clean, bad] = toPcm(chunk), pcm = new Float32Array(this.rest.length + clean.length)
    this.nBad += bad
    pcm.set(this.rest)
    pcm.set(clean, this.rest.length)
    const whole = Math.floor(pcm.length / this.step) * this.step, smoothed = [], gate = [], touched = new Map()
    this.rest = pcm.slice(whole)
    for (let from = 0; from < whole; from += MAX_STEPS * this.step) {
      const piece = pcm.slice(from, Math.min(from + MAX_STEPS * this.step, whole))
      const { scores, state, mel } = await this.run(piece, this.state), heard = mel ?? piece
      this.state = state
      for (let i = 0; i < scores.length; i++) {
        const deaf = this.smoother.n === 1 ? this.free - this.nSteps : -Infinity
        const score = this.second ? await this.second.process(scores[i], heard, i, deaf) : scores[i]
        smoothed.push(this.smoother.process(score))
        if (this.second) gate.push(this.second.gate)
        this.decide(smoothed.at(-1), touched)
      }
    }
    return { smoothed, gate, events: [...touched.values()] }
  }

  decide(score, touched) {
    const k = this.nSteps++, now = this.at(k + 1)
    if (this.event) {
      const e = this.event, over = k >= e.step + this.refractoryFrames
      if (over || score < this.threshold) this.close(k, touched)
      else if (score > e.score) touched.set(e.n, Object.assign(e, { score, peak_s: now }))
    }
    if (k < this.free || !(score >= this.threshold)) return
    this.free = k + this.refractoryFrames
    this.event = { n: this.nEvents++, step: k, phrase: this.phrase, time_s: now, start_s: this.at(k), peak_s: now, end_s: now, score, threshold: this.threshold }
    touched.set(this.event.n, this.event)
  }

  close(k, touched) {
    touched.set(this.event.n, Object.assign(this.event, { end_s: this.at(k) }))
    this.event = null
  }

  /** The recording is over: quiet goes on for as long as a second look may take */
  async finish() {
    const quiet = this.second ? (this.second.looks - 1) * this.second.everyFrames * this.step : 0
    const out = await this.process(new Float32Array(quiet)), touched = new Map(out.events.map(e => [e.n, e]))
    if (this.event) this.close(this.nSteps, touched)
    return { ...out, events: [...touched.values()] }
  }
}
