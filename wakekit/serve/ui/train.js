// Train: a preset, every field with its help, and off it goes.
import { Panel, Trouble, code, field, h, options, several } from './base.js'
import { KINDS } from './record.js'

const PRESETS = { fast: 'Minutes on two cores. Good enough to try the word today.', accurate: 'Takes much longer, and misses fewer.', tiny: 'For the smallest devices: few parameters, a little less sure.' }
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b)
const words = name => name.replaceAll('_', ' ')

/** Fields of a JSON Schema as a form; `changed` holds what differs from the defaults as dotted names */
export class Fields {
  constructor(tell) { this.tell = tell; this.root = h('div.wk-fields') }
  load(parts, search = '') { // [{title, schema, values, prefix}]
    this.changed = {}
    this.sets = {}
    this.root.replaceChildren(...parts.map(p => this.group(p.schema, p.values, p.prefix, p.title, p.prefix ? false : true)))
    this.find(search)
    this.tell(this.changed)
  }
  group(schema, values, prefix, title, open) {
    const all = Object.entries(schema.properties), plain = all.filter(([, f]) => f.type !== 'object'), deep = all.filter(([, f]) => f.type === 'object')
    return h('details.wk-group', { open }, h('summary', title, schema.description ? h('small', schema.description) : null),
      h('div.wk-grid', plain.map(([k, f]) => this.one(`${prefix}${k}`, f, values[k]))), deep.map(([k, f]) => this.group(f, values[k] ?? {}, `${prefix}${k}.`, words(k), false)))
  }
  one(name, f, value) {
    const short = words(name.split('.').at(-1)), list = f.type === 'array', kinds = [f.type, ...(f.anyOf ?? []).map(a => a.type)].flat(), number = kinds.includes('number') || kinds.includes('integer')
    const text = v => v === null || v === undefined ? '' : Array.isArray(v) ? v.join(', ') : String(v), limit = f.anyOf?.find(a => a.type !== 'null') ?? f
    const control = f.enum ? h('select', options(f.enum.map(v => [v]), value)) : f.type === 'boolean' ? h('input', { type: 'checkbox', checked: value }) : h('input', { type: 'text', inputMode: number ? 'decimal' : 'text', value: text(value), placeholder: kinds.includes('null') ? 'automatic' : '' })
    const range = [limit.minimum ?? limit.exclusiveMinimum, limit.maximum ?? limit.exclusiveMaximum].some(v => v !== undefined) ? `${limit.minimum ?? limit.exclusiveMinimum ?? ''} to ${limit.maximum ?? limit.exclusiveMaximum ?? ''}` : ''
    const row = h('label.wk-field', { title: range }, h('span', short), control, h('small', f.description ?? '', range ? h('i', ` ${range}`) : null))
    row.dataset.name = `${name} ${f.description ?? ''}`.toLowerCase()
    const read = () => {
      if (f.type === 'boolean') return control.checked
      const t = control.value.trim()
      if (t === '' && kinds.includes('null')) return null
      if (list) return t === '' ? [] : t.split(/[\s,]+/).map(v => (f.items?.type === 'string' ? v : Number(v)))
      return number && !f.enum ? (t === '' ? NaN : Number(t)) : t
    }
    control.addEventListener('input', () => {
      const now = read(), bad = number && !list && now !== null && !Number.isFinite(now) || list && now.some?.(v => typeof v === 'number' && !Number.isFinite(v))
      control.setCustomValidity(bad ? 'A number is wanted here' : '')
      row.classList.toggle('bad', !!bad)
      if (same(now, value) || bad) delete this.changed[name]
      else this.changed[name] = now
      row.classList.toggle('changed', name in this.changed)
      this.tell(this.changed)
    })
    this.sets[name] = v => {
      if (f.type === 'boolean') control.checked = v
      else control.value = text(v)
      control.dispatchEvent(new Event('input'))
    }
    return row
  }
  /** Fill in values: dotted names; those that there are not are told */
  fill(values) {
    for (const [name, v] of Object.entries(values)) this.sets[name]?.(v)
    return Object.keys(values).filter(name => !this.sets[name])
  }
  find(text) {
    const want = text.trim().toLowerCase()
    for (const row of this.root.querySelectorAll('.wk-field')) row.hidden = !!want && !row.dataset.name.includes(want)
    for (const g of this.root.querySelectorAll('.wk-group')) { g.hidden = !!want && !g.querySelector('.wk-field:not([hidden])'); if (want) g.open = !g.hidden }
  }
}

