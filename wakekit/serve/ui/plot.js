// Curves as drawings that take the colours of their surroundings.
import { h, s } from './base.js'

const nice = most => [1, 2, 2.5, 5, 10].map(k => k * 10 ** Math.floor(Math.log10(most || 1))).find(t => most / t <= 4) ?? most / 4

/** Lines over x: series are {name, cls, points: [[x, y], …]}; y from 0; tip(x, y, series) is what a point says */
export function lines(series, { width = 460, height = 200, x: xName, y: yName, top, digits = 2, unit = v => v.toFixed(digits) }) {
  const all = series.flatMap(l => l.points), pad = [52, 10, 10, 34]
  if (!all.length) return h('p.wk-dim', 'Nothing yet.')
  const x0 = Math.min(...all.map(p => p[0])), x1 = Math.max(...all.map(p => p[0]), x0 + 1), tick = nice(Math.max(top ?? Math.max(...all.map(p => p[1])), 1e-6)), y1 = Math.ceil(Math.max(...all.map(p => p[1]), 1e-6) / tick - 1e-9) * tick
  const X = v => pad[0] + (v - x0) / (x1 - x0) * (width - pad[0] - pad[1]), Y = v => pad[2] + (1 - v / y1) * (height - pad[2] - pad[3])
  const grid = []
  for (let v = 0; v <= y1 + tick / 2; v += tick) grid.push(s('path', { class: 'grid', d: `M${pad[0]} ${Y(v)}H${width - pad[1]}` }), s('text', { x: pad[0] - 6, y: Y(v) + 4, 'text-anchor': 'end' }, unit(v)))
  const step = Math.max(1, Math.ceil((x1 - x0) / 8))
  for (let v = x0; v <= x1; v += step) grid.push(s('text', { x: X(v), y: height - pad[3] + 16, 'text-anchor': 'middle' }, `${v}`))
  const drawn = series.map(l => [s('path', { class: `curve ${l.cls ?? ''}`, d: l.points.map(([a, b], i) => `${i ? 'L' : 'M'}${X(a).toFixed(1)} ${Y(Math.min(b, y1)).toFixed(1)}`).join('') }),
    ...l.points.length < 60 ? l.points.map(([a, b]) => s('circle', { class: `dot ${l.cls ?? ''}`, cx: X(a), cy: Y(Math.min(b, y1)), r: 2.5 }, s('title', {}, `${l.name}: ${unit(b)} at ${xName} ${a}`))) : []])
  return s('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `${series.map(l => l.name).join(', ')} by ${xName}: ${series.map(l => `${l.name} now ${unit(l.points.at(-1)?.[1] ?? 0)}`).join('; ')}` }, grid, drawn,
    s('text', { x: (width + pad[0]) / 2, y: height - 4, 'text-anchor': 'middle' }, xName), yName ? s('text', { transform: `translate(11 ${height / 2 - 10}) rotate(-90)`, 'text-anchor': 'middle' }, yName) : null)
}

export const legend = items => h('div.wk-legend', items.map(([cls, text]) => h(`span.${cls}`, text)))

