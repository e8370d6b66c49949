const kCanvasAbove = 128;  // tokens: a table of more cells is slow
const state = {example: 0, view: 0, layer: 0, head: 'mean'};
const known = new URLSearchParams(location.hash.slice(1));
for (const k of Object.keys(state)) if (known.has(k)) state[k] = k === 'head' && known.get(k) === 'mean' ? 'mean' : Number(known.get(k));

const example = () => data.examples[state.example];
const view = () => example().views[state.view];
function headMatrix(layer, head) {
  const heads = view().attn[layer];
  if (head !== 'mean') return heads[head];
  return heads[0].map((row, q) => row.map((_, k) => heads.reduce((sum, h) => sum + h[q][k], 0) / heads.length));
}
const matrix = () => headMatrix(state.layer, state.head);
const received = m => m[0].map((_, k) => m.reduce((sum, row) => sum + row[k], 0) / m.length);

function choices(id, names, values) {
  const select = byId(id);
  select.replaceChildren(...names.map((name, i) => {
    const o = make('option', name);
    o.value = values[i];
    return o;
  }));
  if (!values.map(String).includes(String(state[id]))) state[id] = values[0];
  select.value = state[id];
}
const upTo = n => [...Array(n).keys()];

function drawStrip() {
  const weights = received(matrix()), top = Math.max(...weights);
  byId('strip').replaceChildren(...view().right_text.map((token, i) => {
    const e = make('bdi', token);
    e.style.backgroundColor = shade(.75 * weights[i] / top);
    e.title = weights[i].toFixed(4);
    return e;
  }));
}
function say(q, k) { byId('value').textContent = `row ${q + 1} “${view().left_text[q]}”, column ${k + 1} “${view().right_text[k]}”: ${matrix()[q][k].toFixed(4)}`; }

function heatTable(m) {
  const table = make('table'), head = make('tr'), top = make('thead'), body = make('tbody');
  table.className = 'heat';
  table.append(isolated('caption', `Attention weights, ${view().name} view`));
  head.append(make('td'));
  for (const token of view().right_text) {
    const th = isolated('th', token);
    th.scope = 'col';
    head.append(th);
  }
  top.append(head);
  const cells = m.map((row, q) => {
    const tr = make('tr'), th = isolated('th', view().left_text[q]);
    th.scope = 'row';
    tr.append(th);
    const line = row.map((weight, k) => {
      const td = make('td');
      td.className = 'cell';
      td.tabIndex = q + k ? -1 : 0;
      td.title = weight.toFixed(4);
      td.setAttribute('aria-label', weight.toFixed(4));
      td.style.backgroundColor = shade(weight);
      td.addEventListener('focus', () => say(q, k));
      td.addEventListener('mouseenter', () => say(q, k));
      td.addEventListener('keydown', event => {
        const move = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
        const next = move && cells[q + move[0]] && cells[q + move[0]][k + move[1]];
        if (!next) return;
        event.preventDefault();
        td.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
      });
      return td;
    });
    tr.append(...line);
    body.append(tr);
    return line;
  });
  table.append(top, body);
  return table;
}
function heatDrawing() {
  const m = matrix(), left = 140, above = 110, side = Math.max(6, Math.min(30, 900 / m[0].length));
  const d = new Drawing(left + side * m[0].length + 40, above + side * m.length + 20);
  view().right_text.forEach((token, k) => d.text(left + side * (k + .6), above - 8, token.slice(0, 14), 'start', 1, -60));
  m.forEach((row, q) => {
    d.text(left - 8, above + side * (q + .5) + 5, view().left_text[q].slice(0, 18), 'end');
    row.forEach((weight, k) => d.rect(left + side * k, above + side * q, side, side, shade(weight), dark.matches ? '#3a414b' : '#d0d7de'));
  });
  return d;
}
function drawHeat() {
  byId('value').textContent = '';
  const m = matrix();
  if (Math.max(m.length, m[0].length) <= kCanvasAbove) return byId('heat').replaceChildren(heatTable(m));
  const side = 6, c = make('canvas');
  c.width = side * m[0].length;
  c.height = side * m.length;
  c.setAttribute('role', 'img');
  c.setAttribute('aria-label', `Heat map of ${m.length} rows and ${m[0].length} columns`);
  const g = c.getContext('2d');
  m.forEach((row, q) => row.forEach((weight, k) => { g.fillStyle = shade(weight); g.fillRect(side * k, side * q, side, side); }));
  c.addEventListener('mousemove', event => {
    const q = Math.floor(event.offsetY / side), k = Math.floor(event.offsetX / side);
    if (m[q] && m[q][k] !== undefined) say(q, k);
  });
  byId('heat').replaceChildren(c);
}

