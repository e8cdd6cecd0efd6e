//! The roofline (Williams et al., 2009, doi 10.1145/1498765.1498785) as SVG: each kernel as a point, operations a
//! second over operations a byte, both logarithmic, under the lines that the device cannot pass.
//!
//! One drawing is the file and a part of the page, so it is written here and not by a crate for plots, whose text would
//! be fixed in size and colour: this one follows the reader's theme, names each point, and lets the page hide phases.

use std::fmt::Write as _;

use crate::backend::measured::Phase;
use crate::measure::report::Floors;
use crate::profile::report::{Line, Report};
use crate::profile::text::{digits, escaped, scaled, time};

/// Colours of operators by their place in [`Report::operators`], on light and on dark paper. All others share the last.
pub const COLOURS: [(&str, &str); 12] = [
    ("#2f6db3", "#6aa9ee"),
    ("#cf6a17", "#f2994a"),
    ("#2d8a55", "#5bc489"),
    ("#b83a3a", "#f07f7f"),
    ("#7452ad", "#b294ee"),
    ("#0f8796", "#4fc6d4"),
    ("#b8478c", "#ee8cc4"),
    ("#85741a", "#d3c04b"),
    ("#805a3d", "#c79b78"),
    ("#4f7a12", "#a3cc5c"),
    ("#4453a6", "#8f9df5"),
    ("#76818d", "#8592a0"),
];

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 196.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 58.0;
/// The width of the strip for kernels that have no operations.
const STRIP: f64 = 64.0;

/// A kernel in one phase.
struct Point {
    line: Line,
    colour: usize,
    /// Operations a byte; `None` for a kernel that has no operations.
    intensity: Option<f64>,
    /// Operations a second; of a kernel without operations, bytes a second.
    rate: f64,
    /// Its share of the phase's time.
    share: f64,
}

/// Logarithmic axes.
struct Axes {
    x: [f64; 2],
    y: [f64; 2],
}

impl Axes {
    fn x(&self, intensity: f64) -> f64 {
        let at = (intensity.log10() - self.x[0]) / (self.x[1] - self.x[0]);
        LEFT + STRIP + at * (WIDTH - LEFT - RIGHT - STRIP)
    }

    fn y(&self, rate: f64) -> f64 {
        let at = (rate.log10() - self.y[0]) / (self.y[1] - self.y[0]);
        HEIGHT - BOTTOM - at * (HEIGHT - TOP - BOTTOM)
    }
}

/// The colours and the style of the drawing.
pub fn style() -> String {
    let variables = |dark: bool| {
        let each = COLOURS.iter().enumerate();
        each.map(|(i, (light, night))| format!("--c{i}:{};", if dark { night } else { light })).collect::<String>()
    };
    let classes: String = (0..COLOURS.len()).map(|i| format!(".c{i}{{--c:var(--c{i})}}")).collect();
    format!(
        ":root{{--paper:#fff;--ink:#1c2430;--soft:#5a6675;--rule:#dde2e8;--band:#f3f5f8;{}}}\n\
         @media (prefers-color-scheme:dark){{:root{{--paper:#14181e;--ink:#e6eaf0;--soft:#9aa7b6;--rule:#2c343e;\
         --band:#1b2129;{}}}}}\n{classes}\n{}",
        variables(false),
        variables(true),
        include_str!("page/roofline.css")
    )
}

/// The drawing as a file of its own.
pub fn roofline(report: &Report) -> String {
    let title = format!("{} on {}:{}", report.subject.model, report.subject.backend, report.subject.device);
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}", drawing(report, &title, Some(&style())))
}

/// The drawing as an element, with its own style or with that of the page around it.
pub fn drawing(report: &Report, title: &str, style: Option<&str>) -> String {
    let points = points(report);
    let axes = axes(&points, &report.floors);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"roofline\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"Roofline: {0}\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n",
        escaped(title)
    );
    if let Some(style) = style {
        let _ = writeln!(svg, "<title>{}</title><style>{style}</style>", escaped(title));
        let _ = writeln!(svg, "<rect class=\"paper\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>");
    }
    svg += &grid(&axes, points.iter().any(|point| point.intensity.is_none()));
    svg += &lines(&axes, &report.floors);
    svg += &marks(&axes, &points);
    svg += &legend(report);
    svg + "</svg>\n"
}

fn points(report: &Report) -> Vec<Point> {
    let operators = report.operators();
    let mut points = Vec::new();
    for total in &report.phases {
        for (_, line) in report.joined(total.phase, |line| (line.op, line.kernel.clone())) {
            let (seconds, flops, bytes) = (line.seconds().max(1e-9), line.cost.flops as f64, line.cost.bytes as f64);
            let intensity = (flops > 0.0 && bytes > 0.0).then(|| flops / bytes);
            points.push(Point {
                colour: colour(operators.iter().position(|op| *op == line.op).unwrap_or(0)),
                intensity,
                rate: if intensity.is_some() { flops } else { bytes.max(1.0) } / seconds,
                share: line.ns as f64 / total.work.max(1) as f64,
                line,
            });
        }
    }
    points
}