/** A DET curve: missed over false wakes per hour (logarithmic); runs are {name, cls, det: [[threshold, FA/h, FRR]], hours, at: {fa, frr}} */
export class Det {
  constructor(pick = () => {}) { this.root = h('div.wk-det'); this.pick = pick }
  draw(runs, width = 480, height = 300) {
    const pad = [58, 12, 10, 46], usable = runs.filter(r => r.det.length)
    if (!usable.length) return this.root.replaceChildren(h('p.wk-dim', 'There is no curve.'))
    const floor = Math.min(...usable.map(r => 0.5 / r.hours)), most = Math.max(...usable.flatMap(r => r.det.map(p => p[1])), floor * 10), low = Math.log10(floor), high = Math.log10(most)
    const seen = usable.flatMap(r => r.det.filter(p => p[1] >= 0.5 / r.hours).map(p => p[2])), topMost = Math.max(Math.min(1, Math.max(...seen, 0.01) * 1.05), 0.01), tick = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2].find(t => topMost / t <= 5) ?? 0.2, top = Math.ceil(topMost / tick - 1e-9) * tick
    const X = this.X = fa => pad[0] + (Math.log10(Math.max(fa, floor)) - low) / (high - low) * (width - pad[0] - pad[1]), Y = this.Y = frr => pad[2] + (1 - Math.min(frr, top) / top) * (height - pad[2] - pad[3])
    const out = [], edge = Math.min(X(3 / Math.max(...usable.map(r => r.hours))), width - pad[1])
    out.push(s('rect', { class: 'band', x: pad[0], y: pad[2], width: Math.max(0, edge - pad[0]), height: height - pad[2] - pad[3] }, s('title', {}, 'too few hours of background to claim this')))
    for (let e = Math.ceil(low); e <= Math.floor(high); e++) out.push(s('path', { class: 'grid', d: `M${X(10 ** e)} ${pad[2]}V${height - pad[3]}` }), s('text', { x: X(10 ** e), y: height - pad[3] + 16, 'text-anchor': 'middle' }, `${+(10 ** e).toPrecision(2)}`))
    for (let t = 0; t <= top + tick / 2; t += tick) out.push(s('path', { class: 'grid', d: `M${pad[0]} ${Y(t)}H${width - pad[1]}` }), s('text', { x: pad[0] - 6, y: Y(t) + 4, 'text-anchor': 'end' }, `${+(100 * t).toPrecision(3)}%`))
    for (const r of usable) {
      const d = r.det.map(([, fa, frr], i) => i ? `V${Y(frr).toFixed(1)}H${X(fa).toFixed(1)}` : `M${X(fa).toFixed(1)} ${Y(frr).toFixed(1)}`).join('')
      out.push(s('path', { class: `curve ${r.cls ?? ''}`, d }, s('title', {}, r.name)))
      if (r.at) out.push(s('circle', { class: `own ${r.cls ?? ''}`, cx: X(r.at.fa), cy: Y(r.at.frr), r: 5 }, s('title', {}, `${r.name}: at its own threshold`)))
    }
    this.mark = s('circle', { class: 'mark', r: 7, cx: -20, cy: -20 })
    out.push(this.mark, s('text', { x: (width + pad[0]) / 2, y: height - 6, 'text-anchor': 'middle' }, 'false wakes per hour'), s('text', { transform: `translate(12 ${height / 2 - 10}) rotate(-90)`, 'text-anchor': 'middle' }, 'missed'))
    const svg = s('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `DET curve of ${usable.map(r => r.name).join(', ')}` }, out)
    svg.addEventListener('click', e => {
      const box = svg.getBoundingClientRect(), x = (e.clientX - box.left) / box.width * width, det = usable[0].det
      this.pick(det.reduce((best, p, i) => Math.abs(X(p[1]) - x) < Math.abs(X(det[best][1]) - x) ? i : best, 0))
    })
    this.root.replaceChildren(svg)
  }
  at(fa, frr) { this.mark?.setAttribute('cx', this.X(fa)); this.mark?.setAttribute('cy', this.Y(frr)) }
}

/** Wilson interval of a share, 95 % */
export function wilson(k, n) {
  if (!n) return [0, 1]
  const z = 1.959963984540054, p = k / n, mid = (p + z * z / 2 / n) / (1 + z * z / n), wide = z / (1 + z * z / n) * Math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
  return [k ? Math.max(0, mid - wide) : 0, k < n ? Math.min(1, mid + wide) : 1]
}

/** Garwood's exact interval of a rate, 95 % */
export function poisson(k, hours) {
  const below = (mean, n) => { let term = Math.exp(-mean), sum = term; for (let i = 1; i <= n; i++) sum += term *= mean / i; return sum } // P(X <= n)
  const solve = (f, low, high) => { for (let i = 0; i < 100; i++) { const mid = (low + high) / 2; f(mid) > 0 ? low = mid : high = mid } return (low + high) / 2 }
  const most = 2 * k + 30 + 10 * Math.sqrt(k)
  if (k > 500) { const z = 1.96, up = k + 1; return [k * (1 - 1 / 9 / k - z / 3 / Math.sqrt(k)) ** 3 / hours, up * (1 - 1 / 9 / up + z / 3 / Math.sqrt(up)) ** 3 / hours] }
  return [k ? solve(m => 0.025 - (1 - below(m, k - 1)), 0, most) / hours : 0, solve(m => below(m, k) - 0.025, 0, most) / hours]
}
