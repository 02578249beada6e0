//! Where a sheet goes: a table for people, JSON for machines, a page for those who were not there.

use std::fs;

use serde::Serialize;

use crate::args::Target;
use crate::fault::LoadFault;
use crate::picture;
use crate::report::print_json;
use crate::sheet::Sheet;

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

/// Writes the page, if one is wanted.
///
/// # Errors
/// When it cannot be written.
pub fn write_page(target: &Target, sheet: &Sheet) -> Result<(), LoadFault> {
    target.report.as_ref().map_or(Ok(()), |path| write_pages(path, std::slice::from_ref(sheet)))
}

/// Writes one page of several sheets.
///
/// # Errors
/// When it cannot be written.
pub fn write_pages(path: &std::path::Path, sheets: &[Sheet]) -> Result<(), LoadFault> {
    fs::write(path, picture::page(sheets)).map_err(|error| LoadFault::Page { path: path.to_owned(), error })
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
