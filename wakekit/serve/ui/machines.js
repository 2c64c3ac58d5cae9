// Below the inbox: recordings are brought in, and machines are laid beside what people decided.
import { Panel, Trouble, code, count, h, options, percent, several } from './base.js'
import { KINDS } from './inbox.js'

const number = v => v === null || v === undefined ? '–' : v.toFixed(2).replace('-', '−')

export class Machines extends Panel {
  constructor(...args) {
    super(...args)
    this.kind = h('select', { 'aria-label': 'What the recordings are' }, options([['missed', 'calls that were not heard'], ['trigger', 'what woke a detector'], ['near', 'what nearly woke one'], ['proposal', 'possible calls']], 'missed'))
    this.files = h('input', { type: 'file', multiple: true, accept: 'audio/*,.wav,.flac,.ogg,.mp3', 'aria-label': 'Recordings for the inbox', change: () => this.bring() })
    this.bar = h('progress', { max: 1, value: 0, hidden: true, 'aria-label': 'Sent' })
    this.came = h('ul')
    this.truth = h('p')
    this.table = h('div.wk-scroll')
    this.inner = h('div', this.said, h('section.wk-card', h('h3', 'What machines are worth'), this.truth, this.table),
      h('section.wk-card', h('h3', 'Bring sounds in'), h('p.wk-dim', 'Recordings of a minute at most, for somebody to judge above.'), h('div.wk-bar', this.kind, h('label.wk-button', 'Choose files', this.files)), this.bar, this.came))
    this.root.append(this.inner)
    this.on('dataset', () => { this.came.replaceChildren(); this.load() })
    this.on('back', () => this.load())
    this.on('clips', () => { this.old = true })
    this.every(3000, async () => { if (this.old) { this.old = false; await this.ask() } })
    this.load()
  }

  get name() { return this.chosen.get('dataset') }
  get path() { return `/datasets/${code(this.name)}/inbox` }
  load() {
    this.inner.hidden = !this.name
    if (this.name) return this.doing(null, () => this.ask())
  }
  async ask() {
    if (!this.name) return
    const { path } = this, a = await this.service.get(`${path}/agreement`)
    if (path === this.path) this.show(a)
  }
  show(a) {
    const rows = Object.entries(a.machines), heads = [['machine', ''], ['asked', 'sounds that it was asked about'], ['proposed', 'of those that people decided on, how many it held for the phrase'], ['right', 'people agreed'], ['precision', 'share of its proposals that were right'], ['recall', 'share of the calls that it found'], ['kappa', 'agreement with people beyond chance: 1 is all, 0 is none'], [`score for ${percent(a.precision, 0)}`, 'from this score on it is right so often; – while too few were decided']]
    this.truth.textContent = a.decided ? `People held ${count(a.positive)} of ${several(a.decided, 'sound')} for the phrase. Machines only predict: what counts is what people decide.` : 'Nobody has decided on anything yet. When somebody has, this says which machine may be believed, and from which score on.'
    this.table.replaceChildren(...rows.length ? [h('table', h('thead', h('tr', heads.map(([t, title]) => h('th', { scope: 'col', title }, t)))), h('tbody', rows.map(([name, m]) => h('tr', h('th', { scope: 'row' }, name), [m.asked, m.proposed, m.right].map(v => h('td', count(v))), [m.precision, m.recall].map(v => h('td', percent(v, 0))), h('td', number(m.kappa)), h('td', number(m.suggested))))))] : [])
  }

  async bring() {
    const files = [...this.files.files], { path } = this, kind = this.kind.value
    this.files.value = ''
    this.bar.hidden = false
    for (const [i, f] of files.entries()) {
      const row = h('li', `${f.name}: `)
      this.came.append(row)
      try {
        const s = await this.service.send(`${path}?${new URLSearchParams({ kind, origin: f.name })}`, f, {}, part => { this.bar.value = (i + part) / files.length })
        row.append(`${s.outcome === 'open' ? 'waits above' : `is there already: ${s.outcome}`}, ${KINDS[s.kind] ?? s.kind}${s.warning ? `; ${s.warning}` : ''}`)
      } catch (e) {
        if (!(e instanceof Trouble)) throw e
        row.append(h('span.wk-bad', e.message))
      }
      this.chosen.set('inbox', Date.now())
    }
    this.bar.hidden = true
  }
}
