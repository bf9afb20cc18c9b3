/** A video that carries its matte (the face over black above, how opaque it is below), put over the page behind it. */

const VERTEX = `
attribute vec2 corner;
varying vec2 at;
void main() { at = corner * 0.5 + 0.5; gl_Position = vec4(corner, 0.0, 1.0); }`;

/** `seam`: half a pixel, so that nothing of one half is blended into the other. */
const FRAGMENT = `
precision mediump float;
varying vec2 at;
uniform sampler2D both;
uniform float seam;
void main() {
  float y = at.y * 0.5;
  float alpha = texture2D(both, vec2(at.x, min(y, 0.5 - seam))).g;
  vec3 colour = texture2D(both, vec2(at.x, max(y + 0.5, 0.5 + seam))).rgb;
  gl_FragColor = vec4(min(colour, vec3(alpha)), alpha);
}`;

export class Matte {
  #video;
  #canvas;
  #gl = null;
  #plain = null;
  #seam = null;
  #asked = 0;
  #running = false;
  #shown;

  /** `shown(on)`: hears whether the canvas shows the face at the moment: not if the video has no matte. */
  constructor(video, canvas, shown) {
    this.#video = video;
    this.#canvas = canvas;
    this.#shown = shown;
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault(); // it may come back
      this.#gl = null;
    });
    canvas.addEventListener("webglcontextrestored", () => this.#prepare());
  }

  start() {
    if (this.#running) return;
    this.#running = true;
    if (!this.#gl) this.#prepare();
    this.#ask();
  }

  stop() {
    if (!this.#running) return;
    this.#running = false;
    if (this.#video.cancelVideoFrameCallback) this.#video.cancelVideoFrameCallback(this.#asked);
    else cancelAnimationFrame(this.#asked);
    this.#shown(false);
  }

  #ask() {
    const draw = () => {
      if (!this.#running) return;
      this.#shown(this.#draw());
      this.#ask();
    };
    if (this.#video.requestVideoFrameCallback) this.#asked = this.#video.requestVideoFrameCallback(draw);
    else this.#asked = requestAnimationFrame(draw);
  }

  #prepare() {
    const gl = this.#canvas.getContext("webgl", { premultipliedAlpha: true, antialias: false, depth: false });
    if (!gl) {
      this.#plain ??= new Plain(this.#canvas);
      return;
    }
    const program = gl.createProgram();
    for (const [type, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
    const corner = gl.getAttribLocation(program, "corner");
    gl.enableVertexAttribArray(corner);
    gl.vertexAttribPointer(corner, 2, gl.FLOAT, false, 0, 0);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
    for (const size of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, size, gl.LINEAR);
    gl.pixelStorei(gl.UNPACK_FLIP_Y_WEBGL, true);
    this.#seam = gl.getUniformLocation(program, "seam");
    this.#gl = gl;
  }

  /** Whether there is something to see. */
  #draw() {
    const { videoWidth: width, videoHeight: height } = this.#video;
    const gl = this.#gl;
    if (!width || height < 1.9 * width || !(gl || this.#plain)) return false;
    if (this.#canvas.width !== width || this.#canvas.height !== height / 2) {
      this.#canvas.width = width;
      this.#canvas.height = height / 2;
    }
    if (!gl) return this.#plain.draw(this.#video);
    gl.viewport(0, 0, width, height / 2);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, this.#video);
    gl.uniform1f(this.#seam, 0.5 / height);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    return true;
  }
}

/** The same without WebGL, on machines that have none: a few milliseconds a frame. */
class Plain {
  #context;
  #both = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

  constructor(canvas) {
    this.#context = canvas.getContext("2d");
  }

  draw(video) {
    const { width, height } = this.#context.canvas;
    const stacked = this.#both.canvas;
    if (stacked.width !== width || stacked.height !== 2 * height) {
      stacked.width = width;
      stacked.height = 2 * height;
    }
    this.#both.drawImage(video, 0, 0, width, 2 * height);
    const picture = this.#both.getImageData(0, 0, width, height);
    const matte = this.#both.getImageData(0, height, width, height).data;
    const { data } = picture;
    for (let i = 0; i < data.length; i += 4) {
      const alpha = matte[i + 1];
      data[i + 3] = alpha;
      if (alpha && alpha < 255) {
        // A canvas wants colours that are not premultiplied; it clamps what is too bright.
        const whole = 255 / alpha;
        data[i] *= whole;
        data[i + 1] *= whole;
        data[i + 2] *= whole;
      }
    }
    this.#context.putImageData(picture, 0, 0);
    return true;
  }
}
