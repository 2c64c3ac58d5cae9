// What the page shows of a stream: level, score, spectrogram, events.
const $ = id => document.getElementById(id), BANDS = 56, FEWEST = -70 // dB at the left of the level

const parse = text => { // '#rgb' or '#rrggbb'
  const hex = text.trim().slice(1), wide = hex.length === 3 ? [...hex].map(c => c + c).join('') : hex
  return [0, 2, 4].map(i => parseInt(wide.slice(i, i + 2), 16))
}
const clock = s => s < 60 ? `${s.toFixed(2)} s` : `${Math.floor(s / 60)}:${(s % 60).toFixed(2).padStart(5, '0')}`

export class View {
  constructor(liveS) {
    this.liveS = liveS
    this.stepS = 0.02
    this.theme = matchMedia('(prefers-color-scheme: dark)')
    this.theme.addEventListener('change', () => { this.colours(); this.dirty() })
    new ResizeObserver(() => this.dirty()).observe($('trace'))
    this.image = document.createElement('canvas').getContext('2d')
    this.colours()
    this.begin(null, null, null)
  }

  colours() {
    const css = getComputedStyle(document.documentElement), of = k => css.getPropertyValue(`--${k}`)
    this.ink = Object.fromEntries(['blue', 'orange', 'dim', 'line', 'good'].map(k => [k, of(k)]))
    const [quiet, mid, loud] = ['quiet', 'mid', 'loud'].map(k => parse(of(k)))
    this.palette = Array.from({ length: 256 }, (_, i) => i < 128 ? quiet.map((v, c) => v + (mid[c] - v) * i / 128) : mid.map((v, c) => v + (loud[c] - v) * (i - 128) / 127))
  }

  /** Something new to hear: a recording of totalS seconds, or null for a stream */
  begin(totalS, threshold, openAt) {
    Object.assign(this, { totalS, threshold, openAt, n: 0, silentS: 0, events: new Map(), level: null })
    this.spanS = totalS ?? this.liveS
    this.columns = totalS === null ? Math.round(this.liveS / this.stepS) : Math.max(1, Math.min(Math.ceil(totalS / this.stepS), 1500))
    this.score = new Float32Array(this.columns).fill(NaN)
    this.first = new Float32Array(this.columns).fill(NaN)
    this.cells = new Uint8Array(this.columns * BANDS)
    $('events').replaceChildren()
    $('count').textContent = 0
    $('none').hidden = false
    $('list').hidden = $('save').disabled = true
    $('from').textContent = totalS === null ? `${this.liveS} s ago` : '0 s'
    $('to').textContent = totalS === null ? 'now' : clock(totalS)
    for (const e of document.querySelectorAll('.clock')) e.hidden = totalS !== null
    this.dirty()
  }

  rest() { this.level = null; this.dirty() }
  column(step) { return this.totalS === null ? step % this.columns : Math.min(Math.floor(step * this.stepS / this.spanS * this.columns + 1e-6), this.columns - 1) }

  add(d) {
    const fresh = this.totalS === null ? () => true : c => Number.isNaN(this.score[c])
    d.smoothed.forEach((v, i) => {
      const c = this.column(d.first + i), clean = fresh(c)
      this.score[c] = clean ? v : Math.max(this.score[c], v)
      if (d.gate.length) this.first[c] = clean ? d.gate[i] : Math.max(this.first[c], d.gate[i])
      const cells = d.columns.subarray(i * BANDS, (i + 1) * BANDS)
      if (clean) this.cells.set(cells, c * BANDS)
      else cells.forEach((v, b) => { this.cells[c * BANDS + b] = Math.max(this.cells[c * BANDS + b], v) })
    })
    this.n = d.first + d.smoothed.length
    this.level = d.level
    this.silentS = d.silent ? this.silentS + d.smoothed.length * this.stepS : 0
    this.dirty()
  }

  event(e, when) {
    const known = this.events.get(e.n)
    this.events.set(e.n, e)
    if (!known) this.announce(e, when)
    const row = document.querySelector(`#events tr[data-n="${e.n}"]`), [time, score, bar] = row.children
    time.firstChild.value = e.time_s
    time.firstChild.textContent = clock(e.time_s)
    score.firstChild.value = e.score
    score.firstChild.textContent = e.score.toFixed(2)
    bar.firstChild.style.width = `${100 * e.score}%`
    Object.assign(row.dataset, { start: e.start_s, peak: e.peak_s, end: e.end_s })
  }

  announce(e, when) {
    const row = document.createElement('tr')
    row.dataset.n = e.n
    row.innerHTML = '<td><data></data></td><td><data></data></td><td><i></i></td><td class="clock"></td>'
    row.lastChild.hidden = !when
    row.lastChild.textContent = when?.toLocaleTimeString() ?? ''
    row.className = 'new'
    setTimeout(() => { row.className = '' }, 1500)
    if (this.totalS === null) $('events').prepend(row)
    else $('events').append(row)
    if (this.events.size > 1000) this.events.delete(+[...$('events').children].at(this.totalS === null ? -1 : 0).dataset.n)
    while ($('events').children.length > 1000) (this.totalS === null ? $('events').lastChild : $('events').firstChild).remove()
    $('count').textContent = e.n + 1
    $('none').hidden = true
    $('list').hidden = $('save').disabled = false
    $('phrase').classList.add('heard')
    clearTimeout(this.calm)
    this.calm = setTimeout(() => $('phrase').classList.remove('heard'), 900)
  }

