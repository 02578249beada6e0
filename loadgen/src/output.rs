//! Where a sheet goes: a table for people, JSON for machines, a page for those who were not there.

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::args::{Output, Target};
use crate::fault::LoadFault;
use crate::picture;
use crate::report::print_json;
use crate::sheet::{SHEET_FORMAT, Sheet};

/// Tells a run's figures. True when it was verified.
///
/// # Errors
/// When the page cannot be written.
pub fn tell(target: &Target, sheet: &Sheet) -> Result<bool, LoadFault> {
    if target.json {
        print_json(sheet)
    } else {
        print!("{}", sheet.table())
    }
    write_page(target, sheet)?;
    Ok(sheet.verification.verified)
}

/// Tells the figures of several runs. True when all were verified.
///
/// # Errors
/// When the page cannot be written.
pub fn tell_all(output: &Output, sheets: &[Sheet]) -> Result<bool, LoadFault> {
    let verified = sheets.iter().all(|sheet| sheet.verification.verified);
    match sheets {
        [one] if output.json => print_json(one),
        parts if output.json => print_json(&Parts { verified, parts }),
        parts => print!("{}", parts.iter().map(Sheet::table).collect::<Vec<_>>().join("\n")),
    }
    output.report.as_ref().map_or(Ok(()), |path| write_pages(path, sheets))?;
    Ok(verified)
}

/// Writes the page, if one is wanted.
///
/// # Errors
/// When it cannot be written.
pub fn write_page(target: &Target, sheet: &Sheet) -> Result<(), LoadFault> {
    target.report.as_ref().map_or(Ok(()), |path| write_pages(path, std::slice::from_ref(sheet)))
}

fn write_pages(path: &Path, sheets: &[Sheet]) -> Result<(), LoadFault> {
    fs::write(path, picture::page(sheets)).map_err(|error| LoadFault::Page { path: path.to_owned(), error })
}

/// The sheets in what `--json` printed: one, one beside a report of the older form, or those of a mix.
///
/// # Errors
/// Why there is none.
pub fn sheets_in(text: &[u8]) -> Result<Vec<Sheet>, String> {
    let mut value: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let found = match (value.get_mut("parts").map(Value::take), value.get_mut("sheet").map(Value::take)) {
        (Some(Value::Array(parts)), _) => parts,
        (_, Some(sheet)) => vec![sheet],
        _ => vec![value],
    };
    let sheets = found.into_iter().map(|sheet| serde_json::from_value(sheet).map_err(|error| error.to_string()));
    let sheets = sheets.collect::<Result<Vec<Sheet>, String>>()?;
    match sheets.iter().find(|sheet| sheet.sheet_format != SHEET_FORMAT) {
        Some(other) => Err(format!("it has the form {}, and this program reads {SHEET_FORMAT}", other.sheet_format)),
        None => Ok(sheets),
    }
}

/// The parts of a mix.
#[derive(Serialize)]
struct Parts<'a> {
    verified: bool,
    parts: &'a [Sheet],
}

/// A report of the older form, with its sheet beside it.
#[derive(Serialize)]
pub struct WithSheet<'a, R> {
    /// The report.
    #[serde(flatten)]
    pub report: &'a R,
    /// Why its figures are not the server's alone; empty: they are. Rates are then at least, latencies at most so.
    pub limited: &'a [String],
    /// The sheet.
    pub sheet: &'a Sheet,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sheets_are_found_in_every_form_that_is_printed() {
        let sheet = Sheet { sheet_format: SHEET_FORMAT, job: "giant".into(), ..Sheet::default() };
        let value = serde_json::to_value(&sheet).unwrap();
        let found = |value: Value| sheets_in(value.to_string().as_bytes());
        assert_eq!(found(value.clone()), Ok(vec![sheet.clone()]));
        assert_eq!(found(serde_json::json!({"job": "fanout", "sheet": value})), Ok(vec![sheet.clone()]));
        assert_eq!(found(serde_json::json!({"parts": [value, value]})), Ok(vec![sheet.clone(), sheet.clone()]));
        assert!(found(serde_json::json!({"job": "fanout"})).is_err());
        let newer = Sheet { sheet_format: SHEET_FORMAT + 1, ..sheet };
        assert!(found(serde_json::to_value(newer).unwrap()).unwrap_err().contains("form"));
    }
}
