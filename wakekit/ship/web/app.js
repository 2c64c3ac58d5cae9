// The page: fetches and checks the folder, starts the worker and the microphone, and shows what comes back.
import { SAMPLE_RATE } from './detector.js'
import { readWav } from './audio.js'
import { checkManifest, fetchBytes, fetchChecked, fetchJson, PageError } from './bundle.js'
import { View } from './view.js'

const $ = id => document.getElementById(id), say = text => { $('status').textContent = text }
const LIVE_S = 12, LONGEST = 2 ** 30 // seconds of the live view; bytes of a recording
let manifest, worker, view, run = 0, live = null, reading = false, occupied = false, usual = null, chosen = null, name = '', started = 0
const waiting = {}

function problem(error) {
  console.error(error)
  $('problem').textContent = error.message ?? String(error)
  $('problem').hidden = false
}
function hint(text) { $('hint').hidden = !text; if ($('hint').textContent !== text) $('hint').textContent = text }

/** Asks the worker, and waits for its answer of that type */
function ask(type, more, answer, transfer = []) {
  return new Promise((done, failed) => {
    waiting[answer] = { done, failed }
    worker.postMessage({ type, ...more }, transfer)
  })
}

function settle(data) {
  if (data.type === 'failed') {
    const asked = Object.keys(waiting)
    for (const k of asked) { waiting[k].failed(new PageError(data.message)); delete waiting[k] }
    if (!asked.length) { stop(); problem(new PageError(data.message)) }
  } else if (data.type === 'heard') heard(data)
  else { waiting[data.type]?.done(data); delete waiting[data.type] }
}

async function load() {
  if (typeof WebAssembly !== 'object') throw new PageError('This browser has no WebAssembly, or it is switched off (lockdown mode, “enhanced security”): allow it for this page, or use another browser.')
  const [about, m] = await Promise.all([fetchJson('web.json'), fetchJson('bundle/manifest.json')])
  if (!about?.runtime?.wasm || !about.files?.[`runtime/${about.runtime.wasm}`]) throw new PageError('web.json is damaged: copy the folder to the server again, or make it again with wakekit web.')
  manifest = checkManifest(m)
  view.stepS = manifest.step_samples / SAMPLE_RATE
  document.title = `“${manifest.phrase}” – wake word`
  $('phrase').textContent = `“${manifest.phrase}”`
  const wanted = Object.fromEntries(Object.entries(manifest.graphs).map(([k, g]) => [k, g.file]))
  if (manifest.verifier) wanted.verifier = manifest.verifier.file
  const engine = `runtime/${about.runtime.wasm}`, all = [[engine, about.files[engine]], ...Object.values(wanted).map(file => [`bundle/${file}`, manifest.files[file]])]
  const total = all.reduce((n, [, facts]) => n + facts.bytes, 0)
  let got = 0
  const [wasm, ...bytes] = await Promise.all(all.map(([file, facts]) => fetchChecked(file, facts, n => { $('loading').value = (got += n) / total })))
  say('Starting…')
  worker = new Worker('worker.js', { type: 'module' })
  await new Promise((done, failed) => {
    waiting.here = { done, failed }
    worker.onmessage = ({ data }) => settle(data)
    worker.onerror = async e => {
      e.preventDefault?.()
      try { for (const file of ['worker.js', 'runtime/ort.wasm.bundle.min.mjs']) await fetchBytes(file) } catch (missing) { return failed(missing) }
      failed(new PageError(`The worker of this page cannot start${e.message ? ` (${e.message})` : ''}: this browser may be too old, or the folder is damaged; make it again with wakekit web.`))
    }
  })
  await ask('open', { wasm, manifest, graphs: Object.fromEntries(Object.keys(wanted).map((k, i) => [k, bytes[i]])) }, 'ready', [wasm.buffer, ...bytes.map(b => b.buffer)])
  describe(about)
}

function describe(about) {
  const kB = n => n >= 1e6 ? `${(n / 1e6).toFixed(1)} MB` : `${Math.round(n / 1e3)} kB`, v = manifest.verifier
  const rows = { phrase: manifest.phrase, language: manifest.language, 'score every': `${1000 * manifest.step_samples / SAMPLE_RATE} ms`, smoothing: `${manifest.smooth_ms} ms`, 'deaf after an event': `${manifest.refractory_ms} ms` }
  for (const [k, g] of Object.entries(manifest.graphs)) rows[`network ${k}`] = `${kB(manifest.files[g.file].bytes)}, threshold ${g.threshold.toFixed(3)}`
  if (v) rows['second look'] = `${kB(manifest.files[v.file].bytes)}, hears ${v.samples / SAMPLE_RATE} s, at most every ${v.every_ms} ms while the first look’s score is at least ${v.open_at.toFixed(3)}`
  Object.assign(rows, { 'made with': `wakekit ${manifest.wakekit_version}, ${String(manifest.created).slice(0, 10)}`, 'runs on': `onnxruntime-web ${about.runtime.version}, WebAssembly, one thread`, load: '–' })
  $('about').replaceChildren(...Object.entries(rows).filter(([, text]) => text).flatMap(([k, text]) => {
    const dt = document.createElement('dt'), dd = document.createElement('dd')
    dt.textContent = k
    dd.textContent = text
    if (k === 'load') dd.id = 'load'
    return [dt, dd]
  }))
  $('graph').replaceChildren(...Object.keys(manifest.graphs).map(k => new Option(k, k, k === manifest.default_graph, k === manifest.default_graph)))
  for (const e of document.querySelectorAll('.many')) e.hidden = Object.keys(manifest.graphs).length < 2
  for (const e of document.querySelectorAll('.two')) e.hidden = !v
}

