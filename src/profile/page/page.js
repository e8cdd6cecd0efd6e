'use strict';
(() => {
  // lines: {phase, op, kernel, shape, layer, runs, ns, least, bytes, flop}; work: [line, begin, length]; host: [name,
  // begin, length]; passes: [name, phase, begin, length]. Times are nanoseconds.
  const data = JSON.parse(document.getElementById('data').textContent);
  const $ = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const digits = (v) => (v === 0 ? '0' : v < 9.995 ? v.toFixed(2) : v < 99.95 ? v.toFixed(1) : v.toFixed(0));
  const scale = (v, units) => {
    let unit = 0;
    while (v >= 1000 && unit < units.length - 1) { v /= 1000; unit += 1; }
    return `${digits(v)} ${units[unit]}`;
  };
  const time = (ns) => scale(ns, ['ns', 'µs', 'ms', 's']);
  const amount = (v, unit) => scale(v, ['', 'k', 'M', 'G', 'T'].map((prefix) => prefix + unit));
  const percent = (v) => `${(100 * v).toFixed(1)} %`;
  const colour = (op) => `c${Math.min(data.operators.indexOf(op), data.colours - 1)}`;
  // A spread has no room for lists as long as a run.
  const largest = (values) => values.reduce((most, value) => Math.max(most, value), 1);
  const rate = (line, what) => (line.ns > 0 ? line[what] / line.ns * 1e9 : 0);
  const reached = (line) => line.least / Math.max(1, line.ns);
  const sums = (lines, key) => {
    const found = new Map();
    for (const line of lines) {
      const name = line[key];
      const sum = found.get(name) || { name, op: line.op, runs: 0, ns: 0, least: 0, bytes: 0, flop: 0, lines: [] };
      for (const what of ['runs', 'ns', 'least', 'bytes', 'flop']) sum[what] += line[what];
      sum.lines.push(line);
      found.set(name, sum);
    }
    return [...found.values()];
  };
  const details = (line) => {
    let text = `${time(line.ns / line.runs)} each, ${line.runs === 1 ? 'once' : `${line.runs} times`}\n${amount(rate(line, 'bytes'), 'B/s')}`;
    if (line.flop > 0) text += `, ${amount(rate(line, 'flop'), 'FLOP/s')}`;
    return `${text}, ${Math.round(100 * reached(line))} % of the roof`;
  };

  // ---- the tip ----
  const tip = $('tip');
  const show = (text, x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(6, Math.min(x + 14, innerWidth - box.width - 6))}px`;
    tip.style.top = `${y + 18 + box.height > innerHeight ? y - box.height - 10 : y + 18}px`;
  };
  const hide = () => { tip.hidden = true; };
  const tipped = (element, text) => {
    element.addEventListener('mousemove', (event) => show(text, event.clientX, event.clientY));
    element.addEventListener('mouseleave', hide);
  };

  // ---- head and phases ----
  const { subject } = data;
  $('facts').textContent = `${subject.backend}:${subject.device} · ${subject.prompt_tokens} tokens of prompt` +
    (subject.images ? `, ${subject.images} ${subject.images === 1 ? 'picture' : 'pictures'}` : '') +
    ` · times by ${data.clock}`;
  $('prompt').append('Prompt: ', make('b', '', subject.prompt));
  $('roof-note').textContent = 'Each point is a kernel: its area grows with its share of the time, its distance to the ' +
    'lines is what is left. The lines were measured on this device: a copy, and multiply-adds in registers. A kernel is ' +
    'held to the peak of f32, or of matrix units if it uses them. Data in a cache may pass the copy.' +
    (data.dispatch ? ` An almost empty dispatch takes ${time(data.dispatch)}.` : '');
  $('footer').textContent = `dunlin ${subject.version}. Bytes and FLOP are lower bounds: each byte once, weights in ` +
    'their own format; a multiply-add is two FLOP. Times of dispatches are those of the measured run.';
  for (const phase of data.phases) {
    const card = make('article', 'card');
    const each = phase.name === 'prompt' ? subject.prompt_tokens : phase.passes;
    const unit = { prompt: 'token of the prompt', decode: 'token', picture: 'slice' }[phase.name];
    card.append(make('h2', '', phase.name[0].toUpperCase() + phase.name.slice(1)));
    card.append(make('div', 'big', time(phase.undisturbed)));
    const list = make('dl');
    const row = (term, text) => list.append(make('dt', '', term), make('dd', '', text));
    if (phase.name !== 'picture') row(`per ${unit}`, time(phase.undisturbed / Math.max(1, each)));
    const cost = phase.measured / Math.max(1, phase.undisturbed) - 1;
    row('while measured', `${time(phase.measured)} (${cost < 0 ? '−' : '+'}${Math.abs(100 * cost).toFixed(0)} %)`);
    row('sum of dispatches', time(phase.work));
    row('dispatches', `${phase.dispatches} in ${phase.passes} ${phase.passes === 1 ? 'pass' : 'passes'}`);
    row('moved at', amount(rate({ ns: phase.work, bytes: phase.bytes }, 'bytes'), 'B/s'));
    row('computed at', amount(rate({ ns: phase.work, flop: phase.flop }, 'flop'), 'FLOP/s'));
    card.append(list);
    const strip = make('div', 'strip');
    const operators = sums(data.lines.filter((line) => line.phase === phase.name), 'op').sort((a, b) => b.ns - a.ns);
    for (const sum of operators) {
      const part = make('i', colour(sum.name));
      part.style.width = `${100 * sum.ns / Math.max(1, phase.work)}%`;
      tipped(part, `${sum.name}: ${percent(sum.ns / Math.max(1, phase.work))}`);
      strip.append(part);
    }
    card.append(strip);
    $('phases').append(card);
  }

  // ---- by operator and by layer ----
  let chosen = data.phases[data.phases.length - 1].name;
  const bars = () => {
    const phase = data.phases.find((one) => one.name === chosen);
    const lines = data.lines.filter((line) => line.phase === chosen);
    const all = Math.max(1, phase.work);
    const operators = sums(lines, 'op').sort((a, b) => b.ns - a.ns);
    $('operators').replaceChildren(...operators.map((sum) => {
      const bar = make('div', `bar ${colour(sum.name)}`);
      const track = make('div', 'track');
      const fill = make('i');
      fill.style.width = `${100 * sum.ns / operators[0].ns}%`;
      track.append(fill);
      bar.append(make('span', '', sum.name), track, make('span', 'n', time(sum.ns)), make('span', 'n s', percent(sum.ns / all)));
      tipped(bar, `${sum.name}\n${details(sum)}`);
      return bar;
    }));
    const layers = sums(lines, 'layer');
    const most = largest(layers.map((layer) => layer.ns));
    const step = Math.ceil(layers.length / 16);
    $('layers').replaceChildren(...layers.map((layer, index) => {
      const number = /^(?:layer|block) (\d+)$/.exec(layer.name);
      const column = make('div', `column${number ? '' : ' word'}`);
      const parts = sums(layer.lines, 'op').sort((a, b) => data.operators.indexOf(b.name) - data.operators.indexOf(a.name));
      for (const part of parts) {
        const piece = make('i', colour(part.name));
        piece.style.height = `${100 * part.ns / most}%`;
        column.append(piece);
      }
      if (!number || number[1] % step === 0) column.append(make('b', '', number ? number[1] : layer.name));
      const list = parts.slice().reverse().map((part) => `${part.name} ${time(part.ns)}`).join('\n');
      tipped(column, `${layer.name}: ${time(layer.ns)}, ${percent(layer.ns / all)}\n${list}`);
      return column;
    }));
  };
  const select = (name) => {
    chosen = name;
    for (const tab of $('tabs').children) tab.setAttribute('aria-selected', String(tab.dataset.phase === name));
    bars();
    table();
  };
  for (const phase of data.phases) {
    const tab = make('button', '', phase.name);
    tab.type = 'button';
    tab.dataset.phase = phase.name;
    tab.setAttribute('role', 'tab');
    tab.addEventListener('click', () => select(phase.name));
    $('tabs').append(tab);
  }

  // ---- the roofline: its titles become tips ----
  for (const point of document.querySelectorAll('.roofline .point')) {
    const title = point.querySelector('title');
    tipped(point, title.textContent);
    point.setAttribute('aria-label', title.textContent);
    title.remove();
  }

  // ---- the list of dispatches ----
  const columns = [
    ['operator', (line) => line.op, 0],
    ['layer', (line) => line.index, 0],
    ['kernel', (line) => line.kernel, 0],
    ['shape', (line) => line.shape, 0],
    ['runs', (line) => line.runs, 1],
    ['each', (line) => line.ns / line.runs, 1],
    ['share', (line) => line.ns, 1],
    ['GB/s', (line) => rate(line, 'bytes'), 1],
    ['GFLOP/s', (line) => rate(line, 'flop'), 1],
    ['of roof', reached, 1],
  ];
  data.lines.forEach((line, index) => { line.index = index; });
  let sorted = { column: 6, down: true };
  let found = -1;
  const head = make('tr');
  columns.forEach(([name, , number], index) => {
    const cell = make('th', number ? 'n' : '');
    const button = make('button', '', name);
    button.type = 'button';
    button.addEventListener('click', () => {
      sorted = { column: index, down: sorted.column === index ? !sorted.down : Boolean(number) };
      table();
    });
    cell.append(button);
    head.append(cell);
  });
  $('lines').tHead.append(head);
  const table = () => {
    const words = $('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (line) => `${line.op} ${line.layer} ${line.kernel} ${line.shape}`.toLowerCase();
    const all = Math.max(1, data.phases.find((phase) => phase.name === chosen).work);
    const lines = data.lines.filter((line) => line.phase === chosen && words.every((word) => text(line).includes(word)));
    const key = columns[sorted.column][1];
    const order = (a, b) => (typeof a === 'string' ? a.localeCompare(b) : a - b);
    lines.sort((a, b) => (order(key(a), key(b)) || a.index - b.index) * (sorted.down ? -1 : 1));
    [...head.children].forEach((cell, index) => {
      if (index === sorted.column) cell.setAttribute('aria-sort', sorted.down ? 'descending' : 'ascending');
      else cell.removeAttribute('aria-sort');
    });
    const most = largest(lines.map((line) => line.ns));
    $('lines').tBodies[0].replaceChildren(...lines.map((line) => {
      const row = make('tr', line.index === found ? 'found' : '');
      row.id = `line-${line.index}`;
      const cell = (className, content) => {
        const made = make('td', className, content);
        row.append(made);
        return made;
      };
      const op = cell(colour(line.op));
      op.append(make('i', 'dot'), line.op);
      cell('', line.layer);
      cell('kernel', line.kernel).title = line.kernel;
      cell('shape', line.shape).title = line.shape;
      cell('n', line.runs);
      cell('n', time(line.ns / line.runs));
      const share = cell(`n ${colour(line.op)}`, percent(line.ns / all));
      const track = make('span', 'share');
      const fill = make('i');
      fill.style.width = `${100 * line.ns / most}%`;
      track.append(fill);
      share.append(track);
      cell('n', digits(rate(line, 'bytes') / 1e9));
      cell('n', line.flop > 0 ? digits(rate(line, 'flop') / 1e9) : '');
      cell('n', `${Math.round(100 * reached(line))} %`);
      return row;
    }));
  };
  $('filter').addEventListener('input', table);

  // ---- the timeline ----
  const canvas = $('timeline');
  const end = Math.max(largest(data.passes.map((p) => p[2] + p[3])), largest(data.work.map((w) => w[1] + w[2])));
  const begin = data.passes.reduce((least, p) => Math.min(least, p[2]), end - 1);
  const rows = [
    { name: 'passes', top: 30, height: 26, events: data.passes.map(([name, , from, length]) => ({ name, from, length, pass: true })) },
    { name: 'host', top: 64, height: 26, events: data.host.map(([name, from, length]) => ({ name, from, length })) },
    { name: 'device', top: 98, height: 76, events: data.work.map(([line, from, length]) => ({ name: data.lines[line].op, from, length, line: data.lines[line] })) },
  ];
  for (const row of rows) row.events.sort((a, b) => a.from - b.from);
  let view = { from: begin, to: end };
  let colours = {};
  const GUTTER = 58;
  const theme = () => {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    colours = { paper: read('--paper'), ink: read('--ink'), soft: read('--soft'), rule: read('--rule'), band: read('--band') };
    colours.ops = Array.from({ length: data.colours }, (_, i) => read(`--c${i}`));
    draw();
  };
  const shade = (event) => {
    if (event.line) return colours.ops[Math.min(data.operators.indexOf(event.line.op), data.colours - 1)];
    if (event.pass) return colours.rule;
    return { encode: colours.ops[4], submit: colours.ops[6], wait: colours.band, run: colours.band, sample: colours.ops[2] }[event.name];
  };
  // A time with as many digits as neighbours a step apart need.
  const moment = (ns, step) => {
    const [unit, name] = [[1e9, 's'], [1e6, 'ms'], [1e3, 'µs'], [1, 'ns']].find(([size]) => size <= Math.max(ns, step)) || [1, 'ns'];
    return `${(ns / unit).toFixed(Math.max(0, Math.ceil(-Math.log10(step / unit) - 1e-9)))} ${name}`;
  };
  const draw = () => {
    const box = canvas.getBoundingClientRect();
    const ratio = devicePixelRatio || 1;
    if (box.width === 0) return;
    canvas.width = Math.round(box.width * ratio);
    canvas.height = Math.round(box.height * ratio);
    const context = canvas.getContext('2d');
    context.scale(ratio, ratio);
    context.fillStyle = colours.paper;
    context.fillRect(0, 0, box.width, box.height);
    context.font = '11.5px system-ui, sans-serif';
    context.textBaseline = 'middle';
    const width = box.width - GUTTER;
    const at = (ns) => GUTTER + (ns - view.from) / (view.to - view.from) * width;
    const span = view.to - view.from;
    const rough = span / Math.max(2, width / 110);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    for (let tick = Math.ceil((view.from - begin) / step) * step; tick + begin <= view.to; tick += step) {
      const x = at(tick + begin);
      context.globalAlpha = 0.6;
      context.fillStyle = colours.rule;
      context.fillRect(x, 22, 1, box.height);
      context.globalAlpha = 1;
      context.fillStyle = colours.soft;
      context.fillText(moment(tick, step), x + 3, 12);
    }
    for (const row of rows) {
      let last = -1;
      for (const event of row.events) {
        if (event.from + event.length < view.from || event.from > view.to) continue;
        const from = Math.max(GUTTER, at(event.from));
        const wide = Math.min(box.width, at(event.from + event.length)) - from;
        // Events narrower than a pixel share one.
        if (wide < 0.6 && from < last + 0.6) continue;
        last = from;
        context.fillStyle = shade(event);
        context.fillRect(from, row.top, Math.max(wide - (wide > 4 ? 1 : 0), 0.8), row.height);
        if (wide > 34) {
          context.save();
          context.beginPath();
          context.rect(from, row.top, wide - 3, row.height);
          context.clip();
          context.fillStyle = event.line || ['encode', 'submit', 'sample'].includes(event.name) ? colours.paper : colours.ink;
          context.fillText(event.name, from + 5, row.top + row.height / 2);
          context.restore();
        }
      }
      context.fillStyle = colours.paper;
      context.fillRect(0, row.top, GUTTER - 2, row.height);
      context.fillStyle = colours.soft;
      context.fillText(row.name, 10, row.top + row.height / 2);
    }
    context.fillStyle = colours.soft;
    context.fillText(`${time(span)} shown of ${time(end - begin)}`, GUTTER, box.height - 14);
  };
  const move = (from, to) => {
    const span = Math.min(Math.max(to - from, 200), end - begin);
    const start = Math.min(Math.max(from, begin), end - span);
    view = { from: start, to: start + span };
    draw();
  };
  const zoom = (factor, share) => {
    const span = view.to - view.from;
    const fixed = view.from + share * span;
    move(fixed - share * span * factor, fixed + (1 - share) * span * factor);
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top, share: Math.min(1, Math.max(0, (event.clientX - box.left - GUTTER) / (box.width - GUTTER))) };
  };
  const hit = (event) => {
    const { x, y, share } = place(event);
    if (x < GUTTER) return null;
    const row = rows.find((one) => y >= one.top && y <= one.top + one.height);
    const ns = view.from + share * (view.to - view.from);
    const slack = 1.5 / canvas.clientWidth * (view.to - view.from);
    const near = row ? row.events.filter((one) => ns >= one.from - slack && ns <= one.from + one.length + slack) : [];
    return near.find((one) => ns >= one.from && ns <= one.from + one.length) || near[0] || null;
  };
  let drag = null;
  canvas.addEventListener('wheel', (event) => {
    event.preventDefault();
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      const by = (event.deltaX || event.deltaY) / canvas.clientWidth * (view.to - view.from);
      move(view.from + by, view.to + by);
    } else {
      zoom(Math.exp(Math.max(-1, Math.min(1, event.deltaY / 200))), place(event).share);
    }
  }, { passive: false });
  canvas.addEventListener('pointerdown', (event) => {
    drag = { x: event.clientX, from: view.from, to: view.to, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener('pointermove', (event) => {
    if (drag) {
      const by = (drag.x - event.clientX) / (canvas.clientWidth - GUTTER) * (drag.to - drag.from);
      drag.moved = drag.moved || Math.abs(drag.x - event.clientX) > 3;
      if (drag.moved) move(drag.from + by, drag.to + by);
      return;
    }
    const event_ = hit(event);
    if (!event_) return hide();
    const { line } = event_;
    const extra = line ? `\n${line.layer} · ${line.phase}\n${line.kernel}\n${line.shape}\n${details(line)}` : '';
    show(`${event_.name}: ${time(event_.length)} at ${time(event_.from - begin)}${extra}`, event.clientX, event.clientY);
  });
  canvas.addEventListener('pointerup', (event) => {
    const clicked = drag && !drag.moved && hit(event);
    drag = null;
    if (clicked && clicked.line) {
      found = clicked.line.index;
      $('filter').value = '';
      select(clicked.line.phase);
      const row = $(`line-${found}`);
      if (row) row.scrollIntoView({ block: 'center', behavior: 'smooth' });
    }
  });
  canvas.addEventListener('pointerleave', hide);
  canvas.addEventListener('keydown', (event) => {
    const tenth = (view.to - view.from) / 10;
    const act = {
      '+': () => zoom(0.6, 0.5), '=': () => zoom(0.6, 0.5), '-': () => zoom(1.6, 0.5),
      ArrowLeft: () => move(view.from - tenth, view.to - tenth), ArrowRight: () => move(view.from + tenth, view.to + tenth),
      Home: () => move(begin, end), 0: () => move(begin, end),
    }[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  $('in').addEventListener('click', () => zoom(0.5, 0.5));
  $('out').addEventListener('click', () => zoom(2, 0.5));
  $('fit').addEventListener('click', () => move(begin, end));
  addEventListener('resize', draw);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', theme);
  select(chosen);
  theme();
})();
