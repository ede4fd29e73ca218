"use strict";

// Sliders: the pointer works on the whole picture, the keyboard on the range input that lies over it.
for (const stage of document.querySelectorAll(".stage")) {
  const slider = stage.querySelector(".slider");
  const layers = [...stage.querySelectorAll(".layer")];
  const show = () => {
    const { left, right } = stage.dataset;
    for (const layer of layers) {
      const kind = layer.dataset.kind;
      layer.classList.toggle("on-right", kind === right);
      layer.classList.toggle("on-left", kind === left && left !== right);
    }
    for (const side of ["left", "right"]) {
      const label = stage.querySelector(`.side.${side}`);
      const layer = layers.find((each) => each.dataset.kind === stage.dataset[side]);
      if (label && layer) label.textContent = layer.querySelector("figcaption").textContent;
    }
  };
  show();
  if (!slider) continue;
  const move = () => {
    stage.style.setProperty("--at", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${Math.round(slider.value)} % ${stage.dataset.left}, rest ${stage.dataset.right}`);
  };
  const follow = (event) => {
    const box = stage.getBoundingClientRect();
    slider.value = (100 * (event.clientX - box.left)) / box.width;
    move();
  };
  let dragging = false;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    dragging = true;
    slider.focus({ preventScroll: true });
    follow(event);
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (dragging) follow(event);
  });
  // A touch that turns into scrolling ends with pointercancel.
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => (dragging = false));
  slider.addEventListener("input", move);
  for (const select of stage.parentElement.querySelectorAll("select")) {
    select.addEventListener("change", () => {
      stage.dataset[select.dataset.side] = select.value;
      show();
      move();
    });
  }
  move();
}

// Charts: the point nearest to the pointer, or chosen with the arrow keys, is read out beside the title.
for (const plot of document.querySelectorAll(".plot[data-points]")) {
  const points = JSON.parse(plot.dataset.points);
  const output = plot.parentElement.querySelector(".readout");
  const rule = plot.querySelector(".rule");
  const dot = plot.querySelector(".dot.hover");
  let chosen = points.length - 1;
  const read = (index, marked) => {
    chosen = Math.max(0, Math.min(points.length - 1, index));
    const [x, y, iteration, value] = points[chosen];
    const small = document.createElement("small");
    small.textContent = `at ${iteration}`;
    output.replaceChildren(`${value} `, small);
    rule.hidden = dot.hidden = !marked;
    rule.style.left = dot.style.left = `${x}%`;
    dot.style.top = `${y}%`;
  };
  const rest = () => read(points.length - 1, false);
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const x = (100 * (event.clientX - box.left)) / box.width;
    let nearest = 0;
    points.forEach((point, index) => {
      if (Math.abs(point[0] - x) < Math.abs(points[nearest][0] - x)) nearest = index;
    });
    read(nearest, true);
  });
  plot.addEventListener("pointerleave", rest);
  plot.addEventListener("blur", rest);
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -points.length, End: points.length }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    read(chosen + step, true);
  });
}

// Charts of several lines: beside each name stands its last value, or the one nearest to the pointer.
for (const plot of document.querySelectorAll(".plot[data-series]")) {
  const series = JSON.parse(plot.dataset.series);
  const outputs = [...plot.parentElement.querySelectorAll(".ends output")];
  const rule = plot.querySelector(".rule");
  const places = [...new Set(series.flat().map((point) => point[0]))].sort((a, b) => a - b);
  let chosen = places.length - 1;
  const write = (index, point) => {
    outputs[index].textContent = point[3];
    outputs[index].nextElementSibling.textContent = `at ${point[2]}`;
  };
  const read = (index) => {
    chosen = Math.max(0, Math.min(places.length - 1, index));
    const nearer = (a, b) => (Math.abs(b[0] - places[chosen]) < Math.abs(a[0] - places[chosen]) ? b : a);
    series.forEach((points, each) => write(each, points.reduce(nearer)));
    rule.hidden = false;
    rule.style.left = `${places[chosen]}%`;
  };
  const rest = () => {
    series.forEach((points, each) => write(each, points.at(-1)));
    rule.hidden = true;
    chosen = places.length - 1;
  };
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const x = (100 * (event.clientX - box.left)) / box.width;
    const distance = (index) => Math.abs(places[index] - x);
    read([...places.keys()].reduce((a, b) => (distance(b) < distance(a) ? b : a)));
  });
  plot.addEventListener("pointerleave", rest);
  plot.addEventListener("blur", rest);
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -places.length, End: places.length }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    read(chosen + step);
  });
}

// Tables: a heading sorts its column, smallest first, and again the other way round; empty cells stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const ascending = heading.getAttribute("aria-sort") !== "ascending";
      for (const each of headings) each.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
      const sign = ascending ? 1 : -1;
      const sorted = [...body.rows].sort((a, b) => {
        const [first, second] = [key(a), key(b)];
        if (column === 0) return sign * first.localeCompare(second, undefined, { numeric: true });
        if (first === "" || second === "") return (first === "") - (second === "");
        return sign * (Number(first) - Number(second));
      });
      body.append(...sorted);
    });
  });
}

// A printed report shows everything.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