/** A detector from silence, with the settings as they are */
async function begin(id, totalS) {
  const now = await ask('begin', { options: { graph: $('graph').value, verify: $('verify').checked, threshold: chosen }, id }, 'begun')
  view.begin(totalS, now.threshold, now.openAt)
  $('limit').textContent = now.threshold.toFixed(2)
  $('firstkey').hidden = now.openAt === null
}
function heard(d) {
  if (d.id !== run) return
  view.add(d)
  for (const e of d.events) view.event(e, live ? new Date(started + 1000 * e.time_s) : null)
  $('load').textContent = `${(100 * d.load).toFixed(d.load < .1 ? 1 : 0)} % of one core` + (d.looks === null ? '' : `, ${d.looks} second looks`)
  if (!live) return
  if (d.behindS > 2) hint(`This device is too slow: the detector is ${d.behindS.toFixed(0)} s behind. Close other programs, or choose another network under Settings.`)
  else if (view.silentS > 3) hint('Only zeros arrive from the microphone: is it muted, by a switch or by the system?')
  else hint('')
}

const refusals = {
  NotAllowedError: 'The microphone was refused. Allow it for this page (the sign beside the address, or the system’s settings for microphones) and press Start again. A recording works without it.',
  NotFoundError: 'There is no microphone here: connect one and press Start again, or open a recording.',
  NotReadableError: 'The microphone does not start: another program may hold it, or the system blocks it. Close that program and press Start again.',
  SecurityError: 'This page may not use the microphone here: it is blocked for the page or for the frame that it is in.',
}

/** Context, stream and node of the microphone; at 16 kHz where the browser can, else the audio thread resamples */
async function microphone(port, chunk) {
  if (!window.isSecureContext || !navigator.mediaDevices?.getUserMedia) throw new PageError(`Browsers give the microphone to pages from https or localhost only, and this page is from ${location.origin}: serve it over https, or open it as http://localhost. A recording works here, too.`)
  if (!window.AudioWorkletNode) throw new PageError('This browser has no AudioWorklet, so it cannot hand over live sound: use a newer one, or open a recording.')
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false } })
    .catch(e => { throw new PageError(refusals[e.name] ?? `The microphone does not start (${e.name}: ${e.message}).`) })
  let context
  try {
    for (const options of [{ sampleRate: SAMPLE_RATE }, {}]) {
      context = null
      try {
        context = new AudioContext(options)
        const source = context.createMediaStreamSource(stream) // some browsers refuse it at another rate than the microphone's
        await context.audioWorklet.addModule('recorder.js')
        const node = new AudioWorkletNode(context, 'recorder', { processorOptions: { rate: SAMPLE_RATE, chunk }, channelCountMode: 'max' })
        node.onprocessorerror = () => { stop(); problem(new PageError('The audio thread failed: press Start again.')) }
        source.connect(node).connect(context.destination) // which it gives silence to; what leads nowhere may not run
        await context.resume()
        node.port.postMessage({ port }, [port])
        return { stream, context, node, source }
      } catch (e) {
        await context?.close()
        if (!options.sampleRate) throw e
      }
    }
  } catch (e) {
    stream.getTracks().forEach(t => t.stop())
    throw e
  }
}

async function start() {
  $('problem').hidden = true
  hint('')
  busy(true)
  const id = ++run, channel = new MessageChannel()
  try {
    say('Asking for the microphone…')
    const got = await microphone(channel.port1, manifest.chunk_samples || 4 * manifest.step_samples)
    if (id !== run) return close(got)
    live = got
    await begin(id, null)
    worker.postMessage({ type: 'listen', port: channel.port2, id }, [channel.port2])
    started = Date.now()
    name = 'microphone'
    got.stream.getTracks().forEach(t => { t.onended = () => { if (live === got) { stop(); problem(new PageError('The microphone is gone: it was unplugged or taken away. Press Start to go on.')) } } })
    got.context.onstatechange = () => { if (live === got && got.context.state !== 'running' && got.context.state !== 'closed') { hint('The browser has paused the sound: press Stop, then Start.') } }
    navigator.wakeLock?.request('screen').then(lock => { if (live === got) got.lock = lock; else lock.release() }, () => {})
    stoppable()
    say(`Listening${got.context.sampleRate === SAMPLE_RATE ? '' : `, ${got.context.sampleRate} Hz resampled to ${SAMPLE_RATE}`}. Say “${manifest.phrase}”.`)
  } catch (e) {
    if (id !== run) return
    stop()
    say('Not listening.')
    problem(e)
  }
}

