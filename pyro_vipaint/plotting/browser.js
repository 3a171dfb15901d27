// The page's side of browser.py: draws the bytes of the view, and paints the mask. It loads nothing.

const SCREEN = 256; // pixels of the picture's longer side on the screen, at least
const PAINT = [230, 80, 60, 130]; // the colour of painted pixels, over the picture

function bytes(value) {
  return value instanceof DataView
    ? new Uint8Array(value.buffer, value.byteOffset, value.byteLength)
    : new Uint8Array(value);
}

function element(kind, attributes, ...children) {
  const made = Object.assign(document.createElement(kind), attributes);
  made.append(...children);
  return made;
}

function labelled(text, input) {
  return element("label", { style: "display:flex;gap:.5em;align-items:center" }, text, input);
}

function render({ model, el }) {
  const [height, width] = model.get("size");
  const scale = Math.max(1, Math.floor(SCREEN / Math.max(height, width)));
  const canvas = element("canvas", { width, height, tabIndex: 0 });
  canvas.className = "vipaint-picture";
  canvas.style.cssText =
    `width:${width * scale}px;height:${height * scale}px;image-rendering:pixelated;cursor:crosshair;touch-action:none`;
  const context = canvas.getContext("2d");
  const view = element("select", { className: "vipaint-view" });
  for (const name of ["quantile", "mean", "std", "sample"]) {
    view.append(element("option", { value: name, textContent: name === "std" ? "standard deviation" : name }));
  }
  const quantile = element("input", { type: "range", min: 0, max: 1, step: 0.01, className: "vipaint-quantile" });
  const sample = element("input", {
    type: "range", min: 0, max: model.get("count") - 1, step: 1, className: "vipaint-sample",
  });
  const brush = element("input", { type: "range", min: 1, max: Math.max(2, Math.round(width / 4)), step: 1, value: 3 });
  const erase = element("input", { type: "checkbox", className: "vipaint-erase" });
  const clear = element("button", { textContent: "clear the mask", className: "vipaint-clear" });
  const said = element("output", { className: "vipaint-said" });

  function draw() {
    const picture = bytes(model.get("picture"));
    const painted = bytes(model.get("painted"));
    const image = context.createImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      const share = painted[i] ? PAINT[3] / 255 : 0;
      for (let c = 0; c < 3; c++) {
        image.data[4 * i + c] = Math.round((1 - share) * picture[3 * i + c] + share * PAINT[c]);
      }
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }

  function follow() {
    view.value = model.get("view");
    quantile.value = model.get("quantile");
    sample.value = model.get("sample");
    said.textContent = {
      quantile: `quantile ${Number(model.get("quantile")).toFixed(2)} of each pixel`,
      mean: `mean of ${model.get("count")} samples`,
      std: `black 0, bright ${Number(model.get("largest")).toPrecision(2)}`,
      sample: `sample ${model.get("sample") + 1} of ${model.get("count")}`,
    }[model.get("view")];
    draw();
  }

  function tell(values) {
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    model.save_changes();
    follow();
  }

  view.addEventListener("change", () => tell({ view: view.value }));
  quantile.addEventListener("input", () => tell({ view: "quantile", quantile: Number(quantile.value) }));
  sample.addEventListener("input", () => tell({ view: "sample", sample: Number(sample.value) }));

  let stroke = null; // the mask while a button is down; Python is told at its end
  function dab(event) {
    const box = canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * width;
    const y = ((event.clientY - box.top) / box.height) * height;
    const radius = Number(brush.value) / 2;
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        if ((column + 0.5 - x) ** 2 + (row + 0.5 - y) ** 2 <= radius ** 2 + 0.25) {
          stroke[row * width + column] = erase.checked ? 0 : 1;
        }
      }
    }
    model.set("painted", new DataView(stroke.buffer.slice(0)));
    draw();
  }
  canvas.addEventListener("pointerdown", (event) => {
    stroke = bytes(model.get("painted")).slice();
    canvas.setPointerCapture(event.pointerId);
    dab(event);
  });
  canvas.addEventListener("pointermove", (event) => stroke && dab(event));
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => {
      if (stroke) model.save_changes();
      stroke = null;
    });
  }
  clear.addEventListener("click", () => tell({ painted: new DataView(new ArrayBuffer(width * height)) }));

  for (const name of ["picture", "painted", "view", "quantile", "sample"]) model.on(`change:${name}`, follow);
  const controls = element(
    "div", { style: "display:flex;flex-direction:column;gap:.4em" },
    labelled("view", view), labelled("quantile", quantile), labelled("sample", sample),
    labelled("brush", brush), labelled("erase", erase), clear, said,
  );
  el.append(element("div", { style: "display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start" }, canvas, controls));
  follow();
}

export default { render };
