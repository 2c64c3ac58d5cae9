// Panels by name, for the dashboard; notebooks take them one by one.
import { Chosen, Service, Trouble } from './base.js'
import { Annotate } from './annotate.js'
import { Clips } from './clips.js'
import { Desk } from './desk.js'
import { Environment } from './environment.js'
import { Evaluate } from './evaluate.js'
import { Inbox } from './inbox.js'
import { Jobs } from './jobs.js'
import { Live } from './live.js'
import { Machines } from './machines.js'
import { ClipMap } from './map.js'
import { Quality } from './quality.js'
import { Record } from './record.js'
import { Ship } from './ship.js'
import { Synthesize } from './synth.js'
import { Train } from './train.js'

const PANELS = { annotate: Annotate, desk: Desk, record: Record, clips: Clips, map: ClipMap, quality: Quality, synthesize: Synthesize, train: Train, jobs: Jobs, evaluate: Evaluate, inbox: Inbox, live: Live, machines: Machines, ship: Ship, environment: Environment }
const root = new URL('..', import.meta.url).pathname.replace(/\/$/, ''), service = new Service(`${root}/api`), chosen = new Chosen(`wakekit ${root}`)

const about = await fetch(`${root}/health`).then(r => r.json()).catch(() => ({}))
const props = {
  mostBytes: about.max_upload_bytes,
  worklet: `${root}/ui/recorder.js`,
  use: (kind, name) => new Service(`${root}/live`).post('/use', { kind, name }),
  socket: (model, how) => new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}${root}/live/detect/stream?${new URLSearchParams({ model: model.name, ...how })}`),
}

// What panels look like is there before the first of them
const look = Object.assign(document.createElement('link'), { rel: 'stylesheet', href: `${root}/ui/style.css` })
await new Promise(done => { look.onload = look.onerror = done; document.head.append(look) })

/** Put a panel into an element */
export function mount(name, element) {
  element.panel?.close()
  return element.panel = new PANELS[name](element, service, chosen, props)
}
export { Trouble, chosen, service }
