// Evaluate: the curve, what a threshold means, and what went wrong, to hear and to correct.
import { Panel, Trouble, code, count, h, options, percent } from './base.js'
import { Det, poisson, wilson } from './plot.js'
import { titleOf } from './jobs.js'

const WHAT = { false_accept: 'False wakes', nearly: 'Nearly', missed: 'Missed' }
const runClass = ['', 'b', 'c', 'd', 'e']

export class Evaluate extends Panel {
  constructor(...args) {
    super(...args)
    this.which = h('select', { 'aria-label': 'Training', change: () => { this.chosen.set('job', this.which.value); this.show() } })
    this.graph = h('select', { 'aria-label': 'Graph', change: () => this.judge() })
    this.against = h('select', { multiple: true, size: 4, 'aria-label': 'Compare with', change: () => this.judge() })
    this.det = new Det(i => { this.slider.value = i; this.at() })
    this.slider = h('input', { type: 'range', min: 0, max: 1, step: 1, 'aria-label': 'Threshold', input: () => this.at() })
    this.point = h('div.wk-tiles', { 'aria-live': 'polite' })
    this.table = h('div.wk-scroll')
    this.words = h('div')
    this.coach = h('div')
    this.sounds = h('div')
    this.none = h('div.wk-note', 'No training has ended yet. When one has, its curve is here.')
    this.page = h('a', { target: '_blank', rel: 'noopener' }, 'The whole report')
    this.inner = h('div', h('div.wk-bar', this.which, this.graph, this.page), this.said,
      h('div.wk-two', h('section.wk-card', h('h3', 'The trade'), this.det.root, h('label.wk-field', h('span', 'Threshold'), this.slider), this.point, h('p.wk-dim', 'Each threshold is a point of the curve; click there or move the slider. Intervals hold with 95 % confidence. In the shaded part there is too little background to claim it.')),
        h('section.wk-card', h('h3', 'What this proves, what to do next'), this.words, this.coach, h('details', h('summary', 'Compare trainings'), this.against, this.table))),
      this.sounds)
    this.root.append(this.none, this.inner)
    this.on('jobs', () => this.load())
    this.on('job', () => { this.known = null })
    this.on('back', () => { this.known = null; this.load().catch(() => {}) })
    this.every(3000, () => this.load())
  }

  async load() {
    const { jobs } = await this.service.get('/jobs', { state: 'succeeded', kind: 'train', limit: 200 }), done = jobs
    this.none.hidden = done.length > 0
    this.inner.hidden = !done.length
    const key = JSON.stringify([done.map(j => j.id), this.chosen.get('job')])
    if (key === this.known) return
    this.known = key
    this.jobs = done
    if (!done.length) return
    const now = done.some(j => j.id === this.chosen.get('job')) ? this.chosen.get('job') : done[0].id, named = j => [j.id, `${titleOf(j)}, ${new Date(j.finished).toLocaleString()}`]
    this.which.replaceChildren(...options(done.map(named), now))
    this.against.replaceChildren(...options(done.map(named)))
    await this.show()
  }

  async metrics(id) {
    this.kept ??= new Map()
    if (!this.kept.has(id)) this.kept.set(id, await this.service.get(`/jobs/${id}/artifacts/metrics.json`))
    return this.kept.get(id)
  }

  show() {
    return this.doing(null, async () => {
      const id = this.which.value, m = await this.metrics(id)
      if (id !== this.which.value) return
      this.graph.replaceChildren(...options(Object.keys(m.held_out).map(g => [g]), this.graph.value || 'float32'))
      await this.judge()
      this.page.hidden = this.props.report === false
      this.service.link(this.page, `/jobs/${id}/report`, `report-${id}.html`)
      await this.hearable(id)
    })
  }