  dirty() {
    if (this.asked) return
    this.asked = true
    requestAnimationFrame(() => { this.asked = false; this.draw() })
  }

  draw() {
    const db = this.level, share = db === null ? 0 : Math.min(Math.max((db - FEWEST) / -FEWEST, 0), 1)
    $('level').firstElementChild.style.transform = `scaleX(${share})`
    $('level').setAttribute('aria-valuenow', db === null ? FEWEST : Math.round(Math.max(db, FEWEST)))
    $('db').textContent = db === null ? '–' : `${Math.round(Math.max(db, -99)).toString().replace('-', '−')} dB`
    this.drawTrace()
    this.drawPicture()
  }

  canvas(id) { // in CSS pixels, sharp
    const c = $(id), ratio = window.devicePixelRatio || 1, width = c.clientWidth, height = c.clientHeight
    if (c.width !== Math.round(width * ratio)) c.width = Math.round(width * ratio)
    if (c.height !== Math.round(height * ratio)) c.height = Math.round(height * ratio)
    const g = c.getContext('2d')
    g.setTransform(ratio, 0, 0, ratio, 0, 0)
    g.clearRect(0, 0, width, height)
    return [g, width, height]
  }

  /** Where a column is, 0 to 1 from the left; a stream's newest is at the right */
  place(c) { return this.totalS === null ? ((c - this.n % this.columns + this.columns) % this.columns) / this.columns : c / this.columns }
  order() { // columns from left to right
    const from = this.totalS === null ? this.n % this.columns : 0
    return Array.from({ length: this.columns }, (_, i) => (from + i) % this.columns)
  }

  drawTrace() {
    const [g, w, h] = this.canvas('trace'), y = v => 4 + (1 - v) * (h - 8)
    g.lineWidth = 1
    g.strokeStyle = this.ink.line
    for (const v of [0, .25, .5, .75, 1]) { g.beginPath(); g.moveTo(0, y(v)); g.lineTo(w, y(v)); g.stroke() }
    const order = this.order()
    const line = (values, colour, width, fill) => {
      g.beginPath()
      let from = null, x = 0
      order.forEach((c, i) => {
        if (Number.isNaN(values[c])) return
        x = (i + .5) / this.columns * w
        if (from === null) { from = x; g.moveTo(x, y(values[c])) } else g.lineTo(x, y(values[c]))
      })
      if (from === null) return
      Object.assign(g, { strokeStyle: colour, lineWidth: width, lineJoin: 'round' })
      g.stroke()
      if (!fill) return
      g.lineTo(x, y(0)); g.lineTo(from, y(0))
      Object.assign(g, { fillStyle: colour, globalAlpha: .14 })
      g.fill()
      g.globalAlpha = 1
    }
    if (this.openAt !== null) { g.globalAlpha = .7; line(this.first, this.ink.dim, 1.2, false); g.globalAlpha = 1 }
    line(this.score, this.ink.blue, 2, true)
    if (this.threshold !== null) {
      Object.assign(g, { strokeStyle: this.ink.orange, lineWidth: 1.5 })
      g.setLineDash([6, 5])
      g.beginPath(); g.moveTo(0, y(this.threshold)); g.lineTo(w, y(this.threshold)); g.stroke()
      g.setLineDash([])
    }
    Object.assign(g, { fillStyle: this.ink.dim, font: '11px system-ui, sans-serif', textBaseline: 'middle' })
    g.fillText('1', 4, y(1) + 7)
    g.fillText('0', 4, y(0) - 7)
    g.fillStyle = this.ink.good
    for (const e of this.events.values()) {
      if (this.totalS === null && this.n - e.step >= this.columns) continue
      const x = (this.place(this.column(e.step)) + .5 / this.columns) * w
      g.beginPath(); g.moveTo(x - 5, 0); g.lineTo(x + 5, 0); g.lineTo(x, 9); g.fill()
    }
  }

  drawPicture() {
    const [g, w, h] = this.canvas('picture'), { columns, image } = this
    Object.assign(image.canvas, { width: columns, height: BANDS })
    const out = image.createImageData(columns, BANDS)
    this.order().forEach((c, i) => {
      for (let b = 0; b < BANDS; b++) {
        const [red, green, blue] = this.palette[this.cells[c * BANDS + b]], at = 4 * ((BANDS - 1 - b) * columns + i)
        out.data[at] = red; out.data[at + 1] = green; out.data[at + 2] = blue; out.data[at + 3] = 255
      }
    })
    image.putImageData(out, 0, 0)
    g.imageSmoothingEnabled = columns > w
    g.drawImage(image.canvas, 0, 0, w, h)
  }
}
