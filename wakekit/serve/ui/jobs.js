// Jobs: what waits, runs and has ended; one of them with its curves, its log, and how long it will take.
import { Panel, Trouble, ago, code, duration, h, percent, sure } from './base.js'
import { legend, lines } from './plot.js'

export const ENDED = ['succeeded', 'failed', 'cancelled']
const STATES = { queued: 'waits', running: 'runs', succeeded: 'done', failed: 'failed', cancelled: 'cancelled' }
export const titleOf = j => j.kind === 'deploy' ? `${j.payload.action} ${j.payload.model ?? ''} → ${j.payload.device}` : `${j.kind} ${j.dataset ?? ''}${j.payload?.preset ? `, ${j.payload.preset}` : ''}`
export const badge = j => h(`span.wk-state.${j.state}`, STATES[j.state] ?? j.state)

/** One job, live. Used by the tabs that start jobs, and by notebooks. */
export class JobView {
  constructor(panel, { ended = () => {} } = {}) {
    Object.assign(this, { panel, ended, epochs: [], lines: [], after: 0, seen: 0 })
    this.head = h('div.wk-bar')
    this.bar = h('progress', { max: 1, value: 0, 'aria-label': 'Progress' })
    this.words = h('p.wk-dim')
    this.curves = h('div.wk-two')
    this.log = h('pre.wk-log', { tabIndex: 0, 'aria-label': 'Log' })
    this.box = h('details', { toggle: () => { if (this.box.open) { this.over = false; this.look?.() } } }, h('summary', 'Log'), this.log)
    this.root = h('section.wk-card.wk-job', { hidden: true }, this.head, this.bar, this.words, this.curves, this.box)
    this.look = panel.every(1000, () => this.refresh())
  }

  follow(id) {
    if (id === this.id) return
    Object.assign(this, { id, epochs: [], lines: [], after: 0, seen: 0, job: null, over: false })
    this.root.hidden = !id
    this.log.textContent = ''
    this.curves.replaceChildren()
    if (id) this.look()
  }

  async refresh() {
    const { id, panel: { service } } = this
    if (!id || this.over) return
    const turn = this.turn = (this.turn ?? 0) + 1 // what was asked before a button was pressed must not end what it began
    let job
    try { job = await service.get(`/jobs/${id}`) } catch (e) {
      if (e.status !== 404 || id !== this.id) throw e
      if (turn !== this.turn) return
      this.over = true
      this.head.replaceChildren(h('strong', 'This job is gone: somebody has deleted it.'))
      this.bar.hidden = true
      this.words.textContent = ''
      return
    }
    const { events } = await service.get(`/jobs/${id}/events`, { after: this.after })
    const log = this.box.open || job.state === 'failed' ? await service.ask('GET', `/jobs/${id}/logs`, { params: { after: this.seen } }) : ''
    if (id !== this.id || turn !== this.turn) return
    for (const e of events) {
      this.after = e.seq
      if (e.kind === 'job.epoch') { // an attempt that goes on from a checkpoint tells some epochs again
        this.epochs = [...this.epochs.filter(p => p.epoch < e.data.epoch), e.data]
      }
    }
    this.tell(log)
    const was = this.job?.state
    this.job = job
    this.show()
    if (ENDED.includes(job.state) && !events.length) this.over = true
    if (was && !ENDED.includes(was) && ENDED.includes(job.state)) this.ended(job)
  }

  tell(text) {
    const fresh = text.split('\n').filter(Boolean).map(l => typeof l === 'string' ? JSON.parse(l) : l)
    if (!fresh.length) return
    const stick = this.log.scrollTop + this.log.clientHeight >= this.log.scrollHeight - 30
    this.seen = fresh.at(-1).n
    this.lines = [...this.lines, ...fresh].slice(-2000)
    this.log.replaceChildren(...this.lines.map(l => h(`span.${l.level}`, `${(l.time ?? '').slice(11, 19)} ${l.message}\n`)))
    if (stick) this.log.scrollTop = this.log.scrollHeight
  }

