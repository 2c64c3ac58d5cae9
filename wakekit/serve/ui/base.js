// What all panels share: elements, words for numbers, what is chosen, and the way to the training service.

/** An element: h('b.small', {title: 'x'}, 'text', child, …); a property that is a function listens */
export function h(what, props, ...children) {
  const [tag, ...classes] = what.split('.'), e = document.createElement(tag || 'div')
  if (classes.length) e.className = classes.join(' ')
  if (props && (props.nodeType || typeof props !== 'object' || Array.isArray(props))) { children.unshift(props); props = null }
  for (const [k, v] of Object.entries(props ?? {})) {
    if (typeof v === 'function') e.addEventListener(k, v)
    else if (k in e && k !== 'list' && k !== 'form') e[k] = v
    else if (v === true) e.setAttribute(k, '')
    else if (v !== false && v != null) e.setAttribute(k, v)
  }
  e.append(...children.flat(9).filter(c => c !== null && c !== undefined && c !== false))
  return e
}

const names = 'http://www.w3.org/2000/svg'
/** The same for drawings */
export function s(tag, props = {}, ...children) {
  const e = document.createElementNS(names, tag)
  for (const [k, v] of Object.entries(props)) if (v !== null && v !== undefined) e.setAttribute(k, v)
  e.append(...children.flat(9).filter(c => c !== null && c !== undefined))
  return e
}

