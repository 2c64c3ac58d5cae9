// The panels in a notebook: what they ask goes to the kernel, which asks the service. One view of a widget runs this.
/* global $recorder -- the text of the audio worklet, put here by wakekit.serve.wire */
import { Chosen, Service, Trouble, h } from './base.js'
import { Augment } from './augment.js'
import { Clips } from './clips.js'
import { Evaluate } from './evaluate.js'
import { Inbox } from './inbox.js'
import { Jobs } from './jobs.js'
import { Live } from './live.js'
import { Machines } from './machines.js'
import { ClipMap } from './map.js'
import { Microphone } from './mic.js'
import { Quality } from './quality.js'
import { Record } from './record.js'
import { Synthesize } from './synth.js'
import { Train } from './train.js'

const PANELS = { record: Record, clips: Clips, augment: Augment, synthesize: Synthesize, train: Train, jobs: Jobs, evaluate: Evaluate, live: Live, inbox: Inbox, machines: Machines, quality: Quality, map: ClipMap }
const PIECE = 1_000_000, BUSY_MS = 4000, BEHIND = 640_000 // bytes of a file in one message; when to say that the kernel is busy; bytes of sound that wait for it

/** Messages between this view and the kernel */
class Wire {
  constructor(model, busy) {
    Object.assign(this, { model, busy, open: new Map(), n: 0, mine: Math.random().toString(36).slice(2) })
    this.take = (m, buffers) => { if (m.view === this.mine) this.open.get(m.id)?.(m, buffers ?? []) }
    model.on('msg:custom', this.take)
  }
  listen(f) { const id = ++this.n; this.open.set(id, f); return id }
  /** False when the kernel was restarted: this view is dead then */
  send(id, content, buffers = []) { try { this.model.send({ ...content, id, view: this.mine }, undefined, buffers); return true } catch { return false } }
  /** One question, one answer */
  ask(content, buffers, signal) {
    return new Promise((done, failed) => {
      if (signal?.aborted) return failed(new DOMException('', 'AbortError'))
      const slow = setTimeout(() => this.busy(1), BUSY_MS)
      const over = () => { this.open.delete(id); clearTimeout(slow); this.busy(0) }
      const id = this.listen((m, b) => { over(); done([m, b]) })
      signal?.addEventListener('abort', () => { over(); failed(new DOMException('', 'AbortError')) })
      this.send(id, content, buffers)
    })
  }
  close() { this.model.off('msg:custom', this.take); this.open.clear() }
}

/** The training service, through the kernel */
class KernelService extends Service {
  constructor(wire) { super(''); this.wire = wire; this.blobs = new Map() }
  async raw(method, path, { params, body, headers, signal } = {}) {
    const [m, buffers] = await this.wire.ask({ what: 'ask', method, path: this.url(path, params), headers, body: body ?? null }, [], signal)
    if (m.status < 400) return [m, buffers]
    throw new Trouble(m.status, m.found && typeof m.found === 'object' ? m.found : { detail: `The service answered ${m.status}.` })
  }
  async ask(method, path, how) { return (await this.raw(method, path, how))[0].found }
  async media(path, params) {
    const key = this.url(path, params)
    if (!this.blobs.has(key)) {
      const made = this.raw('GET', path, { params, headers: { Accept: '*/*' } }).then(([m, [bytes]]) => URL.createObjectURL(new Blob([bytes ?? m.found ?? ''], { type: m.type })))
      made.catch(() => this.blobs.delete(key))
      this.blobs.set(key, made)
      if (this.blobs.size > 50) this.forget(this.blobs.keys().next().value)
    }
    return this.blobs.get(key)
  }
  forget(key) { this.blobs.get(key).then(url => URL.revokeObjectURL(url), () => {}); this.blobs.delete(key) }
  /** Fetched when somebody wants to hear it */
  sound(path) {
    const said = h('small.wk-bad'), button = h('button.wk-play', { type: 'button', title: 'Play', 'aria-label': 'Play', click: async () => {
      said.textContent = ''
      try {
        const audio = h('audio', { controls: true, src: await this.media(path) })
        button.replaceWith(audio)
        audio.play().catch(() => {})
      } catch (e) { said.textContent = e.message }
    } }, '▶')
    return h('div.wk-bar', button, said)
  }
  link(a, path, name) {
    a.href = '#'
    a.onclick = async e => {
      e.preventDefault()
      a.title = ''
      try { h('a', { href: await this.media(path), download: name }).click() } catch (why) { a.title = why.message; a.after(h('small.wk-bad', ` ${why.message}`)) }
    }
  }
  async send(path, file, fields, tell = () => {}) {
    const upload = `${this.wire.mine}-${++this.wire.n}`
    for (let at = 0; at < file.size || at === 0; at += PIECE) {
      await this.wire.ask({ what: 'piece', upload }, [await file.slice(at, at + PIECE).arrayBuffer()])
      tell(Math.min(1, (at + PIECE) / file.size))
    }
    const [m] = await this.wire.ask({ what: 'upload', upload, path, name: file.name, fields: Object.fromEntries(Object.entries(fields).filter(([, v]) => v)) }, [])
    if (m.status < 400) return m.found
    throw new Trouble(m.status, m.found)
  }
}

