// Environment: what the service resolved, proved, and runs on.
import { Panel, ago, bytes, h } from './base.js'

const MARK = { ok: ['wk-good', '✓'], failed: ['wk-bad', '✗'], off: ['wk-dim', '–'] }

export class Environment extends Panel {
  constructor(...args) {
    super(...args)
    this.again = h('button', { type: 'button', click: () => this.load(true) }, 'Prove it anew')
    this.facts = h('dl')
    this.checks = h('div.wk-scroll', h('p.wk-dim', 'Each flag is being tried out on the machine of the service …'))
    this.workers = h('div.wk-scroll')
    this.search = h('input', { type: 'search', placeholder: 'find a setting', input: () => this.list() })
    this.settings = h('div.wk-scroll')
    this.root.append(this.said, h('section.wk-card', h('div.wk-bar', h('h3', 'What works here'), this.again), this.facts, this.checks), h('section.wk-card', h('h3', 'Workers'), this.workers), h('section.wk-card', h('div.wk-bar', h('h3', 'Settings'), this.search), this.settings))
    this.every(60_000, () => this.load())
  }
  load(fresh = false) {
    return this.doing(this.again, async () => {
      const e = await this.service.get('/environment', fresh ? { fresh: true } : null)
      const facts = { ...e.versions, 'data root': `${e.data_root}${e.free_bytes === null ? '' : `, ${bytes(e.free_bytes)} free of ${bytes(e.total_bytes)}`}`, proved: `${ago(e.checked)}, in ${e.seconds.toFixed(0)} s` }
      this.facts.replaceChildren(...Object.entries(facts).filter(([, v]) => v).flatMap(([k, v]) => [h('dt', k), h('dd', v)]))
      this.say(e.problem ?? '', 'bad')
      this.checks.replaceChildren(h('table', h('tbody', e.checks.map(c => h('tr', h('td', h(`b.${MARK[c.status]?.[0] ?? 'wk-dim'}`, { title: c.status }, MARK[c.status]?.[1] ?? c.status)), h('td', c.name), h('td', c.detail ?? c.text ?? '', c.remedy ? h('p.wk-bad', c.remedy) : ''))))))
      this.workers.replaceChildren(e.workers.length ? h('table', h('tbody', e.workers.map(w => h('tr', h('td', w.name), h('td', w.device ?? ''), h('td.wk-dim', [w.host, w.version].filter(Boolean).join(', ')), h('td', w.job_id ? h('code', w.job_id) : h('span.wk-dim', 'waits')))))) : h('p.wk-bad', 'None: nothing trains. wakekit worker starts one.'))
      this.found = e.settings
      this.list()
    })
  }
  list() {
    const want = this.search.value.trim().toLowerCase(), found = (this.found ?? []).filter(s => !want || `${s.name} ${s.help}`.toLowerCase().includes(want))
    this.settings.replaceChildren(h('table', h('thead', h('tr', ['', 'asked for', 'from', 'here'].map(t => h('th', t)))), h('tbody', found.map(s => h('tr', h('td', h('code', s.name), h('br'), h('small', s.help)), h('td', s.value || '–'), h('td.wk-dim', s.source), h('td', { className: s.ok ? 'wk-dim' : 'wk-bad' }, s.resolved))))))
  }
}
