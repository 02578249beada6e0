//! Axes: from values to places in a drawing, and the marks along them.

/// How values lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// Evenly, from 0 on.
    Linear,
    /// Each power of ten as long as the next.
    Logarithmic,
    /// Shares of a whole: each nine behind the point as long as the next.
    Percentiles,
}

/// The decades that a logarithmic axis has at most.
const DECADES_MAX: f64 = 12.0;

/// One axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    scale: Scale,
    from: f64,
    to: f64,
}

impl Axis {
    /// One that holds all these values.
    pub(super) fn of(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let places: Vec<f64> =
            values.filter(|value| value.is_finite()).filter_map(|value| place(scale, value)).collect();
        let (least, most) = (places.iter().copied().reduce(f64::min), places.iter().copied().reduce(f64::max));
        let (least, most) = (least.unwrap_or(0.0), most.unwrap_or(1.0));
        match scale {
            Scale::Linear => Axis { scale, from: 0.0, to: nice(most.max(1e-9) * 1.02) },
            Scale::Logarithmic => {
                let (from, to) = (floor_to_mark(least), ceil_to_mark(most));
                Axis { scale, from: from.max(to - DECADES_MAX), to: if to > from { to } else { from + 1.0 } }
            }
            Scale::Percentiles => Axis { scale, from: 0.0, to: most.max(1.0) },
        }
    }

    /// One that runs over exactly these values, evenly.
    pub(super) fn between(from: f64, to: f64) -> Self {
        Axis { scale: Scale::Linear, from, to: if to > from { to } else { from + 1.0 } }
    }

    /// Where a value lies: 0 at the axis' beginning, 1 at its end.
    pub(super) fn at(&self, value: f64) -> f64 {
        let place = place(self.scale, value).unwrap_or(self.from);
        ((place - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }

    /// The marks: a value and its words.
    pub(super) fn marks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => linear_marks(self.from, self.to),
            Scale::Logarithmic => self.logarithmic_marks(),
            Scale::Percentiles => self.percentile_marks(),
        }
    }

    fn logarithmic_marks(&self) -> Vec<(f64, String)> {
        let steps: &[f64] = if self.to - self.from > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let decades = self.from.floor() as i32..=self.to.ceil() as i32;
        let values = decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
        let is_inside = |value: &f64| (self.from - 1e-9..=self.to + 1e-9).contains(&value.log10());
        values.filter(is_inside).map(|value| (value, words(value))).collect()
    }

    fn percentile_marks(&self) -> Vec<(f64, String)> {
        let first = [(0.0, "0 %".to_owned()), (0.5, "50 %".to_owned()), (0.9, "90 %".to_owned())];
        let more = (2..=self.to.floor() as i32).map(|nines| {
            let share = 1.0 - 10f64.powi(-nines);
            (share, format!("{:.*} %", (nines - 2).max(0) as usize, share * 100.0))
        });
        first.into_iter().chain(more).collect()
    }
}

/// A value's place before it is fitted to the axis; none where it has no place on it.
fn place(scale: Scale, value: f64) -> Option<f64> {
    match scale {
        Scale::Linear => Some(value),
        Scale::Logarithmic => (value > 0.0).then(|| value.log10()),
        Scale::Percentiles => (0.0..1.0).contains(&value).then(|| -(1.0 - value).log10()),
    }
}

fn floor_to_mark(place: f64) -> f64 {
    let (decade, part) = (place.floor(), place - place.floor());
    let mark = [5f64, 2.0, 1.0].into_iter().map(f64::log10).find(|mark| *mark <= part + 1e-9).unwrap_or(0.0);
    decade + mark
}

fn ceil_to_mark(place: f64) -> f64 {
    let (decade, part) = (place.floor(), place - place.floor());
    let mark = [1f64, 2.0, 5.0, 10.0].into_iter().map(f64::log10).find(|mark| *mark >= part - 1e-9).unwrap_or(1.0);
    decade + mark
}

/// The next of 1, 1.5, 2, 3, 4, 5, 6, 8 or 10 times a power of ten.
fn nice(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|nice| *nice >= value).unwrap_or(value)
}

fn linear_marks(from: f64, to: f64) -> Vec<(f64, String)> {
    let raw = (to - from) / 5.0;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= raw).unwrap_or(raw);
    let first = (from / step).ceil() as i64;
    let last = (to / step + 1e-9).floor() as i64;
    (first..=last.min(first + 20)).map(|count| count as f64 * step).map(|value| (value, words(value))).collect()
}

/// A number in few characters.
pub(super) fn words(value: f64) -> String {
    let trim = |text: String| {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    };
    match value.abs() {
        size if size >= 1e9 => trim(format!("{:.1}", value / 1e9)) + "G",
        size if size >= 1e6 => trim(format!("{:.1}", value / 1e6)) + "M",
        size if size >= 1e4 => trim(format!("{:.1}", value / 1e3)) + "k",
        size if size >= 1.0 || size == 0.0 => trim(format!("{value:.2}")),
        _ => trim(format!("{value:.4}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: Axis) -> Vec<String> {
        axis.marks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn each_nine_of_a_percentile_axis_is_as_long_as_the_next() {
        let axis = Axis::of(Scale::Percentiles, [0.0, 0.9999].into_iter());
        assert_eq!(labels(axis), ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        let [ninety, nines2, nines3] = [0.9, 0.99, 0.999].map(|share| axis.at(share));
        assert!((nines2 - ninety - (nines3 - nines2)).abs() < 1e-9);
        assert_eq!((axis.at(0.0), axis.at(1.0)), (0.0, 0.0), "all of it has no place of its own");
    }

    #[test]
    fn a_logarithmic_axis_begins_and_ends_at_marks() {
        let axis = Axis::of(Scale::Logarithmic, [0.0, 0.3, 40.0].into_iter());
        assert_eq!(labels(axis), ["0.2", "0.5", "1", "2", "5", "10", "20", "50"]);
        assert!((axis.at(0.2), axis.at(50.0)) == (0.0, 1.0));
        let one_value = Axis::of(Scale::Logarithmic, [10.0].into_iter());
        assert!(one_value.at(10.0).is_finite());
    }

    #[test]
    fn a_linear_axis_has_room_for_its_greatest_value_and_nothing_at_all_is_no_panic() {
        let axis = Axis::of(Scale::Linear, [0.0, 940.0].into_iter());
        assert_eq!(labels(axis), ["0", "200", "400", "600", "800", "1000"]);
        for scale in [Scale::Linear, Scale::Logarithmic, Scale::Percentiles] {
            assert!(!Axis::of(scale, std::iter::empty()).marks().is_empty());
        }
        assert_eq!((words(1_500_000.0), words(25_000.0), words(0.25)), ("1.5M".into(), "25k".into(), "0.25".into()));
    }
}
