// The inbox: sounds that nobody has judged yet, one after the other. Hear it, see it, trim it, say what it is; the next one comes by itself.
import { Panel, Trouble, ago, code, count, h, options, several, sure } from './base.js'
import { Trim, seen } from './trim.js'

export const LABELS = ['positive', 'negative', 'noise']
export const KINDS = { trigger: 'woke a detector', near: 'nearly woke a detector', proposal: 'proposed as a call', missed: 'a call that was not heard' }
const KEYS = { 1: 'positive', 2: 'negative', 3: 'noise', p: 'positive', n: 'negative', o: 'noise' }, MEANS = { positive: 'the phrase', negative: 'something else said', noise: 'no speech', rejected: 'not worth keeping' }
const PAGE = 100, AHEAD = 20, KEPT = 6, LONGEST_S = 120
const number = v => typeof v === 'number' && Number.isFinite(v) ? v.toFixed(2) : null
const moment = s => `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, '0')}`
const when = iso => { // and how long ago, unless that is a date, too
  if (!iso || !Number.isFinite(Date.parse(iso))) return iso
  const there = new Date(iso), words = ago(iso)
  return `${there.toLocaleString()}${words === there.toLocaleDateString() ? '' : ` (${words})`}`
}
const place = s => `${s.origin || 'origin unknown'}${s.start_s === null || s.start_s === undefined ? '' : `, at ${moment(s.start_s)}`}`
/** Anything that a machine may have written down, as words */
const plain = v => v === null || v === undefined ? '–' : typeof v === 'number' ? String(+v.toFixed(3)) : typeof v === 'object' ? Array.isArray(v) ? v.map(plain).join(', ') : Object.entries(v).map(([k, x]) => `${k} ${plain(x)}`).join(', ') : String(v)