/// Axes that hold all points and the corner of the roof.
fn axes(points: &[Point], floors: &Floors) -> Axes {
    let (copy, most) = (floors.copy_bytes_per_s, most(floors));
    let xs: Vec<f64> = points.iter().filter_map(|point| point.intensity).chain(most.map(|most| most / copy)).collect();
    let [left, right] = decades(&xs, 0.3);
    let edge = 10_f64.powf(left);
    let ys: Vec<f64> = (points.iter())
        .map(|point| point.intensity.map_or(point.rate * edge, |_| point.rate))
        .chain(most)
        .chain([copy * edge])
        .collect();
    Axes { x: [left, right], y: decades(&ys, 0.25) }
}

/// The highest peak, if the device has one.
fn most(floors: &Floors) -> Option<f64> {
    floors.peak_flop_per_s.named().map(|(_, rate)| rate).reduce(f64::max)
}

/// Logarithms of the range of some values, with a margin.
fn decades(values: &[f64], margin: f64) -> [f64; 2] {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    if most <= 0.0 {
        return [0.0, 1.0];
    }
    [least.log10() - margin, most.log10() + margin]
}

/// 1, 2 and 5 times the powers of ten within a range of logarithms, and whether each is a power of ten.
fn ticks([from, to]: [f64; 2]) -> Vec<(f64, bool)> {
    let all = (from.floor() as i32..=to.ceil() as i32).flat_map(|n| [1.0, 2.0, 5.0].map(|m| m * 10_f64.powi(n)));
    all.filter(|v| (from..=to).contains(&v.log10()))
        .map(|v| (v, (v.log10() - v.log10().round()).abs() < 1e-6))
        .collect()
}