function linesDrawing() {
  const m = matrix(), left = view().left_text, right = view().right_text, step = 22;
  const d = new Drawing(640, 30 + step * Math.max(left.length, right.length)), y = i => 25 + step * i;
  m.forEach((row, q) => {
    const fifth = [...row].sort((a, b) => b - a)[Math.min(4, row.length - 1)];
    row.forEach((weight, k) => { if (weight >= .02 || weight >= fifth && weight > 0) d.line([[205, y(q)], [435, y(k)]], hue(), Number(weight.toFixed(4)), 2.5); });
  });
  left.forEach((token, q) => d.text(195, y(q) + 5, token.slice(0, 24), 'end'));
  right.forEach((token, k) => d.text(445, y(k) + 5, token.slice(0, 24), 'start'));
  return d;
}

function drawModel() {
  const root = byId('model'), layers = view().attn;
  root.replaceChildren(...layers.map((heads, l) => {
    const row = make('div');
    row.className = 'grid';
    row.setAttribute('role', 'group');
    row.setAttribute('aria-label', `Layer ${l + 1}`);
    row.append(...heads.map((m, h) => {
      const b = make('button'), c = make('canvas'), size = 84;
      c.width = c.height = size;
      const g = c.getContext('2d'), w = size / m[0].length, t = size / m.length;
      m.forEach((line, q) => line.forEach((weight, k) => { g.fillStyle = shade(weight); g.fillRect(k * w, q * t, w + .3, t + .3); }));
      b.type = 'button';
      b.setAttribute('aria-pressed', state.layer === l && state.head === h);
      b.append(c, `layer ${l + 1}, head ${h + 1}`);
      b.addEventListener('click', () => { state.layer = l; state.head = h; render(); byId('h-heat').scrollIntoView(); });
      return b;
    }));
    return row;
  }));
}

function render() {
  choices('example', data.examples.map(e => e.text), upTo(data.examples.length));
  choices('view', example().views.map(v => v.name), upTo(example().views.length));
  choices('layer', view().attn.map((_, i) => String(i + 1)), upTo(view().attn.length));
  choices('head', ['mean of all', ...view().attn[state.layer].map((_, i) => String(i + 1))], ['mean', ...upTo(view().attn[state.layer].length)]);
  byId('text').textContent = example().text;
  const predicted = make('bdi', example().predicted);
  byId('verdict').replaceChildren('Output: ', predicted, example().probability === null ? '' : ` (probability ${example().probability.toFixed(4)})`);
  drawStrip();
  drawHeat();
  const label = `Lines from ${view().left_text.length} tokens to ${view().right_text.length} tokens`;
  byId('lines').replaceChildren(linesDrawing().svg(label));
  drawModel();
  history.replaceState(null, '', '#' + new URLSearchParams(state));
}
for (const id of ['example', 'view', 'layer', 'head'])
  byId(id).addEventListener('change', event => { state[id] = event.target.value === 'mean' ? 'mean' : Number(event.target.value); render(); });
byId('save-heat').append(saveButtons(heatDrawing, 'heat-map'));
byId('save-lines').append(saveButtons(linesDrawing, 'head-view'));
dark.addEventListener('change', render);
render();
