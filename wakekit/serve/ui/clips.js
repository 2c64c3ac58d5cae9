// A dataset: its clips by label, speaker, source and words; hear, see, correct, throw away and bring back.
import { Panel, Trouble, ago, code, count, duration, field, h, options, several, sure } from './base.js'
import { RATE, drawColumns, drawWave } from './mic.js'
import { Resampler, Spectrogram, readWav } from './audio.js'

const PAGE = 40, LABELS = ['positive', 'negative', 'noise'], BANDS = 56
const KEYS = { p: 'positive', n: 'negative', o: 'noise' }

export class Clips extends Panel {
  constructor(...args) {
    super(...args)
    Object.assign(this, { page: 0, cursors: [''], rows: [], at: -1, undone: [] })
    this.filter = {
      label: h('select', { change: () => this.first() }, options([['', 'all labels'], ...LABELS.map(l => [l])], '')),
      speaker: h('input', { type: 'search', placeholder: 'speaker', size: 12, input: () => this.soon() }),
      source: h('input', { type: 'search', placeholder: 'source', size: 12, input: () => this.soon() }),
      search: h('input', { type: 'search', placeholder: 'words in notes and names', input: () => this.soon() }),
    }
    this.trash = h('input', { type: 'checkbox', change: () => this.first() })
    this.facts = h('div.wk-tiles')
    this.list = h('div.wk-clips', { role: 'listbox', 'aria-label': 'Clips', tabIndex: 0 })
    this.number = h('span.wk-dim')
    this.back = h('button', { type: 'button', click: () => this.turn(-1) }, '← Before')
    this.forth = h('button', { type: 'button', click: () => this.turn(1) }, 'Next →')
    this.undoButton = h('button', { type: 'button', disabled: true, click: () => this.undo() }, 'Undo')
    this.empty = h('button', { type: 'button', hidden: true, click: () => this.purge() }, 'Empty the trash')
    this.detail = h('section.wk-card.wk-detail', { hidden: true })
    this.hint = h('p.wk-dim', 'Choose a clip to see and correct it.')
    this.nothing = h('div.wk-note', 'Choose a dataset above, or make one: it needs a name and the phrase.')
    this.inner = h('div', this.facts, this.said,
      h('div.wk-bar.wk-filters', ...Object.values(this.filter), h('label.wk-check', this.trash, 'Trash'), this.empty),
      h('div.wk-two.wide', h('div', this.list, h('div.wk-bar', this.back, this.number, this.forth, this.undoButton)), h('div', this.hint, this.detail)),
      h('p.wk-dim', 'Keys: ↑ ↓ choose, space plays, P N O label, X throws away (or brings back), U undoes.'))
    this.root.append(this.nothing, this.inner)
    this.list.addEventListener('keydown', e => this.key(e))
    this.player = h('audio')
    this.watcher = new IntersectionObserver(seen => { for (const e of seen) if (e.isIntersecting) { this.watcher.unobserve(e.target); this.thumb(e.target) } }, { rootMargin: '200px' })
    this.stops.push(() => this.watcher.disconnect(), () => this.player.pause())
    this.on('dataset', () => { this.undone = []; this.undoButton.disabled = true; this.first() })
    this.on('back', () => this.load())
    this.on('clips', () => this.shown ? this.load() : (this.stale = true))
    this.every(2000, async () => { if (this.stale) { this.stale = false; await this.load() } })
    this.first()
  }

  get name() { return this.chosen.get('dataset') }
  get path() { return `/datasets/${code(this.name)}` }
  recolour() { if (this.seen) this.draw() }
  soon() { clearTimeout(this.timer); this.timer = setTimeout(() => this.first(), 300) }
  first() { Object.assign(this, { page: 0, cursors: [''], at: -1 }); return this.load() }
  turn(by) {
    const to = this.page + by
    if (this.cursors[to] === undefined) return
    Object.assign(this, { page: to, at: -1 })
    this.load()
  }

  async load() {
    this.nothing.hidden = !!this.name
    this.inner.hidden = !this.name
    if (!this.name) return
    this.asked?.abort()
    const { signal } = this.asked = new AbortController()
    await this.doing(null, async () => {
      const trashed = this.trash.checked, where = { limit: PAGE, cursor: this.cursors[this.page], ...Object.fromEntries(Object.entries(this.filter).map(([k, e]) => [k, e.value.trim()])) }
      const [found, about] = await Promise.all([this.service.get(`${this.path}/${trashed ? 'trash' : 'recordings'}`, where, { signal }), this.service.get(`${this.path}/metrics`, null, { signal })])
      if (signal.aborted) return
      this.cursors.length = this.page + 1
      if (found.next) this.cursors.push(found.next)
      Object.assign(this, { rows: found.clips, total: found.total })
      this.tell(about)
      this.show()
    })
  }

