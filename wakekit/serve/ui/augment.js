// What augmentation makes of a clip: to hear and to see, before it is trained on.
import { Panel, Trouble, h, options, several } from './base.js'
import { Fields } from './train.js'
import { drawColumns } from './mic.js'

export class Augment extends Panel {
  constructor(...args) {
    super(...args)
    this.which = h('select', { 'aria-label': 'Clip', change: () => this.draw() })
    this.again = h('button.wk-main', { type: 'button', click: () => { this.seed++; this.draw() } }, 'Draw again')
    this.grid = h('div.wk-cards')
    this.fields = new Fields(changed => { this.changed = changed; clearTimeout(this.timer); this.timer = setTimeout(() => this.draw(), 400) })
    this.summary = h('p.wk-dim')
    this.seed = 0
    this.root.append(h('section.wk-card', h('div.wk-bar', this.which, this.again), this.said, this.grid, h('details.wk-more', h('summary', 'How often, and how far'), this.fields.root), this.summary))
    this.stops.push(() => clearTimeout(this.timer))
    this.load()
  }
  recolour() { for (const [canvas, cells, bands] of this.seen ?? []) drawColumns(canvas, cells, bands) }

  load() {
    return this.doing(null, async () => {
      const { clips, schema, values } = await this.service.get('/augment')
      if (!clips.length) throw new Trouble(404, { detail: 'There is no clip to augment yet: record some, or synthesize them.' })
      this.which.replaceChildren(...options(clips.map(c => [c.id, c.text]), clips[0].id))
      this.fields.load([{ title: 'Augmentation', schema, values, prefix: '' }])
    })
  }

  draw() {
    const turn = this.turn = (this.turn ?? 0) + 1
    if (!this.which.value) return
    return this.doing(null, async () => {
      const { draws } = await this.service.post('/augment', { clip: this.which.value, seed: this.seed, changed: this.changed })
      if (turn !== this.turn) return
      this.seen = []
      this.grid.replaceChildren(...draws.map(d => this.one(d)))
      this.recolour()
      const n = Object.keys(this.changed).length
      this.summary.replaceChildren(n ? `${several(n, 'field')} changed; as config_overrides: ` : '', h('code', Object.entries(this.changed).map(([k, v]) => `augment.${k}=${JSON.stringify(v)}`).join('  ')))
      this.props.tell?.('changed_fields', { ...this.changed })
    })
  }

  one({ title, said, key, bands, cells }) {
    const picture = h('canvas.wk-picture', { role: 'img', 'aria-label': `What the model sees of it: ${said.join(', ')}` })
    this.seen.push([picture, Uint8Array.from(atob(cells), c => c.charCodeAt(0)), bands])
    return h('figure', h('figcaption', h('b', title)), picture, this.service.sound(`/augment/${key}/audio`), h('small', said.join(' · ')))
  }
}
