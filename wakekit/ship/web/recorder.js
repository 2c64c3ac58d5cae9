// Runs in the audio thread: the microphone's blocks as chunks of 16 kHz samples, straight to the worker that detects.
import { Resampler } from './audio.js'

class Recorder extends AudioWorkletProcessor {
  constructor({ processorOptions: { rate, chunk } }) {
    super()
    this.resampler = new Resampler(sampleRate, rate)
    this.chunk = new Float32Array(chunk)
    this.filled = 0
    this.port.onmessage = ({ data }) => { this.out = data.port; if (!this.out) this.over = true }
  }

  process([input]) {
    if (this.over) return false
    if (!this.out || !input.length) return true
    const mono = Float32Array.from(input[0])
    for (const channel of input.slice(1)) for (let i = 0; i < mono.length; i++) mono[i] += channel[i]
    if (input.length > 1) for (let i = 0; i < mono.length; i++) mono[i] /= input.length
    for (const v of this.resampler.process(mono)) {
      this.chunk[this.filled++] = v
      if (this.filled < this.chunk.length) continue
      this.out.postMessage(this.chunk.slice())
      this.filled = 0
    }
    return true
  }
}

registerProcessor('recorder', Recorder)
