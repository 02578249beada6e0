//! A chart: lines over two axes, as SVG, with its legend and a sentence on how to read it.

use std::fmt::Write;

use super::axis::Axis;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 36.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;
/// Colours that lines have; the style names them.
const COLOURS: usize = 8;

/// A line of a chart.
pub(super) struct Line {
    /// What it shows.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
    /// Whether its points are marked.
    pub is_marked: bool,
}

/// See the module.
pub(super) struct Chart<'a> {
    pub title: &'a str,
    pub reading: &'a str,
    pub across: (&'a str, Axis),
    pub up: (&'a str, Axis),
    pub lines: Vec<Line>,
}

/// A text as HTML shows it.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Chart<'_> {
    /// The chart with everything that belongs to it; nothing where it has no line.
    pub(super) fn draw(&self) -> String {
        if self.lines.iter().all(|line| line.points.is_empty()) {
            return String::new();
        }
        let (title, reading) = (escape(self.title), escape(self.reading));
        let mut text = format!("<figure><h2>{title}</h2>{}", self.legend());
        let _ = write!(text, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">");
        text.push_str(&self.grid());
        self.lines.iter().enumerate().for_each(|(number, line)| text.push_str(&self.line(number, line)));
        let _ = write!(text, "</svg><figcaption>{reading}</figcaption></figure>");
        text
    }

    fn legend(&self) -> String {
        let entry = |(number, line): (usize, &Line)| {
            format!("<li><span class=\"key k{}\"></span>{}</li>", number % COLOURS, escape(&line.name))
        };
        format!("<ul class=\"legend\">{}</ul>", self.lines.iter().enumerate().map(entry).collect::<String>())
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + self.across.1.at(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.up.1.at(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn grid(&self) -> String {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let mut text = String::new();
        for (value, label) in self.up.1.marks() {
            let y = self.y(value);
            let _ = write!(text, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
            let _ = write!(text, "<text class=\"up\" x=\"{}\" y=\"{:.1}\">{label}</text>", LEFT - 8.0, y + 4.0);
        }
        for (value, label) in self.across.1.marks() {
            let x = self.x(value);
            let _ = write!(text, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>");
            let _ = write!(text, "<text class=\"across\" x=\"{x:.1}\" y=\"{}\">{label}</text>", bottom + 16.0);
        }
        let (across, up) = (escape(self.across.0), escape(self.up.0));
        let _ = write!(text, "<text class=\"name\" x=\"{right}\" y=\"{}\">{across}</text>", HEIGHT - 8.0);
        let _ = write!(text, "<text class=\"name start\" x=\"4\" y=\"{}\">{up}</text>", HEIGHT - 8.0);
        text
    }

    fn line(&self, number: usize, line: &Line) -> String {
        let colour = number % COLOURS;
        let place = |(x, y): &(f64, f64)| format!("{:.1},{:.1}", self.x(*x), self.y(*y));
        let places: Vec<String> = line.points.iter().map(place).collect();
        let name = escape(&line.name);
        let mut text =
            format!("<polyline class=\"l{colour}\" points=\"{}\"><title>{name}</title></polyline>", places.join(" "));
        for (x, y) in line.points.iter().filter(|_| line.is_marked) {
            let (cx, cy) = (self.x(*x), self.y(*y));
            let (x, y) = (super::axis::words(*x), super::axis::words(*y));
            let _ = write!(
                text,
                "<circle class=\"c{colour}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"3\"><title>{name}: {y} at {x}</title></circle>"
            );
        }
        text
    }
}