/** What a WebSocket to the detection service is on the page of the dashboard */
class KernelSocket {
  constructor(wire, model, how) {
    Object.assign(this, { wire, readyState: 0, waiting: 0 })
    this.id = wire.listen(m => {
      if (m.opened) { this.readyState = 1; this.onopen?.() }
      this.waiting -= m.taken ?? 0
      for (const found of m.messages ?? []) this.onmessage?.({ data: JSON.stringify(found) })
      if (m.closed) this.end(m.closed, m.reason)
    })
    wire.send(this.id, { what: 'listen', model: model.name, ...how })
  }
  get bufferedAmount() { return this.waiting }
  send(data) {
    if (this.readyState !== 1) return
    const bytes = typeof data === 'string' ? 0 : data.byteLength
    if (this.waiting + bytes > BEHIND) return this.close(1013, 'the kernel is busy with something else')
    this.waiting += bytes
    if (!this.wire.send(this.id, { what: bytes ? 'sound' : 'end' }, bytes ? [data] : [])) this.end(1012, 'the kernel was restarted: run this cell again')
  }
  close(code = 1000, reason = '') {
    if (this.readyState > 1) return
    this.wire.send(this.id, { what: 'leave' })
    this.end(code, reason)
  }
  end(code, reason) { this.readyState = 3; this.wire.open.delete(this.id); this.onclose?.({ code, reason }) }
}

/** The microphone of the machine on which the kernel runs */
class KernelMicrophone {
  static open(wire, { chunk, hear, lost = () => {} }) {
    return new Promise((done, failed) => {
      const m = Object.assign(new KernelMicrophone(), { wire, n: 0 }), slow = setTimeout(() => wire.busy(1), BUSY_MS)
      m.id = wire.listen((told, [pcm]) => {
        if (!m.n) { clearTimeout(slow); wire.busy(0) }
        if (told.opened) done(m)
        if (++m.n % 20 === 0) wire.send(m.id, { what: 'got' }) // it would stop
        if (pcm) hear(Float32Array.from(new Int16Array(pcm.buffer.slice(pcm.byteOffset, pcm.byteOffset + pcm.byteLength)), v => v / 32768))
        if (told.trouble) { wire.open.delete(m.id); failed(new Trouble(0, { detail: told.trouble })); lost() }
      })
      wire.send(m.id, { what: 'microphone', chunk })
    })
  }
  close() { this.wire.send(this.id, { what: 'leave' }); this.wire.open.delete(this.id) }
}

/** The browser's microphone, or the kernel's where there is none; whoever has neither uploads files */
async function microphone(wire, kernelHasOne, how) {
  let why
  try { return await Microphone.open(how) } catch (e) { why = e }
  if (!kernelHasOne) throw why
  try { return await KernelMicrophone.open(wire, how) } catch (e) { throw new Trouble(0, { detail: `${why.message} The microphone of the kernel's machine does not work either: ${e.message}` }) }
}

export function render({ model, el }) {
  const note = h('div.wk-note', { hidden: true, role: 'status' }, 'The kernel does not answer: it is busy with another cell, or was restarted. If it was restarted, run this cell again. What was kept is there, and what trains goes on.')
  const wire = new Wire(model, late => { note.hidden = !late })
  const service = new KernelService(wire), chosen = new Chosen(null), given = model.get('given'), worklet = URL.createObjectURL(new Blob([$recorder], { type: 'text/javascript' }))
  let gone = false
  const props = {
    ...given, worklet, kernel: true,
    microphone: async how => {
      const m = await microphone(wire, given.microphone, how)
      if (gone) { m.close(); throw new DOMException('', 'AbortError') } // the cell was run again while the browser asked
      return m
    },
    use: (kind, name) => service.post('/live/use', { kind, name }),
    socket: (detector, how) => new KernelSocket(wire, detector, how),
    tell: (name, value) => { if (JSON.stringify(model.get(name)) !== JSON.stringify(value)) { model.set(name, value); model.save_changes() } },
  }
  for (const [k, v] of Object.entries(model.get('chosen'))) chosen.set(k, v, false)
  chosen.on('job', id => props.tell('job', id ?? ''))
  el.setAttribute('data-lm-suppress-shortcuts', 'true') // JupyterLab has plans of its own for X
  el.addEventListener('keydown', e => {
    for (const p of panels) if (p instanceof Inbox) p.key(e) // it listens at the document, where nothing arrives from here
    e.stopPropagation()
  })
  const shell = h('div.wk', { style: 'padding:0' }, note), panels = []
  el.append(shell)
  for (const name of model.get('panels')) {
    const place = h('div')
    el.append(place)
    panels.push(new PANELS[name](place, service, chosen, props))
  }
  shell.className = panels[0].root.className
  const refresh = () => { const { job } = model.get('chosen'); if (job) chosen.set('job', job); for (const what of ['clips', 'jobs', 'look', 'inbox']) chosen.set(what, Date.now()) }
  model.on('change:changed', refresh)
  return () => {
    gone = true
    for (const p of panels) p.close()
    model.off('change:changed', refresh)
    wire.close()
    URL.revokeObjectURL(worklet)
    for (const key of [...service.blobs.keys()]) service.forget(key)
  }
}
