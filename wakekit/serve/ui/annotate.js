// Sounds are brought into the inbox: short ones as they are, long recordings after machines have looked for calls in them.
import { Panel, Trouble, bytes, code, count, duration, field, h, options, several } from './base.js'
import { KINDS } from './inbox.js'
import { ENDED, JobView } from './jobs.js'

const IN_USE = ', in use'
const THRESHOLD = 0.1 // As the service has it: with 0 a detector would propose everything

/** What can listen: versions of models and what trainings have made, of this phrase; as pairs of a value and words */
export async function bundles(service, dataset) {
  const [{ phrase }, { models }, { jobs }] = await Promise.all([service.get(`/datasets/${code(dataset)}`), service.get('/models'), service.get('/jobs', { state: 'succeeded', kind: 'train', dataset, limit: 100 })])
  const same = v => v.phrase?.toLowerCase() === phrase?.toLowerCase()
  return [...models.flatMap(m => [...m.versions].reverse().filter(same).map(v => [JSON.stringify({ model: m.name, number: v.number }), `${m.name} ${v.number}${v.number === m.current ? IN_USE : ''}`])),
    ...jobs.map(j => [JSON.stringify({ job_id: j.id }), `training ${j.payload?.preset ?? ''} ${j.id}, ${new Date(j.finished).toLocaleString()}`])]
}

export class Annotate extends Panel {
  constructor(...args) {
    super(...args)
    this.kind = h('select', { 'aria-label': 'What the recordings are' }, options([['missed', 'calls that were not heard'], ['trigger', 'what woke a detector'], ['near', 'what nearly woke one'], ['proposal', 'possible calls']], 'missed'))
    this.short = h('input', { type: 'file', multiple: true, accept: 'audio/*', 'aria-label': 'Recordings of a minute at most', change: () => this.bring() })
    this.came = h('ul')
    this.long = h('input', { type: 'file', multiple: true, accept: 'audio/*', 'aria-label': 'Long recordings', change: () => this.tell() })
    this.words = h('p', { 'aria-live': 'polite' })
    this.bar = h('progress', { max: 1, value: 0, hidden: true, 'aria-label': 'Sent' })
    const box = checked => h('input', { type: 'checkbox', checked })
    this.how = {
      voices: h('input', { type: 'number', min: 0, max: 200, value: 24 }), examples: box(true), model: h('select', {}, options([['', 'none']], '')), threshold: h('input', { type: 'number', min: 0, max: 1, step: 'any', value: THRESHOLD }), judge: h('select', {}, options([['', 'nobody']], '')),
      recognizer: box(false), language: h('input', { type: 'text', value: 'en-us', maxLength: 20 }), everything: box(false),
    }
    const check = (control, text) => h('label.wk-check', control, text)
    this.go = h('button.wk-main', { type: 'submit', disabled: true }, 'Look for calls')
    this.form = h('form', { noValidate: true, submit: e => { e.preventDefault(); this.start() } }, h('div.wk-bar', h('label.wk-button', 'Choose long recordings', this.long), this.go), this.words,
      h('details', { toggle: () => this.fill() }, h('summary', 'Who looks'), h('div.wk-row', field('Synthesized voices', this.how.voices, 'that say the phrase, as examples'), field('Language', this.how.language, 'such as en-us, en-gb or de'), field('A detector, too', this.how.model), field('Its threshold', this.how.threshold, `score from which on it proposes; ${THRESHOLD} where this is empty`), field('A second judge', this.how.judge, 'a model hears what was found before you do; what it says is shown, and decides nothing')),
        h('div.wk-bar', check(this.how.examples, 'the recorded calls of this dataset are examples'), check(this.how.recognizer, 'a recognizer, too: words that sound like the phrase'), check(this.how.everything, 'listen where nobody speaks, too'))))
    this.view = new JobView(this, { ended: () => { this.chosen.set('inbox', Date.now()); this.result() } })
    this.found = h('p')
    this.inner = h('div', this.said, h('div.wk-two', h('section.wk-card', h('h3', 'Look for calls in long recordings'), h('p.wk-dim', 'What may be a call waits above until somebody has heard it. The recordings are kept until all of them were heard.'), this.form, this.view.root, this.found),
      h('section.wk-card', h('h3', 'Bring sounds in'), h('p.wk-dim', 'Recordings of a minute at most, as they are.'), h('div.wk-bar', this.kind, h('label.wk-button', 'Choose files', this.short)), this.came)), this.bar)
    this.root.append(this.inner)
    this.on('dataset', () => { this.came.replaceChildren(); this.found.textContent = ''; this.filled = null; this.load() })
    this.on('back', () => this.load())
    this.load()
  }

