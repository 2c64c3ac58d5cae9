// The top of the page: which dataset, is the service there, what runs.
import { Panel, code, count, field, h, options, sure } from './base.js'

export class Desk extends Panel {
  constructor(...args) {
    super(...args)
    this.which = h('select', { 'aria-label': 'Dataset', change: () => this.chosen.set('dataset', this.which.value) })
    this.pill = h('span.wk-pill', { role: 'status' }, '…')
    this.name = h('input', { type: 'text', maxLength: 64, required: true, placeholder: 'kitchen' })
    this.phrase = h('input', { type: 'text', maxLength: 200, required: true, placeholder: 'hey jarvis' })
    this.make = h('button.wk-main', { type: 'submit' }, 'Make it')
    this.form = h('form.wk-card', { hidden: true, submit: e => { e.preventDefault(); this.create() } }, h('div.wk-row', field('Name', this.name), field('Phrase', this.phrase, 'what the wake word shall be'), this.make))
    this.away = h('div.wk-note.bad', { hidden: true, role: 'alert' })
    this.old = h('details.wk-inline', h('summary', 'Trash'), this.trash = h('div'))
    this.drop = h('button.wk-x', { type: 'button', title: 'Move this dataset to the trash', 'aria-label': 'Move this dataset to the trash', click: () => this.toss() }, '×')
    this.root.classList.add('wk-desk')
    this.root.append(h('div.wk-bar', h('label.wk-check', h('b', 'Dataset'), this.which), this.drop, h('button', { type: 'button', click: () => { this.form.hidden = !this.form.hidden; if (!this.form.hidden) this.name.focus() } }, 'New dataset'), this.old, h('span.wk-fill'), this.pill), this.form, this.away, this.said)
    this.on('clips', () => this.look())
    this.look = this.every(4000, () => this.load())
    this.stops.push(this.chosen.on('dataset', v => { if (this.which.value !== v) this.which.value = v ?? '' }))
  }

  async load() {
    let health
    const turn = this.turn = (this.turn ?? 0) + 1
    try {
      health = await this.service.get('/health')
      const { datasets } = await this.service.get('/datasets')
      if (turn === this.turn) await this.list(datasets)
    } catch (e) {
      this.away.hidden = false
      this.away.textContent = e.status === 0 ? e.message : `The training service does not answer: ${e.message} This page goes on by itself when it is back; nothing that you typed is lost.`
      this.pill.className = 'wk-pill bad'
      this.pill.textContent = 'away'
      throw e
    }
    const back = !this.away.hidden
    this.away.hidden = true
    if (back) this.chosen.set('back', Date.now())
    const running = health.jobs?.running ?? 0, waiting = health.jobs?.queued ?? 0, workers = Array.isArray(health.workers) ? health.workers.length : health.workers ?? 0
    this.pill.className = `wk-pill ${workers ? 'good' : 'dim'}`
    this.pill.textContent = running ? `${running} running${waiting ? `, ${waiting} waiting` : ''}` : waiting ? `${waiting} waiting` : workers ? 'ready' : 'no worker'
    this.pill.title = workers ? `${workers} worker(s)` : 'Nothing trains without a worker: start one: wakekit worker'
    if (this.was !== `${running}/${waiting}`) { this.was = `${running}/${waiting}`; this.chosen.set('jobs', Date.now()) }
  }

  async list(datasets) {
    const key = JSON.stringify(datasets.map(d => [d.name, d.clips, d.phrase]))
    if (key === this.known) return
    this.known = key
    const names = datasets.map(d => d.name)
    const now = this.chosen.get('dataset')
    if (!names.includes(now)) {
      if (now) this.say(`The dataset ${now} is gone. ${names.length ? `This is ${names[0]}.` : ''}`, 'bad')
      this.chosen.set('dataset', names[0] ?? null)
    }
    this.which.replaceChildren(...options(datasets.map(d => [d.name, `${d.name} · “${d.phrase ?? ''}” · ${count(d.clips)} clips`]), this.chosen.get('dataset')))
    this.which.disabled = this.drop.disabled = !names.length
    this.form.hidden = names.length > 0 ? this.form.hidden : false
    if (this.clips !== undefined && this.clips !== key) this.chosen.set('clips', Date.now())
    this.clips = key
    const found = (await this.service.get('/trash')).datasets ?? []
    this.old.hidden = !found.length
    this.trash.replaceChildren(...found.map(d => h('div.wk-bar', d.name, h('button', { type: 'button', click: e => this.doing(e.target, async () => { await this.service.post(`/trash/${d.id}/restore`); this.known = null; await this.load() }) }, 'Bring it back'),
      h('button', { type: 'button', click: e => this.doing(e.target, async () => { if (await sure(`Delete ${d.name} for good, with its clips?`, 'Delete it', 'Keep it')) { await this.service.remove(`/trash/${d.id}`); this.known = null; await this.load() } }) }, 'Delete for good'))))
  }

  create() {
    return this.doing(this.make, async () => {
      const name = this.name.value.trim()
      await this.service.post('/datasets', { name, phrase: this.phrase.value.trim() })
      this.turn++ // a listing that is under way does not know it yet
      this.chosen.set('dataset', name)
      this.form.hidden = true
      this.name.value = this.phrase.value = ''
      this.known = null
      await this.load()
    })
  }

  toss() {
    return this.doing(this.drop, async () => {
      const name = this.chosen.get('dataset')
      if (!await sure(`Move the dataset ${name} to the trash? It can be brought back from there.`, 'To the trash', 'Keep it')) return
      await this.service.remove(`/datasets/${code(name)}`)
      this.turn++
      this.chosen.set('job', null)
      this.chosen.set('dataset', null)
      this.known = null
      await this.load()
    })
  }
}