export class Inbox extends Panel {
  constructor(...args) {
    super(...args)
    Object.assign(this, { rows: [], total: 0, waiting: 0, at: -1, done: [], heard: new Map(), turn: 0, speakers: new Set() })
    this.kind = h('select', { 'aria-label': 'Kind', change: () => this.first() }, options([['', 'all kinds'], ...Object.entries(KINDS)], ''))
    this.state = h('select', { 'aria-label': 'State', change: () => this.first() }, options([['open', 'waiting'], ['decided', 'decided'], ['all', 'waiting and decided']], 'open'))
    this.by = h('input', { type: 'text', maxLength: 200, size: 10, placeholder: 'your name', 'aria-label': 'Your name, kept with what you decide', change: () => remember('by', this.by.value.trim()) })
    this.by.value = recall('by')
    this.self = h('input', { type: 'checkbox', change: () => remember('self', this.self.checked ? '1' : '') })
    this.self.checked = recall('self') === '1'
    this.left = h('b')
    this.title = h('h3', { 'aria-live': 'polite' })
    this.trim = new Trim({ tell: () => this.tellPart(), hear: s => this.play(s) })
    this.playButton = h('button.wk-big', { type: 'button', click: () => this.play() }, '▶ Play')
    this.part = h('span.wk-dim')
    this.all = h('button.wk-link', { type: 'button', click: () => { this.trim.set(0, this.trim.duration_s); this.stage.focus({ preventScroll: true }) } }, 'keep all of it')
    this.speaker = h('input', { type: 'text', maxLength: 200, size: 16, placeholder: 'speaker, if known', 'aria-label': 'Speaker', list: 'wk-inbox-speakers' })
    this.known = h('datalist', { id: 'wk-inbox-speakers' })
    const act = (what, key, text, cls = '') => h(`button${cls}`, { type: 'button', title: MEANS[what], 'aria-keyshortcuts': key, click: () => this.decide(what, true) }, h('kbd', key), text)
    this.acts = [act('positive', '1', 'Positive', '.positive'), act('negative', '2', 'Negative', '.negative'), act('noise', '3', 'Noise', '.noise'), act('rejected', 'X', 'Reject')]
    this.undoButton = h('button', { type: 'button', disabled: true, 'aria-keyshortcuts': 'U', click: () => this.undo() }, h('kbd', 'U'), 'Undo')
    this.backButton = h('button', { type: 'button', title: 'The one before', 'aria-label': 'The one before', click: () => this.move(-1) }, '←')
    this.forthButton = h('button', { type: 'button', title: 'The next one', 'aria-label': 'The next one', click: () => this.move(1) }, '→')
    this.line = h('p.wk-line', { role: 'status' })
    this.facts = h('dl')
    this.machines = h('div')
    this.list = h('div.wk-clips.wk-sounds', { role: 'listbox', 'aria-label': 'Sounds of the inbox', tabIndex: 0 })
    this.player = h('audio', { preload: 'auto' })
    this.stage = h('div.wk-stage', { tabIndex: -1, role: 'group', 'aria-label': 'The sound that is judged' }, h('div.wk-bar.wk-top', this.title, this.backButton, this.forthButton), this.trim.root,
      h('div.wk-bar', this.playButton, this.part, this.all, h('span.wk-fill'), h('label.wk-check', this.self, 'play the next by itself')),
      h('div.wk-acts', this.acts), this.known)
    this.none = h('div')
    this.goneButton = h('button.wk-link', { type: 'button', click: () => this.remove() }, 'Delete this sound for good')
    this.about = h('div', this.facts, this.machines, this.goneButton)
    this.some = h('div.wk-two.wide', h('section.wk-card', this.stage, this.none, h('div.wk-bar.wk-after', this.speaker, this.line, this.undoButton), this.said, this.about), h('div', this.list))
    this.only = h('div.wk-note', { hidden: true })
    this.nothing = h('div.wk-note', 'Choose a dataset above, or make one: it needs a name and the phrase.')
    this.inner = h('div', h('div.wk-bar.wk-inbox-filter', this.left, this.state, this.kind, h('span.wk-fill'), this.by), this.only, this.some,
      this.keys = h('p.wk-dim.wk-keys', 'Keys: space plays, 1 positive, 2 negative, 3 noise, X rejects, U takes the last decision back, ← → (or J K) move. Drag the handles, or choose one and press ← →, to keep a part only.'))
    this.root.append(this.nothing, this.inner, this.player)
    const key = e => this.key(e)
    const pointed = e => { this.pointed = e.target.closest?.('[role=tab]') }, left = e => { if (e.target !== this.pointed) this.pointed = null }
    for (const [k, f] of [['keydown', key], ['pointerdown', pointed], ['focusin', left]]) { document.addEventListener(k, f); this.stops.push(() => document.removeEventListener(k, f)) }
    this.stops.push( () => this.trim.close(), () => this.quieten(), () => this.forget())
    this.player.addEventListener('ended', () => this.quieten())
    this.on('dataset', () => { this.done = []; this.forget(); this.line.textContent = ''; this.say(''); this.first() })
    this.on('sounds', ({ ids, words }) => { this.first({ ids, words }); this.root.scrollIntoView() })
    this.on('back', () => this.load())
    this.on('inbox', () => this.load())
    this.every(4000, async () => { if (!this.busy && !this.picked) await this.look() })
    this.first()
  }

  get name() { return this.chosen.get('dataset') }
  get path() { return `/datasets/${code(this.name)}/inbox` }
  get sound() { return this.rows[this.at] }
  get filter() { return this.picked ? { state: 'all', ids: this.picked.ids } : { state: this.state.value, kind: this.kind.value } }
  recolour() { this.trim?.draw() }
  quieten() { this.player.pause(); cancelAnimationFrame(this.frame); this.trim.now(null); this.playButton.textContent = '▶ Play' }
  forget() { for (const p of this.heard.values()) p.then(s => URL.revokeObjectURL(s.url), () => {}); this.heard.clear(); this.showing = null }