  get name() { return this.chosen.get('dataset') }
  get path() { return `/datasets/${code(this.name)}` }
  /** A run that goes on, whoever has started it */
  load() {
    this.inner.hidden = !this.name
    this.view.follow(null)
    if (!this.name) return
    this.fill()
    return this.doing(null, async () => {
      const { name } = this, { jobs } = await this.service.get('/jobs', { kind: 'annotate', dataset: name, limit: 1 })
      if (name === this.name && jobs.length && (!ENDED.includes(jobs[0].state) || jobs[0].state === 'failed')) this.view.follow(jobs[0].id)
    })
  }
  fill() {
    if (!this.name || !this.form.querySelector('details').open || this.filled === this.name) return
    const name = this.filled = this.name
    return this.doing(null, async () => {
      const found = await bundles(this.service, name)
      if (name !== this.name) return
      this.how.model.replaceChildren(...options([['', 'none'], ...found], ''))
      this.how.judge.replaceChildren(...options([['', 'nobody'], ...found.filter(([, words]) => words.endsWith(IN_USE)).map(([v, words]) => [JSON.parse(v).model, words])], ''))
    })
  }

  get files() { return [...this.long.files] }
  tell() {
    const { files } = this, size = files.reduce((a, f) => a + f.size, 0), most = this.props.mostBytes
    this.key = `${Date.now()}-${Math.random()}` // asking twice for the same is one job
    this.go.disabled = !files.length || size > most
    this.words.textContent = !files.length ? '' : size > most ? `${bytes(size)} are more than this service takes at once (${bytes(most)}). Choose fewer, or look where they are: wakekit annotate.` : `${several(files.length, 'recording')}, ${bytes(size)}: ${files.slice(0, 3).map(f => f.name).join(', ')}${files.length > 3 ? ', …' : ''}`
  }
  start() {
    const { files, how } = this
    if (!files.length) return
    return this.doing(this.go, async () => {
      const asked = { voices: how.voices.value || 0, examples: how.examples.checked, ...how.model.value && { ...JSON.parse(how.model.value), threshold: how.threshold.value || THRESHOLD }, ...how.judge.value && { judge: how.judge.value }, ...how.recognizer.checked && { recognizer: 'pocketsphinx' }, language: how.language.value.trim() || 'en-us', everything: how.everything.checked }
      this.bar.hidden = false
      this.bar.value = 0
      this.found.textContent = ''
      try {
        const job = await this.service.send(`${this.path}/annotate?${new URLSearchParams(asked)}`, files, {}, part => { this.bar.value = part }, { 'Idempotency-Key': this.key })
        this.view.follow(job.id)
        this.chosen.set('jobs', Date.now())
        this.long.value = ''
      } finally { this.bar.hidden = true }
    }).then(() => this.tell())
  }
  result() {
    const { job } = this.view, r = job.state === 'succeeded' ? job.result : null
    if (!r) return
    this.view.root.hidden = true
    this.found.replaceChildren(`${duration(r.duration_s)} of ${several(r.recordings.length, 'recording')} heard, ${duration(r.speech_s)} of them speech: ${several(r.candidates, 'possible call')}, ${count(r.new)} of them new. ${r.new ? 'They wait above.' : ''}`, r.bad?.length ? h('ul', r.bad.map(([name, why]) => h('li.wk-bad', `${name}: ${why}`))) : '')
  }

  async bring() {
    const files = [...this.short.files], { path } = this, kind = this.kind.value
    this.short.value = ''
    this.bar.hidden = false
    for (const [i, f] of files.entries()) {
      const row = h('li', `${f.name}: `)
      this.came.append(row)
      try {
        const s = await this.service.send(`${path}/inbox?${new URLSearchParams({ kind, origin: f.name.slice(0, 200) })}`, f, {}, part => { this.bar.value = (i + part) / files.length })
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
