// What is wrong with a dataset, and what to record next: counts, findings, doubted labels, and the page of the report.
import { Panel, Trouble, ago, code, count, duration, h, several } from './base.js'
import { ENDED, JobView } from './jobs.js'

const LABELS = ['positive', 'negative', 'noise'], WORDS = { bad: 'to put right', doubt: 'to look at', note: 'good to know' }, FEW = 6

export class Quality extends Panel {
  constructor(...args) {
    super(...args)
    this.go = h('button.wk-main', { type: 'button', click: () => this.look() }, 'Listen to all clips')
    this.hint = h('span.wk-dim')
    this.page = h('a', { target: '_blank', rel: 'noopener' }, 'The report as a page')
    this.view = new JobView(this, { ended: job => { this.view.root.hidden = job.state === 'succeeded'; this.chosen.set('look', Date.now()) } })
    this.tiles = h('div.wk-tiles')
    this.coach = h('ul.wk-advice')
    this.findings = h('ul.wk-advice')
    this.suspects = h('ul.wk-advice')
    this.charts = h('div.wk-three')
    this.found = h('div', { hidden: true }, this.tiles, h('div.wk-two', h('section.wk-card', h('h3', 'What to record next'), this.coach), h('section.wk-card', h('h3', 'What was found'), this.findings)),
      h('div.wk-two', h('section.wk-card', h('h3', 'Labels that the sound contradicts'), this.suspects), h('section.wk-card', h('h3', 'How loud, how long, how clear'), this.charts)))
    this.nothing = h('div.wk-note', 'Choose a dataset above, or make one: it needs a name and the phrase.')
    this.inner = h('div', this.said, h('div.wk-bar', this.go, this.hint, this.page), this.view.root, this.found)
    this.root.append(this.nothing, this.inner)
    this.on('dataset', () => { this.view.follow(null); this.load() })
    this.on('back', () => this.load())
    this.on('look', () => this.load())
    this.load()
  }

  get name() { return this.chosen.get('dataset') }
  get path() { return `/datasets/${code(this.name)}` }
  look() { return this.doing(this.go, async () => { this.view.follow((await this.service.post(`${this.path}/look`)).id) }) }

  async load() {
    this.nothing.hidden = !!this.name
    this.inner.hidden = !this.name
    if (!this.name) return
    const { name } = this
    await this.doing(null, async () => {
      const { jobs } = await this.service.get('/jobs', { kind: 'look', dataset: name, limit: 1 })
      if (name === this.name && jobs.length && !ENDED.includes(jobs[0].state)) this.view.follow(jobs[0].id) // it goes on, whoever has asked for it
      let r = null
      try { r = await this.service.get(`${this.path}/report`) } catch (e) {
        if (!(e instanceof Trouble) || !['no_look', 'missing_extra'].includes(e.code)) throw e
        this.hint.textContent = e.code === 'no_look' ? 'Nobody has listened to this dataset yet. It takes a minute or two for each thousand clips, and goes on by itself.' : e.message
      }
      if (name !== this.name) return
      this.found.hidden = this.page.hidden = !r
      this.go.textContent = r ? 'Listen again' : 'Listen to all clips'
      if (!r) return
      this.hint.textContent = `Listened ${ago(r.created)}${r.stale ? '; something was changed since' : ''}.${r.note ? ` There is ${r.note}` : ''}`
      this.service.link(this.page, `${this.path}/report.html`)
      this.show(r)
    })
  }

  show(r) {
    const tile = (n, text, more) => h('div.wk-tile', h('b', n), text, more ? h('small', more) : null), all = [...r.findings, ...r.leaks], bad = all.filter(f => f.severity === 'bad').length
    this.tiles.replaceChildren(...LABELS.map(l => tile(count(r.labels[l]?.clips ?? 0), l, duration(r.labels[l]?.duration_s ?? 0))), tile(count(bad), bad === 1 ? 'thing to put right' : 'things to put right'), tile(r.embedded ? count(r.suspects.length) : '–', 'labels to check'))
    const line = (x, more, ids) => h(`li.${x.severity}`, h('span.wk-tag', WORDS[x.severity]), ' ', x.words, more ? h('small', ` ${more}`) : null, ids?.length ? h('button.wk-link', { type: 'button', click: () => this.pick(ids) }, `show ${several(ids.length, 'clip')}`) : null)
    const fill = (list, items, none) => list.replaceChildren(...items.length ? items : [h('li.wk-dim', none)])
    fill(this.coach, r.coach.map(c => line(c, c.why)), 'Nothing: there is enough of everything.')
    fill(this.findings, all.map(f => line(f, '', f.clip_ids ?? f.ids)), 'Nothing is wrong.')
    const few = r.suspects.slice(0, FEW)
    fill(this.suspects, [...few.map(s => h('li', h(`span.wk-tag.${s.label}`, s.label), ' sounds like ', h(`span.wk-tag.${s.looks}`, s.looks), h('button.wk-link', { type: 'button', click: () => this.pick([s.id, ...s.neighbours.slice(0, 3)]) }, 'show it and its neighbours'))),
      ...r.suspects.length ? [h('li', h('button.wk-link', { type: 'button', click: () => this.pick(r.suspects.map(s => s.id)) }, `show all ${count(r.suspects.length)} on the map`))] : []], r.embedded ? 'None.' : 'Nobody has listened: torch is not installed there.')
    const units = { level_db: 'level, dB', duration_s: 'length, s', snr_db: 'above the room, dB' }
    this.charts.replaceChildren(...Object.entries(units).filter(([k]) => r.histograms[k]?.edges?.length > 1).map(([k, title]) => h('figure', this.bars(r.histograms[k]), h('figcaption', title))))
  }

  /** Bars of three labels, each on its own row: what differs between labels is seen at once */
  bars({ edges, ...of }) {
    const n = edges.length - 1, short = v => Math.abs(v) >= 10 ? v.toFixed(0) : v.toFixed(1)
    const rows = LABELS.filter(l => of[l]?.some(v => v)).map(l => { const top = Math.max(...of[l]); return h('div.wk-bars', { title: l }, of[l].map(v => h(`i.${l}`, { style: `height:${v ? Math.max(4, 100 * v / top) : 0}%` }))) })
    return h('div', { role: 'img', 'aria-label': `from ${short(edges[0])} to ${short(edges[n])}` }, ...rows, h('div.wk-axis', h('span', short(edges[0])), h('span', short(edges[n]))))
  }

  pick(ids) { this.chosen.set('pick', { ids, at: Date.now() }) }
}
