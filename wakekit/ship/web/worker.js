// Runs the networks off the page: samples in, scores, events and a picture out. It fetches nothing: the page hands it every byte.
import * as ort from './runtime/ort.wasm.bundle.min.mjs'
import { Detector, SAMPLE_RATE } from './detector.js'
import { levelDb, Resampler, Spectrogram } from './audio.js'

const say = (type, more = {}, transfer = []) => postMessage({ type, ...more }, transfer)
let manifest, graphs, sessions, detector, spectrogram, source, run = 0, stopped = 0, waiting = 0, heardS = 0, spentS = 0
let queue = Promise.resolve() // one thing after the other

/** A session of one graph, made once */
async function session(name) {
  if (sessions[name]) return sessions[name]
  try { sessions[name] = await ort.InferenceSession.create(graphs[name], { executionProviders: ['wasm'], logSeverityLevel: 3 }) }
  catch (e) { throw new Error(`onnxruntime-web cannot run the graph “${name}” (${e.message ?? e}): export the bundle again.`) }
  const ports = [[...sessions[name].inputNames].sort(), [...sessions[name].outputNames].sort()].join(' → '), mel = 'frames' in (manifest.verifier ?? {})
  const wanted = name === 'verifier' ? `${mel ? 'mel' : 'pcm'} → logit` : `pcm,state → ${mel ? 'mel,' : ''}score,state_out`
  if (ports !== wanted) throw new Error(`The graph “${name}” does not fit the manifest (its ports are ${ports}): export the bundle again.`)
  return sessions[name]
}

async function open({ wasm, ...bundle }) {
  ({ manifest, graphs } = bundle)
  sessions = {}
  Object.assign(ort.env.wasm, { wasmBinary: wasm, numThreads: 1, proxy: false })
  ort.env.logLevel = 'error'
  try { await session(manifest.default_graph) }
  catch (e) {
    if (/^The graph/.test(e.message)) throw e
    throw new Error(`WebAssembly cannot start here. ${e.message} If this browser is old, or has WebAssembly switched off (lockdown mode, “enhanced security”), use another one.`)
  }
  say('ready')
}

/** A detector from silence, for the options of the page */
async function begin({ options, id }) {
  if (id <= stopped) return
  const first = await session(options.graph ?? manifest.default_graph), second = manifest.verifier && options.verify !== false ? await session('verifier') : null
  const graph = async (pcm, state) => {
    const feeds = { pcm: new ort.Tensor('float32', pcm, [1, pcm.length]), state: state ?? new ort.Tensor('float32', new Float32Array(manifest.state_size), [1, manifest.state_size]) }
    const { score, state_out, mel } = await first.run(feeds)
    return { scores: score.data, state: state_out, mel: second ? mel?.data : undefined }
  }
  const v = manifest.verifier, joined = windows => windows.length === 1 ? windows[0] : Float32Array.from({ length: windows.length * windows[0].length }, (_, i) => windows[Math.floor(i / windows[0].length)][i % windows[0].length])
  const feed = windows => 'frames' in v ? { mel: new ort.Tensor('float32', joined(windows), [windows.length, v.n_mels, v.frames]) } : { pcm: new ort.Tensor('float32', windows[0], [1, windows[0].length]) }
  const look = second && (async windows => [...(await second.run(feed(windows))).logit.data])
  detector = new Detector(manifest, graph, look, options)
  spectrogram = new Spectrogram(SAMPLE_RATE, manifest.step_samples)
  heardS = spentS = 0
  run = id
  say('begun', { id, threshold: detector.threshold, openAt: detector.second?.openAt ?? null, smoothMs: detector.smoothMs, refractoryMs: detector.refractoryMs })
}

async function hear(samples, id, last = false) {
  if (id !== run) return
  const since = performance.now(), first = detector.nSteps
  const found = samples.length ? await detector.process(samples) : { smoothed: [], gate: [], events: [] }, columns = spectrogram.process(samples)
  const ended = last ? await detector.finish() : { events: [] } // the quiet after the end has no picture
  spentS += (performance.now() - since) / 1000
  heardS += samples.length / SAMPLE_RATE
  const events = [...new Map([...found.events, ...ended.events].map(e => [e.n, { ...e }])).values()]
  say('heard', { id, first, smoothed: Float32Array.from(found.smoothed), gate: Float32Array.from(found.gate), columns, events, level: levelDb(samples), silent: samples.every(v => v === 0),
    timeS: detector.nSteps * detector.stepS, load: spentS / Math.max(heardS, 1e-3), looks: detector.second?.nLooks ?? null, nBad: detector.nBad, behindS: waiting / SAMPLE_RATE })
}

/** Chunks from the audio thread, until the next source */
function listen({ port, id }) {
  source?.close()
  source = port
  port.onmessage = ({ data }) => {
    waiting += data.length
    then(async () => {
      waiting -= data.length
      await hear(data, id)
    })
  }
}

const breath = new MessageChannel() // lets messages of the page through
function breathe() { return new Promise(go => { breath.port1.onmessage = go; breath.port2.postMessage(0) }) }

/** A whole recording along the same way, as fast as it goes */
async function recording({ samples, rate, id }) {
  const resampler = new Resampler(rate, SAMPLE_RATE), size = Math.round((manifest.chunk_samples || 4 * manifest.step_samples) * rate / SAMPLE_RATE)
  let pause = performance.now()
  for (let at = 0; at < samples.length && id === run; at += size) {
    await hear(resampler.process(samples.subarray(at, at + size)), id)
    if (performance.now() - pause > 50) { await breathe(); pause = performance.now() }
  }
  await hear(resampler.finish(), id, true)
  if (id === run) say('finished', { id })
}

const tasks = { open, begin, recording }
function then(f) { queue = queue.then(f).catch(e => say('failed', { message: e.message ?? String(e) })) }

onmessage = ({ data }) => {
  if (data.type === 'listen') listen(data)
  else if (data.type === 'stop') { run = 0; stopped = data.id; source?.close(); source = null }
  else if (data.type === 'threshold') { detector?.aim(data.threshold) }
  else then(() => tasks[data.type](data))
}
say('here')
