// Ship: what a training made, which version is in use, and on which devices.
import { Panel, Trouble, ago, bytes, code, field, h, options, sure } from './base.js'
import { JobView, titleOf } from './jobs.js'

const WHAT = { 'model.onnx': 'runs everywhere', 'model.int8.onnx': 'smaller, for small devices', 'model.pt': 'weights, for training on', 'model.ts': 'TorchScript', 'model.int8.x86.ts': 'TorchScript, integers', 'model.int8.fbgemm.ts': 'TorchScript, integers', 'model.int8.qnnpack.ts': 'TorchScript, integers', 'manifest.json': 'what is in here, and its threshold', 'metrics.json': 'how good it is', 'config.json': 'how it was trained', 'reference.json': 'what its sound was like', 'README.md': 'model card', 'LICENSES.md': 'where everything comes from', 'verifier.onnx': 'second look', 'verifier.pt': 'weights of the second look' }

export class Ship extends Panel {
  constructor(...args) {
    super(...args)
    this.which = h('select', { 'aria-label': 'Training', change: () => { this.chosen.set('job', this.which.value); this.show() } })
    this.files = h('div.wk-scroll.wk-files')
    this.card = h('pre.wk-card-text')
    this.ticks = h('div')
    this.model = h('input', { type: 'text', maxLength: 64, size: 14 })
    this.promote = h('button.wk-main', { type: 'button', click: () => this.use() }, 'Make it the current version')
    this.models = h('div.wk-scroll')
    this.devices = h('div')
    this.view = new JobView(this, { ended: () => { this.drawn = null } })
    this.none = h('div.wk-note', 'No training has ended yet. What it makes can be fetched and deployed here.')
    this.mine = h('section.wk-card', h('div.wk-bar', this.which), this.ticks, this.files, h('details', h('summary', 'Model card'), this.card), h('div.wk-row', field('Name of the model', this.model), this.promote))
    this.root.append(this.said, this.none, this.mine, h('section.wk-card', h('h3', 'Models'), this.models), h('section.wk-card', h('h3', 'Devices'), this.devices, this.view.root, this.form()))
    this.on('jobs', () => this.load())
    this.on('job', () => { this.known = null })
    this.on('back', () => { this.known = null; this.load().catch(() => {}) })
    this.every(3000, () => this.load())
  }

  async load() {
    const [{ jobs }, { models }, { devices }] = await Promise.all([this.service.get('/jobs', { state: 'succeeded', kind: 'train', limit: 200 }), this.service.get('/models'), this.service.get('/devices')]), done = jobs
    this.none.hidden = done.length > 0
    this.mine.hidden = !done.length
    const key = JSON.stringify([done.map(j => j.id), this.chosen.get('job')])
    if (key !== this.known && done.length) {
      this.known = key
      const now = done.some(j => j.id === this.chosen.get('job')) ? this.chosen.get('job') : done[0].id
      this.jobs = done
      this.which.replaceChildren(...options(done.map(j => [j.id, `${titleOf(j)}, ${new Date(j.finished).toLocaleString()}`]), now))
      await this.show()
    }
    const rest = JSON.stringify([models, devices])
    if (rest === this.drawn) return
    this.drawn = rest
    this.list(models, devices)
  }

  show() {
    return this.doing(null, async () => {
      const id = this.which.value, job = this.jobs.find(j => j.id === id), { artifacts } = await this.service.get(`/jobs/${id}/artifacts`), get = name => this.service.get(`/jobs/${id}/artifacts/${name}`)
      const [manifest, metrics, card] = await Promise.all([get('manifest.json'), get('metrics.json'), get('README.md')]), link = await this.service.media(`/jobs/${id}/artifacts/`)
      if (id !== this.which.value) return
      this.model.value = job.dataset
      this.card.textContent = card
      const tick = (ok, text) => h('div', h(`b.${ok ? 'wk-good' : 'wk-bad'}`, ok ? '✓ ' : '✗ '), text)
      this.ticks.replaceChildren(tick(metrics.parity?.ok, `torch, ONNX and TorchScript give the same scores (largest difference ${Math.max(...Object.values(metrics.parity?.largest_difference ?? { none: 0 })).toExponential(1)})`), ...manifest.gates.checks.map(c => tick(c.passed, c.reason)))
      this.files.replaceChildren(h('table', h('tbody', artifacts.map(a => h('tr', h('td', h('a', { href: `${link}${code(a.name)}`, download: a.name }, a.name)), h('td', bytes(a.bytes)), h('td.wk-dim', WHAT[a.name] ?? ''), h('td', h('code', { title: `SHA-256 ${a.sha256}` }, a.sha256.slice(0, 8))))))))
    })
  }

