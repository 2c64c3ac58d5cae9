// A bundle over HTTP: fetched, and checked like wakekit/ship/stream.py checks one on disk.
import { SAMPLE_RATE, SCHEMA_VERSION } from './detector.js'

/** What is wrong, in words for whoever looks at the page */
export class PageError extends Error {}

const K = Uint32Array.from({ length: 64 }, (_, n) => fraction(prime(n), 1 / 3)), H = Array.from({ length: 8 }, (_, n) => fraction(prime(n), 1 / 2))
function prime(n) { // the n-th, from 2
  let p = 1
  do p++; while (Array.from({ length: Math.floor(Math.sqrt(p)) }, (_, i) => i + 1).some(d => d > 1 && p % d === 0) || n-- > 0)
  return p
}
function fraction(p, power) { return ((p ** power % 1) * 2 ** 32) >>> 0 }

/** SHA-256 where crypto.subtle is missing: on plain http, where a recording can still be tried */
export function slowSha256(bytes) {
  const n = bytes.length, padded = new Uint8Array((n + 72) & ~63), v = new DataView(padded.buffer), h = Uint32Array.from(H), w = new Uint32Array(64)
  const rot = (x, k) => x >>> k | x << 32 - k
  padded.set(bytes)
  padded[n] = 128
  v.setUint32(padded.length - 8, Math.floor(n / 2 ** 29))
  v.setUint32(padded.length - 4, n * 8 >>> 0)
  for (let at = 0; at < padded.length; at += 64) {
    for (let i = 0; i < 16; i++) w[i] = v.getUint32(at + 4 * i)
    for (let i = 16; i < 64; i++) w[i] = w[i - 16] + (rot(w[i - 15], 7) ^ rot(w[i - 15], 18) ^ w[i - 15] >>> 3) + w[i - 7] + (rot(w[i - 2], 17) ^ rot(w[i - 2], 19) ^ w[i - 2] >>> 10)
    let [a, b, c, d, e, f, g, last] = h
    for (let i = 0; i < 64; i++) {
      const t = last + (rot(e, 6) ^ rot(e, 11) ^ rot(e, 25)) + (e & f ^ ~e & g) + K[i] + w[i], u = (rot(a, 2) ^ rot(a, 13) ^ rot(a, 22)) + (a & b ^ a & c ^ b & c)
      ;[last, g, f, e, d, c, b, a] = [g, f, e, d + t >>> 0, c, b, a, t + u >>> 0]
    }
    ;[a, b, c, d, e, f, g, last].forEach((x, i) => h[i] += x)
  }
  return Array.from(h, x => x.toString(16).padStart(8, '0')).join('')
}

export async function sha256(bytes) {
  if (!globalThis.crypto?.subtle) return slowSha256(bytes)
  return Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)), b => b.toString(16).padStart(2, '0')).join('')
}

/** The bytes of a file of this folder; tell(n) is told of each n bytes that arrive */
export async function fetchBytes(name, tell = () => {}) {
  let response
  try { response = await fetch(name, { cache: 'no-cache', credentials: 'same-origin' }) }
  catch { throw new PageError(`${name} could not be fetched: is the server still there? Reload the page to try again.`) }
  if (!response.ok) throw new PageError(`${name} is missing on the server (it answers ${response.status}): copy the whole folder there again.`)
  const parts = []
  try {
    const reader = response.body.getReader()
    for (let piece; !(piece = await reader.read()).done;) {
      parts.push(piece.value)
      tell(piece.value.length)
    }
  } catch { throw new PageError(`The connection broke while ${name} was on its way: reload the page to try again.`) }
  return new Uint8Array(await new Blob(parts).arrayBuffer())
}

/** Refuses anything that is not what the folder says it is */
export async function fetchChecked(name, facts, tell) {
  const bytes = await fetchBytes(name, tell)
  if (await sha256(bytes) !== facts?.sha256) throw new PageError(`${name} is damaged: its SHA-256 is not the one that was noted (${bytes.length.toLocaleString('en')} bytes). Copy the folder to the server again, or make it again with wakekit web.`)
  return bytes
}

export async function fetchJson(name) {
  const text = new TextDecoder().decode(await fetchBytes(name))
  try { return JSON.parse(text) } catch (e) { throw new PageError(`${name} is damaged (${e.message}): copy the folder to the server again, or make it again with wakekit web.`) }
}

const isNumber = v => typeof v === 'number' && Number.isFinite(v), isObject = v => typeof v === 'object' && v !== null && !Array.isArray(v), isCount = v => Number.isInteger(v) && v > 0

function framesFit(v, m) {
  const rates = 'rates' in v ? v.rates : [1], sure = 'sure' in v ? v.sure : [0, 0]
  return m.schema_version > 2 && ['frames', 'n_mels', 'hop_samples'].every(k => isCount(v[k])) && m.step_samples % v.hop_samples === 0 && isNumber(v.floor) && v.floor >= -1000
    && v.frames * v.n_mels <= 2 ** 20 && Array.isArray(rates) && rates.length > 0 && rates.length <= 16 && rates.every(r => isNumber(r) && r >= 0.1 && r <= 1) && Array.isArray(sure) && sure.length === 2 && sure.every(x => isNumber(x) && x >= -1000) && sure[0] <= sure[1]
}

function verifierFits(v, m) {
  const ok = k => isNumber(v[k]) && v[k] >= 0, files = m.files
  return isObject(v) && typeof v.file === 'string' && v.file in files && isCount(v.samples) && ['every_ms', 'smooth_ms', 'open_at'].every(ok)
    && (!('first_weight' in v) || ok('first_weight')) && isCount(v.looks ?? 1) && (v.looks ?? 1) <= 100 && v.every_ms <= 60000 && (!('frames' in v) || framesFit(v, m))
}

/** What is wrong with a manifest; throws PageError */
export function checkManifest(m) {
  if (!isObject(m) || !Number.isInteger(m.schema_version)) throw new PageError('bundle/manifest.json is no wakekit manifest, it has no schema_version: make the folder again with wakekit web.')
  if (m.schema_version > SCHEMA_VERSION) throw new PageError(`The bundle was made by a newer wakekit than this page (its schema is ${m.schema_version}, the page knows ${SCHEMA_VERSION}): make the folder again with wakekit web.`)
  const wanted = { phrase: v => typeof v === 'string', sample_rate: v => v === SAMPLE_RATE, step_samples: isCount, state_size: v => v === 0 || isCount(v), smooth_ms: isNumber, refractory_ms: isNumber, graphs: isObject, files: isObject, default_graph: v => typeof v === 'string' }
  const bad = Object.keys(wanted).filter(k => !wanted[k](m[k]))
  if (!bad.length && !Object.hasOwn(m.graphs, m.default_graph)) bad.push('default_graph')
  if (!bad.length && !Object.values(m.graphs).every(g => isObject(g) && Object.hasOwn(m.files, g.file) && isNumber(g.threshold))) bad.push('graphs')
  if (!bad.length && 'verifier' in m && !(m.schema_version > 1 && !('verifier' in m.graphs) && verifierFits(m.verifier, m))) bad.push('verifier')
  if (bad.length) throw new PageError(`bundle/manifest.json is incomplete or wrong in ${bad.join(', ')}: export the bundle and make the folder again.`)
  for (const name of Object.keys(m.files)) if (/^\/|\\|:|(^|\/)\.\.(\/|$)/.test(name)) throw new PageError(`The manifest names a file outside the bundle, ${name}: do not use this bundle.`)
  return m
}