  // ---- which sounds there are

  /** From the beginning; or only some, that somebody wants to hear */
  first(picked = null) {
    Object.assign(this, { rows: [], total: 0, at: -1, showing: null, drawn: false, picked })
    this.only.hidden = !picked
    if (picked) this.only.replaceChildren(h('span', `Only ${several(picked.ids.length, 'sound')} ${picked.words}.`), h('button.wk-link', { type: 'button', click: () => this.first() }, 'Show the whole inbox'))
    return this.load()
  }
  load(choose) {
    this.nothing.hidden = !!this.name
    this.inner.hidden = !this.name
    if (!this.name) return this.quieten()
    return this.doing(null, () => this.look(choose))
  }
  /** Ask for the newest, and lay them beside those that are known: what somebody else decided on goes, what came in comes */
  async look(choose) {
    if (!this.name) return
    const turn = ++this.turn, path = this.path, found = await (this.picked ? this.theseOf(this.picked.ids) : this.service.get(path, { ...this.filter, offset: 0, limit: PAGE }))
    if (turn !== this.turn || path !== this.path) return
    const now = choose ?? this.sound?.id, ids = new Set(found.sounds.map(s => s.id)), oldest = found.sounds.at(-1)?.created ?? ''
    const rows = [...found.sounds, ...found.total > found.sounds.length ? this.rows.filter(s => !ids.has(s.id) && s.created <= oldest) : []]
    if (this.sound && !choose && !rows.some(s => s.id === now)) this.line.textContent = 'Somebody else has decided on that sound meanwhile, or it went because it was too old. This is another one.'
    const same = JSON.stringify([rows, found.total, found.waiting]) === JSON.stringify([this.rows, this.total, this.waiting])
    if (same && !choose && this.drawn) return
    Object.assign(this, { total: found.total, waiting: found.waiting, rows })
    const at = rows.findIndex(s => s.id === now)
    this.choose(at >= 0 ? at : Math.max(0, this.at))
    await this.more()
  }
  async theseOf(ids) {
    const found = await Promise.all(ids.slice(0, PAGE).map(id => this.service.get(`${this.path}/${id}`).catch(e => { if (e.status !== 404) throw e }))), sounds = found.filter(s => s)
    return { sounds, total: sounds.length, waiting: (await this.service.get(this.path, { limit: 1 })).waiting }
  }
  /** Those after the ones that are known, before they are needed */
  async more() {
    if (this.rows.length >= this.total || this.rows.length - this.at > AHEAD || this.asking) return
    this.asking = true
    try {
      const { turn, path } = this, found = await this.service.get(path, { ...this.filter, offset: this.rows.length, limit: PAGE })
      if (turn !== this.turn || path !== this.path) return
      const ids = new Set(this.rows.map(s => s.id)), fresh = found.sounds.filter(s => !ids.has(s.id))
      if (!fresh.length) return
      this.rows = [...this.rows, ...fresh]
      this.choose(this.at)
    } finally { this.asking = false }
  }

  choose(i) {
    this.at = Math.max(-1, Math.min(i, this.rows.length - 1))
    this.show()
    this.more().catch(e => { if (!(e instanceof Trouble)) throw e })
  }
  move(by) { if (this.rows[this.at + by]) { this.moved = true; this.choose(this.at + by) } }

  // ---- what of it is seen