  use() {
    return this.doing(this.promote, async () => {
      const name = this.model.value.trim(), m = await this.service.post(`/models/${code(name)}/promote`, { job_id: this.which.value })
      this.say(`${name} is now version ${m.current}.`, 'good')
      this.chosen.set('models', Date.now())
      await this.load()
    })
  }

  list(models, devices) {
    const back = m => h('button', { type: 'button', click: e => this.doing(e.target, async () => { await this.service.post(`/models/${code(m.name)}/rollback`); this.chosen.set('models', Date.now()); await this.load() }) }, 'Roll back')
    this.models.replaceChildren(models.length ? h('table', h('tbody', models.map(m => { const v = m.versions.find(x => x.number === m.current); return h('tr', h('td', h('b', m.name)), h('td', `version ${m.current}`, m.versions.length > 1 ? h('small', ` of ${m.versions.length}`) : ''), h('td.wk-dim', v ? `“${v.phrase}”, ${ago(v.promoted)}` : ''), h('td', h('a', { href: this.service.url(`/models/${code(m.name)}/bundle`) }, 'bundle.zip')), h('td', m.versions.some(x => x.number < m.current) ? back(m) : '')) }))) : h('p.wk-dim', 'None yet: make a training the current version of one.'))
    const deploy = (d, which) => h('button', { type: 'button', disabled: !models.length, click: e => this.doing(e.target, async () => this.view.follow((await this.service.post(`/devices/${code(d.name)}/deploy`, { model: which.value })).id)) }, 'Deploy')
    this.devices.replaceChildren(...devices.length ? devices.map(d => {
      const which = h('select', { 'aria-label': 'Model' }, options(models.map(m => [m.name]))), there = h('span.wk-dim')
      return h('div.wk-bar', h('b', d.name), h('span.wk-dim', d.host), which, deploy(d, which),
        h('button', { type: 'button', click: e => this.doing(e.target, async () => this.view.follow((await this.service.post(`/devices/${code(d.name)}/rollback`)).id)) }, 'Roll back'),
        h('button', { type: 'button', click: e => this.doing(e.target, async () => { const { releases } = await this.service.get(`/devices/${code(d.name)}/releases`); there.textContent = releases.length ? releases.map(r => `${r.version}${r.current ? ' (current)' : ''}`).join(', ') : 'nothing is there yet' }) }, 'What is there?'),
        h('button.wk-x', { type: 'button', title: 'Forget this device', 'aria-label': `Forget ${d.name}`, click: e => this.doing(e.target, async () => { if (await sure(`Forget ${d.name}? Nothing changes on the device.`, 'Forget it', 'Keep it')) { await this.service.remove(`/devices/${code(d.name)}`); await this.load() } }) }, '×'), there)
    }) : [h('p.wk-dim', 'None yet.')])
  }

  form() {
    const of = (k, more) => h('input', { type: 'text', name: k, ...more }), inputs = { name: of('name', { maxLength: 64, required: true }), host: of('host', { placeholder: 'pi@kitchen.local', required: true }), folder: of('folder', { value: 'wakekit' }), refresh_command: of('refresh_command', { placeholder: 'nothing' }) }
    const add = h('button.wk-main', { type: 'submit' }, 'Add')
    return h('details', h('summary', 'Add a device'), h('form', { submit: e => {
      e.preventDefault()
      this.doing(add, async () => {
        await this.service.post('/devices', Object.fromEntries(Object.entries(inputs).map(([k, i]) => [k, i.value.trim()])))
        for (const i of Object.values(inputs)) i.value = i.defaultValue
        await this.load()
      })
    } }, h('div.wk-row', field('Name', inputs.name), field('Host', inputs.host, 'user@host; the service needs a key for it'), field('Folder', inputs.folder, 'in the home there'), field('After the switch', inputs.refresh_command, 'a command that runs there')), add))
  }
}