fn grid(axes: &Axes, strip: bool) -> String {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    let mut svg = String::from("<g class=\"grid\" stroke=\"#dde2e8\">\n");
    let many = |range: [f64; 2]| range[1] - range[0] > 3.2;
    let mut labels = String::from("<g class=\"ticks\" fill=\"#5a6675\">\n");
    for (value, whole) in ticks(axes.x).into_iter().filter(|(_, whole)| *whole || !many(axes.x)) {
        let x = axes.x(value);
        let _ = writeln!(svg, "<path d=\"M{x:.1} {TOP}V{bottom}\" opacity=\"{}\"/>", if whole { 1.0 } else { 0.5 });
        let label = if value < 1.0 { format!("{value}") } else { digits(value).replace(".00", "").replace(".0", "") };
        let _ = writeln!(labels, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", bottom + 18.0);
    }
    for (value, whole) in ticks(axes.y).into_iter().filter(|(_, whole)| *whole || !many(axes.y)) {
        let y = axes.y(value);
        let _ = writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{right}\" opacity=\"{}\"/>", if whole { 1.0 } else { 0.5 });
        let label = scaled(value).replace(".00", "").replace(".0", "");
        let (x, y) = (LEFT - 8.0, y + 4.0);
        let _ = writeln!(labels, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{label}</text>");
    }
    if strip {
        let (x, height) = (LEFT + STRIP / 2.0 - 8.0, bottom - TOP);
        let (width, low) = (STRIP - 6.0, bottom + 18.0);
        let _ = writeln!(
            svg,
            "<rect class=\"band\" x=\"{LEFT}\" y=\"{TOP}\" width=\"{width}\" height=\"{height}\" fill=\"#f3f5f8\" \
             stroke=\"none\"/>"
        );
        let _ = writeln!(labels, "<text x=\"{x}\" y=\"{low}\" text-anchor=\"middle\">no FLOP</text>");
    }
    let (middle, low) = (LEFT + STRIP + (right - LEFT - STRIP) / 2.0, HEIGHT - 14.0);
    let _ =
        writeln!(labels, "<text class=\"name\" x=\"{middle}\" y=\"{low}\" text-anchor=\"middle\">FLOP per byte</text>");
    let y = TOP + (bottom - TOP) / 2.0;
    let _ = writeln!(
        labels,
        "<text class=\"name\" transform=\"translate(18 {y}) rotate(-90)\" text-anchor=\"middle\">FLOP per second</text>"
    );
    format!("{svg}</g>\n{labels}</g>\n")
}

/// The slope of the copy rate and the level of each peak.
fn lines(axes: &Axes, floors: &Floors) -> String {
    let rate = floors.copy_bytes_per_s;
    let edge = |end: usize| 10_f64.powf(axes.x[end]);
    let mut svg = String::from("<g class=\"roof\" fill=\"none\" stroke=\"#1c2430\" stroke-width=\"1.6\">\n");
    let mut labels = String::from("<g class=\"roof-name\" fill=\"#1c2430\" font-size=\"11.5\">\n");
    let corner = most(floors).map_or(edge(1), |most| (most / rate).min(edge(1)));
    let (begin, end) = (axes.y(rate * edge(0)), axes.y(rate * corner));
    let _ = writeln!(svg, "<path d=\"M{LEFT} {begin:.1}H{:.1}L{:.1} {end:.1}\"/>", LEFT + STRIP, axes.x(corner));
    // The label lies along the slope, a third of the way up.
    let at = (edge(0).log10() + 0.33 * (corner.log10() - edge(0).log10()), edge(0));
    let (x, y) = (axes.x(10_f64.powf(at.0)), axes.y(rate * 10_f64.powf(at.0)));
    let rise = axes.y(rate * at.1) - axes.y(rate * corner);
    let angle = -(rise / (axes.x(corner) - axes.x(at.1)).max(1.0)).atan().to_degrees();
    let copy = format!("copy {}B/s", scaled(rate));
    let _ = writeln!(
        labels,
        "<text transform=\"translate({x:.1} {y:.1}) rotate({angle:.1}) translate(0 -7)\" text-anchor=\"middle\">{copy}\
         </text>"
    );
    for (kind, peak) in floors.peak_flop_per_s.named() {
        let (x, y, right) = (axes.x((peak / rate).clamp(edge(0), edge(1))), axes.y(peak), WIDTH - RIGHT);
        let _ = writeln!(svg, "<path d=\"M{x:.1} {y:.1}H{right}\"/>");
        let name = format!("{kind} {}FLOP/s", scaled(peak));
        let _ = writeln!(labels, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>", right - 4.0, y - 6.0);
    }
    format!("{svg}</g>\n{labels}</g>\n")
}

fn marks(axes: &Axes, points: &[Point]) -> String {
    let mut order: Vec<&Point> = points.iter().collect();
    // Small points lie above large ones.
    order.sort_by(|a, b| b.share.total_cmp(&a.share));
    let edge = 10_f64.powf(axes.x[0]);
    let mut svg = String::from("<g class=\"points\">\n");
    let mut labels = String::from("<g class=\"labels\" fill=\"#1c2430\" font-size=\"11\">\n");
    let mut taken: Vec<[f64; 4]> = Vec::new();
    for point in order {
        let Point { line, colour, share, .. } = point;
        let (x, y) = match point.intensity {
            Some(intensity) => (axes.x(intensity), axes.y(point.rate)),
            None => (LEFT + STRIP / 2.0 - 3.0, axes.y(point.rate * edge)),
        };
        let r = 4.0 + 11.0 * share.sqrt();
        let phase = line.phase;
        let _ = writeln!(
            svg,
            "<g class=\"point {phase} c{colour}\" tabindex=\"0\"><title>{}</title>{}</g>",
            escaped(&describe(point)),
            mark(phase, x, y, r, COLOURS[*colour].0)
        );
        // The operators that matter have their name beside them, where it covers no other name.
        let width = 6.2 * line.op.len() as f64;
        let places = [
            (x + r + 4.0, y + 4.0),
            (x - r - 4.0 - width, y + 4.0),
            (x - width / 2.0, y - r - 5.0),
            (x - width / 2.0, y + r + 13.0),
        ];
        let free = places.into_iter().map(|(x, y)| [x, y - 10.0, x + width, y + 2.0]).find(|[x0, y0, x1, y1]| {
            let inside = *x0 > LEFT && *x1 < WIDTH - RIGHT && *y0 > TOP && *y1 < HEIGHT - BOTTOM;
            inside && taken.iter().all(|[a0, b0, a1, b1]| x1 < a0 || a1 < x0 || y1 < b0 || b1 < y0)
        });
        taken.push([x - r, y - r, x + r, y + r]);
        if let (true, Some(place)) = (*share > 0.02, free) {
            taken.push(place);
            let _ = writeln!(
                labels,
                "<text class=\"{phase}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                place[0],
                place[3] - 2.0,
                line.op
            );
        }
    }
    format!("{svg}</g>\n{labels}</g>\n")
}

/// The colour of an operator by its place.
fn colour(place: usize) -> usize {
    place.min(COLOURS.len() - 1)
}

/// A circle for decoding, a square for a prompt, a triangle for a picture.
fn mark(phase: Phase, x: f64, y: f64, r: f64, colour: &str) -> String {
    let shape = match phase {
        Phase::Decode => format!("circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r:.1}\""),
        Phase::Prompt => {
            let (half, side) = (0.89 * r, 1.78 * r);
            format!("rect x=\"{:.1}\" y=\"{:.1}\" width=\"{side:.1}\" height=\"{side:.1}\"", x - half, y - half)
        }
        Phase::Picture => {
            let (wide, high) = (1.15 * r, 0.75 * r);
            format!("path d=\"M{x:.1} {:.1}l{wide:.1} {:.1}h{:.1}z\"", y - 1.25 * r, high + 1.25 * r, -2.0 * wide)
        }
    };
    format!(
        "<{shape} class=\"mark\" fill=\"{colour}\" fill-opacity=\"0.75\" stroke=\"{colour}\" stroke-width=\"1.2\"/>"
    )
}

fn describe(point: &Point) -> String {
    let Line { phase, op, kernel, runs, ns, cost, .. } = &point.line;
    let seconds = point.line.seconds().max(1e-9);
    let (bytes, flops) = (cost.bytes as f64 / seconds, cost.flops as f64 / seconds);
    let mut text = format!(
        "{op} ({phase})\n{kernel}\n{runs} × {}, {:.1} % of the phase\n{}B/s",
        time(*ns as f64 / *runs as f64),
        100.0 * point.share,
        scaled(bytes)
    );
    if let Some(intensity) = point.intensity {
        let _ = write!(text, ", {}FLOP/s, {} FLOP per byte", scaled(flops), digits(intensity));
    }
    text + &format!("\n{:.0} % of the roof", 100.0 * point.line.reached())
}

fn legend(report: &Report) -> String {
    let x = WIDTH - RIGHT + 20.0;
    let mut y = TOP + 12.0;
    let mut svg = String::from("<g class=\"legend\" fill=\"#1c2430\">\n");
    for total in &report.phases {
        let shape = mark(total.phase, x + 6.0, y - 4.0, 6.0, "#5a6675");
        let _ = writeln!(svg, "<g class=\"key\">{shape}<text x=\"{}\" y=\"{y}\">{}</text></g>", x + 20.0, total.phase);
        y += 20.0;
    }
    y += 8.0;
    let operators = report.operators();
    for (i, op) in operators.iter().enumerate().take(COLOURS.len()) {
        let others = operators.len() - i;
        let name = if colour(i + 1) == i && others > 1 { format!("{others} others") } else { (*op).to_owned() };
        let (square, text) = (y - 10.0, x + 20.0);
        let _ = writeln!(
            svg,
            "<g class=\"c{i}\"><rect class=\"mark\" x=\"{x}\" y=\"{square}\" width=\"11\" height=\"11\" fill=\"{}\"/>\
             <text x=\"{text}\" y=\"{y}\">{name}</text></g>",
            COLOURS[i].0,
        );
        y += 19.0;
    }
    svg + "</g>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::report::Peaks;
    use crate::plan::Cost;

    #[test]
    fn axes_hold_every_point_and_the_corner_of_the_roof() {
        let line = Line {
            phase: Phase::Decode,
            op: "linear",
            kernel: String::new(),
            shape: String::new(),
            layer: String::new(),
            matrices: false,
            runs: 1,
            ns: 1,
            least: 1.0,
            cost: Cost::default(),
        };
        let point = |intensity, rate| Point { line: line.clone(), colour: 0, intensity, rate, share: 0.5 };
        let inside = |axes: &Axes, intensity: Option<f64>, rate: f64| {
            // A kernel without operations stands in the strip, as high as its bytes at the left edge.
            let (x, y) = match intensity {
                Some(intensity) => (axes.x(intensity), axes.y(rate)),
                None => (LEFT + STRIP, axes.y(rate * 10_f64.powf(axes.x[0]))),
            };
            let across = (LEFT + STRIP..=WIDTH - RIGHT).contains(&x);
            assert!(across && (TOP..=HEIGHT - BOTTOM).contains(&y), "{intensity:?} at {rate} lies at {x}, {y}");
        };
        let floors = Floors::example();
        let none = Floors { peak_flop_per_s: Peaks::default(), ..Floors::example() };
        for (points, floors) in [
            (vec![point(Some(0.01), 1e6), point(Some(3e4), 5e12), point(None, 2e3), point(None, 9e12)], &floors),
            (vec![point(Some(2.0), 20e9)], &floors),
            (vec![], &floors),
            (vec![point(None, 1e9)], &none),
            (vec![], &none),
        ] {
            let axes = axes(&points, floors);
            points.iter().for_each(|point| inside(&axes, point.intensity, point.rate));
            inside(&axes, None, floors.copy_bytes_per_s);
            if let Some(most) = most(floors) {
                inside(&axes, Some(most / floors.copy_bytes_per_s), most);
            }
        }
    }

    #[test]
    fn ticks_are_round_numbers_inside_the_range() {
        assert_eq!(ticks([-0.1, 1.1]), [(1.0, true), (2.0, false), (5.0, false), (10.0, true)]);
    }
}
