// Numbers of a chart: scales, ticks, smoothing, short forms. No drawing.

// At most about `wanted` round numbers from low to high.
export function ticks(low, high, wanted) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * 0.999);
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index += 1) found.push(index * step);
  return found.map((value) => Number(value.toPrecision(12)));
}

// Powers of ten from low to high; ordinary ticks where there is no room for two of them.
export function logTicks(low, high, wanted) {
  const first = Math.ceil(Math.log10(low) - 1e-9);
  const last = Math.floor(Math.log10(high) + 1e-9);
  if (last - first < 1) return ticks(low, high, wanted).filter((value) => value > 0);
  const stride = Math.ceil((last - first + 1) / wanted);
  const found = [];
  for (let power = first; power <= last; power += stride) found.push(10 ** power);
  return found;
}

// A function from values to pixels; `log` needs positive bounds.
export function scale(low, high, from, to, log = false) {
  const map = log ? Math.log10 : (value) => value;
  const start = map(low);
  const span = map(high) - start || 1;
  return (value) => from + ((map(value) - start) / span) * (to - from);
}

// Exponential moving average without the pull of its start; gaps stay gaps.
export function smooth(points, weight) {
  if (!weight) return points;
  let mean = 0;
  let mass = 0;
  return points.map(([x, y]) => {
    mean = weight * mean + (1 - weight) * y;
    mass = weight * mass + (1 - weight);
    return [x, mean / mass];
  });
}

// A number in at most about seven characters.
export function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  let text;
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) text = value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  else if (Number.isInteger(value)) text = value.toLocaleString("en");
  else text = String(Number(value.toPrecision(4)));
  return text.replaceAll("-", "−");
}

// Room above and below, and around a line that never moves.
export function bounds(values, log) {
  const shown = log ? values.filter((value) => value > 0) : values;
  if (!shown.length) return null;
  let low = Infinity;
  let high = -Infinity;
  for (const value of shown) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (log) return low === high ? [low / 2, high * 2] : [low / 1.1, high * 1.1];
  const room = low === high ? Math.abs(low) * 0.1 || 1 : (high - low) * 0.06;
  return [low - (low >= 0 && low < room ? low : room), high + room];
}

// Index of the point whose x is nearest; points are in the order of x.
export function nearest(points, x) {
  let low = 0;
  let high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle;
    else high = middle;
  }
  return Math.abs(points[low]?.[0] - x) <= Math.abs(points[high]?.[0] - x) ? low : high;
}
