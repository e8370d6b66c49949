const report = data.report;
byId('name').textContent = `${report.app}: ${report.model}`;
byId('ending').textContent = `${report.ending}, ${report.steps} steps, ${report.parameters} parameters, seed ${report.seed}, on ${report.device}`;

// A row a metric; a column for each part that has it, the floor last.
const parts = ['val', 'test', 'floor'].filter(p => report[p]);
const names = [...new Set(parts.flatMap(p => Object.keys(report[p])))].filter(n => n !== 'confusion');
const partName = {val: 'validation', test: 'test', floor: 'floor (naive Bayes)'};
rows(byId('result'), ['', ...parts.map(p => partName[p])],
     names.map(n => [n, ...parts.map(p => typeof report[p][n] === 'number' ? Number(report[p][n].toPrecision(5)) : report[p][n] === undefined ? '–' : String(report[p][n]))]));

function chart(metric, series) {
  const d = new Drawing(480, 270), left = 72, right = 465, top = 14, bottom = 225;
  const points = series.flatMap(s => s.points), xs = points.map(p => p[0]), ys = points.map(p => p[1]);
  const span = values => { let [a, b] = [Math.min(...values), Math.max(...values)]; if (a === b) { a -= Math.abs(a) * .1 || .5; b += Math.abs(b) * .1 || .5; } return [a, b]; };
  const [x0, x1] = span(xs), [y0, y1] = span(ys);
  const x = v => left + (v - x0) / (x1 - x0) * (right - left), y = v => bottom - (v - y0) / (y1 - y0) * (bottom - top);
  for (let i = 0; i <= 4; ++i) {
    const v = y0 + (y1 - y0) * i / 4, u = x0 + (x1 - x0) * i / 4;
    d.line([[left, y(v)], [right, y(v)]], ink(), .15, 1);
    d.text(left - 6, y(v) + 4, String(Number(v.toPrecision(3))), 'end');
    d.text(x(u), bottom + 18, String(Math.round(u)), 'middle');
  }
  d.text(right, bottom + 38, 'step', 'end');
  const styles = {step: [.45, 1.2], train: [1, 1.6, [5, 4]], val: [1, 2.4]};
  let at = left + 6;
  for (const s of series) {
    const [opacity, width, dash] = styles[s.split] || [1, 2, [2, 3]];
    d.line(s.points.map(p => [x(p[0]), y(p[1])]), hue(), opacity, width, dash);
    if (s.points.length < 2) d.rect(x(s.points[0][0]) - 3, y(s.points[0][1]) - 3, 6, 6, hue());
    d.line([[at, bottom + 34], [at + 24, bottom + 34]], hue(), opacity, width, dash);
    d.text(at + 29, bottom + 38, s.split);
    at += 72;
  }
  return d;
}
function drawCurves() {
  const curves = new Map();
  for (const record of data.metrics) {
    for (const [name, value] of Object.entries(record)) {
      if (['split', 'step', 'epoch', 'seconds'].includes(name) || typeof value !== 'number') continue;
      if (!curves.has(name)) curves.set(name, new Map());
      const series = curves.get(name);
      if (!series.has(record.split)) series.set(record.split, []);
      series.get(record.split).push([record.step, value]);
    }
  }
  byId('curves').replaceChildren(...[...curves].map(([name, series]) => {
    const lines = [...series].map(([split, points]) => ({split, points})), figure = make('figure');
    const last = lines.map(s => `${s.split} ends at ${short(s.points[s.points.length - 1][1])}`).join(', ');
    figure.append(isolated('figcaption', name), chart(name, lines).svg(`${name} over steps: ${last}`), saveButtons(() => chart(name, lines), name));
    return figure;
  }));
  if (!curves.size) byId('curves').textContent = 'No metrics were logged.';
}
drawCurves();
dark.addEventListener('change', drawCurves);

function section(name, there, fill) { if (there) fill(); else byId('s-' + name).hidden = true; }
const confusion = report.test && report.test.confusion;
section('confusion', confusion, () => rows(byId('confusion'), ['truth', ...report.classes], confusion.map((line, i) => [report.classes[i], ...line])));
section('errors', report.errors, () => rows(byId('errors'), ['truth', 'predicted', 'probability of the truth', 'text'], report.errors.map(e => [e.truth, e.predicted, Number(e.probability.toPrecision(3)), e.text])));
section('examples', report.examples, () => rows(byId('examples'), ['input', 'output', 'expected', 'right'], report.examples.map(e => [e.input, e.output, e.expected, e.output === e.expected ? 'yes' : 'no'])));
rows(byId('config'), ['option', 'value', 'set by'], Object.entries(data.config.options || {}).map(([name, o]) => [name, Array.isArray(o.value) ? o.value.join(', ') : String(o.value), o.origin]));
