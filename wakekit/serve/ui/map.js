// The map of a dataset: clips that sound alike lie together. Choose some by a click or a rectangle, hear and see them, set them right at once, and take that back.
import { Panel, Trouble, code, count, h, options, several, sure } from './base.js'

export const COLOURS = ['#2a6fdb', '#e4572e', '#2e9e5b', '#9b4dca', '#c99700', '#00a3a3', '#d6478f', '#8a6a50'], OTHERS = '#8a8a8a', LABELS = ['positive', 'negative', 'noise']
const KEYS = { p: 'positive', n: 'negative', o: 'noise' }, MOST = 5000, PAGE = 12, NEAR = 12

/** Words for a point, by which it is coloured */
const said = (p, by) => by === 'finding' ? p.findings[0] ?? 'nothing found' : by === 'suspect' ? (p.suspect ? `${p.label}, looks ${p.looks}` : 'as labelled') : p[by] || `no ${by}`

/** Name → [colour, how many], the most common first; labels always have their colour */
export function groups(points, by) {
  const n = new Map()
  for (const p of points) n.set(said(p, by), (n.get(said(p, by)) ?? 0) + 1)
  const common = [...n].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)), kept = by === 'label' ? LABELS.filter(l => n.has(l)).map(l => [l, n.get(l)]) : common.length <= COLOURS.length ? common : common.slice(0, COLOURS.length - 1)
  const out = new Map(kept.map(([name, k], i) => [name, [COLOURS[by === 'label' ? LABELS.indexOf(name) : i], k]])), rest = points.length - kept.reduce((a, [, k]) => a + k, 0)
  if (rest) out.set(`${common.length - kept.length} others`, [OTHERS, rest])
  return out
}

export class ClipMap extends Panel {
  constructor(...args) {
    super(...args)
    Object.assign(this, { points: [], picked: [], at: -1, page: 0 })
    const again = () => this.load()
    this.filter = {
      label: h('select', { 'aria-label': 'Label', change: again }, options([['', 'all labels'], ...LABELS.map(l => [l])], '')),
      speaker: h('input', { type: 'search', placeholder: 'speaker', 'aria-label': 'Speaker', size: 10, input: () => this.soon() }),
      source: h('input', { type: 'search', placeholder: 'source', 'aria-label': 'Source', size: 10, input: () => this.soon() }),
      search: h('input', { type: 'search', placeholder: 'words in notes and names', 'aria-label': 'Words', input: () => this.soon() }),
    }
    this.suspects = h('input', { type: 'checkbox', change: again })
    this.by = h('select', { 'aria-label': 'Colours', change: () => this.draw() }, options(['label', 'speaker', 'source', 'voice', 'finding', 'suspect'].map(k => [k, `colour: ${k}`]), 'label'))
    this.canvas = h('canvas.wk-map', { tabIndex: 0, role: 'img', 'aria-label': 'Map of the clips; drag a rectangle to choose some, click one to hear it' })
    this.legend = h('div.wk-map-key')
    this.words = h('p.wk-dim')
    this.none = h('p', 'Choose clips on the map: drag a rectangle around some, or click one.')
    this.list = h('div.wk-clips', { role: 'listbox', 'aria-label': 'Chosen clips', tabIndex: 0 })
    this.number = h('span.wk-dim')
    this.back = h('button', { type: 'button', click: () => this.turn(-1) }, '←')
    this.forth = h('button', { type: 'button', click: () => this.turn(1) }, '→')
    this.picture = h('img.wk-spectrogram', { alt: 'Spectrogram', hidden: true })
    this.player = h('audio', { controls: true, preload: 'none', hidden: true })
    this.acts = h('div.wk-bar', ...LABELS.map(l => h('button', { type: 'button', click: e => this.change({ label: l }, e.target) }, `All ${l}`)), h('button', { type: 'button', click: e => this.change({ trashed: true }, e.target) }, 'All to the trash'))
    this.undoButton = h('button', { type: 'button', click: e => this.turnBack('undo', e.target) }, 'Undo')
    this.redoButton = h('button', { type: 'button', click: e => this.turnBack('redo', e.target) }, 'Redo')
    this.nothing = h('div.wk-note', 'Choose a dataset above, or make one: it needs a name and the phrase.')
    this.seen = h('div.wk-two.wide', h('section.wk-card', h('div.wk-bar.wk-filters', ...Object.values(this.filter), h('label.wk-check', this.suspects, 'Suspects'), this.by), this.canvas, this.legend, this.words),
      h('section.wk-card', h('div.wk-bar', h('h3', 'Chosen'), this.number, h('span.wk-fill'), this.undoButton, this.redoButton), this.none, this.list, h('div.wk-bar', this.back, this.forth), this.picture, this.player, this.acts,
        h('p.wk-dim', 'Keys: ↑ ↓ choose, space plays, P N O label and X throws away the one that is marked, U undoes.')))
    this.inner = h('div', this.said, this.seen)
    this.root.append(this.nothing, this.inner)
    this.canvas.addEventListener('pointerdown', e => this.drag(e))
    this.list.addEventListener('keydown', e => this.key(e))
    const size = new ResizeObserver(() => this.draw())
    size.observe(this.canvas)
    this.stops.push(() => size.disconnect(), () => this.player.pause())
    this.on('dataset', () => { this.choose([]); this.load() })
    this.on('back', () => this.load())
    this.on('look', () => this.load())
    this.on('pick', ({ ids }) => { const by = new Map(this.points.map(p => [p.id, p])), found = ids.map(id => by.get(id)).filter(p => p); this.choose(found); this.canvas.scrollIntoView({ block: 'center' }); if (!found.length) this.say('They are not on the map as it is filtered now, or in the trash.') })
    this.on('clips', () => { this.old = true })
    this.every(3000, async () => { if (this.old) { this.old = false; await this.load() } })
    this.load()
  }

