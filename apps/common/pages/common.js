'use strict';
// Text enters the page by textContent alone, so that no token, name or headline can become markup.
const data = JSON.parse(document.getElementById('data').textContent);
const byId = id => document.getElementById(id);
const dark = matchMedia('(prefers-color-scheme: dark)');
const ink = () => dark.matches ? '#e6e9ee' : '#1b1f24';
const paper = () => dark.matches ? '#14171c' : '#ffffff';
const hue = () => dark.matches ? 'rgb(110,170,240)' : 'rgb(31,95,168)';
const shade = weight => (dark.matches ? 'rgba(110,170,240,' : 'rgba(31,95,168,') + Math.max(0, Math.min(1, weight)).toFixed(4) + ')';

function make(tag, text) {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  return e;
}
function isolated(tag, text) {
  const e = make(tag);
  e.append(make('bdi', text));
  return e;
}
function rows(table, heads, lines) {
  const head = make('tr');
  for (const h of heads) {
    const th = isolated('th', h);
    th.scope = 'col';
    head.append(th);
  }
  const top = make('thead'), body = make('tbody');
  top.append(head);
  for (const line of lines) {
    const tr = make('tr');
    for (const cell of line) {
      const td = isolated('td', String(cell));
      if (typeof cell === 'number') td.className = 'number';
      tr.append(td);
    }
    body.append(tr);
  }
  table.replaceChildren(top, body);
}
const short = x => typeof x !== 'number' ? String(x) : Number.isInteger(x) ? String(x) : String(Number(x.toPrecision(5)));

// A drawing as a list of shapes, so that the page, a saved SVG and a saved PNG show the same.
class Drawing {
  constructor(width, height) { this.width = width; this.height = height; this.shapes = []; }
  rect(x, y, w, h, fill, stroke) { this.shapes.push({kind: 'rect', x, y, w, h, fill, stroke}); }
  line(points, stroke, opacity, width, dash) { this.shapes.push({kind: 'line', points, stroke, opacity, width, dash}); }
  text(x, y, text, anchor, opacity, turn) { this.shapes.push({kind: 'text', x, y, text, anchor: anchor || 'start', opacity: opacity || 1, turn}); }
  svg(label) {
    const node = (tag, values) => {
      const e = document.createElementNS('http://www.w3.org/2000/svg', tag);
      for (const [k, v] of Object.entries(values)) if (v !== undefined) e.setAttribute(k, v);
      return e;
    };
    const root = node('svg', {viewBox: `0 0 ${this.width} ${this.height}`, role: 'img', 'aria-label': label, 'font-family': 'system-ui, sans-serif', 'font-size': 13});
    for (const s of this.shapes) {
      if (s.kind === 'rect') root.append(node('rect', {x: s.x, y: s.y, width: s.w, height: s.h, fill: s.fill, stroke: s.stroke}));
      if (s.kind === 'line') root.append(node('polyline', {points: s.points.map(p => p[0].toFixed(1) + ',' + p[1].toFixed(1)).join(' '), fill: 'none', stroke: s.stroke, 'stroke-opacity': s.opacity, 'stroke-width': s.width, 'stroke-dasharray': s.dash && s.dash.join(' ')}));
      if (s.kind === 'text') {
        const t = node('text', {x: s.x, y: s.y, 'text-anchor': s.anchor, fill: ink(), 'fill-opacity': s.opacity, 'unicode-bidi': 'isolate', transform: s.turn && `rotate(${s.turn} ${s.x} ${s.y})`});
        t.textContent = s.text;
        root.append(t);
      }
    }
    return root;
  }
  canvas(scale) {
    const c = make('canvas');
    c.width = this.width * scale;
    c.height = this.height * scale;
    const g = c.getContext('2d');
    g.scale(scale, scale);
    g.fillStyle = paper();
    g.fillRect(0, 0, this.width, this.height);
    g.font = '13px system-ui, sans-serif';
    for (const s of this.shapes) {
      g.globalAlpha = 1;
      if (s.kind === 'rect') {
        g.fillStyle = s.fill;
        g.fillRect(s.x, s.y, s.w, s.h);
        if (s.stroke) { g.strokeStyle = s.stroke; g.lineWidth = 1; g.setLineDash([]); g.strokeRect(s.x, s.y, s.w, s.h); }
      } else if (s.kind === 'line') {
        g.globalAlpha = s.opacity === undefined ? 1 : s.opacity;
        g.strokeStyle = s.stroke;
        g.lineWidth = s.width || 1;
        g.setLineDash(s.dash || []);
        g.beginPath();
        s.points.forEach((p, i) => i ? g.lineTo(p[0], p[1]) : g.moveTo(p[0], p[1]));
        g.stroke();
      } else {
        g.globalAlpha = s.opacity;
        g.fillStyle = ink();
        g.textAlign = s.anchor === 'middle' ? 'center' : s.anchor;
        g.save();
        g.translate(s.x, s.y);
        if (s.turn) g.rotate(s.turn * Math.PI / 180);
        g.fillText(s.text, 0, 0);
        g.restore();
      }
    }
    return c;
  }
}

function download(blob, name) {
  const a = make('a');
  a.href = URL.createObjectURL(blob);
  a.download = name;
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 1000);
}
function saveSvg(drawing, name) {
  const svg = drawing.svg(name);
  const back = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
  for (const [k, v] of [['width', drawing.width], ['height', drawing.height], ['fill', paper()]]) back.setAttribute(k, v);
  svg.prepend(back);
  download(new Blob([new XMLSerializer().serializeToString(svg)], {type: 'image/svg+xml'}), name + '.svg');
}
function savePng(drawing, name) { drawing.canvas(2).toBlob(blob => download(blob, name + '.png')); }
function saveButtons(drawingOf, name) {
  const p = make('p');
  p.className = 'save';
  for (const [label, save] of [['Save SVG', saveSvg], ['Save PNG', savePng]]) {
    const b = make('button', label);
    b.type = 'button';
    b.setAttribute('aria-label', `${label}: ${name}`);
    b.addEventListener('click', () => save(drawingOf(), name));
    p.append(b, ' ');
  }
  return p;
}