  show() {
    const j = this.job, p = j.progress ?? {}, done = ENDED.includes(j.state), { service } = this.panel
    const act = (text, work, cls = '') => h(`button${cls}`, { type: 'button', click: e => this.panel.doing(e.target, async () => { await work(); this.over = false; await this.refresh() }) }, text)
    const key = `${j.id} ${j.state} ${j.cancel_requested} ${j.attempt}`
    if (key !== this.key) {
      this.key = key
      this.head.replaceChildren(badge(j), h('strong', titleOf(j)), h('code', j.id), h('span.wk-fill'),
        ...done ? [] : [act(j.cancel_requested ? 'Stopping …' : 'Cancel', () => service.post(`/jobs/${j.id}/cancel`))],
        ...j.state === 'failed' || j.state === 'cancelled' ? [act('Try again', () => service.post(`/jobs/${j.id}/retry`), '.wk-main')] : [],
        ...j.state === 'failed' && /gate/i.test(j.error ?? '') ? [act('Export it all the same', () => service.post(`/jobs/${j.id}/retry`, { force: true }))] : [])
      if (j.state === 'failed') this.box.open = true
    }
    this.bar.hidden = done
    this.bar.value = p.fraction ?? 0
    const words = []
    if (j.state === 'queued') words.push(j.kind === 'train' ? 'Waits for a worker. If none comes: wakekit worker starts one.' : 'Waits for its turn.')
    else if (j.state === 'running') words.push(`${p.stage ?? 'begins'}, ${percent(p.fraction ?? 0, 0)}${p.seconds_left != null ? `, about ${duration(p.seconds_left)} left` : ''}${j.attempt > 1 ? `, attempt ${j.attempt}` : ''}`)
    else words.push(`${STATES[j.state]}${j.started && j.finished ? ` after ${duration((Date.parse(j.finished) - Date.parse(j.started)) / 1000)}` : ''}, ${ago(j.finished)}`)
    const point = j.result?.held_out
    if (point) words.push(` · kept aside: ${point.false_rejects} of ${point.clips} missed, ${point.false_accepts} false wakes in ${point.hours.toFixed(2)} h`)
    this.words.replaceChildren(...words, j.error ? h('p.wk-bad', j.error) : '')
    if (this.drawn !== `${j.id} ${this.epochs.length} ${this.epochs.at(-1)?.epoch}`) this.draw()
  }

  draw() {
    this.drawn = `${this.job.id} ${this.epochs.length} ${this.epochs.at(-1)?.epoch}`
    if (!this.epochs.length) return this.curves.replaceChildren()
    const of = k => this.epochs.filter(e => typeof e[k] === 'number').map(e => [e.epoch, e[k]]), last = this.epochs.at(-1)
    this.curves.replaceChildren(
      h('figure', h('figcaption', `Loss, now ${last.loss.toFixed(3)}`), lines([{ name: 'loss', cls: '', points: of('loss') }], { x: 'epoch' })),
      h('figure', h('figcaption', `Missed at the target, now ${percent(last.false_reject_rate)}`), lines([{ name: 'missed', cls: 'b', points: of('false_reject_rate') }], { x: 'epoch', unit: v => `${+(100 * v).toFixed(1)}%` })))
  }
}

/** The list of jobs; choosing one makes it the job of the page */
export class Jobs extends Panel {
  constructor(...args) {
    super(...args)
    this.all = h('input', { type: 'checkbox', change: () => this.load() })
    this.table = h('div.wk-scroll')
    this.view = new JobView(this, { ended: () => { this.chosen.set('jobs', Date.now()) } })
    this.root.append(this.said, this.view.root, h('section.wk-card', h('div.wk-bar', h('h3', 'Jobs'), h('label.wk-check', this.all, 'of all datasets')), this.table))
    this.on('dataset', () => this.load())
    this.on('jobs', () => this.load())
    this.on('job', id => this.view.follow(id))
    this.every(2000, () => this.load())
    this.view.follow(this.chosen.get('job'))
  }

  async load() {
    const dataset = this.all.checked || !this.chosen.get('dataset') ? null : this.chosen.get('dataset')
    const { jobs } = await this.service.get('/jobs', { limit: 100, dataset })
    if (dataset && dataset !== this.chosen.get('dataset')) return
    const key = JSON.stringify([jobs.map(j => [j.id, j.state, Math.round(10 * (j.progress?.fraction ?? 0))]), this.view.id, Math.floor(Date.now() / 60_000)])
    if (key === this.drawn) return
    this.drawn = key
    const chosen = this.chosen.get('job')
    if (!chosen && jobs.length) this.chosen.set('job', jobs[0].id)
    this.table.replaceChildren(jobs.length ? h('table', h('tbody', jobs.map(j => h('tr', { 'aria-selected': String(j.id === this.view.id) },
      h('td', badge(j)), h('td', h('button.wk-link', { type: 'button', click: () => this.chosen.set('job', j.id) }, titleOf(j))), h('td.wk-dim', ago(j.created)),
      h('td', j.state === 'running' ? percent(j.progress?.fraction ?? 0, 0) : j.result?.held_out ? `${percent(j.result.held_out.false_reject_rate)} missed` : ''),
      h('td', ENDED.includes(j.state) ? h('button.wk-x', { type: 'button', title: 'Delete this job with its files', 'aria-label': `Delete job ${j.id}`, click: e => this.forget(e.target, j) }, '×') : null))))) : h('p.wk-dim', 'No jobs yet.'))
  }

  forget(button, j) {
    return this.doing(button, async () => {
      if (!await sure(`Delete ${titleOf(j)} (${j.id}) with its log and its files? Models that were promoted from it stay.`, 'Delete it', 'Keep it')) return
      try { await this.service.remove(`/jobs/${j.id}`) } catch (e) { if (!(e instanceof Trouble) || e.status !== 404) throw e }
      if (this.chosen.get('job') === j.id) this.chosen.set('job', null)
      this.drawn = null
      await this.load()
    })
  }
}