function close({ stream, context, node, source, lock }) {
  node.port.postMessage({ port: null })
  source.disconnect()
  stream.getTracks().forEach(t => { t.onended = null; t.stop() })
  context.close()
  lock?.release()
}

function stop() {
  worker.postMessage({ type: 'stop', id: run })
  run++
  if (live) close(live)
  live = null
  view.rest()
  hint('')
  busy(false)
  reading = false
  waiting.finished?.done()
  delete waiting.finished
  say('Stopped.')
}

function stoppable() {
  $('start').disabled = false
  $('start').textContent = 'Stop'
  $('start').classList.add('on')
}

function busy(on) {
  if (!on) {
    $('start').textContent = 'Start listening'
    $('start').classList.remove('on')
  }
  for (const e of [$('start'), $('file'), $('graph'), $('verify')]) e.disabled = on
  $('pick').classList.toggle('off', on)
  occupied = on
}

/** Samples of any recording: WAV as it is, everything else as the browser decodes it */
async function decode(file) {
  if (file.size > LONGEST) throw new PageError(`${file.name} is larger than 1 GB: cut it, or use wakekit detect.`)
  const buffer = await file.arrayBuffer()
  const wav = readWav(buffer)
  if (wav) return wav
  let decoded
  try { decoded = await new OfflineAudioContext(1, 1, SAMPLE_RATE).decodeAudioData(buffer) }
  catch { throw new PageError(`${file.name} cannot be read: it is no recording, it is damaged, or this browser does not know its format. WAV always works.`) }
  const samples = new Float32Array(decoded.length)
  for (let c = 0; c < decoded.numberOfChannels; c++) decoded.getChannelData(c).forEach((v, i) => { samples[i] += v / decoded.numberOfChannels })
  return { samples, rate: SAMPLE_RATE }
}

async function recording(file) {
  $('problem').hidden = true
  hint('')
  busy(true)
  const id = ++run
  try {
    say(`Reading ${file.name}…`)
    const { samples, rate } = await decode(file), seconds = samples.length / rate
    if (!samples.length) throw new PageError(`${file.name} has no samples.`)
    await begin(id, seconds)
    name = file.name
    say(`Listening to ${file.name}…`)
    reading = true
    stoppable()
    await ask('recording', { samples, rate, id }, 'finished', [samples.buffer])
    if (id !== run) return
    say(`Heard ${view.events.size === 1 ? 'once' : `${$('count').textContent} times`} in ${file.name} (${seconds.toFixed(1)} s).`)
  } catch (e) {
    if (id !== run) return
    say('Not listening.')
    problem(e)
  }
  reading = false
  view.rest()
  busy(false)
}

function save() {
  const facts = { phrase: manifest.phrase, source: name, events: [...view.events.values()].map(({ n, step, ...e }) => e) }
  const a = Object.assign(document.createElement('a'), { href: URL.createObjectURL(new Blob([JSON.stringify(facts, null, 1)], { type: 'application/json' })), download: 'events.json' })
  a.click()
  setTimeout(() => URL.revokeObjectURL(a.href), 1000)
}

$('stuck').hidden = true
view = new View(LIVE_S)
$('start').onclick = () => live || reading ? stop() : start()
$('file').onchange = () => { const [file] = $('file').files; $('file').value = ''; if (file) recording(file) }
$('save').onclick = save
function threshold(value) { // null: the bundle's own
  chosen = value
  view.threshold = value ?? usual
  $('threshold').value = view.threshold
  $('limit').textContent = view.threshold.toFixed(2)
  $('value').textContent = view.threshold.toFixed(3)
  view.dirty()
  if (occupied) worker.postMessage({ type: 'threshold', threshold: view.threshold })
}
$('threshold').oninput = () => threshold(+$('threshold').value)
$('usual').onclick = () => threshold(null)
$('graph').onchange = $('verify').onchange = () => {
  usual = $('verify').checked || !manifest.verifier ? manifest.graphs[$('graph').value].threshold : manifest.verifier.open_at
  threshold(null)
}
document.addEventListener('dragover', e => e.preventDefault())
document.addEventListener('drop', e => { e.preventDefault(); const [file] = e.dataTransfer.files; if (file && !occupied && worker) recording(file) })

load().then(() => {
  $('loading').hidden = true
  $('graph').onchange()
  $('threshold').disabled = $('usual').disabled = false
  busy(false)
  say('Ready.')
}, e => {
  $('loading').hidden = true
  say('Not ready.')
  problem(e)
})
