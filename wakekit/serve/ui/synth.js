// Synthesize: hear the voices and the near-misses, say how many, and let them be spoken.
import { Panel, Trouble, code, count, field, h, several } from './base.js'
import { JobView } from './jobs.js'

export class Synthesize extends Panel {
  constructor(...args) {
    super(...args)
    this.language = h('input', { type: 'text', value: 'en-us', size: 8, maxLength: 20, change: () => this.load() })
    this.count = h('input', { type: 'number', min: 1, max: 5000, value: 200, input: () => this.sum() })
    this.near = h('input', { type: 'number', min: 0, max: 5000, value: 200, input: () => this.sum() })
    this.search = h('input', { type: 'search', placeholder: 'find a voice', input: () => this.draw() })
    this.voices = h('div.wk-voices')
    this.all = h('button.wk-link', { type: 'button', click: () => { this.picked.clear(); this.draw() } }, 'all voices')
    this.misses = h('ul.wk-near')
    this.audio = h('audio', { controls: true, hidden: true })
    this.words = h('p.wk-dim')
    this.go = h('button.wk-main.wk-big', { type: 'button', click: () => this.start() }, 'Synthesize')
    this.picked = new Set()
    this.view = new JobView(this, { ended: () => { this.chosen.set('clips', Date.now()); this.chosen.set('jobs', Date.now()) } })
    this.nothing = h('div.wk-note', 'Choose a dataset above, or make one: it needs a name and the phrase.')
    this.inner = h('div', h('div.wk-two', h('section.wk-card', h('h3', 'How many'), h('div.wk-row', field('Clips of the phrase', this.count), field('Clips of near-misses', this.near, 'words that sound alike: they must not wake it'), field('Language', this.language, 'such as en-us, en-gb or de')), this.words, h('div.wk-bar', this.go), this.said),
      h('section.wk-card', h('h3', 'What must not wake it'), this.misses)), this.view.root,
      h('section.wk-card', h('div.wk-bar', h('h3', 'Voices'), this.search, this.all), h('p.wk-dim', 'Press ▶ to hear one. Tick some to use only these; else all are used.'), this.audio, this.voices))
    this.root.append(this.nothing, this.inner)
    this.on('dataset', () => this.load())
    this.on('back', () => this.load())
    this.load()
  }

  get name() { return this.chosen.get('dataset') }

  load() {
    this.nothing.hidden = !!this.name
    this.inner.hidden = !this.name
    if (!this.name) return
    return this.doing(null, async () => {
      const about = await this.service.get(`/datasets/${code(this.name)}`), language = this.language.value.trim() || 'en-us'
      if (about.name !== this.name) return
      this.phrase = about.phrase || this.name
      this.go.textContent = `Synthesize “${this.phrase}”`
      const [voices, near] = await Promise.all([this.service.get('/voices', { language }), this.service.get('/near-misses', { phrase: this.phrase, language, count: 24 })])
      if (about.name !== this.name) return
      this.known = voices.voices
      this.misses.replaceChildren(...near.near_misses.map(n => h('li', n.text.includes('[[') ? h('span', { title: 'spoken by its sounds' }, `/${n.sounds}/`) : n.text, ' ', h('small', n.kind.replaceAll('_', ' ')))))
      this.picked.clear()
      this.draw()
      this.sum()
      const { jobs } = await this.service.get('/jobs', { dataset: this.name, limit: 50 }), last = jobs.find(j => j.kind === 'synthesize')
      if (about.name === this.name) this.view.follow(last?.id ?? null)
    })
  }

  draw() {
    const want = this.search.value.trim().toLowerCase(), found = (this.known ?? []).filter(v => !want || `${v.name} ${v.synthesizer} ${v.language ?? ''} ${v.sex ?? ''}`.toLowerCase().includes(want)), shown = this.mixed(found, 60)
    this.voices.replaceChildren(...shown.map(v => h('div.wk-voice', h('button.wk-play', { type: 'button', 'aria-label': `Hear ${v.name}`, click: e => this.hear(e.currentTarget, v) }, '▶'),
      h('label', h('input', { type: 'checkbox', checked: this.picked.has(v.name), change: e => { e.target.checked ? this.picked.add(v.name) : this.picked.delete(v.name); this.sum() } }), h('span', v.name.replace(`${v.synthesizer}:`, ''), h('small', [v.synthesizer, v.language, v.sex].filter(Boolean).join(', ')))))),
      found.length > shown.length ? h('p.wk-dim', `and ${count(found.length - shown.length)} more: search for them`) : '')
    this.sum()
  }

  /** Some of each synthesizer in turn, those that are picked first */
  mixed(voices, n) {
    const kinds = new Map()
    for (const v of voices) kinds.set(v.synthesizer, [...kinds.get(v.synthesizer) ?? [], v])
    const out = voices.filter(v => this.picked.has(v.name)), piles = [...kinds.values()].map(p => p.filter(v => !this.picked.has(v.name)))
    for (let i = 0; out.length < n && piles.some(p => i < p.length); i++) for (const p of piles) if (i < p.length && out.length < n) out.push(p[i])
    return out
  }

  sum() {
    const n = this.picked.size || this.known?.length || 0
    this.words.textContent = `${several(Number(this.count.value) || 0, 'clip')} with the phrase and ${count(Number(this.near.value) || 0)} near-misses, by ${several(n, 'voice')}. Trainings add voices of their own; clips in the dataset can be heard, corrected and thrown away first.`
    this.all.hidden = !this.picked.size
  }

  hear(button, v) {
    return this.doing(button, async () => {
      const src = await this.service.media(`/voices/${code(v.name)}/sample`, { phrase: this.phrase, language: this.language.value.trim() })
      const r = await fetch(src)
      if (!r.ok) throw new Trouble(r.status, await r.json().catch(() => ({ detail: `This voice cannot be heard (${r.status}).` })))
      URL.revokeObjectURL(this.audio.src)
      this.audio.src = URL.createObjectURL(await r.blob())
      this.audio.hidden = false
      await this.audio.play().catch(() => {})
    })
  }

  start() {
    return this.doing(this.go, async () => {
      const body = { count: Number(this.count.value), near_misses: Number(this.near.value), language: this.language.value.trim() || 'en-us', voices: [...this.picked] }
      if (JSON.stringify([this.name, body]) !== this.asked) Object.assign(this, { asked: JSON.stringify([this.name, body]), key: `${Date.now()}-${Math.random()}`, seed: Math.floor(Math.random() * 2 ** 31) }) // a press whose answer was lost is the same one
      const job = await this.service.ask('POST', `/datasets/${code(this.name)}/synthesize`, { body: { ...body, seed: this.seed }, headers: { 'Idempotency-Key': this.key } })
      this.asked = null // another press, other clips
      this.view.follow(job.id)
      this.chosen.set('jobs', Date.now())
    })
  }
}
