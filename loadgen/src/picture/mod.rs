//! A run as one page: verdict, figures, curves, host. It needs nothing but itself, in the light and in the dark.

mod axis;
mod chart;
mod curves;

use std::fmt::Write;

use chart::escape;

use crate::sheet::{Figure, Sheet, Standing};

const STYLE: &str = include_str!("style.css");

/// The page of these sheets, in their order.
pub fn page(sheets: &[Sheet]) -> String {
    let title = sheets.iter().map(|sheet| sheet.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut page = String::new();
    page.push_str("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    // Writing to a string cannot fail.
    let _ = write!(page, "<title>banter-loadgen: {}</title><style>{STYLE}</style></head><body><main>", escape(&title));
    if sheets.len() > 1 {
        page.push_str(&contents(sheets));
    }
    sheets.iter().enumerate().for_each(|(number, sheet)| page.push_str(&section(number, sheet)));
    page.push_str("</main></body></html>\n");
    page
}

/// What is on the page, with the verdict of each.
fn contents(sheets: &[Sheet]) -> String {
    let mut text = String::from("<h1>A mix of loads on one server</h1><ul class=\"contents\">");
    for (number, sheet) in sheets.iter().enumerate() {
        let verdict = if sheet.verification.verified { "verified" } else { "NOT VERIFIED" };
        let _ = write!(text, "<li><a href=\"#part-{number}\">{}</a>: {verdict}</li>", escape(&sheet.name));
    }
    text + "</ul>"
}

fn section(number: usize, sheet: &Sheet) -> String {
    let mut text = format!("<section id=\"part-{number}\"><h1>{}</h1>", escape(&sheet.name));
    let _ = write!(text, "<p class=\"question\">{}</p>", escape(&sheet.question));
    text.push_str(&verdict(sheet));
    text.push_str(&paragraphs("shape", &sheet.shape));
    text.push_str(&figures(sheet));
    text.push_str(&curves::of(sheet));
    text.push_str(&circumstances(sheet));
    text + "</section>"
}

fn paragraphs(class: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let items: String = lines.iter().map(|line| format!("<li>{}</li>", escape(line))).collect();
    format!("<ul class=\"{class}\">{items}</ul>")
}

/// First of all: whether to believe it.
fn verdict(sheet: &Sheet) -> String {
    let verdict = &sheet.verification;
    let (class, words) = match verdict.verified {
        true => ("good", "Verified: every message that was due came, once and in order."),
        false => ("bad", "NOT VERIFIED: what was delivered is not what was promised."),
    };
    let mut text = format!("<div class=\"verdict {class}\"><strong>{words}</strong><ul>");
    for check in &verdict.checks {
        let _ = write!(text, "<li>{} of {} {}</li>", check.found, check.expected, escape(&check.what));
    }
    verdict.described.iter().for_each(|fault| {
        let _ = write!(text, "<li>{}</li>", escape(fault));
    });
    text.push_str("</ul></div>");
    if !sheet.limited.is_empty() {
        text.push_str("<div class=\"verdict held\"><strong>These are not the server's figures alone.</strong> ");
        text.push_str("Rates are at least, latencies at most what the server would do; what says nothing is withheld.");
        text.push_str(&paragraphs("reasons", &sheet.limited));
        text.push_str("</div>");
    }
    if !sheet.cautions.is_empty() {
        let _ = write!(
            text,
            "<div class=\"verdict held\"><strong>Caution.</strong>{}</div>",
            paragraphs("reasons", &sheet.cautions)
        );
    }
    text
}

fn figures(sheet: &Sheet) -> String {
    let row = |figure: &Figure| {
        let class = if figure.is == Standing::Exact { "" } else { " class=\"weak\"" };
        format!("<tr{class}><th>{}</th><td>{}</td></tr>", escape(&figure.label), escape(&figure.words()))
    };
    let rows: String = sheet.figures.iter().map(row).collect();
    let window = if sheet.window_s > 0.0 {
        format!("<tr><th>measured</th><td>{:.2} s</td></tr>", sheet.window_s)
    } else {
        String::new()
    };
    format!("<h2>Figures</h2><table class=\"figures\">{rows}{window}</table>")
}

/// Where, with what, when.
fn circumstances(sheet: &Sheet) -> String {
    let mut rows = vec![
        ("command", sheet.command.clone()),
        ("server", format!("{} ({})", sheet.server, sheet.wire)),
        ("server's command", sheet.server_command.clone().unwrap_or_else(|| "not known (no --pid)".into())),
        ("load generator", format!("banter-loadgen {}, {} process(es)", sheet.loadgen_version, sheet.processes)),
        ("host of the load", sheet.host.describe()),
        ("made", utc(sheet.made_at_unix_ms / 1000)),
    ];
    rows.extend(sheet.note.clone().map(|note| ("note", note)));
    let rows: String =
        rows.iter().map(|(name, text)| format!("<tr><th>{name}</th><td>{}</td></tr>", escape(text))).collect();
    format!("<h2>Circumstances</h2><table class=\"circumstances\">{rows}</table>")
}

/// A time in UTC, of seconds since 1970 (days to dates after Howard Hinnant's `civil_from_days`).
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::args::Target;
    use crate::measure::Latencies;
    use crate::sampler::Sample;
    use crate::sheet::{Maker, Merging, Promise, Step, Unit};

    fn sheet(limited: Vec<String>) -> Sheet {
        let mut target = Target::of("127.0.0.1:9".parse().unwrap());
        target.note = Some("<script>alert(1)</script>".into());
        let mut maker = Maker::new(&target, "fanout", "How long?", limited);
        maker.figure("deliveries_per_s", "deliveries", 10.0, Unit::PerSecond, Promise::AtLeast, Merging::Sum);
        let mut latencies = Latencies::default();
        (1..2000).for_each(|us| latencies.record(Duration::from_micros(us)));
        maker.latencies("delivered", "post to member", &latencies);
        let sample = |at: u32| Sample {
            at_s: f64::from(at),
            server_cpu_share: Some(0.5),
            p99_us: Some(5.0),
            ..Sample::default()
        };
        maker.samples(&[sample(1), sample(2)]);
        let step = |rate: f64| Step { offered_posts_per_s: rate, p99_us: rate, p50_us: 1.0, ..Step::default() };
        maker.steps(&[step(100.0), step(200.0)]);
        maker.finish()
    }

    #[test]
    fn the_page_is_whole_needs_nothing_else_and_runs_nothing_that_it_was_told() {
        let page = page(&[sheet(Vec::new())]);
        for words in
            ["<!doctype html>", "Verified: every message", "99.9 %", "prefers-color-scheme", "How long?", "</html>"]
        {
            assert!(page.contains(words), "{words}");
        }
        assert!(page.matches("<svg").count() >= 4, "latency, throughput, CPU, steps");
        for outside in ["http://", "https://", "src=", "<script", "<link", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn a_run_that_was_held_back_or_not_verified_says_so_at_its_head() {
        let mut held = sheet(vec!["the load generator was late".into()]);
        held.verification.verified = false;
        let page = page(&[held.clone(), held]);
        for words in ["NOT VERIFIED", "not the server's figures alone", "was late", "at least 10/s", "id=\"part-1\""] {
            assert!(page.contains(words), "{words}");
        }
    }

    #[test]
    fn times_are_told_in_utc() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_827_696), "2000-02-29 12:34:56 UTC");
        assert_eq!(utc(1_798_761_599), "2026-12-31 23:59:59 UTC");
    }
}