export class Train extends Panel {
  constructor(...args) {
    super(...args)
    this.ready = h('p')
    this.presets = h('div.wk-cards', { role: 'radiogroup', 'aria-label': 'Preset' })
    this.fields = new Fields(changed => this.tell(changed))
    this.search = h('input', { type: 'search', placeholder: 'find a field', input: () => this.fields.find(this.search.value) })
    this.language = h('input', { type: 'text', value: 'en-us', size: 8, maxLength: 20 })
    this.priority = h('select', options([['-1', 'when nothing else waits'], ['0', 'in turn'], ['1', 'before the others']], '0'))
    this.force = h('input', { type: 'checkbox' })
    this.summary = h('p.wk-dim')
    this.go = h('button.wk-main.wk-big', { type: 'button', disabled: true, click: () => this.start() }, 'Train')
    this.nothing = h('div.wk-note', 'Choose a dataset above, or make one: it needs a name and the phrase.')
    this.inner = h('section.wk-card', this.ready, this.presets, h('div.wk-row', field('Language', this.language, 'of the phrase, such as en-us or de'), field('Turn', this.priority)),
      h('details.wk-more', h('summary', 'Every field'), h('div.wk-bar', this.search), this.fields.root, h('label.wk-check', this.force, 'Export the model even if it fails its gates')), this.summary, h('div.wk-bar', this.go), this.said)
    this.root.append(this.nothing, this.inner)
    this.on('dataset', () => this.load())
    this.on('back', () => this.load())
    this.on('clips', () => this.count())
    this.load()
  }

  async load() {
    const name = this.chosen.get('dataset')
    this.nothing.hidden = !!name
    this.inner.hidden = !name
    if (!name) return
    await this.doing(null, async () => {
      await this.count()
      if (this.preset) return
      this.about = await this.service.get('/presets')
      await this.choose(this.props.preset || this.about.default)
      const unknown = this.fields.fill(this.props.overrides ?? {})
      this.filled = true
      this.go.disabled = !this.enough
      if (unknown.length) this.say(`There is no field ${unknown.join(', ')}.`, 'bad')
    })
  }

  async count() {
    const name = this.chosen.get('dataset')
    if (!name) return
    const d = await this.service.get(`/datasets/${code(name)}/metrics`)
    this.ready.replaceChildren(h(`b.${d.ready ? 'wk-good' : 'wk-bad'}`, d.ready ? '✓ ' : ''), `${several(d.wake_clips, 'clip')} with ${KINDS.positive} and ${several(d.other_clips, 'clip')} without. `, d.ready ? 'Voices of the machine are added while it trains.' : d.missing)
    this.enough = d.ready
    this.go.disabled = !this.enough || !this.filled // not before it is said what is trained
  }

  async choose(name) {
    const found = await this.service.get(`/presets/${name}`)
    this.preset = name
    this.presets.replaceChildren(...Object.keys(this.about.presets).map(n => h('button.wk-choice', { type: 'button', role: 'radio', 'aria-checked': String(n === name), click: e => this.doing(e.currentTarget, () => this.choose(n)) }, h('strong', n), h('small', PRESETS[n] ?? ''))))
    if (document.activeElement === document.body) this.presets.querySelector('[aria-checked=true]').focus()
    this.fields.load([{ title: 'Training', schema: found.json_schema, values: found.config, prefix: '' }, { title: 'What is synthesized', schema: found.data_schema, values: this.about.data, prefix: 'data.' }], this.search.value)
  }

  tell(changed) {
    const n = Object.keys(changed).length
    this.summary.replaceChildren(n ? `${several(n, 'field')} changed: ` : '', h('code', Object.entries(changed).map(([k, v]) => `${k}=${JSON.stringify(v)}`).join('  ')))
  }

  start() {
    return this.doing(this.go, async () => {
      if (this.fields.root.querySelector('.wk-field.bad')) throw new Trouble(0, { detail: 'A field is not right: it is marked red.' })
      const body = { dataset: this.chosen.get('dataset'), preset: this.preset, config_overrides: this.fields.changed, language: this.language.value.trim() || 'en-us', priority: Number(this.priority.value), force: this.force.checked }
      if (JSON.stringify(body) !== this.asked) Object.assign(this, { asked: JSON.stringify(body), key: `${Date.now()}-${Math.random()}` }) // a press whose answer was lost is the same one
      const job = await this.service.ask('POST', '/train', { body, headers: { 'Idempotency-Key': this.key } })
      this.asked = null
      this.chosen.set('job', job.id)
      this.chosen.set('jobs', Date.now())
      this.say('It is in the queue.', 'good')
    })
  }
}