export const percent = (v, digits = 1) => v === null || v === undefined ? '–' : `${(100 * v).toFixed(digits)} %`
export const count = n => n === null || n === undefined ? '–' : n.toLocaleString('en')
export const several = (n, one, more = one + 's') => `${count(n)} ${n === 1 ? one : more}`
export const bytes = n => n < 1000 ? `${n} B` : n < 1e6 ? `${(n / 1e3).toFixed(0)} kB` : n < 1e9 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e9).toFixed(2)} GB`
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return '–'
  const t = Math.max(0, Math.round(seconds)), two = v => String(v).padStart(2, '0')
  return t < 90 ? `${t} s` : t < 5400 ? `${Math.floor(t / 60)}:${two(t % 60)} min` : `${Math.floor(t / 3600)}:${two(Math.floor(t / 60) % 60)} h`
}
/** How long ago, in words */
export function ago(iso) {
  const t = (Date.now() - Date.parse(iso)) / 1000
  if (!Number.isFinite(t)) return ''
  return t < 60 ? 'just now' : t < 5400 ? `${Math.round(t / 60)} min ago` : t < 129600 ? `${Math.round(t / 3600)} h ago` : new Date(iso).toLocaleDateString()
}
export const code = name => encodeURIComponent(name)

/** What went wrong, for people */
export class Trouble extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `status ${status}`)
    Object.assign(this, { status, code: problem.code ?? '', problem })
  }
}

/** The training service, reached over HTTP below an address */
export class Service {
  constructor(base) { this.base = base }
  url(path, params) {
    const query = new URLSearchParams(Object.entries(params ?? {}).filter(([, v]) => v !== null && v !== undefined && v !== ''))
    return `${this.base}${path}${[...query].length ? `?${query}` : ''}`
  }
  /** An address that an <audio> or a link can take */
  async media(path, params) { return this.url(path, params) }
  /** A player, and a link to a page or file */
  sound(path) { return h('audio', { controls: true, preload: 'none', src: this.url(path) }) }
  link(a, path) { a.href = this.url(path) }
  async ask(method, path, { params, body, headers, signal, tries = 3 } = {}) {
    let r
    const json = body !== undefined && !(body instanceof FormData || body instanceof Blob)
    try { r = await fetch(this.url(path, params), { method, signal, headers: { ...json && { 'Content-Type': 'application/json' }, ...headers }, body: json ? JSON.stringify(body) : body, credentials: 'same-origin' }) } catch (e) {
      if (e.name === 'AbortError') throw e
      throw new Trouble(0, { detail: 'The dashboard does not answer. Is it still running? This page goes on when it is back.', code: 'away' })
    }
    const about = r.headers.get('content-type') ?? '', text = await r.text(), found = text && /^application\/([\w.-]+\+)?json\b/.test(about) ? JSON.parse(text) : text // 204 is called JSON, and empty
    if (r.ok) return found
    if (r.status === 503 && method === 'GET' && tries > 1) { // busy: it says when to come again
      await new Promise(done => setTimeout(done, 1000 * Math.min(Number(r.headers.get('retry-after')) || 1, 5)))
      return this.ask(method, path, { params, headers, signal, tries: tries - 1 })
    }
    if (r.status === 401) location.reload() // to the door
    throw new Trouble(r.status, typeof found === 'object' ? found : { detail: `The dashboard answered ${r.status}.` })
  }
  get(path, params, more) { return this.ask('GET', path, { params, ...more }) }
  post(path, body = {}, more) { return this.ask('POST', path, { body, ...more }) }
  patch(path, body, etag) { return this.ask('PATCH', path, { body, headers: etag ? { 'If-Match': `"${etag}"` } : {} }) }
  remove(path) { return this.ask('DELETE', path) }
  /** A file, or several, with how much has gone as a number from 0 to 1 */
  send(path, file, fields, tell = () => {}, headers = {}) {
    return new Promise((done, failed) => {
      const form = new FormData(), x = new XMLHttpRequest()
      for (const [k, v] of Object.entries(fields)) if (v) form.append(k, v)
      const files = [file].flat()
      for (const f of files) form.append('file', f, f.name)
      x.open('POST', this.url(path))
      for (const [k, v] of Object.entries(headers)) x.setRequestHeader(k, v)
      x.upload.onprogress = e => e.lengthComputable && tell(e.loaded / e.total)
      x.onerror = () => failed(new Trouble(0, { detail: `${files[0].name} did not arrive: the connection was lost. Send it again; what is there already is not stored twice.`, code: 'away' }))
      x.onload = () => {
        let found
        try { found = JSON.parse(x.responseText) } catch { found = { detail: `The dashboard answered ${x.status}.` } }
        x.status < 400 ? done(found) : failed(new Trouble(x.status, found))
      }
      x.send(form)
    })
  }
}

/** What is chosen, for all panels of a page; kept for this tab of the browser where there is a key */
export class Chosen {
  constructor(key) {
    this.key = key
    this.now = {}
    this.heard = new Map()
    try { this.now = key && JSON.parse(sessionStorage.getItem(key)) || {} } catch { /* no storage here */ }
  }
  get(what) { return this.now[what] }
  set(what, value, tell = true) {
    if (JSON.stringify(this.now[what]) === JSON.stringify(value) && !['datasets', 'jobs', 'clips', 'models', 'devices'].includes(what)) return
    this.now[what] = value
    try { if (this.key) sessionStorage.setItem(this.key, JSON.stringify({ dataset: this.now.dataset, job: this.now.job, speaker: this.now.speaker, distance: this.now.distance })) } catch { /* no storage here */ }
    if (tell) for (const f of [...this.heard.get(what) ?? []]) f(value)
  }
  on(what, f) {
    if (!this.heard.has(what)) this.heard.set(what, new Set())
    this.heard.get(what).add(f)
    return () => this.heard.get(what).delete(f)
  }
}

/** Base of all panels: an element with a place for what went wrong */
export class Panel {
  constructor(element, service, chosen, props = {}) {
    Object.assign(this, { service, chosen, props, stops: [] })
    this.root = h('div.wk')
    this.said = h('div.wk-said', { role: 'status', 'aria-live': 'polite' })
    element.replaceChildren(this.root)
    this.dress()
    const dress = () => this.dress(), watch = new MutationObserver(dress), theme = matchMedia('(prefers-color-scheme: dark)')
    watch.observe(document.body, { attributes: true })
    theme.addEventListener('change', dress)
    this.stops.push(() => watch.disconnect(), () => theme.removeEventListener('change', dress))
  }
  dress() {
    const body = document.body, editor = body.dataset.vscodeThemeKind, known = editor ? String(!editor.includes('dark')) : body.dataset.jpThemeLight ?? (document.querySelector('gradio-app') || body.dataset.gradioMode ? String(!body.classList.contains('dark')) : undefined)
    this.root.classList.toggle('dark', known === undefined ? matchMedia('(prefers-color-scheme: dark)').matches : known === 'false')
    this.recolour?.()
  }
  get shown() { return this.root.isConnected && this.root.offsetParent !== null }
  on(what, f) { this.stops.push(this.chosen.on(what, f)) }
  /** Say something; kind is '' or 'bad' or 'good' */
  say(text, kind = '') {
    clearTimeout(this.quiet)
    this.said.replaceChildren(...text ? [h(`div.wk-note${kind ? '.' + kind : ''}`, text, h('button.wk-x', { type: 'button', title: 'Close', 'aria-label': 'Close', click: () => this.say('') }, '×'))] : [])
    if (text && kind !== 'bad') this.quiet = setTimeout(() => this.say(''), 8000)
  }
  /** Run something that a button asked for: the button waits, trouble is told */
  async doing(button, work) {
    if (button?.disabled) return
    const had = button && document.activeElement === button
    if (button) { button.disabled = true; button.setAttribute('aria-busy', 'true') }
    try { return await work() } catch (e) {
      if (e.name === 'AbortError') return
      if (!(e instanceof Trouble)) console.error(e)
      this.say(e.message, 'bad')
    } finally {
      if (button) { button.disabled = false; button.removeAttribute('aria-busy') }
      if (had && document.activeElement === document.body) button.focus()
    }
  }
  /** Again and again while the panel can be seen, and slower when it fails */
  every(ms, look) {
    let timer, over = false, wait = ms, busy = false
    const again = async () => {
      clearTimeout(timer)
      if (over) return
      if (!busy && this.shown && !document.hidden) {
        busy = true
        try { await look(); wait = ms } catch (e) { wait = Math.min(wait * 2, 15000); if (!(e instanceof Trouble)) console.error(e) }
        busy = false
      }
      if (!over) timer = setTimeout(again, this.shown ? wait : 400)
    }
    again()
    this.stops.push(() => { over = true; clearTimeout(timer) })
    return again
  }
  close() { for (const f of this.stops.splice(0)) f() }
}

/** Ask before something that hurts */
export function sure(text, yes = 'Yes', no = 'No') {
  return new Promise(done => {
    const box = h('dialog.wk-dialog', h('p', text), h('div.wk-bar', h('button.wk-main', { type: 'button', click: () => end(true) }, yes), h('button', { type: 'button', autofocus: true, click: () => end(false) }, no)))
    const end = said => { box.close(); box.remove(); done(said) }
    box.addEventListener('cancel', () => end(false))
    ;(document.querySelector('.wk') ?? document.body).append(box)
    box.showModal()
  })
}

/** A label with its control and help below it */
export const field = (label, control, help) => h('label.wk-field', h('span', label), control, help ? h('small', help) : null)
export const options = (pairs, now) => pairs.map(([value, text]) => h('option', { value, selected: value === now }, text ?? value))

/** Samples as the bytes of a WAV file: 16 bits, one channel */
export function wavBytes(x, rate) {
  const v = new DataView(new ArrayBuffer(44 + 2 * x.length)), word = (i, t) => [...t].forEach((c, k) => v.setUint8(i + k, c.charCodeAt(0)))
  word(0, 'RIFF'); v.setUint32(4, 36 + 2 * x.length, true); word(8, 'WAVEfmt '); v.setUint32(16, 16, true); v.setUint16(20, 1, true); v.setUint16(22, 1, true)
  v.setUint32(24, rate, true); v.setUint32(28, 2 * rate, true); v.setUint16(32, 2, true); v.setUint16(34, 16, true); word(36, 'data'); v.setUint32(40, 2 * x.length, true)
  x.forEach((s, i) => v.setInt16(44 + 2 * i, Math.round(Math.min(Math.max(s, -1), 32767 / 32768) * 32768), true))
  return v.buffer
}