  tell(about) {
    const tile = (n, text, more) => h('div.wk-tile', h('b', n), text, more ? h('small', more) : null)
    this.facts.replaceChildren(...LABELS.map(l => tile(count(about.labels[l]?.clips ?? 0), l, duration(about.labels[l]?.duration_s ?? 0))),
      tile(count(about.speakers.positive ?? 0), 'say the phrase', 'people and voices'), tile(count(about.trash), 'in the trash'), tile(about.ready ? '✓' : '…', about.ready ? 'enough to train on' : 'not enough yet', about.missing))
    this.thrown = about.trash
  }

  show() {
    const first = this.page * PAGE
    this.list.replaceChildren(...this.rows.map((c, i) => this.row(c, i)))
    if (!this.rows.length) this.list.append(h('p.wk-dim', this.trash.checked ? 'The trash is empty.' : this.total === 0 && !Object.values(this.filter).some(e => e.value) ? 'No clips yet: record or upload some, or synthesize the phrase.' : 'No clip is like that.'))
    this.number.textContent = this.rows.length ? `${count(first + 1)}–${count(first + this.rows.length)} of ${count(this.total)}` : ''
    this.back.disabled = this.page === 0
    this.forth.disabled = this.cursors.length <= this.page + 1
    this.empty.hidden = !this.trash.checked || !this.thrown
    if (this.at >= 0) this.choose(Math.min(this.at, this.rows.length - 1))
    else { this.detail.hidden = true; this.hint.hidden = !this.rows.length }
  }

  row(c, i) {
    const wave = h('span.wk-thumb')
    wave.clip = c
    this.watcher.observe(wave)
    return h('div.wk-clip', { role: 'option', 'aria-selected': 'false', click: () => { this.choose(i); this.list.focus() } },
      h('button.wk-play', { type: 'button', tabIndex: -1, title: 'Play', 'aria-label': `Play ${c.original_name || c.id}`, click: e => { e.stopPropagation(); this.choose(i); this.play() } }, '▶'),
      wave, h(`span.wk-tag.${c.label}`, c.label), h('span.wk-who', c.speaker || c.voice || ''), h('span.wk-dim.wk-rest', `${c.duration_s.toFixed(1)} s`, c.original_name ? ` · ${c.original_name}` : '', c.notes ? ` · ${c.notes}` : ''))
  }

  async thumb(place) {
    try {
      const text = await this.service.get(`${this.path}/recordings/${place.clip.id}/waveform`, { width: 120 })
      const drawing = new DOMParser().parseFromString(text, 'image/svg+xml').documentElement
      if (drawing.nodeName === 'svg') place.replaceChildren(drawing)
    } catch (e) { if (!(e instanceof Trouble)) throw e }
  }

  choose(i) {
    if (i < 0 || i >= this.rows.length) { this.detail.hidden = true; return }
    this.hint.hidden = true
    const again = this.at === i && this.detail.clip?.id === this.rows[i].id && this.detail.clip.etag === this.rows[i].etag
    this.at = i
    ;[...this.list.children].forEach((e, k) => e.setAttribute('aria-selected', String(k === i)))
    this.list.setAttribute('aria-activedescendant', this.list.children[i].id = `clip-${this.rows[i].id}`)
    this.list.children[i].scrollIntoView({ block: 'nearest' })
    if (again && !this.detail.hidden) return
    this.describe(this.rows[i])
  }

  get clip() { return this.rows[this.at] }

  describe(c) {
    const set = what => e => this.change({ [what]: e.target.value.trim() })
    this.wave = h('canvas.wk-wave', { role: 'img', 'aria-label': 'Waveform' })
    this.picture = h('canvas.wk-picture', { role: 'img', 'aria-label': 'Spectrogram, 50 Hz to 8 kHz' })
    const label = h('select', { change: set('label') }, options(LABELS.map(l => [l]), c.label)), about = [['Length', `${c.duration_s.toFixed(2)} s`], ['Added', ago(c.created)], ['Voice', c.voice], ['Licence', c.licence], ['File', c.original_name], ['Warning', c.warning]]
    this.detail.clip = c
    this.inputs = { label, ...Object.fromEntries(['speaker', 'source', 'notes'].map(k => [k, h('input', { type: 'text', value: c[k], maxLength: 2000, change: set(k) })])) }
    this.seen = null
    this.sound = h('audio', { controls: true, preload: 'none' })
    this.service.media(`${this.path}/recordings/${c.id}/audio`).then(src => { this.sound.src = src })
    this.detail.replaceChildren(this.wave, this.picture, this.sound,
      h('div.wk-row', field('Label', label), field('Speaker', this.inputs.speaker), field('Source', this.inputs.source)), field('Notes', this.inputs.notes),
      h('dl', ...about.filter(([, v]) => v).flatMap(([k, v]) => [h('dt', k), h('dd', v)])),
      h('div.wk-bar', c.trashed ? h('button.wk-main', { type: 'button', click: () => this.restore() }, 'Bring it back') : h('button', { type: 'button', click: () => this.toss() }, 'To the trash')))
    this.detail.hidden = false
    this.see(c)
  }

