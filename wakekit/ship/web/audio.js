// Sound: another sample rate, WAV files, and a picture of it. Used by the page, the worker and the audio worklet.

const gcd = (a, b) => b ? gcd(b, a % b) : a

function bessel0(x) {
  let sum = 1, term = 1
  for (let k = 1; term > 1e-12 * sum; k++) sum += term *= (x / 2 / k) ** 2
  return sum
}

/** Streaming conversion of the sample rate: a windowed sinc (Kaiser, about 100 dB), cut off below the lower Nyquist frequency */
export class Resampler {
  constructor(from, to, zeros = 32) {
    const g = gcd(from, to)
    this.up = to / g
    this.down = from / g
    this.same = from === to
    if (this.same) return
    const cut = 0.94 * Math.min(1, to / from), half = Math.ceil(zeros / cut), beta = 10
    this.half = half
    this.phases = Array.from({ length: this.up }, (_, p) => {
      const h = new Float32Array(2 * half)
      for (let i = 0; i < 2 * half; i++) {
        const t = i - half + 1 - p / this.up, x = Math.PI * cut * t, w = Math.min(Math.abs(t) / half, 1)
        h[i] = cut * (x ? Math.sin(x) / x : 1) * bessel0(beta * Math.sqrt(1 - w * w)) / bessel0(beta)
      }
      return h
    })
    this.kept = new Float32Array(half - 1) // silence before
    this.next = 0 // position of the next sample out, in 1/up samples of `kept`, from where its first tap is
  }

  process(x) {
    if (this.same) return x
    const all = new Float32Array(this.kept.length + x.length), taps = 2 * this.half, out = []
    all.set(this.kept)
    all.set(x, this.kept.length)
    let at
    for (; (at = Math.floor(this.next / this.up)) + taps <= all.length; this.next += this.down) {
      const h = this.phases[this.next % this.up]
      let sum = 0
      for (let i = 0; i < taps; i++) sum += h[i] * all[at + i]
      out.push(sum)
    }
    const gone = Math.min(at, all.length)
    this.kept = all.slice(gone)
    this.next -= gone * this.up
    return Float32Array.from(out)
  }

  finish() { return this.same ? new Float32Array(0) : this.process(new Float32Array(this.half)) }
}

const readers = { // format and bits -> a sample at a place of a DataView
  '1/8': (v, i) => (v.getUint8(i) - 128) / 128, '1/16': (v, i) => v.getInt16(i, true) / 32768,
  '1/24': (v, i) => (v.getUint8(i) + 256 * v.getUint8(i + 1) + 65536 * v.getInt8(i + 2)) / 8388608, '1/32': (v, i) => v.getInt32(i, true) / 2147483648,
  '3/32': (v, i) => v.getFloat32(i, true), '3/64': (v, i) => v.getFloat64(i, true),
}

/** A WAV file as {samples, rate}, its channels averaged; null when it is something else, for the browser to decode */
export function readWav(buffer) {
  const v = new DataView(buffer), word = i => i + 4 <= v.byteLength ? String.fromCharCode(...new Uint8Array(buffer, i, 4)) : ''
  if (word(0) !== 'RIFF' || word(8) !== 'WAVE') return null
  let format
  for (let i = 12; i + 8 <= v.byteLength;) {
    const name = word(i), size = v.getUint32(i + 4, true)
    i += 8
    if (name === 'fmt ' && i + 16 <= v.byteLength) {
      const bits = v.getUint16(i + 14, true), kind = v.getUint16(i, true)
      const read = readers[`${kind === 0xfffe && i + 26 <= v.byteLength ? v.getUint16(i + 24, true) : kind}/${bits}`]
      format = { channels: v.getUint16(i + 2, true), rate: v.getUint32(i + 4, true), width: bits / 8, read }
    }
    if (name === 'data') {
      if (!format?.read || !format.channels || !format.rate) return null
      const { channels, rate, width, read } = format
      const n = Math.floor(Math.min(size, v.byteLength - i) / width / channels), samples = new Float32Array(n) // a size of all ones: written by a program that did not know
      for (let k = 0; k < n; k++, i += width * channels) {
        let sum = 0
        for (let c = 0; c < channels; c++) sum += read(v, i + c * width)
        samples[k] = sum / channels
      }
      return { samples, rate }
    }
    i += size + size % 2
  }
  return null
}

/** Level of samples, dB relative to full scale (that of a square wave) */
export function levelDb(x) {
  let sum = 0
  for (const v of x) sum += v * v
  return 10 * Math.log10(sum / Math.max(x.length, 1) + 1e-12)
}

/** In-place FFT of a power of two */
function fft(re, im) {
  const n = re.length
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1
    for (; j & bit; bit >>= 1) j ^= bit
    j ^= bit
    if (i < j) [re[i], re[j], im[i], im[j]] = [re[j], re[i], im[j], im[i]]
  }
  for (let size = 2; size <= n; size *= 2) {
    for (let k = 0; k < size / 2; k++) {
      const c = Math.cos(2 * Math.PI * k / size), s = -Math.sin(2 * Math.PI * k / size)
      for (let i = k; i < n; i += size) {
        const j = i + size / 2, a = re[j] * c - im[j] * s, b = re[j] * s + im[j] * c
        re[j] = re[i] - a; im[j] = im[i] - b
        re[i] += a; im[i] += b
      }
    }
  }
}

const toMel = hz => 2595 * Math.log10(1 + hz / 700), toHz = mel => 700 * (10 ** (mel / 2595) - 1)

/** Columns of a spectrogram: `bands` mel bands of each `hop` samples, -90 dB as 0 and -10 dB as 255 */
export class Spectrogram {
  constructor(rate, hop, bands = 56, size = 512) {
    Object.assign(this, { hop, bands, size, rest: new Float32Array(0), past: new Float32Array(size) })
    this.hann = Float32Array.from({ length: size }, (_, i) => (1 - Math.cos(2 * Math.PI * (i + .5) / size)) / size)
    const top = toMel(rate / 2 - 200)
    this.edges = Array.from({ length: bands + 1 }, (_, b) => toHz(toMel(50) + (top - toMel(50)) * b / bands) * size / rate)
  }

  /** New samples as columns, one after the other in one array */
  process(x) {
    const all = new Float32Array(this.rest.length + x.length), n = Math.floor(all.length / this.hop), out = new Uint8Array(n * this.bands)
    all.set(this.rest)
    all.set(x, this.rest.length)
    for (let c = 0; c < n; c++) this.column(all.subarray(c * this.hop, (c + 1) * this.hop), out.subarray(c * this.bands, (c + 1) * this.bands))
    this.rest = all.slice(n * this.hop)
    return out
  }

  column(x, out) {
    const tail = x.subarray(Math.max(0, x.length - this.size))
    this.past.copyWithin(0, tail.length)
    this.past.set(tail, this.size - tail.length)
    const re = Float64Array.from(this.past, (v, i) => v * this.hann[i]), im = new Float64Array(this.size)
    fft(re, im)
    for (let b = 0; b < this.bands; b++) {
      const low = Math.round(this.edges[b]), high = Math.max(low + 1, Math.round(this.edges[b + 1]))
      let most = 0
      for (let i = low; i < high; i++) most = Math.max(most, re[i] ** 2 + im[i] ** 2)
      out[b] = Math.min(Math.max((10 * Math.log10(most + 1e-12) + 90) / 80, 0), 1) * 255
    }
  }
}
