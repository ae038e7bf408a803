// The paper: strokes of a pen, or a picture file, and what of it is sent to the server.

const PEN = 0.075; // width of the pen, as a share of the paper
const SIDE = 280; // pixels of the paper in the picture that is sent
const MARGIN = 20; // pixels around it: what reaches in from a picture's edge is not taken for part of the drawing

export class Paper extends EventTarget {
  #canvas;
  #strokes = [];
  #file = null;
  #preview = null;
  #pointer = null;
  version = 0; // counts the changes of what is drawn

  constructor(canvas) {
    super();
    this.#canvas = canvas;
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#go(event));
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      canvas.addEventListener(end, (event) => this.#end(event));
    }
    new ResizeObserver(() => this.#draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  get isEmpty() {
    return !this.#strokes.length && !this.#file;
  }

  get isDrawing() {
    return this.#pointer !== null;
  }

  clear() {
    this.#strokes = [];
    this.#file = this.#preview = null;
    this.#pointer = null; // a stroke that is being drawn ends here
    this.#changed();
  }

  undo() {
    if (this.#file) return this.clear();
    this.#pointer = null;
    this.#strokes.pop();
    this.#changed();
  }

  async open(file) {
    this.#strokes = [];
    this.#pointer = null;
    this.#file = file;
    this.#preview = null;
    this.#changed();
    // What this browser cannot show, the server may still read.
    const preview = await createImageBitmap(file).catch(() => null);
    if (this.#file !== file) return;
    this.#preview = preview;
    this.#draw();
  }

  // The chosen file as it is, or the drawing as a picture, black on white in every colour scheme.
  async picture() {
    if (this.#file) return this.#file;
    const canvas = new OffscreenCanvas(SIDE + 2 * MARGIN, SIDE + 2 * MARGIN);
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.translate(MARGIN, MARGIN);
    this.#ink(context, SIDE, "#000");
    return canvas.convertToBlob({ type: "image/png" });
  }

  #begin(event) {
    if (this.#pointer !== null || event.button !== 0) return;
    event.preventDefault();
    this.#file = this.#preview = null;
    this.#pointer = event.pointerId;
    this.#canvas.setPointerCapture(event.pointerId);
    this.#strokes.push([this.#point(event)]);
    this.#changed();
  }

  #go(event) {
    if (event.pointerId !== this.#pointer) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    this.#strokes.at(-1).push(...(passed.length ? passed : [event]).map((each) => this.#point(each)));
    this.#changed();
  }

  #end(event) {
    if (event.pointerId !== this.#pointer) return;
    this.#pointer = null;
    this.#changed();
  }

  #point(event) {
    const { left, top, width, height } = this.#canvas.getBoundingClientRect();
    const within = (share) => Math.min(1, Math.max(0, share));
    return [within((event.clientX - left) / width), within((event.clientY - top) / height)];
  }

  #changed() {
    this.version += 1;
    this.#draw();
    this.dispatchEvent(new Event("change"));
  }

  #draw() {
    const canvas = this.#canvas;
    const side = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
    if (canvas.width !== side || canvas.height !== side) canvas.width = canvas.height = side;
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, side, side);
    const colour = getComputedStyle(canvas).color;
    if (this.#preview) {
      const scale = side / Math.max(this.#preview.width, this.#preview.height);
      const [width, height] = [this.#preview.width * scale, this.#preview.height * scale];
      context.drawImage(this.#preview, (side - width) / 2, (side - height) / 2, width, height);
    } else if (this.#file) {
      context.fillStyle = colour;
      context.font = `${Math.round(side / 20)}px system-ui`;
      context.textAlign = "center";
      context.fillText(this.#file.name, side / 2, side / 2, 0.9 * side);
    }
    this.#ink(context, side, colour);
  }

  #ink(context, side, colour) {
    context.strokeStyle = context.fillStyle = colour;
    context.lineWidth = PEN * side;
    context.lineCap = context.lineJoin = "round";
    for (const points of this.#strokes) {
      const [first, ...rest] = points.map(([x, y]) => [x * side, y * side]);
      context.beginPath();
      context.moveTo(...first);
      // Curves through the middles between points: a mouse reports few of them
      let last = first;
      for (const point of rest) {
        context.quadraticCurveTo(...last, (last[0] + point[0]) / 2, (last[1] + point[1]) / 2);
        last = point;
      }
      // A hair further: a line of no length, the dot of a pen put down, would leave nothing
      context.lineTo(last[0], last[1] + 0.01);
      context.stroke();
    }
  }
}