  async see(c) {
    if (this.seeing === c.id) return
    if (c.duration_s > 60) return this.outline(c) // not the whole of it for a picture
    this.seeing = c.id
    try {
      const r = await fetch(await this.service.media(`${this.path}/recordings/${c.id}/audio`)), wav = r.ok ? readWav(await r.arrayBuffer()) : null
      if (!wav || this.seeing !== c.id || this.detail.clip !== c) return
      const x = new Resampler(wav.rate, RATE).process(wav.samples), hop = Math.max(160, Math.round(x.length / 600))
      this.seen = { x, cells: new Spectrogram(RATE, hop, BANDS).process(x) }
      this.draw()
    } catch (e) { if (!(e instanceof TypeError)) throw e } // no connection
    finally { if (this.seeing === c.id) this.seeing = null }
  }
  async outline(c) {
    try {
      const text = await this.service.get(`${this.path}/recordings/${c.id}/waveform`, { width: 600 }), drawing = new DOMParser().parseFromString(text, 'image/svg+xml').documentElement
      if (drawing.nodeName !== 'svg' || this.detail.clip?.id !== c.id) return
      this.wave.replaceWith(this.wave = h('div.wk-thumb.wk-long', drawing))
      this.picture.hidden = true
    } catch (e) { if (!(e instanceof Trouble)) throw e }
  }
  draw() { if (this.seen) { drawWave(this.wave, this.seen.x); drawColumns(this.picture, this.seen.cells, BANDS) } }

  play() {
    if (!this.sound) return
    if (this.sound.paused) { this.sound.currentTime = 0; this.sound.play().catch(() => this.say('This clip cannot be played here.', 'bad')) } else this.sound.pause()
  }

  key(e) {
    if (e.ctrlKey || e.metaKey || e.altKey) return
    const c = this.clip, key = e.key.length === 1 ? e.key.toLowerCase() : e.key
    if (key === 'ArrowDown' || key === 'j') this.at + 1 >= this.rows.length && !this.forth.disabled ? this.turn(1) : this.choose(this.at + 1)
    else if (key === 'ArrowUp' || key === 'k') this.choose(Math.max(0, this.at - 1))
    else if (key === ' ') this.play()
    else if (key === 'u') this.undo()
    else if (c && KEYS[key]) this.change({ label: KEYS[key] })
    else if (c && key === 'x') c.trashed ? this.restore() : this.toss()
    else return
    e.preventDefault()
  }

  remember(how) { this.undone.push(how); this.undoButton.disabled = false }
  async undo() {
    const how = this.undone.pop()
    this.undoButton.disabled = !this.undone.length
    if (how) await this.doing(null, async () => { await how(); this.say('Undone.'); await this.load() })
  }

  change(what) {
    const c = this.clip
    if (!c || Object.entries(what).every(([k, v]) => c[k] === v)) return
    const before = Object.fromEntries(Object.keys(what).map(k => [k, c[k]]))
    return this.doing(null, async () => {
      try {
        const now = await this.service.patch(`${this.path}/recordings/${c.id}`, what, c.etag)
        this.remember(() => this.service.patch(`${this.path}/recordings/${c.id}`, before))
        this.replace(now)
      } catch (e) {
        if (e.status === 412) { await this.load(); throw new Trouble(412, { detail: 'Somebody else has changed this clip meanwhile. Here it is as it is now: change it again if you like.' }) }
        throw e
      }
    })
  }
  replace(now) {
    const i = this.rows.findIndex(r => r.id === now.id)
    if (i < 0) return
    this.rows[i] = now
    this.list.children[i].replaceWith(this.row(now, i))
    if (this.detail.clip?.id === now.id) { // what is being typed stays
      this.detail.clip = now
      for (const [k, e] of Object.entries(this.inputs)) if (e !== document.activeElement) e.value = now[k]
    }
    this.choose(this.at)
    this.chosen.set('counts', Date.now())
  }
  toss() {
    const c = this.clip
    return this.doing(null, async () => {
      await this.service.remove(`${this.path}/recordings/${c.id}`)
      this.remember(() => this.service.post(`${this.path}/recordings/${c.id}/restore`))
      this.say(`In the trash: ${c.original_name || c.id}. U brings it back.`)
      await this.load()
    })
  }
  restore() {
    const c = this.clip
    return this.doing(null, async () => {
      await this.service.post(`${this.path}/recordings/${c.id}/restore`)
      this.remember(() => this.service.remove(`${this.path}/recordings/${c.id}`))
      await this.load()
    })
  }
  purge() {
    return this.doing(this.empty, async () => {
      if (!await sure(`Delete all ${several(this.thrown, 'clip')} in the trash for good? They cannot be brought back.`, 'Delete them', 'Keep them')) return
      await this.service.remove(`${this.path}/trash`)
      this.undone = []
      this.undoButton.disabled = true
      await this.first()
    })
  }
}
