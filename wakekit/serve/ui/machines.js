// Machines beside people, and two models beside each other, on the sounds of an inbox.
import { Panel, ago, code, count, h, options, percent, several } from './base.js'
import { bundles } from './annotate.js'
import { ENDED, JobView } from './jobs.js'

const number = v => v === null || v === undefined ? '–' : v.toFixed(2).replace('-', '−')
const table = (heads, rows) => h('table', h('thead', h('tr', heads.map(([text, title]) => h('th', { scope: 'col', title: title ?? '' }, text)))), h('tbody', rows.map(([name, ...rest]) => h('tr', h('th', { scope: 'row' }, name), rest.map(v => h('td', v))))))

export class Machines extends Panel {
  constructor(...args) {
    super(...args)
    this.truth = h('p')
    this.table = h('div.wk-scroll')
    this.one = h('select', { 'aria-label': 'One model' })
    this.other = h('select', { 'aria-label': 'The other model' })
    this.go = h('button.wk-main', { type: 'button', click: () => this.compare() }, 'Let both hear it')
    this.hint = h('p.wk-dim')
    this.pair = h('div.wk-row', h('label.wk-field', h('span', 'One'), this.one), h('label.wk-field', h('span', 'The other'), this.other), this.go)
    this.view = new JobView(this, { ended: job => { if (job.state === 'succeeded') this.result(job) } })
    this.compared = h('div')
    this.inner = h('div', this.said, h('section.wk-card', h('h3', 'What machines are worth'), this.truth, this.table),
      h('section.wk-card', h('h3', 'Two models on the same inbox'), this.hint, this.pair, this.view.root, this.compared))
    this.root.append(this.inner)
    this.on('dataset', () => this.load())
    this.on('back', () => this.load())
    this.on('clips', () => { this.old = true })
    this.on('inbox', () => { this.old = true })
    this.on('models', () => this.choices())
    this.on('jobs', () => this.choices())
    this.every(3000, async () => { if (this.old) { this.old = false; await this.ask() } })
    this.load()
  }

  get name() { return this.chosen.get('dataset') }
  get path() { return `/datasets/${code(this.name)}/inbox` }
  load() {
    this.inner.hidden = !this.name
    this.view.follow(null)
    this.compared.replaceChildren()
    if (!this.name) return
    this.choices()
    return this.doing(null, async () => { await this.ask(); await this.latest() })
  }
  async ask() {
    if (!this.name) return
    const { path } = this, a = await this.service.get(`${path}/agreement`)
    if (path === this.path) this.show(a)
  }
  show(a) {
    this.truth.textContent = a.decided ? `People held ${count(a.positive)} of ${several(a.decided, 'sound')} for the phrase. Machines only predict: what counts is what people decide.` : 'Nobody has decided on anything yet. When somebody has, this says which machine may be believed, and from which score on.'
    const heads = [['machine'], ['asked', 'sounds that it was asked about'], ['proposed', 'of those that people decided on, how many it held for the phrase'], ['right', 'people agreed'], ['precision', 'share of its proposals that were right'], ['recall', 'share of the calls that it found'], ['kappa', 'agreement with people beyond chance: 1 is all, 0 is none'], [`score for ${percent(a.precision, 0)}`, 'from this score on it is right so often; – while too few were decided']]
    const rows = Object.entries(a.machines).map(([name, m]) => [name, count(m.asked), count(m.proposed), count(m.right), percent(m.precision, 0), percent(m.recall, 0), number(m.kappa), number(m.suggested)])
    this.table.replaceChildren(...rows.length ? [table(heads, rows)] : [])
  }

  // ---- two models

  choices() {
    if (!this.name) return
    const { name } = this
    return this.doing(null, async () => {
      const found = await bundles(this.service, name), two = found.length > 1
      if (name !== this.name || JSON.stringify(found) === this.known && this.of === name) return
      this.known = JSON.stringify(found)
      this.of = name
      const had = [this.one.value, this.other.value], kept = had[0] !== had[1] && had.every(v => found.some(([f]) => f === v)), now = kept ? had : [found[1]?.[0], found[0]?.[0]] // the older one first
      for (const [k, e] of [this.one, this.other].entries()) e.replaceChildren(...options(found, now[k]))
      this.pair.hidden = !two
      this.hint.textContent = two ? 'Both hear everything that is kept here: which false wakes are gone, which calls are lost?' : 'There are not two models of this phrase yet: train another one, and see here which false wakes it leaves out.'
    })
  }
  compare() {
    return this.doing(this.go, async () => {
      this.compared.replaceChildren()
      this.view.root.hidden = false
      this.view.follow((await this.service.post(`${this.path}/compare`, { one: JSON.parse(this.one.value), other: JSON.parse(this.other.value) })).id)
      this.chosen.set('jobs', Date.now())
    })
  }
  /** What was compared last, or is being compared */
  async latest() {
    const { name } = this, { jobs: [job] } = await this.service.get('/jobs', { kind: 'compare', dataset: name, limit: 1 })
    if (name !== this.name || !job) return
    if (job.state === 'succeeded') this.result(job)
    else if (!ENDED.includes(job.state)) this.view.follow(job.id)
  }
  result({ result: r, finished }) {
    if (!r) return
    this.view.root.hidden = true
    const [one, other] = r.names, only = (ids, words) => ids.length ? h('button.wk-link', { type: 'button', click: () => this.chosen.set('sounds', { ids, words, at: Date.now() }) }, `hear the ${count(ids.length)} ${words}`) : null
    this.compared.replaceChildren(h('p.wk-dim', `Heard ${ago(finished)}; what came in or was decided since is not in it.`), h('div.wk-scroll', table([['kind'], ['decided as'], ['sounds'], [one, 'how many wake it'], [other, 'how many wake it'], ['quiet now', `wake ${one} only`], ['wake newly', `wake ${other} only`]], r.rows.map(w => [w.kind, w.decision, ...[w.sounds, w.one, w.other, w.newly_quiet, w.newly_waking].map(count)]))),
      h('ul', r.claims.map(c => h('li', c))), h('div.wk-bar', only(r.newly_quiet, `that leave ${other} quiet`), only(r.newly_waking, `that wake ${other} newly`)),
      r.skipped?.length ? h('p.wk-bad', `${several(r.skipped.length, 'sound')} could not be heard: ${r.skipped.slice(0, 3).map(s => `${s.id} (${s.reason})`).join(', ')}`) : '')
  }
}
