//! A plot as SVG: lines over two logarithmic axes, legible on light and on dark paper.

use std::fmt::Write as _;

/// One line.
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// What is plotted.
pub struct Plot {
    pub title: &'static str,
    pub x: &'static str,
    pub y: &'static str,
    pub series: Vec<Series>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 380.0;
/// Left, right, top, bottom.
const MARGINS: (f64, f64, f64, f64) = (78.0, 24.0, 44.0, 56.0);
/// Both read on white and on black.
const INK: &str = "#7a7f87";
const COLOURS: [&str; 4] = ["#2f81d6", "#d9822b", "#3f9e5a", "#b4559e"];

impl Plot {
    /// The file's text.
    pub fn render(&self) -> String {
        let all = || self.series.iter().flat_map(|s| &s.points);
        let x = Axis::over(all().map(|p| p.0), MARGINS.0, WIDTH - MARGINS.1);
        let y = Axis::over(all().map(|p| p.1), HEIGHT - MARGINS.3, MARGINS.2);
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\" \
             font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"{INK}\">",
            self.title
        );
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"24\" font-size=\"16\" text-anchor=\"middle\">{}</text>",
            WIDTH / 2.0,
            self.title
        );
        self.axes(&x, &y, &mut out);
        for (i, series) in self.series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let at: Vec<String> = series.points.iter().map(|p| format!("{:.1},{:.1}", x.at(p.0), y.at(p.1))).collect();
            let _ = writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>",
                at.join(" ")
            );
            for p in &series.points {
                let (px, py) = (x.at(p.0), y.at(p.1));
                let _ = writeln!(
                    out,
                    "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"4\" fill=\"{colour}\"><title>{}: {} at {}</title></circle>",
                    series.name,
                    label(p.1),
                    label(p.0)
                );
            }
            let (lx, ly) = (MARGINS.0 + 14.0, MARGINS.2 + 16.0 + 20.0 * i as f64);
            let _ = writeln!(
                out,
                "<rect x=\"{lx}\" y=\"{}\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{colour}\"/><text x=\"{}\" y=\"{ly}\">{}</text>",
                ly - 10.0,
                lx + 18.0,
                series.name
            );
        }
        out.push_str("</svg>\n");
        out
    }

    fn axes(&self, x: &Axis, y: &Axis, out: &mut String) {
        let (left, right, top, bottom) = (MARGINS.0, WIDTH - MARGINS.1, MARGINS.2, HEIGHT - MARGINS.3);
        for tick in x.ticks() {
            let at = x.at(tick);
            let _ = writeln!(
                out,
                "<path d=\"M{at:.1} {bottom}V{top}\" stroke=\"{INK}\" stroke-opacity=\"0.25\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                bottom + 19.0,
                label(tick)
            );
        }
        for tick in y.ticks() {
            let at = y.at(tick);
            let _ = writeln!(
                out,
                "<path d=\"M{left} {at:.1}H{right}\" stroke=\"{INK}\" stroke-opacity=\"0.25\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 8.0,
                at + 4.0,
                label(tick)
            );
        }
        let _ = writeln!(out, "<path d=\"M{left} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"{INK}\"/>");
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            (left + right) / 2.0,
            HEIGHT - 14.0,
            self.x
        );
        let middle = (top + bottom) / 2.0;
        let _ = writeln!(
            out,
            "<text transform=\"translate(20 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            self.y
        );
    }
}

/// From a power of ten to another.
struct Axis {
    low: i32,
    high: i32,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Axis {
        let least = values.clone().fold(f64::INFINITY, f64::min).max(1e-3);
        let most = values.fold(1e-3, f64::max);
        let low = least.log10().floor() as i32;
        Axis { low, high: (most.log10().ceil() as i32).max(low + 1), from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value.max(1e-3).log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        self.from + share * (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        (self.low..=self.high).map(|power| 10f64.powi(power))
    }
}

/// 10,000 as it is read.
fn label(value: f64) -> String {
    if value < 10.0 {
        return format!("{:.1}", value).trim_end_matches(".0").to_owned();
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