  get name() { return this.chosen.get('dataset') }
  get path() { return `/datasets/${code(this.name)}` }
  recolour() { if (this.canvas) this.draw() }
  soon() { clearTimeout(this.timer); this.timer = setTimeout(() => this.load(), 300) }

  async load() {
    this.nothing.hidden = !!this.name
    this.inner.hidden = !this.name
    if (!this.name) return
    this.asked?.abort()
    const { signal } = this.asked = new AbortController(), filter = Object.fromEntries(Object.entries(this.filter).map(([k, e]) => [k, e.value.trim()]))
    await this.doing(null, async () => {
      let found = null
      try { found = await this.service.get(`${this.path}/map`, { ...filter, suspects: this.suspects.checked || null, limit: MOST }, { signal }) } catch (e) {
        if (!(e instanceof Trouble) || !['no_look', 'missing_extra'].includes(e.code)) throw e
      }
      if (signal.aborted) return
      this.seen.hidden = !found
      if (!found) return
      this.points = found.points
      this.words.textContent = `${several(found.total, 'clip')}${found.points.length < found.total ? `, of which ${count(found.points.length)} are drawn` : ''}. Those that lie together sound alike.${found.stale ? ' There are clips that were not heard yet.' : ''}`
      const ids = new Set(found.points.map(p => p.id))
      this.choose(this.picked.filter(p => ids.has(p.id)).map(p => found.points.find(q => q.id === p.id)), this.at)
    })
  }

  // ---- the map

  place(p) { const { clientWidth: w, clientHeight: t } = this.canvas, r = Math.min(w, t) / 2 - 10; return [w / 2 + p.x * (w / 2 - 10), t / 2 - p.y * r] }
  draw() {
    const c = this.canvas, { clientWidth: w, clientHeight: t } = c, d = devicePixelRatio || 1
    if (!w) return
    if (c.width !== Math.round(w * d) || c.height !== Math.round(t * d)) { c.width = Math.round(w * d); c.height = Math.round(t * d) }
    const g = c.getContext('2d'), by = this.by.value, known = groups(this.points, by), marked = new Set(this.picked.map(p => p.id)), dot = this.points.length > 1500 ? 2 : this.points.length > 300 ? 3 : 4.5
    g.setTransform(d, 0, 0, d, 0, 0)
    g.clearRect(0, 0, w, t)
    for (const p of this.points) {
      const [x, y] = this.place(p)
      g.globalAlpha = !marked.size || marked.has(p.id) ? 1 : .3
      g.fillStyle = (known.get(said(p, by)) ?? [OTHERS])[0]
      g.beginPath(); g.arc(x, y, dot, 0, 7); g.fill()
    }
    g.globalAlpha = 1
    const now = this.picked[this.at]
    if (now) { const [x, y] = this.place(now); g.strokeStyle = getComputedStyle(this.root).getPropertyValue('--ink'); g.lineWidth = 2; g.beginPath(); g.arc(x, y, dot + 5, 0, 7); g.stroke() }
    if (this.box) { const { x0, y0, x1, y1 } = this.box; g.strokeStyle = getComputedStyle(this.root).getPropertyValue('--blue'); g.setLineDash([5, 4]); g.strokeRect(x0, y0, x1 - x0, y1 - y0); g.setLineDash([]) }
    this.legend.replaceChildren(...[...known].map(([name, [colour, n]]) => h('span', h('i', { style: `background:${colour}` }), `${name} (${count(n)})`)))
  }
  drag(e) {
    if (e.button) return
    const c = this.canvas, at = m => { const r = c.getBoundingClientRect(); return [m.clientX - r.left, m.clientY - r.top] }, [x0, y0] = at(e)
    c.setPointerCapture(e.pointerId)
    const move = m => { const [x1, y1] = at(m); this.box = { x0, y0, x1, y1 }; this.draw() }
    const up = m => {
      for (const [k, f] of [['pointermove', move], ['pointerup', up], ['pointercancel', up]]) c.removeEventListener(k, f)
      const [x1, y1] = at(m)
      this.box = null
      if (m.type === 'pointercancel') return this.draw()
      if (Math.hypot(x1 - x0, y1 - y0) > 6) return this.choose(this.within(x0, y0, x1, y1))
      const far = p => { const [x, y] = this.place(p); return Math.hypot(x - x1, y - y1) }, best = this.points.reduce((a, p) => !a || far(p) < far(a) ? p : a, null)
      if (!best || far(best) > NEAR) return this.choose([])
      this.choose([best], 0)
      this.play()
    }
    for (const [k, f] of [['pointermove', move], ['pointerup', up], ['pointercancel', up]]) c.addEventListener(k, f)
  }
  within(x0, y0, x1, y1) {
    return this.points.filter(p => { const [x, y] = this.place(p); return x >= Math.min(x0, x1) && x <= Math.max(x0, x1) && y >= Math.min(y0, y1) && y <= Math.max(y0, y1) })
  }