  async judge() {
    const id = this.which.value, graph = this.graph.value, m = (await this.metrics(id)).held_out[graph], wanted = [...this.against.selectedOptions].map(o => o.value).filter(v => v !== id)
    const others = (await Promise.all(wanted.map(async o => [o, (await this.metrics(o)).held_out[graph]]))).filter(([, r]) => r).slice(0, 4) // those that have this graph
    if (!m || id !== this.which.value || graph !== this.graph.value) return
    this.m = m
    const run = (name, r, cls) => ({ name, cls, det: r.det, hours: r.at_bundle_threshold.hours, at: { fa: r.at_bundle_threshold.false_accepts_per_hour, frr: r.at_bundle_threshold.false_reject_rate } })
    const runs = [run('this one', m, ''), ...others.map(([o, r], i) => run(this.jobs.find(j => j.id === o)?.payload.preset ?? o, r, runClass[i + 1]))]
    this.det.draw(runs)
    this.slider.max = m.det.length - 1
    const own = m.at_bundle_threshold
    this.slider.value = m.det.reduce((best, p, i) => Math.abs(p[0] - own.threshold) < Math.abs(m.det[best][0] - own.threshold) ? i : best, 0)
    this.at(own)
    const list = (title, items) => items?.length ? [h('h4', title), h('ul', items.map(t => h('li', t)))] : []
    this.words.replaceChildren(...list('Proved', m.claims), ...list('Next', m.advice))
    const rows = [['this one', m], ...others.map(([o, r]) => [titleOf(this.jobs.find(j => j.id === o)), r])]
    const cell = (v, [a, b], f) => h('td', f(v), ' ', h('small', `${f(a)}–${f(b)}`))
    this.table.replaceChildren(others.length ? h('table', h('thead', h('tr', ['', 'missed', 'false wakes per hour', 'calls', 'background'].map(t => h('th', t)))), h('tbody', rows.map(([name, r], i) => { const p = r.at_bundle_threshold; return h('tr', h('td', h(`i.wk-key.${runClass[i] || 'a'}`), name), cell(p.false_reject_rate, p.false_reject_rate_95, percent), cell(p.false_accepts_per_hour, p.false_accepts_per_hour_95, v => v.toFixed(2)), h('td', count(p.clips)), h('td', `${p.hours.toFixed(2)} h`)) }))) : h('p.wk-dim', 'Choose one or more above (Ctrl for several).'))
  }

  at(own = null) {
    const [threshold, fa, frr] = own ? [own.threshold, own.false_accepts_per_hour, own.false_reject_rate] : this.m.det[this.slider.value], { hours, clips } = this.m.at_bundle_threshold
    const wakes = Math.round(fa * hours), missed = Math.round(frr * clips), [a, b] = wilson(missed, clips), [c, d] = poisson(wakes, hours)
    this.det.at(fa, frr)
    this.props.tell?.('threshold', threshold)
    this.slider.setAttribute('aria-valuetext', `threshold ${threshold.toFixed(3)}`)
    const tile = (v, text, more) => h('div.wk-tile', h('b', v), text, h('small', more))
    this.point.replaceChildren(tile(threshold.toFixed(3), own ? 'the bundle’s threshold' : 'threshold', own ? '' : `the bundle’s is ${this.m.at_bundle_threshold.threshold.toFixed(3)}`), tile(percent(frr), `missed: ${missed} of ${clips}`, `${percent(a)}–${percent(b)}`), tile(fa.toFixed(2), `false wakes per hour: ${wakes} in ${hours.toFixed(2)} h`, `${c.toFixed(2)}–${d.toFixed(2)}`))
  }

  async hearable(id) {
    let heard
    try { heard = await this.service.get(`/jobs/${id}/heard`) } catch (e) { if (!(e instanceof Trouble)) throw e; heard = { sounds: [], counts: {} } }
    if (id !== this.which.value) return
    const coach = heard.coach ?? this.m?.coach ?? [] // a bundle's own, where no service tells
    this.coach.replaceChildren(...coach.length ? [h('h4', 'What to record next'), h('ul.wk-advice', coach.map(c => h(`li.${c.severity}`, c.words, h('small', ` ${c.why}`))))] : [])
    const kinds = Object.entries(WHAT).map(([k, title]) => [k, title, heard.sounds.filter(x => x.kind === k), heard.counts[k] ?? 0])
    this.sounds.replaceChildren(...kinds.map(([k, title, items, n]) => h('section.wk-card', h('h3', `${title} (${n})`), n > items.length ? h('p.wk-dim', `The ${items.length} worst can be heard.`) : null, items.length ? items.map(x => this.sound(id, x)) : h('p.wk-dim', k === 'missed' ? 'None of the calls that were kept aside was missed.' : 'None in the background that was kept aside.'))))
  }

  sound(id, x) {
    const row = h('div.wk-sound')
    const keep = (label, text) => h('button', { type: 'button', disabled: !!x.kept, click: e => this.doing(e.target, async () => {
      const clip = await this.service.post(`/jobs/${id}/heard/${x.n}/keep`, { label }, { headers: { 'If-Match': `"${x.sha256}"` } })
      x.kept = { clip_id: clip.id, label: clip.label }
      this.chosen.set('clips', Date.now())
      row.replaceWith(this.sound(id, x))
    }) }, text)
    row.append(this.service.sound(`/jobs/${id}/heard/${x.n}/audio`), h('span', x.caption, h('small', [x.speaker || x.voice, x.level_db != null ? `${x.level_db.toFixed(0)} dBFS` : ''].filter(Boolean).map(t => ` · ${t}`).join(''))), ...x.kept ? [h('span.wk-good', `✓ ${x.kept.label} in the dataset`)] : x.kind === 'missed' ? [keep('positive', 'It is the phrase: keep'), keep('negative', 'It is not')] : [keep('negative', 'Keep as a hard negative'), keep('positive', 'It is the phrase')])
    return row
  }
}