  show() {
    const s = this.sound
    this.drawn = true
    this.left.textContent = this.waiting ? `${several(this.waiting, 'sound waits', 'sounds wait')}` : 'Nothing waits'
    this.tellList()
    for (const e of [this.stage, this.speaker, this.about, this.list, this.keys]) e.hidden = !s
    this.none.hidden = !!s
    this.backButton.disabled = this.at <= 0
    this.forthButton.disabled = this.at + 1 >= this.rows.length
    this.tellUndo()
    if (!s) { this.showing = null; this.quieten(); return this.tellNone() }
    this.title.textContent = `${count(this.at + 1)} of ${count(this.total)}: ${KINDS[s.kind] ?? s.kind}`
    this.tellFacts(s)
    if (this.showing === s.id) return
    this.showing = s.id
    this.quieten()
    this.speaker.value = ''
    this.trim.load(s.duration_s, s.decision?.start_s, s.decision?.end_s)
    this.see(s)
  }
  tellUndo() { this.undoButton.disabled = !this.done.length && !this.sound?.decision; this.undoButton.hidden = this.undoButton.disabled && !this.sound }
  tellPart() {
    const t = this.trim, whole = t.whole
    this.part.textContent = whole ? `all ${t.duration_s.toFixed(2)} s` : `${t.start.toFixed(2)} to ${t.end.toFixed(2)} s of ${t.duration_s.toFixed(2)} s`
    this.all.hidden = whole
  }
  tellList() {
    const key = JSON.stringify(this.rows.map(s => [s.id, s.outcome, s.score, s.origin]))
    if (key !== this.listed) {
      this.listed = key
      this.list.replaceChildren(...this.rows.map((s, i) => h('div.wk-found', { role: 'option', id: `wk-sound-${s.id}`, 'aria-selected': 'false', click: () => { this.moved = true; this.choose(i); this.list.focus({ preventScroll: true }) } },
        h('span.wk-tag', { title: KINDS[s.kind] ?? '' }, s.kind), h('span.wk-who', { title: place(s) }, place(s)), h('span.wk-dim', [number(s.score), `${s.duration_s.toFixed(1)} s`].filter(Boolean).join(' · ')),
        s.outcome === 'open' ? null : h(`span.wk-tag.${LABELS.includes(s.outcome) ? s.outcome : 'noise'}`, s.outcome))))
    }
    for (const [i, e] of [...this.list.children].entries()) e.setAttribute('aria-selected', String(i === this.at))
    const now = this.list.children[this.at]
    if (!now) return this.list.removeAttribute('aria-activedescendant')
    this.list.setAttribute('aria-activedescendant', now.id)
    const top = now.offsetTop - this.list.offsetTop // not scrollIntoView: the page stays where it is
    if (top < this.list.scrollTop) this.list.scrollTop = top
    else if (top + now.offsetHeight > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = top + now.offsetHeight - this.list.clientHeight
  }
  tellFacts(s) {
    const d = s.detector ?? {}, told = s.decision, who = [d.name, d.version && d.version !== d.name ? `version ${d.version}` : null, number(d.threshold) ? `threshold ${number(d.threshold)}` : null].filter(Boolean).join(', ')
    const rest = Object.entries(d).filter(([k, v]) => !['name', 'version', 'threshold', 'digest', 'phrase', 'asked'].includes(k) && v !== null && v !== '')
    const about = [['Score', number(s.score)], ['From', place(s)], ['Heard', when(s.heard)], ['Came in', when(s.created)], ['Detector', who], ...rest.map(([k, v]) => [k.replaceAll('_', ' '), plain(v)]),
      ['Decided', told ? `${told.action === 'reject' ? 'rejected' : `${told.label} (${MEANS[told.label]})`}${told.by ? ` by ${told.by}` : ''}, ${when(told.at)}${told.start_s === null || told.start_s === undefined ? '' : `, from ${number(told.start_s)} to ${number(told.end_s)} s`}${told.note ? `: ${told.note}` : ''}` : null]], back = told ? h('button.wk-link', { type: 'button', click: () => this.undo({ name: this.name, id: s.id, at: told.at }) }, 'take it back') : null
    this.facts.replaceChildren(...about.filter(([, v]) => v).flatMap(([k, v]) => [h('dt', k), h('dd', v, k === 'Decided' ? [' ', back] : null)]))
    const said = s.predictions ?? [], silent = (d.asked ?? []).filter?.(by => !said.some(p => p.by === by)) ?? []
    this.machines.replaceChildren(...said.length || silent.length ? [h('h4', 'What machines say: predictions, not labels'), h('ul', said.map(({ by, label, score, at, ...more }) => h('li', h('b', by), `: ${label || 'no label'}${number(score) ? `, ${number(score)}` : ''}`, Object.entries(more).filter(([, v]) => v !== null && v !== '').map(([k, v]) => h('small', ` · ${k.replaceAll('_', ' ')} ${plain(v)}`)))), silent.map(by => h('li', h('b', by), ': found nothing')))] : [])
  }
  tellNone() {
    const name = /^[\w.+-]+$/.test(this.name) ? this.name : `'${this.name}'`, way = (...text) => h('li', ...text), filtered = this.kind.value !== ''
    const open = this.state.value === 'open', why = this.picked ? 'These sounds are gone: they were too old, or somebody has deleted them.' : filtered && (this.waiting || !open) ? 'No sound is like that: choose another kind or state above.' : open ? 'Nothing waits for a decision.' : this.state.value === 'decided' ? 'Nothing was decided yet.' : 'There is no sound in this inbox.'
    this.none.replaceChildren(h('h3', why), h('p', 'Sounds come in by themselves, and wait here until somebody says what they are:'), h('ul.wk-ways',
      way('What wakes a detector, or nearly does: ', h('code', `wakekit listen FOLDER --mic --inbox ${name}`)),
      way('The same of the services for devices and for Home Assistant: ', h('code', `WAKEKIT_INBOX=${name}`), ' for ', h('code', 'wakekit serve detect'), ' and ', h('code', 'wakekit serve wyoming')),
      way('Possible calls in long recordings: ', h('code', `wakekit annotate RECORDINGS --dataset ${name}`))),
    h('p.wk-dim', 'Nothing is kept unless somebody asks for it, and it stays on this machine. What you accept becomes a clip of the dataset; a negative one is learned as a hard one.'))
  }

  // ---- what of it is heard

  /** A sound with its picture, fetched once */
  fetched(s) {
    if (!this.heard.has(s.id)) {
      this.heard.set(s.id, (async () => {
        const r = await fetch(await this.service.media(`${this.path}/${s.id}/audio`), { credentials: 'same-origin' })
        if (!r.ok) throw new Trouble(r.status, { detail: r.status === 404 ? 'This sound is gone: it was too old, or somebody has deleted it.' : `This sound cannot be heard: the service answered ${r.status}.` })
        const bytes = await r.blob()
        return { url: URL.createObjectURL(bytes), picture: s.duration_s > LONGEST_S ? null : seen(await bytes.arrayBuffer()) }
      })())
      for (const id of [...this.heard.keys()].slice(0, -KEPT)) if (id !== this.showing) { this.heard.get(id).then(o => URL.revokeObjectURL(o.url), () => {}); this.heard.delete(id) }
    }
    return this.heard.get(s.id)
  }
  async see(s) {
    const play = this.moved && this.self.checked
    this.moved = false
    try {
      const { url, picture } = await this.fetched(s)
      if (this.showing !== s.id) return
      this.player.src = url
      this.trim.show(picture)
      if (play) this.play()
    } catch (e) {
      this.heard.delete(s.id)
      if (this.showing !== s.id) return
      this.say(e instanceof Trouble ? e.message : 'This sound cannot be heard: the dashboard does not answer.', 'bad')
      if (e.status === 404) this.look().catch(() => {})
    }
    const next = this.rows[this.at + 1]
    if (next && this.showing === s.id) this.fetched(next).catch(() => this.heard.delete(next.id)) // it is told when it is its turn
  }
  /** From a moment on, or from the first handle; to the second one */
  async play(from) {
    const { sound: s, player: p } = this
    if (!s) return
    if (from === undefined && !p.paused) return this.quieten()
    await this.fetched(s).catch(() => {})
    if (this.showing !== s.id || !p.src) return
    p.currentTime = from ?? this.trim.start
    const until = from !== undefined && from >= this.trim.end ? s.duration_s : this.trim.end
    try { await p.play() } catch (e) { if (e.name !== 'AbortError') this.say('This sound cannot be played here.', 'bad'); return }
    this.playButton.textContent = '■ Stop'
    cancelAnimationFrame(this.frame)
    const step = () => {
      if (p.paused) return
      this.trim.now(p.currentTime)
      if (p.currentTime >= until) this.quieten()
      else this.frame = requestAnimationFrame(step)
    }
    step()
  }

  // ---- what people say of it

  async decide(what, pressed = false) {
    const s = this.sound
    if (!s || this.busy) return // a key that is pressed twice does not judge the next one, which nobody has heard
    const { name, path, filter } = this, by = this.by.value.trim(), speaker = this.speaker.value.trim(), part = this.trim.part
    this.busy = true
    this.stage.setAttribute('aria-busy', 'true')
    this.quieten()
    await this.doing(null, async () => {
      let now
      try {
        await this.unchanged(path, s)
        now = await (what === 'rejected' ? this.service.post(`${path}/${s.id}/reject`, { ...by && { by } }) : this.service.post(`${path}/${s.id}/accept`, { label: what, ...part, ...speaker && { speaker }, ...by && { by } }))
      } catch (e) { return this.missed(e, s) }
      this.done.push({ name, id: s.id, at: now.decision?.at })
      this.chosen.set('clips', Date.now())
      if (speaker && !this.speakers.has(speaker)) { this.speakers.add(speaker); this.known.append(h('option', { value: speaker })) }
      if (path !== this.path || JSON.stringify(filter) !== JSON.stringify(this.filter)) return
      this.turn++ // what was asked before does not know it yet
      this.say('')
      this.line.replaceChildren(h(`span.wk-tag.${what === 'rejected' ? 'noise' : what}`, what), ` ${place(s)}. U takes it back.`)
      if (!s.decision) this.waiting--
      this.moved = true
      const i = this.rows.findIndex(r => r.id === s.id)
      if (filter.state === 'open') {
        this.rows = this.rows.filter(r => r.id !== s.id)
        this.total--
        this.choose(Math.max(0, i))
      } else {
        this.rows = this.rows.map(r => r.id === s.id ? now : r)
        this.choose(Math.min(i + 1, this.rows.length - 1))
      }
    })
    this.busy = false
    this.stage.removeAttribute('aria-busy')
    if (pressed && !this.stage.hidden) this.stage.focus({ preventScroll: true }) // space then plays the next one instead of judging it
  }
  /** Two people at one inbox: the first one's decision is not overwritten unseen */
  async unchanged(path, s) {
    const there = await this.service.get(`${path}/${s.id}`), said = d => d && [d.action, d.label, d.at].join()
    if (said(there.decision) !== said(s.decision)) throw new Trouble(409, { detail: there.decision ? `${there.decision.by || 'Somebody else'} has decided on ${place(s)} meanwhile: ${there.outcome}. To change that, choose “decided” above.` : `Somebody else has taken the decision on ${place(s)} back meanwhile. It waits again.` })
  }
  /** A decision that the service did not take: say why, and show how things are now */
  async missed(e, s) {
    if (e instanceof Trouble && e.code === 'too_long') throw new Trouble(e.status, { detail: `${e.message.split(':')[0]}: put the two handles around the call first.` })
    if (!(e instanceof Trouble) || ![404, 409].includes(e.status)) throw e
    if (e.status === 404) this.rows = this.rows.filter(r => r.id !== s.id)
    this.say(e.status === 404 ? `${place(s)}: this sound is gone. Somebody has deleted it, or it was too old.` : e.message, 'bad')
    await this.look(this.rows[this.at]?.id ?? s.id)
  }
  /** Take a decision back: one, or the last that was made here */
  undo(last = this.done.at(-1) ?? (this.sound?.decision ? { name: this.name, id: this.sound.id, at: this.sound.decision.at } : null)) {
    if (!last || this.busy) return
    this.busy = true
    return this.doing(this.undoButton, async () => {
      try {
        const path = `/datasets/${code(last.name)}/inbox/${last.id}`, { decision, outcome } = last.at ? await this.service.get(path) : {}
        if (decision && decision.at !== last.at) throw new Trouble(409, { detail: `${decision.by || 'Somebody else'} has decided anew meanwhile: ${outcome}. That was left alone.` })
        await this.service.post(`${path}/undo`)
        this.line.textContent = 'Taken back. It waits again.'
      } catch (e) {
        if (!(e instanceof Trouble) || ![404, 409].includes(e.status)) throw e // it stays the last one: press again
        this.say(e.status === 404 ? 'The sound of this decision is gone.' : e.code === 'nothing_to_undo' ? 'This decision was taken back already, by somebody else.' : e.message, 'bad')
      }
      this.done = this.done.filter(d => d.id !== last.id || d.name !== last.name)
      this.chosen.set('clips', Date.now())
      if (last.name === this.name) await this.look(last.id)
    }).finally(() => { this.busy = false; this.tellUndo() })
  }

  /** No undo brings it back; rejecting does for what is only not wanted */
  async remove() {
    const { sound: s, path } = this
    if (!s || this.busy || !await sure(`Delete this sound for good: ${place(s)}? ${s.decision?.action === 'accept' ? 'The clip that it became stays.' : 'It cannot be brought back; rejecting it can be undone.'}`, 'Delete it', 'Keep it')) return
    this.busy = true
    return this.doing(this.goneButton, async () => {
      try { await this.service.remove(`${path}/${s.id}`) } catch (e) { return this.missed(e, s) }
      this.done = this.done.filter(d => d.id !== s.id)
      if (path !== this.path) return
      this.turn++ // what was asked before still knows it
      const i = this.rows.findIndex(r => r.id === s.id)
      this.rows = this.rows.filter(r => r.id !== s.id)
      this.total--
      if (!s.decision) this.waiting--
      this.say('')
      this.line.textContent = `${place(s)}: deleted.`
      this.choose(Math.max(0, i))
    }).finally(() => { this.busy = false })
  }

  key(e) {
    if (e.defaultPrevented || e.ctrlKey || e.metaKey || e.altKey || !this.shown || this.inner.hidden || document.querySelector('dialog[open]')) return
    const to = e.target, inside = this.root.contains(to), free = to === document.body || this.pointed && to === this.pointed // the mouse has left it on the tab
    if (!inside && !(free && document.querySelector('gradio-app')) || to.matches?.('input, select, textarea, summary, a')) return
    const key = e.key.length === 1 ? e.key.toLowerCase() : e.key
    if (key === ' ' && to.matches('button') && inside || e.repeat && !key.startsWith('Arrow')) return
    if (key === 'ArrowRight' || key === 'j' || key === 'ArrowDown' && to === this.list) this.move(1)
    else if (key === 'ArrowLeft' || key === 'k' || key === 'ArrowUp' && to === this.list) this.move(-1)
    else if (key === ' ') this.play()
    else if (key === 'u') this.undo()
    else if (KEYS[key]) this.decide(KEYS[key])
    else if (key === 'x') this.decide('rejected')
    else return
    e.preventDefault()
  }
}

// Small things that a browser remembers, if it may
const remember = (what, v) => { try { localStorage.setItem(`wakekit inbox ${what}`, v) } catch { /* no storage here */ } }
const recall = what => { try { return localStorage.getItem(`wakekit inbox ${what}`) ?? '' } catch { return '' } }