  // ---- what is chosen

  choose(points, at = points.length ? 0 : -1) {
    this.picked = points
    this.props.tell?.('picked', points.map(p => p.id))
    this.at = Math.min(at, points.length - 1)
    this.page = Math.max(0, Math.floor(this.at / PAGE))
    this.show()
  }
  turn(by) { this.at = Math.min(this.picked.length - 1, Math.max(0, (this.page + by) * PAGE)); this.page += by; this.show() }
  mark(i) { if (i < 0 || i >= this.picked.length) return; this.at = i; this.page = Math.floor(i / PAGE); this.show() }
  show() {
    const first = this.page * PAGE, rows = this.picked.slice(first, first + PAGE), n = this.picked.length
    this.none.hidden = n > 0
    for (const e of [this.list, this.acts]) e.hidden = !n
    this.back.hidden = this.forth.hidden = n <= PAGE
    this.back.disabled = !this.page
    this.forth.disabled = first + PAGE >= n
    this.number.textContent = n > PAGE ? `${first + 1}–${first + rows.length} of ${count(n)}` : n ? several(n, 'clip') : ''
    this.list.replaceChildren(...rows.map((p, i) => h('div.wk-pick', { role: 'option', 'aria-selected': String(first + i === this.at), click: () => { this.mark(first + i); this.list.focus() } },
      h('button.wk-play', { type: 'button', tabIndex: -1, 'aria-label': `Play ${p.original_name || p.id}`, click: e => { e.stopPropagation(); this.mark(first + i); this.play() } }, '▶'),
      h(`span.wk-tag.${p.label}`, p.label), h('span.wk-who', p.original_name || p.notes || p.speaker || p.voice || p.id), h('span.wk-dim', p.suspect ? `looks ${p.looks}` : `${p.duration_s.toFixed(1)} s`))))
    const now = this.picked[this.at]
    this.picture.hidden = this.player.hidden = !now
    if (now && this.playing !== now.id) {
      this.playing = now.id
      this.service.media(`${this.path}/recordings/${now.id}/spectrogram`, { width: 400 }).then(src => { if (this.playing === now.id) this.picture.src = src })
      this.service.media(`${this.path}/recordings/${now.id}/audio`).then(src => { if (this.playing === now.id) this.player.src = src })
    }
    this.draw()
  }
  async play() {
    const now = this.picked[this.at]
    if (!now) return
    this.player.src = await this.service.media(`${this.path}/recordings/${now.id}/audio`)
    this.player.play().catch(e => { if (e.name !== 'AbortError') this.say('This clip cannot be played here.', 'bad') })
  }
  key(e) {
    if (e.ctrlKey || e.metaKey || e.altKey) return
    const key = e.key.length === 1 ? e.key.toLowerCase() : e.key, one = this.picked[this.at]
    if (key === 'ArrowDown' || key === 'j') this.mark(this.at + 1)
    else if (key === 'ArrowUp' || key === 'k') this.mark(this.at - 1)
    else if (key === ' ') this.play()
    else if (key === 'u') this.turnBack('undo', this.undoButton)
    else if (one && KEYS[key]) this.change({ label: KEYS[key] }, null, [one])
    else if (one && key === 'x') this.change({ trashed: true }, null, [one])
    else return
    e.preventDefault()
  }

  change(what, button, points = this.picked) {
    return this.doing(button, async () => {
      if (points.length > 200 && !await sure(`This changes ${several(points.length, 'clip')} at once. One undo takes it back.`, 'Change them', 'Leave them')) return
      const { change } = await this.service.post(`${this.path}/changes`, { clips: points.map(p => p.id), ...what })
      this.say(change ? `${change.words}. U takes it back.` : 'They are like that already.')
      const ids = new Set(points.map(p => p.id))
      if (what.label) for (const p of this.points) if (ids.has(p.id)) p.label = what.label
      if (what.trashed) { this.points = this.points.filter(p => !ids.has(p.id)); this.choose(this.picked.filter(p => !ids.has(p.id)), this.at) } else this.show()
      this.chosen.set('clips', Date.now())
    })
  }
  turnBack(which, button) {
    return this.doing(button, async () => {
      const change = await this.service.post(`${this.path}/changes/${which}`), left = Object.keys(change.left).length
      this.say(`${which === 'undo' ? 'Taken back' : 'Done again'}: ${change.words}.${left ? ` ${several(left, 'clip')} that somebody has changed since: left alone.` : ''}`)
      this.chosen.set('clips', Date.now())
      await this.load()
    })
  }
}
